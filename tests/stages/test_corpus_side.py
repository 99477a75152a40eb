"""Contract of chunk, embed, index and retrieve: nothing lost, vectors equal plain
sentence-transformers', three shards answer as one, an example never sees what it excludes.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.ipc
import pytest
from chain import Chain
from sentence_transformers import SentenceTransformer
from tiny import documents, questions, tiny_retriever, write_jsonl

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, iter_tables, read_manifest, vectors_of
from radit_ray.engines.ranking import rank
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import Prefix, ShardedIndex
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.stages.chunk import ChunkConfig, ChunkWorker, _read_whole, chunk
from radit_ray.stages.embed import EmbedConfig, embed
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)


def rows_of(path: str, stage: str, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """All rows of a finished artifact."""
    tables = iter_tables(artifact_input(path, stage), columns)
    return [row for table in tables for row in table.to_pylist()]


def vectors(path: str) -> np.ndarray:
    """All vectors of an embedding artifact in order, (N, D) float32."""
    tables = iter_tables(artifact_input(path, "embed"), ["embedding"])
    return np.concatenate([vectors_of(table) for table in tables]).astype(np.float32)


def test_chunks_are_the_documents(chain: Chain) -> None:
    rows = rows_of(chain.chunks, "chunk")
    expected = [{**d, "id": f"{d['id']}#0", "doc_id": d["id"], "date": ""} for d in documents()]
    assert rows == [{name: row[name] for name in rows[0]} for row in expected]
    manifest = read_manifest(chain.chunks)
    assert manifest is not None
    assert [file["name"] for file in manifest["files"]] == [
        f"part-00000-{number:05d}.parquet" for number in range(4)
    ]
    assert manifest["metrics"] == {
        "num_documents": 40,
        "num_chunks": 40,
        "mean_words": sum(len(d["text"].split()) for d in documents()) / 40,
        "num_bad_rows": 0,
    }


def test_inputs_of_the_manifests_link_the_chain(chain: Chain) -> None:
    manifests = {
        name: read_manifest(getattr(chain, name))
        for name in ("chunks", "embeddings", "index", "ranked", "scored")
    }
    found = {name: m["fingerprint"] for name, m in manifests.items() if m is not None}
    named = {name: m["inputs"] for name, m in manifests.items() if m is not None}
    assert set(named["chunks"]) == {"corpus"}
    assert set(named["embeddings"]) == {"chunks", "retriever"}
    assert set(named["index"]) == {"embeddings"}
    assert set(named["ranked"]) == {"examples", "index", "retriever"}
    assert set(named["scored"]) == {"ranked", "lm"}
    for name, role, maker in (
        ("embeddings", "chunks", "chunks"),
        ("index", "embeddings", "embeddings"),
        ("ranked", "index", "index"),
        ("scored", "ranked", "ranked"),
    ):
        assert named[name][role]["fingerprint"] == found[maker]
    assert (
        named["embeddings"]["retriever"]["fingerprint"]
        == (named["ranked"]["retriever"]["fingerprint"])
    )


def test_vectors_equal_plain_sentence_transformers(chain: Chain) -> None:
    plain = SentenceTransformer(chain.retriever, device="cpu")
    texts = [f"{row['title']} {row['text']}" for row in rows_of(chain.chunks, "chunk")]
    expected = plain.encode(texts, show_progress_bar=False)
    # float16 keeps 11 bits of a value below 1
    np.testing.assert_allclose(vectors(chain.embeddings), expected, atol=2**-11, rtol=2**-11)


def test_three_shards_answer_as_one_flat_index(chain: Chain) -> None:
    three = ShardedIndex.open(chain.index, remote=False)
    one = ShardedIndex.open(chain.flat, remote=False)
    assert (len(three.shards), len(one.shards)) == (3, 1)
    vector_ND = vectors(chain.embeddings)
    generator = np.random.default_rng(0)
    noise_QD = generator.normal(size=(50, vector_ND.shape[1])).astype(np.float32)
    query_QD = np.concatenate([noise_QD, vector_ND[:10]])
    score_QN = query_QD @ vector_ND.T
    for k in (1, 7, 40):
        scores, positions = three.search(query_QD, k)
        flat_scores, flat_positions = one.search(query_QD, k)
        np.testing.assert_allclose(scores, flat_scores, rtol=1e-6, atol=1e-7)
        best = -np.sort(-score_QN, axis=1)[:, :k]
        np.testing.assert_allclose(scores, best, rtol=1e-5, atol=1e-6)
        for row in range(len(query_QD)):
            differ = positions[row] != flat_positions[row]
            # ids differ only where scores tie
            exact = score_QN[row]
            np.testing.assert_allclose(
                exact[positions[row][differ]], exact[flat_positions[row][differ]], rtol=1e-6
            )
            assert len(set(positions[row].tolist())) == k


def test_smaller_corpora_lie_in_larger_ones_on_one_index(chain: Chain) -> None:
    vector_ND = vectors(chain.embeddings)
    ids = [f"{d['id']}#0" for d in documents()]
    kept = frozenset({ids[7], documents()[9]["id"]})
    found: list[set[int]] = []
    for size in (5, 12, 40):
        for path in (chain.index, chain.flat):
            prefix = Prefix(num_documents=size, seed=1)
            index = ShardedIndex.open(path, remote=False, prefix=prefix)
            scores, positions = index.search(vector_ND[:3], size)
            assert index.num_allowed == size
            part = set(positions[0].tolist())
            assert len(part) == size
            exact = -np.sort(-(vector_ND[:1] @ vector_ND[sorted(part)].T), axis=1)
            np.testing.assert_allclose(scores[:1], exact, rtol=1e-5, atol=1e-6)
            found.append(part)
        assert found[-1] == found[-2]  # whatever the shards
    assert found[0] < found[2] < found[4] == set(range(40))
    more = ShardedIndex.open(
        chain.index, remote=False, prefix=Prefix(num_documents=5, seed=1, kept=kept)
    )
    assert set(more.search(vector_ND[:1], 7)[1][0].tolist()) - {-1} == found[0] | {7, 9}
    with pytest.raises(InputError, match="num_documents=41, expected 1 to 40"):
        ShardedIndex.open(chain.index, remote=False, prefix=Prefix(num_documents=41))


def test_contradictory_parts_of_a_corpus_are_refused(chain: Chain, tmp_path: Path) -> None:
    base = RetrieveConfig(retriever=chain.retriever, k=2)
    for changes, message in (
        ({"keep_gold": True}, "keep_gold needs num_documents"),
        ({"num_documents": 5, "corpus_examples": 3}, "do not go together"),
        ({"num_documents": 1}, "k=2 .* expected 1 to 1, the chunks searched"),
    ):
        config = dataclasses.replace(base, **changes)
        with pytest.raises(InputError, match=message):
            retrieve(config, examples=chain.examples, index=chain.index, output=str(tmp_path / "r"))


def test_more_than_the_index_holds_is_marked(chain: Chain) -> None:
    index = ShardedIndex.open(chain.index, remote=False)
    scores, positions = index.search(vectors(chain.embeddings)[:2], 60)
    assert (positions[:, 40:] == -1).all()
    assert np.isneginf(scores[:, 40:]).all()
    assert sorted(positions[0, :40].tolist()) == list(range(40))


def test_shards_carry_their_chunks(chain: Chain) -> None:
    manifest = read_manifest(chain.index)
    assert manifest is not None
    ids: list[str] = []
    for shard in manifest["metrics"]["shards"]:
        with pyarrow.ipc.open_file(f"{chain.index}/{shard['arrow']}") as reader:
            part = reader.read_all()["id"].to_pylist()
        assert faiss.read_index(f"{chain.index}/{shard['faiss']}").ntotal == len(part)
        ids += part
    assert ids == [f"{d['id']}#0" for d in documents()]


def test_a_changed_shard_is_not_opened(chain: Chain, tmp_path: Path) -> None:
    storage.put_folder(_copy(chain.flat, tmp_path / "copy"), str(tmp_path / "index"))
    file = tmp_path / "index" / "shard-00000.faiss"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"shard-00000\.faiss"):
        ShardedIndex.open(str(tmp_path / "index"), remote=False)


def test_ranked_rows_are_the_best_chunks(chain: Chain) -> None:
    rows = rows_of(chain.ranked, "retrieve")
    ids = [row["id"] for row in rows_of(chain.chunks, "chunk")]
    texts = {row["id"]: row["text"] for row in rows_of(chain.chunks, "chunk")}
    vector_ND = vectors(chain.embeddings)
    plain = SentenceTransformer(chain.retriever, device="cpu")
    query_QD = plain.encode([row["query"] for row in rows], show_progress_bar=False)
    asked = [row for row in rows if row["task"] == "tiny"]
    assert sorted(row["id"] for row in asked) == sorted(
        row["id"] for part in questions().values() for row in part
    )
    for row, query_D in zip(rows, query_QD, strict=True):
        assert len(row["chunk_ids"]) == 4
        score_N = vector_ND @ query_D
        score_N[[i for i, name in enumerate(ids) if name in row["exclude_ids"]]] = -np.inf
        np.testing.assert_allclose(row["scores"], -np.sort(-score_N)[:4], atol=1e-5)
        for name, score, text in zip(row["chunk_ids"], row["scores"], row["texts"], strict=True):
            assert abs(score_N[ids.index(name)] - score) < 1e-5
            assert texts[name] == text


def test_corpus_examples_exclude_their_source(chain: Chain) -> None:
    rows = [row for row in rows_of(chain.ranked, "retrieve") if row["task"] == "corpus"]
    texts = {row["id"]: row["text"] for row in rows_of(chain.chunks, "chunk")}
    assert len(rows) == 20
    for row in rows:
        (source,) = row["exclude_ids"]
        assert source not in row["chunk_ids"]
        assert len(row["chunk_ids"]) == 4
        first, last = row["question"], row["answers"][0]
        assert texts[source].startswith(first)
        assert texts[source].endswith(last)
        assert len(first) + len(last) <= len(texts[source])  # they do not overlap


def test_excluded_chunks_never_appear(chain: Chain) -> None:
    encoder = DualEncoder.load(chain.retriever, separate=False)
    index = ShardedIndex.open(chain.index, remote=False)
    keep = ("id", "task", "category", "question", "query", "answers", "gold_ids")
    rows = [row for row in rows_of(chain.ranked, "retrieve") if row["task"] == "tiny"][:8]
    plain = [{**{name: row[name] for name in keep}, "exclude_ids": []} for row in rows]
    before = rank(plain, encoder, index, k=6)
    barred = [
        {**row, "exclude_ids": found["chunk_ids"][:3:2]}
        for row, found in zip(plain, before, strict=True)
    ]
    after = rank(barred, encoder, index, k=4)
    for old, new in zip(before, after, strict=True):
        expected = [name for i, name in enumerate(old["chunk_ids"]) if i not in (0, 2)]
        assert new["chunk_ids"] == expected


def test_metrics_of_retrieve_count_answers(chain: Chain) -> None:
    manifest = read_manifest(chain.ranked)
    assert manifest is not None
    asked = [row for row in rows_of(chain.ranked, "retrieve") if row["task"] == "tiny"]
    for k in (1, 4):
        hits = [
            any(row["answers"][0].lower() in text.lower() for text in row["texts"][:k])
            for row in asked
        ]
        assert manifest["metrics"][f"recall@{k}"] == pytest.approx(np.mean(hits))
    assert manifest["metrics"]["num_train"] == 36 + 20
    assert manifest["metrics"]["num_dev"] == manifest["metrics"]["num_eval"] == 12


@pytest.mark.slow
def test_k_above_the_index_is_refused_and_can_be_asked_again(chain: Chain, tmp_path: Path) -> None:
    config = RetrieveConfig(retriever=chain.retriever, k=41)
    output = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"k=41 .*expected 1 to 40.*lower --k") as found:
        retrieve(config, examples=chain.examples, index=chain.index, output=output)
    assert "\n" not in str(found.value)
    assert read_manifest(output) is None
    config = dataclasses.replace(config, k=2)  # the refused call has not taken the folder
    assert retrieve(config, examples=chain.examples, index=chain.index, output=output).rows == 60


def test_another_width_is_refused(chain: Chain, tmp_path: Path) -> None:
    wide = tiny_retriever(tmp_path, width=48)
    config = RetrieveConfig(retriever=wide, k=2)
    output = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"width 48, the index holds width 32"):
        retrieve(config, examples=chain.examples, index=chain.flat, output=output, resources=ONE)
    assert read_manifest(output) is None


def test_duplicate_ids_name_both_places(ray_cluster: None, tmp_path: Path) -> None:
    rows = documents()[:5]
    first = write_jsonl(tmp_path / "a.jsonl", rows)
    second = write_jsonl(tmp_path / "b.jsonl", [{**rows[3], "text": "Another text."}])
    output = str(tmp_path / "out")
    with pytest.raises(InputError, match="duplicate document id 'doc-03'") as found:
        chunk(ChunkConfig(), corpus=str(tmp_path), output=output, resources=ONE)
    message = str(found.value)
    assert f"{first}:4 and {second}:1;" in message
    assert "\n" not in message
    assert read_manifest(output) is None


def test_bad_rows_go_to_quarantine_with_the_reason(ray_cluster: None, tmp_path: Path) -> None:
    good = documents()[:3]
    lines = [json.dumps(row) for row in good]
    lines.insert(1, '{"id": "broken", "text": ')
    lines.insert(3, '{"id": "empty", "title": "", "text": " "}')
    corpus = tmp_path / "docs.jsonl"
    corpus.write_text("\n".join(lines) + "\n")
    output = str(tmp_path / "out")
    config = ChunkConfig(on_bad_row="quarantine")
    artifact = chunk(config, corpus=str(corpus), output=output, resources=ONE)
    assert artifact.metrics["num_documents"] == 3
    assert artifact.metrics["num_bad_rows"] == 2
    assert [row["doc_id"] for row in rows_of(output, "chunk")] == [row["id"] for row in good]
    kept = Path(output, "quarantine", "00000.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in kept]
    assert [row["line"] for row in found] == [2, 4]
    assert all(row["file"] == str(corpus) and row["reason"] for row in found)
    assert found[0]["row"].startswith('{"id": "broken"')


def test_a_file_that_was_read_whole_is_known(tmp_path: Path) -> None:
    """One with bad rows is read again, for its quarantine."""
    whole = write_jsonl(tmp_path / "a.jsonl", documents()[:5])
    broken = tmp_path / "b.jsonl"
    broken.write_text('{"id": "broken"}\n')
    config = ChunkConfig(docs_per_shard=2, on_bad_row="quarantine")
    output = str(tmp_path / "out")
    worker = ChunkWorker(config=config, corpus=str(tmp_path), output=output, committed=[])
    for number, file in enumerate([whole, str(broken)]):
        worker({"number": number, "file": file})
    names = [f"part-00000-0000{number}.parquet" for number in range(3)]
    assert [f"{name}.json" for name in names] == storage.list_files(f"{output}/committed")
    assert _read_whole(output, names) == {0}
    assert _read_whole(output, names[:2]) == set()  # a shard was lost since


def test_an_object_store_serves_as_well(chain: Chain, tmp_path: Path) -> None:
    """`local://` goes through fsspec as s3:// would, and worker processes see it too."""
    base = f"local://{tmp_path}"
    corpus = f"{base}/corpus.jsonl"
    storage.write_bytes(corpus, Path(chain.corpus).read_bytes())
    made = chunk(
        ChunkConfig(docs_per_shard=10), corpus=corpus, output=f"{base}/chunks", resources=ONE
    )
    config = EmbedConfig(retriever=chain.retriever, precision="fp32")
    embedded = embed(config, chunks=made.path, output=f"{base}/embed", resources=ONE)
    assert embedded.path.startswith("local://")
    here, there = read_manifest(embedded.path), read_manifest(chain.embeddings)
    assert here is not None
    assert there is not None
    assert here["fingerprint"] == there["fingerprint"]  # where it lies is no part of what it is
    assert here["files"] == there["files"]


def _copy(folder: str, target: Path) -> str:
    for name in storage.list_files(folder):
        storage.write_bytes(f"{target}/{name}", Path(folder, name).read_bytes())
    return str(target)
