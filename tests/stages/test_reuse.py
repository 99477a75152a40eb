"""Contract of `reuse`: a chunk whose title and text an older artifact holds keeps that vector bit
for bit, whatever its id and place; only the others are encoded; the artifact is the one that
embedding everything gives, up to a float16's last bit.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import Chain
from own import arguments_of, radit
from tiny import documents, tiny_retriever, write_jsonl

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import artifact_input, iter_tables, read_manifest, vectors_of
from radit_ray.engines.resources import Resources
from radit_ray.engines.reuse import OlderVectors, content_hashes, write_table
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)
ADDED, REPLACED = 5, 2


def changed_documents() -> list[dict[str, Any]]:
    """The tiny world after an edit: documents added in front, three gone, two replaced, one with
    another id and one with another date.
    """
    rows = documents()
    added = [{**row, "id": f"new-{i}", "text": f"{row['text']} {i}"} for i, row in enumerate(rows)]
    kept = [dict(row) for row in rows if row["id"] not in ("doc-03", "doc-17", "doc-39")]
    kept[4]["text"] = "Nothing is as it was."
    kept[9]["title"] = "Another title"
    kept[6]["id"] = "doc-with-another-name"
    kept[7]["date"] = "2024-01-01"
    return added[:ADDED] + kept


@pytest.fixture(scope="module")
def changed(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The chunks of the edited world, in shards of another size."""
    folder = tmp_path_factory.mktemp("changed")
    corpus = write_jsonl(folder / "docs.jsonl", changed_documents())
    config = ChunkConfig(docs_per_shard=13)
    return chunk(config, corpus=corpus, output=str(folder / "chunks"), resources=ONE).path


def read(path: str) -> dict[str, tuple[tuple[str, str], np.ndarray]]:
    """{chunk id: ((title, text), vector)}."""
    found = {}
    for table in iter_tables(artifact_input(path, "embed")):
        rows = table.drop_columns("embedding").to_pylist()
        for row, vector in zip(rows, vectors_of(table), strict=True):
            found[row["id"]] = ((row["title"], row["text"]), vector)
    return found


def config_of(chain: Chain, precision: str = "fp32") -> EmbedConfig:
    return EmbedConfig(retriever=chain.retriever, precision=precision)


def test_only_what_changed_is_encoded(chain: Chain, changed: str, tmp_path: Path) -> None:
    config = config_of(chain)
    whole = embed(config, chunks=changed, output=str(tmp_path / "whole"), resources=ONE)
    made = embed(
        config,
        chunks=changed,
        output=str(tmp_path / "made"),
        reuse=chain.embeddings,
        resources=ONE,
    )
    total = len(changed_documents())
    counts = {"num_chunks": total, "num_encoded": ADDED + REPLACED}
    counts["num_reused"] = total - ADDED - REPLACED
    assert {name: made.metrics[name] for name in counts} == counts
    assert whole.metrics["num_reused"] == 0
    assert whole.metrics["num_encoded"] == total
    here, there = read_manifest(made.path), read_manifest(whole.path)
    assert here is not None
    assert there is not None
    assert here["fingerprint"] == there["fingerprint"]
    assert [file["name"] for file in here["files"]] == [file["name"] for file in there["files"]]
    assert 0 < here["cost"]["tokens"] < there["cost"]["tokens"] / 3

    older = dict(read(chain.embeddings).values())
    found, expected = read(made.path), read(whole.path)
    assert list(found) == list(expected)
    for name, (content, vector) in found.items():
        assert content == expected[name][0]
        if content in older:
            assert np.array_equal(vector, older[content]), name
        # fp32 sums of other batches differ by 1e-7; float16 may round them apart by one unit
        unit = np.spacing(np.maximum(np.abs(vector), np.abs(expected[name][1])))
        assert (np.abs(vector - expected[name][1]) <= unit).all(), name
    assert sum(content in older for content, _ in found.values()) == counts["num_reused"]


def test_an_unchanged_corpus_encodes_nothing_and_runs_on(
    chain: Chain, changed: str, tmp_path: Path
) -> None:
    config = config_of(chain)
    made = embed(
        config,
        chunks=chain.chunks,
        output=str(tmp_path / "again"),
        reuse=chain.embeddings,
        resources=ONE,
    )
    assert (made.metrics["num_encoded"], made.metrics["num_reused"]) == (0, 40)
    here, there = read_manifest(made.path), read_manifest(chain.embeddings)
    assert here is not None
    assert there is not None
    assert here["files"] == there["files"]  # sha256 of each shard
    assert here["cost"]["tokens"] == 0
    # a vector that was taken over is taken over again
    second = embed(
        config, chunks=changed, output=str(tmp_path / "next"), reuse=made.path, resources=ONE
    )
    assert second.metrics["num_encoded"] == ADDED + REPLACED


