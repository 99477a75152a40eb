"""Contract: kill -9 at any moment, the same call again: what was committed is not done again, and
the result is that of an uninterrupted run.
"""

from __future__ import annotations

import dataclasses
import random
import time
from pathlib import Path
from typing import Any

import pytest
from chain import Chain
from killing import killed
from tiny import documents, write_jsonl

from radit_ray.data import storage
from radit_ray.data.artifacts import read_manifest
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import Variant
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, EmbedWorker, embed
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.score import ScoreConfig, score

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)
NUM_SHARDS = 30


def committed(output: str) -> list[str]:
    """Shards with a sidecar."""
    return storage.list_files(f"{output}/committed")


@pytest.mark.slow
def test_a_killed_embed_redoes_no_committed_shard(chain: Chain, tmp_path: Path) -> None:
    words = " ".join(document["text"] for document in documents()[:6])
    rows = [
        {"id": str(number), "title": f"t{number}", "text": f"{number} {words}"}
        for number in range(NUM_SHARDS * 120)
    ]
    corpus = write_jsonl(tmp_path / "docs.jsonl", rows)
    chunks = str(tmp_path / "chunks")
    chunk(ChunkConfig(docs_per_shard=120), corpus=corpus, output=chunks, resources=ONE)
    config = EmbedConfig(retriever=chain.retriever, precision="fp32")
    output = str(tmp_path / "embed")
    code = (
        "from radit_ray.engines.resources import Resources\n"
        "from radit_ray.stages.embed import EmbedConfig, embed\n"
        f"embed({config!r}, chunks={chunks!r}, output={output!r}, resources={ONE!r})\n"
    )
    killed(code, lambda: len(committed(output)) >= 2)
    before = committed(output)
    assert 2 <= len(before) < NUM_SHARDS
    assert read_manifest(output) is None
    names = [name.removesuffix(".json") for name in before]
    stamps = {name: Path(output, name).stat().st_mtime_ns for name in names}
    torn = names.pop()
    Path(output, torn).write_bytes(Path(output, torn).read_bytes()[:100])
    artifact = embed(config, chunks=chunks, output=output, resources=ONE)
    assert artifact.rows == NUM_SHARDS * 120
    for name in names:
        assert Path(output, name).stat().st_mtime_ns == stamps[name]
    manifest = read_manifest(output)
    assert manifest is not None
    # three of the shards again in this process: one from before the kill, the torn one, a later one
    worker = EmbedWorker(
        config=config,
        chunks=chunks,
        output=str(tmp_path / "again"),
        device="cpu",
        batch_tokens=ONE.batch_tokens,
    )
    hashes = {file["name"]: file["sha256"] for file in manifest["files"]}
    assert len(hashes) == NUM_SHARDS
    for name in (names[0], torn, max(hashes)):
        assert worker({"name": name})["sha256"] == hashes[name]


@pytest.mark.slow
def test_a_killed_evaluation_answers_no_question_again(chain: Chain, tmp_path: Path) -> None:
    """A part of a variant is the unit: what was committed stays, the numbers are as in one go."""
    common: dict[str, Any] = {"lm": chain.lm, "t_r": 0.1, "max_new_tokens": 32}
    variants = tuple(
        Variant(name=f"{ensemble}-{template}", k=4, ensemble=ensemble, template=template, **common)
        for ensemble in ("answers", "tokens", "concat")
        for template in ("qa", "question-answer")
    )
    config = EvaluateConfig(variants=variants, bootstrap=50, precision="fp32")
    output = str(tmp_path / "killed")
    code = (
        "from radit_ray.engines.resources import Resources\n"
        "from radit_ray.engines.variants import Variant\n"
        "from radit_ray.stages.evaluate import EvaluateConfig, evaluate\n"
        f"evaluate({config!r}, ranked={chain.ranked!r}, output={output!r}, resources={ONE!r})\n"
    )
    killed(code, lambda: len(committed(output)) >= 2)
    assert read_manifest(output) is None
    # a sidecar's name has no folders
    names = [name.removesuffix(".json").replace("--", "/") for name in committed(output)]
    stamps = {name: Path(output, name).stat().st_mtime_ns for name in names}
    assert 2 <= len(names) < len(variants)
    artifact = evaluate(config, ranked=chain.ranked, output=output, resources=ONE)
    assert {name: Path(output, name).stat().st_mtime_ns for name in names} == stamps
    again = str(tmp_path / "again")
    at_once = evaluate(config, ranked=chain.ranked, output=again, resources=ONE)
    for name in ("variants", "contrasts", "num_questions"):
        assert artifact.metrics[name] == at_once.metrics[name]


@pytest.mark.slow
def test_kills_at_random_moments(chain: Chain, tmp_path: Path) -> None:
    """Score, killed again and again, wherever it stands, until it comes through."""
    config = dataclasses.replace(ScoreConfig(lm=chain.lm, corpus_share=0.4), precision="fp32")
    output = str(tmp_path / "score")
    code = (
        "from radit_ray.engines.resources import Resources\n"
        "from radit_ray.stages.score import ScoreConfig, score\n"
        f"score({config!r}, ranked={chain.ranked!r}, output={output!r}, resources={ONE!r})\n"
        "import time; time.sleep(60)\n"
    )
    chance = random.Random(0)
    for _ in range(3):
        moment = time.monotonic() + chance.uniform(3, 25)
        killed(code, lambda moment=moment: time.monotonic() > moment)
    artifact = score(config, ranked=chain.ranked, output=output, resources=ONE)
    expected, found = read_manifest(chain.scored), read_manifest(artifact.path)
    assert expected is not None
    assert found is not None
    assert found["files"] == expected["files"]
    assert found["metrics"] == expected["metrics"]
