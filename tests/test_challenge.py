"""Contract of `radit challenge`: every number is what a plain loop over the prediction rows gives,
all kinds and LMs answer the same questions, a rerun does nothing again, a bad value is one line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chain import Chain
from tiny import tiny_lm

from radit_ray.cli import _dispatch, _guarded
from radit_ray.data.artifacts import (
    artifact_input,
    commit_shard,
    iter_tables,
    read_manifest,
    read_shard,
)
from radit_ray.data.challenges import KINDS
from radit_ray.data.rows import RANKED
from radit_ray.data.work import Work
from radit_ray.engines.faithfulness import followed, is_copied
from radit_ray.engines.perplexity import read_text
from radit_ray.models.causal_lm import CausalLM
from radit_ray.stages.evaluate import EvaluateConfig

pytestmark = pytest.mark.ray
K = 3
LIMIT = 9
SPLIT = "train"  # the tiny world's largest
LMS = ("replug", "lm-ft")


def radit(*arguments: str) -> int:
    return _guarded(lambda: _dispatch(arguments))


@pytest.fixture(scope="module")
def run(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `radit challenge` reads of a run: run.json, the chunk link, models and ranked rows. The
    "tuned" LM is another random one of the same tokenizer.
    """
    folder = tmp_path_factory.mktemp("challenged") / "run"
    folder.mkdir()
    os.symlink(chain.chunks, folder / "chunk")
    os.symlink(os.path.dirname(chain.ranked), folder / "artifacts")
    other = tiny_lm(folder.parent, seed=1)
    common = {
        "template": "auto",
        "ensemble": "answers",
        "shots": 0,
        "scoring": "auto",
        "max_new_tokens": 4,
        "max_answers": 0,
        "eos_token": "",
        "t_r": 0.1,
        "ranked": f"artifacts/{os.path.basename(chain.ranked)}",
    }
    variants = {
        "closed-book": {**common, "lm": chain.lm, "k": 0},
        "replug": {**common, "lm": chain.lm, "k": K},
        "replug-5shot": {**common, "lm": chain.lm, "k": K, "shots": 5},
        "lm-ft": {**common, "lm": other, "k": K},
        "radit": {**common, "lm": other, "k": K, "ranked": "artifacts/elsewhere"},
    }
    recipe = {"k_infer": K, "evaluate": {"bootstrap": 50, "precision": "fp32"}}
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "variants": variants}))
    return folder


@pytest.fixture(scope="module")
def output(run: Path) -> Path:
    folder = run.with_name("challenge")
    assert radit("challenge", *arguments(run, folder)) == 0
    return folder


def arguments(run: Path, output: Path) -> list[str]:
    words = [str(run), "--output", str(output), "--split", SPLIT, "--limit", str(LIMIT)]
    return [*words, "--texts", "15", "--resources.num-workers", "1"]


def read(output: Path) -> dict[str, Any]:
    return dict(json.loads((output / "challenge.json").read_text()))


def predictions(output: Path, name: str) -> dict[str, dict[str, Any]]:
    parts = sorted((output / "answers" / name).glob("*.parquet"))
    return {row["id"]: row for part in parts for row in read_shard(str(part)).to_pylist()}


def shown(output: Path, kind: str) -> dict[str, dict[str, Any]]:
    tables = iter_tables(artifact_input(str(output / kind), "challenge"))
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def test_all_kinds_and_lms_answer_the_same_questions(output: Path) -> None:
    results = read(output)
    asked = set(shown(output, "gold"))
    assert 2 <= len(asked) <= LIMIT
    assert len(asked) == results["questions"]["num_questions"]
    assert list(results["variants"]) == list(LMS)  # the first variant of each LM that has chunks
    for kind in KINDS:
        assert set(shown(output, kind)) == asked
    for name in LMS:
        for kind in (*KINDS, "none"):
            rows = predictions(output, f"{name}.{kind}")
            assert set(rows) == asked
            width = {"none": 0, "top-k": K}.get(kind, 1)
            assert {len(row["chunk_ids"]) for row in rows.values()} == {width}


def test_numbers_are_those_of_a_plain_loop(output: Path) -> None:
    results = read(output)
    substitutes = json.loads((output / "swapped" / "substitutes.json").read_text())
    for name in LMS:
        everything = predictions(output, f"{name}.closed-book")
        assert len(everything) == LIMIT == results["knowledge"]["num_questions"]
        closed = results["knowledge"]["closed-book"][name]
        kinds = results["robustness"][name]["kinds"]
        none = predictions(output, f"{name}.none")
        for metric in ("em", "f1", "nll"):
            mean = np.mean([row[metric] for row in everything.values()])
            assert closed[metric]["value"] == pytest.approx(mean)
            for kind in ("gold", "hard-negative", "random", "none"):
                rows = predictions(output, f"{name}.{kind}")
                cell = kinds[kind][metric]
                mean = np.mean([row[metric] for row in rows.values()])
                assert cell["value"] == pytest.approx(mean)
                assert cell["low"] <= cell["value"] <= cell["high"]
                if kind != "none":
                    contrast = results["robustness"][name]["contrasts"][f"{kind}-minus-none"]
                    diff = np.mean([rows[i][metric] - none[i][metric] for i in rows])
                    assert contrast[metric]["diff"] == pytest.approx(diff)
        copied = results["faithfulness"]["copied"][name]
        for kind in ("top-k", "none"):
            own = [
                is_copied(
                    row["prediction"],
                    [
                        f"{title} {text}"
                        for title, text in zip(
                            chunks["titles"][:K], chunks["texts"][:K], strict=True
                        )
                    ],
                )
                for i, row in predictions(output, f"{name}.{kind}").items()
                for chunks in [shown(output, "top-k")[i]]
            ]
            assert copied[kind]["value"] == pytest.approx(np.mean(own))
        swapped = predictions(output, f"{name}.swapped")
        found = [followed(row, substitutes[i]) for i, row in swapped.items()]
        shares = results["faithfulness"]["swapped"][name]
        for kind in ("substitute", "answer", "neither"):
            assert shares["all"][kind]["value"] == pytest.approx(found.count(kind) / len(found))
        remembered = sum(bool(none[i]["em"]) for i in swapped)
        assert (shares["known"] or {"num_questions": 0})["num_questions"] == remembered
    difference = results["knowledge"]["contrasts"]["lm-ft-minus-replug"]["nll"]["diff"]
    means = [results["knowledge"]["closed-book"][name]["nll"]["value"] for name in LMS]
    assert difference == pytest.approx(means[1] - means[0])