def test_bf16_vectors_differ_by_what_bf16_holds(chain: Chain, changed: str, tmp_path: Path) -> None:
    config = config_of(chain, "bf16")
    older = embed(config, chunks=chain.chunks, output=str(tmp_path / "old"), resources=ONE)
    whole = embed(config, chunks=changed, output=str(tmp_path / "whole"), resources=ONE)
    # "auto" follows what it reuses, whatever this machine would choose
    made = embed(
        config_of(chain, "auto"),
        chunks=changed,
        output=str(tmp_path / "made"),
        reuse=older.path,
        resources=ONE,
    )
    manifest = read_manifest(made.path)
    assert manifest is not None
    assert manifest["config"]["precision"] == "bf16"
    found, expected = read(made.path), read(whole.path)
    cosines = [
        float(vector.astype(np.float64) @ expected[name][1].astype(np.float64))
        for name, (_, vector) in found.items()
    ]
    assert min(cosines) > 1 - 2**-7  # of unit vectors whose sums have 8 bits


def test_vectors_made_otherwise_are_refused(chain: Chain, changed: str, tmp_path: Path) -> None:
    output = str(tmp_path / "out")

    def refused(message: str, config: EmbedConfig, reuse: str) -> None:
        with pytest.raises(InputError, match=message) as caught:
            embed(config, chunks=changed, output=output, reuse=reuse, resources=ONE)
        assert "\n" not in str(caught.value)

    config = config_of(chain)
    other = dataclasses.replace(config, retriever=tiny_retriever(tmp_path, width=48))
    refused("the retriever is another one.*leave out --reuse", other, chain.embeddings)
    other = config_of(chain, "bf16")
    refused("precision 'fp32' there, 'bf16' asked", other, chain.embeddings)
    refused("made by `chunk`, expected an artifact of `embed`", config, chain.chunks)
    refused("does not exist", config, str(tmp_path / "nowhere"))
    # a refused call has not taken the folder
    assert embed(config, chunks=changed, output=output, reuse=chain.embeddings).rows == 42


def test_the_table_of_known_chunks_is_taken_up(chain: Chain, tmp_path: Path) -> None:
    source = artifact_input(chain.embeddings, "embed")
    file = Path(write_table(source, str(tmp_path), ONE))
    content = file.read_bytes()
    file.unlink()
    (tmp_path / "committed" / "part-00000-00002.parquet.json").unlink()
    assert Path(write_table(source, str(tmp_path), ONE)).read_bytes() == content
    known = OlderVectors(source.path, str(file))
    rows = [(row["title"], row["text"]) for row in documents()]
    titles, texts = map(list, zip(*rows, strict=True))
    places, vectors_KD = known.find([*titles, "no"], [*texts, "such"])
    assert places.tolist() == list(range(40))
    expected = list(iter_tables(source, ["embedding"]))
    assert np.array_equal(vectors_KD, np.concatenate([vectors_of(table) for table in expected]))
    places, vectors_KD = known.find(["no"], ["such"])
    assert (len(places), vectors_KD) == (0, None)


def test_title_and_text_are_told_apart() -> None:
    hashes_N2 = content_hashes(["ab", "a", "", "ab"], ["c", "bc", "abc", "c"])
    assert hashes_N2.shape == (4, 2)
    assert len({tuple(row) for row in hashes_N2.tolist()}) == 3


def test_a_run_takes_over_what_another_embedded(
    own_run: Path, own_world: dict[str, str], tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    corpus = write_jsonl(tmp_path / "docs.jsonl", changed_documents())
    words = arguments_of({**own_world, "corpus": corpus}, tiny_models, tmp_path / "run")
    assert radit("run", *words, "--reuse", str(own_run), "--until", "embed") == 0
    manifest = read_manifest(str(tmp_path / "run" / "embed"))
    assert manifest is not None
    assert manifest["metrics"]["num_encoded"] == ADDED + REPLACED
    words = arguments_of(own_world, tiny_models, tmp_path / "other")
    assert radit("run", *words, "--reuse", str(tmp_path / "nowhere"), "--until", "embed") == 2
