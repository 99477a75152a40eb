"""Contract of BM25 among the stages: an index from chunks alone, ranked rows like any others,
shards that answer as one, resumed as if it had never stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from chain import Chain

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import artifact_input, iter_tables, read_manifest
from radit_ray.data.rows import RANKED
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import Prefix, ShardedIndex
from radit_ray.models.lexical import Words
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)
BM25 = RetrieveConfig(retriever="bm25", k=4)


def built(chain: Chain, folder: Path, shards: int) -> str:
    path = str(folder / f"words-{shards}")
    config = IndexConfig(kind="bm25", num_shards=shards)
    index(config, embeddings=chain.chunks, output=path, resources=ONE)
    return path


@pytest.fixture(scope="module")
def words(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> str:
    return built(chain, tmp_path_factory.mktemp("words"), 1)


def test_ranked_rows_are_those_of_any_retriever(chain: Chain, words: str, tmp_path: Path) -> None:
    output = str(tmp_path / "ranked")
    made = retrieve(BM25, examples=chain.examples, index=words, output=output, resources=ONE)
    assert made.rows == 60
    # the town's name stands in the question and in one document
    assert made.metrics["recall@1"] == 1.0
    assert made.metrics["t_r"] == 1.0
    tables = list(iter_tables(artifact_input(output, "retrieve")))
    assert all(table.schema.equals(RANKED) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    assert {len(row["chunk_ids"]) for row in rows} == {4}
    assert all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)
    manifest = read_manifest(output)
    assert manifest is not None
    assert manifest["config"]["preset"] == "bm25"
    assert set(manifest["inputs"]) == {"examples", "index", "retriever"}
    stamp = (tmp_path / "ranked" / "manifest.json").stat().st_mtime_ns
    assert retrieve(BM25, examples=chain.examples, index=words, output=output).rows == 60
    assert (tmp_path / "ranked" / "manifest.json").stat().st_mtime_ns == stamp


def test_three_shards_answer_as_one(chain: Chain, words: str, tmp_path: Path) -> None:
    three = ShardedIndex.open(built(chain, tmp_path, 3), remote=False)
    one = ShardedIndex.open(words, remote=False)
    assert (len(three.shards), len(one.shards)) == (3, 1)
    queries = Words().encode_queries(["the mayor of Arden", "salt and wool", "old river 1242"])
    for k in (1, 5, 40):
        found, whole = three.search(queries, k), one.search(queries, k)
        np.testing.assert_allclose(found[0], whole[0], rtol=2e-6, atol=2e-6)
    part = ShardedIndex.open(words, remote=False, prefix=Prefix(num_documents=5))
    assert part.num_allowed == 5
    assert len(set(part.search(queries, 6)[1][0].tolist()) - {-1}) == 5


def test_an_interrupted_index_is_taken_up(chain: Chain, words: str, tmp_path: Path) -> None:
    """As after a kill between the counts and the shards."""
    whole = built(chain, tmp_path, 3)
    manifest = json.loads(Path(whole, "manifest.json").read_text())
    torn = tmp_path / "torn"
    torn.mkdir()
    torn.joinpath("identity.json").write_text(
        json.dumps(
            {
                "fingerprint": manifest["fingerprint"],
                "stage": "index",
                "version": manifest["version"],
                "config": manifest["config"],
                "inputs": manifest["inputs"],
            }
        )
    )
    config = IndexConfig(kind="bm25", num_shards=3)
    index(config, embeddings=chain.chunks, output=str(torn), resources=ONE)
    again = json.loads((torn / "manifest.json").read_text())
    assert again["files"] == manifest["files"]  # names, bytes, sha256
    assert not (torn / "resume").exists()


def test_words_and_vectors_are_not_mixed(chain: Chain, words: str, tmp_path: Path) -> None:
    for config, path in (
        (BM25, chain.index),
        (RetrieveConfig(retriever=chain.retriever, k=4), words),
    ):
        with pytest.raises(InputError, match="bm25 goes with an index of kind bm25, and nothing"):
            retrieve(
                config,
                examples=chain.examples,
                index=path,
                output=str(tmp_path / "x"),
                resources=ONE,
            )
    for retriever, preset in ((chain.retriever, "bm25"), ("bm25", "minilm")):
        with pytest.raises(InputError, match="bm25 is a retriever and its own preset"):
            retrieve(
                RetrieveConfig(retriever=retriever, preset=preset),
                examples=chain.examples,
                index=words,
                output=str(tmp_path / "y"),
            )