def test_plain_text_is_read_by_every_lm(output: Path, chain: Chain) -> None:
    texts = read(output)["knowledge"]["plain_text"]
    assert texts["num_texts"] == 15
    parts = sorted((output / "perplexity" / "replug").glob("*.parquet"))
    rows = [row for part in parts for row in read_shard(str(part)).to_pylist()]
    chunks = {
        row["id"]: row["text"]
        for table in iter_tables(artifact_input(chain.chunks, "chunk"))
        for row in table.to_pylist()
    }
    lm = CausalLM.load(chain.lm, precision="fp32")
    slow = [read_text(lm, chunks[row["id"]]) for row in rows]
    nats = -sum(row["logprob"] for row in slow) / sum(row["num_tokens"] for row in slow)
    assert texts["nats_per_token"]["replug"]["value"] == pytest.approx(nats, rel=1e-4)
    assert set(texts["contrasts"]) == {"lm-ft-minus-replug"}


def test_the_page_shows_every_lm_and_kind(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (output / "challenge.md").read_text()
    for word in (*LMS, "gold", "hard-negative", "random", "none", "nats per token", "known"):
        assert f"| {word}" in page
    assert "nan" not in page


def test_a_rerun_reuses_and_another_limit_keeps_both(
    run: Path, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stamps() -> dict[str, int]:
        found = output.glob("artifacts/*/manifest.json")
        return {path.parent.name: path.stat().st_mtime_ns for path in found}

    before, results = stamps(), read(output)
    assert len(before) == len(KINDS) + 2
    assert radit("challenge", *arguments(run, output), "--json") == 0
    again = json.loads(capsys.readouterr().out)
    assert stamps() == before
    for part in ("questions", "knowledge", "robustness", "faithfulness"):
        assert again[part] == results[part]
    words = [*arguments(run, output), "--variants", "lm-ft", "--limit", "2"]
    assert radit("challenge", *words) == 0
    assert {name: stamps()[name] for name in before} == before
    assert set(shown(output, "gold")) <= set(read_ids(before, output))
    assert radit("challenge", *arguments(run, output)) == 0  # as the other tests know it


def read_ids(names: dict[str, int], output: Path) -> list[str]:
    """Ids of all questions in the named artifacts of the stage challenge."""
    found: list[str] = []
    for name in names:
        path = str(output / "artifacts" / name)
        manifest = read_manifest(path)
        if manifest is not None and manifest["stage"] == "challenge":
            source = artifact_input(path, "challenge")
            found += [i for t in iter_tables(source, ["id"]) for i in t["id"].to_pylist()]
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--variants", "lm_ft"], "no variant 'lm_ft'; did you mean 'lm-ft'?"),
        (["--variants", "replug,closed-book"], "'replug' and 'closed-book' have one LM"),
        (["--variants", "replug,radit"], "chunks of different retrievers"),
        (["--variants", "replug-5shot"], "answers with demonstrations"),
        (["--split", "evla"], "unknown split 'evla'; did you mean 'eval'?"),
        (["--limit", "-1"], "limit=-1 of ChallengeConfig; expected at least 0"),
    ],
)
def test_bad_values_are_one_line(
    run: Path, tmp_path: Path, changes: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "--output", str(tmp_path / "out"), *changes]
    assert radit("challenge", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_or_has_no_such_question_is_one_line(
    run: Path, chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: str) -> str:
        assert radit("challenge", folder, "--output", str(tmp_path / "out")) == 2
        return capsys.readouterr().err

    assert "nowhere: no run.json" in refused("nowhere")
    record = json.loads((run / "run.json").read_text())
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run.json").write_text(json.dumps({**record, "variants": {}}))
    assert "run without questions" in refused(str(bare))
    # an answer that no chunk holds, in every question but the first
    tables = iter_tables(artifact_input(chain.ranked, "retrieve"))
    rows = [row for t in tables for row in t.to_pylist() if row["split"] == "eval"]
    for number, row in enumerate(rows):
        row["answers"] = ["is" if number == 0 else "nobody"]
        row["gold_ids"] = []
    with Work.open("retrieve", 0, EvaluateConfig(), {}, str(bare / "ranked")) as work:
        table = pa.Table.from_pylist(rows, schema=RANKED)
        commit_shard(work.output, "part-00000.parquet", table)
        work.finish(metrics={"t_r": 1.0})
    made = {**record["variants"]["replug"], "ranked": str(bare / "ranked")}
    (bare / "run.json").write_text(json.dumps({**record, "variants": {"replug": made}}))
    message = "of 12 open questions of split 'eval' 1 had a chunk with the answer, 0 of them also"
    assert message in refused(str(bare))
