"""Contract: what dedup drops is what comparing every chunk with every kept one drops; neither
shards, workers nor a kill change it; a kept chunk is gold for the copies it stands for; without it
nothing changes.

The workers run in this process; that Ray's do the same is the last test.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import documents, write_jsonl

from radit_ray.core import duplicates
from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, iter_tables, read_manifest, shard_names
from radit_ray.data.copies import FILE, with_kept_chunks
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.models import minhash
from radit_ray.recipes import override, own
from radit_ray.stages import chunk as chunk_stage
from radit_ray.stages import dedup as dedup_stage
from radit_ray.stages import dedup_pairs
from radit_ray.stages import embed as embed_stage
from radit_ray.stages import index as index_stage
from radit_ray.stages import retrieve as retrieve_stage
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.dedup import DedupConfig, dedup

EXACT = DedupConfig(threshold=1)
# a pair above 0.5 is missed with a probability below 1e-11
NEAR = DedupConfig(threshold=0.5, ngram=2, num_perm=40, max_miss=1e-11)


def map_here(
    worker: Any, arguments: dict[str, Any], items: list[dict[str, Any]], **_: Any
) -> list[dict[str, Any]]:
    if not items:
        return []
    one = worker(**arguments)
    return [one(item) for item in items]


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (chunk_stage, dedup_stage, dedup_pairs):
        monkeypatch.setattr(module, "map_shards", map_here)


def corpus(folder: Path, texts: list[str], docs_per_shard: int = 10) -> str:
    """A chunk artifact with one chunk, d<n>#0, for each text."""
    rows = [{"id": f"d{n}", "title": "", "text": text} for n, text in enumerate(texts)]
    folder.mkdir(parents=True, exist_ok=True)
    file = write_jsonl(folder / "corpus.jsonl", rows)
    config = ChunkConfig(docs_per_shard=docs_per_shard)
    return chunk(config, corpus=file, output=str(folder / f"chunk-{docs_per_shard}")).path


def chunk_rows(path: str) -> list[dict[str, Any]]:
    source = artifact_input(path, ("chunk", "dedup"))
    return [row for table in iter_tables(source) for row in table.to_pylist()]


def copies(path: str) -> list[dict[str, Any]]:
    with pa.memory_map(storage.join(path, FILE)) as source:
        return pa.ipc.open_file(source).read_all().to_pylist()


def slow_copies(texts: list[str], config: DedupConfig) -> dict[str, tuple[str, float]]:
    """{copy: (kept, similarity)}: each text against every kept one before it, word by word."""
    kept: list[int] = []
    found: dict[str, tuple[str, float]] = {}
    words = [duplicates.words(text) for text in texts]
    for number, own_words in enumerate(words):
        equal = [k for k in range(number) if words[k] == own_words]
        if equal:  # stands where its first twin stands
            found[f"d{number}#0"] = found.get(f"d{equal[0]}#0", (f"d{equal[0]}#0", 1.0))
            continue
        for other in kept if config.threshold < 1 else []:
            similarity = _jaccard(words[other], own_words, config.ngram)
            if similarity >= config.threshold:
                found[f"d{number}#0"] = (f"d{other}#0", similarity)
                break
        else:
            kept.append(number)
    return found


def _jaccard(a: list[str], b: list[str], size: int) -> float:
    left, right = (
        {tuple(w[i : i + min(size, len(w))]) for i in range(len(w) - min(size, len(w)) + 1)}
        for w in (a, b)
    )
    return len(left & right) / len(left | right)


def texts_with_copies(seed: int, num: int = 60) -> list[str]:
    """Texts of 30 words; two in five are an earlier one, as it is or with some words changed."""
    chance = random.Random(seed)
    made: list[str] = []
    for _ in range(num):
        words = [f"w{chance.randrange(200)}" for _ in range(30)]
        if made and chance.random() < 0.4:
            words = chance.choice(made).split()
            for _ in range(chance.randrange(6)):
                words[chance.randrange(len(words))] = f"w{chance.randrange(200)}"
        made.append(" ".join(words))
    return made


@pytest.mark.usefixtures("_here")
@pytest.mark.parametrize("config", [EXACT, NEAR], ids=["exact", "near"])
def test_what_is_dropped_is_what_a_slow_comparison_drops(
    config: DedupConfig, tmp_path: Path
) -> None:
    if config.threshold < 1:
        pytest.importorskip("datasketch")
    for seed in range(2):
        texts = texts_with_copies(seed)
        expected = slow_copies(texts, config)
        chunks = corpus(tmp_path / str(seed), texts)
        artifact = dedup(config, chunks=chunks, output=str(tmp_path / str(seed) / "out"))
        found = copies(artifact.path)
        assert {row["id"]: (row["kept_id"], row["similarity"]) for row in found} == expected
        left = [f"d{n}#0" for n in range(len(texts)) if f"d{n}#0" not in expected]
        rows = chunk_rows(artifact.path)
        assert [row["id"] for row in rows] == left
        named = {copy: row["id"] for row in rows for copy in row["duplicate_ids"]}
        assert named == {copy: kept for copy, (kept, _) in expected.items()}
        kinds = [row["kind"] for row in found]
        metrics = artifact.metrics
        assert (metrics["num_chunks"], metrics["num_kept"]) == (len(texts), len(left))
        assert metrics["num_exact"] == kinds.count("exact") > 0
        assert metrics["num_near"] == kinds.count("near")
        assert artifact.rows == len(left)


@settings(deadline=None, database=None, derandomize=True, max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), min_size=1, max_size=12))
def test_tiny_texts_and_many_of_one_kind(found: list[list[str]]) -> None:
    """The same in memory, where the signature is as long as it takes to see every pair."""
    config = dataclasses.replace(NEAR, threshold=0.4)
    texts = [" ".join(words) for words in found]
    pairs = [
        (left, right, similarity)
        for right in range(len(found))
        for left in range(right)
        if found[left] != found[right]
        and (similarity := _jaccard(found[left], found[right], config.ngram)) >= config.threshold
    ]
    first = [texts.index(text) for text in texts]
    pairs = [pair for pair in pairs if first[pair[0]] == pair[0] and first[pair[1]] == pair[1]]
    columns = np.array(pairs).reshape(-1, 3).T
    near = duplicates.keep_first(columns[0].astype(int), columns[1].astype(int), columns[2])
    joined = duplicates.joined_copies(np.array(first), near)
    assert {f"d{c}#0": (f"d{k}#0", s) for c, (k, s, _) in joined.items()} == slow_copies(
        texts, config
    )


@pytest.mark.usefixtures("_here")
def test_shards_change_nothing_and_neither_does_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datasketch")
    texts = texts_with_copies(7, num=80)
    one = dedup(NEAR, chunks=corpus(tmp_path, texts, 100), output=str(tmp_path / "one"))
    many = dedup(NEAR, chunks=corpus(tmp_path, texts, 7), output=str(tmp_path / "many"))
    assert chunk_rows(one.path) == chunk_rows(many.path)
    assert copies(one.path) == copies(many.path)
    assert {**one.metrics} == {**many.metrics}

    compared: list[int] = []
    plain = dedup_pairs.CompareWorker.__call__

    def dies(self: Any, item: dict[str, Any]) -> dict[str, Any]:
        if len(compared) == 5:
            raise KeyboardInterrupt
        compared.append(item["band"])
        return plain(self, item)

    monkeypatch.setattr(dedup_pairs.CompareWorker, "__call__", dies)
    chunks = corpus(tmp_path, texts, 7)
    with pytest.raises(KeyboardInterrupt):
        dedup(NEAR, chunks=chunks, output=str(tmp_path / "killed"))
    assert read_manifest(str(tmp_path / "killed")) is None
    compared.clear()
    compared += [-1] * 6  # goes on
    again = dedup(NEAR, chunks=chunks, output=str(tmp_path / "killed"))
    assert compared[6:] == list(range(5, again.metrics["bands"]))
    assert not storage.exists(storage.join(again.path, "resume"))
    manifests = [read_manifest(path) for path in (many.path, again.path)]
    hashes = [{f["name"]: f["sha256"] for f in m["files"]} for m in manifests if m]
    assert hashes[0] == hashes[1]
    assert dedup(NEAR, chunks=chunks, output=many.path) == many  # reused


@pytest.mark.usefixtures("_here")
def test_mark_keeps_every_chunk(tmp_path: Path) -> None:
    texts = ["a b c", "x y z", "A, b: C!", "x y z"]
    chunks = corpus(tmp_path, texts, 2)
    config = dataclasses.replace(EXACT, action="mark")
    artifact = dedup(config, chunks=chunks, output=str(tmp_path / "out"))
    rows = chunk_rows(artifact.path)
    assert [row["duplicate_of"] for row in rows] == ["", "", "d0#0", "d1#0"]
    assert [row["similarity"] for row in rows] == [0.0, 0.0, 1.0, 1.0]
    plain = chunk_rows(chunks)
    assert [{name: row[name] for name in plain[0]} for row in rows] == plain
    # dropped instead, the second shard has no chunk left and is none
    dropped = dedup(EXACT, chunks=chunks, output=str(tmp_path / "dropped"))
    assert shard_names(dropped.path) == ["part-00000-00000.parquet"]
    assert (artifact.rows, dropped.rows) == (4, 2)


@pytest.mark.usefixtures("_here")
def test_the_title_is_part_of_a_chunk(tmp_path: Path) -> None:
    text = "It is a commune in the north of France."
    rows = [{"id": name, "title": name, "text": text} for name in ("Ay", "Eu", "ay!")]
    rows[2]["title"] = "AY"
    file = write_jsonl(tmp_path / "c.jsonl", rows)
    chunks = chunk(ChunkConfig(), corpus=file, output=str(tmp_path / "chunk")).path
    found = copies(dedup(EXACT, chunks=chunks, output=str(tmp_path / "out")).path)
    assert [(row["id"], row["kept_id"]) for row in found] == [("ay!#0", "Ay#0")]


def test_a_kept_chunk_counts_for_the_dropped_ones_and_their_documents() -> None:
    table = pa.table({"id": ["a#0", "b#2"], "duplicate_ids": [["c#0", "c#1"], ["c#2", "d#0"]]})
    plain = pa.table({"id": ["a#0"]})
    rows = [
        {"id": "1", "gold_ids": ["c#1"], "exclude_ids": ["d#0"]},
        {"id": "2", "gold_ids": ["c"], "exclude_ids": []},
        {"id": "3", "gold_ids": ["a#0", "c#0"], "exclude_ids": ["e#0"]},
        {"id": "4", "gold_ids": [], "exclude_ids": []},
    ]
    assert with_kept_chunks(rows, [plain]) == rows
    found = with_kept_chunks(rows, [table.slice(0, 1), table.slice(1)])
    assert [row["gold_ids"] for row in found] == [
        ["c#1", "a#0"],
        ["c", "a#0", "b#2"],
        ["a#0", "c#0"],
        [],
    ]
    assert [row["exclude_ids"] for row in found] == [["d#0", "b#2"], [], ["e#0"], []]
    assert with_kept_chunks(rows, [plain]) is rows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action": "delete"}, r"action='delete' \(one of: drop, mark\)"),
        ({"threshold": 0.0}, r"threshold=0.0 of DedupConfig; expected 0.1 to 1"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"ngram": 0}, "ngram=0"),
        ({"threshold": 0.2, "num_perm": 4}, "misses more than max_miss=0.01"),
    ],
)
def test_wrong_values_are_refused_before_any_work(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minhash, "check_installed", lambda: None)
    config = dataclasses.replace(DedupConfig(), **changes)
    with pytest.raises(InputError, match=message):
        dedup(config, chunks="nowhere", output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_here")
def test_other_artifacts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: does not exist, expected a finished `chunk`"):
        dedup(EXACT, chunks="nowhere", output=str(tmp_path / "out"))
    chunks = corpus(tmp_path, ["a", "a"])
    once = dedup(EXACT, chunks=chunks, output=str(tmp_path / "once"))
    with pytest.raises(InputError, match="made by `dedup`, expected an artifact of `chunk`"):
        dedup(EXACT, chunks=once.path, output=str(tmp_path / "twice"))
    with pytest.raises(InputError, match=r"action 'drop' there, 'mark' asked"):
        dedup(dataclasses.replace(EXACT, action="mark"), chunks=chunks, output=once.path)


def test_a_run_leaves_it_out_unless_it_is_told() -> None:
    assert not own().deduplicate
    recipe = override(own(), {"deduplicate": "true", "dedup.threshold": "0.9"})
    assert (recipe.deduplicate, recipe.dedup.threshold) == (True, 0.9)


@pytest.mark.usefixtures("_here")
def test_the_kept_chunk_is_gold_in_ranked_rows(
    tiny_models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (embed_stage, index_stage, retrieve_stage):
        monkeypatch.setattr(module, "map_shards", map_here)
    here = functools.partial(ShardedIndex.open, remote=False)
    monkeypatch.setattr(retrieve_stage.ShardedIndex, "open", here)
    towns, retriever = documents()[:20], tiny_models[1]
    dropped = dedup(EXACT, chunks=twice(towns, tmp_path), output=str(tmp_path / "dedup"))
    assert (dropped.rows, dropped.metrics["num_exact"]) == (20, 20)
    embeddings, indexed = str(tmp_path / "embed"), str(tmp_path / "index")
    embed_stage.embed(
        embed_stage.EmbedConfig(retriever=retriever, precision="fp32"),
        chunks=dropped.path,
        output=embeddings,
    )
    config = index_stage.IndexConfig(num_shards=2)
    index_stage.index(config, embeddings=embeddings, output=indexed)
    asked = [
        {
            "id": str(number),
            "question": town["text"],
            "answers": ["x"],
            "split": "eval",
            "gold_ids": [f"again-{town['id']}#0" if number % 2 else f"again-{town['id']}"],
            "exclude_ids": [f"again-{town['id']}#0"] if number == 3 else [],
        }
        for number, town in enumerate(towns)
    ]
    ranked = retrieve_stage.retrieve(
        retrieve_stage.RetrieveConfig(retriever=retriever, k=18, dev_share=0.0),
        examples=write_jsonl(tmp_path / "qa.jsonl", asked),
        index=indexed,
        output=str(tmp_path / "ranked"),
    )
    source = artifact_input(ranked.path, "retrieve")
    got = [row for table in iter_tables(source) for row in table.to_pylist()]
    kept = [f"{town['id']}#0" for town in towns]
    assert [row["gold_ids"][1:] for row in got] == [[name] for name in kept]
    # 18 of 20 chunks: an untrained retriever leaves a few kept ones out
    hits = sum(gold in row["chunk_ids"] for gold, row in zip(kept, got, strict=True))
    assert ranked.metrics["recall@18"] == hits / 20
    assert hits >= 12
    assert kept[3] not in got[3]["chunk_ids"]  # nor may the copy's text be seen in another's place


@pytest.mark.ray
def test_two_workers_drop_what_this_process_drops(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        for module in (chunk_stage, dedup_stage, dedup_pairs):
            patched.setattr(module, "map_shards", map_here)
        chunks = twice(documents(), tmp_path)
        here = dedup(EXACT, chunks=chunks, output=str(tmp_path / "here"))
    two = Resources(num_workers=2)
    there = dedup(EXACT, chunks=chunks, output=str(tmp_path / "two"), resources=two)
    assert chunk_rows(there.path) == chunk_rows(here.path)
    assert there.metrics == here.metrics
    assert there.rows == 40


def twice(towns: list[dict[str, str]], folder: Path) -> str:
    """A chunk artifact of these documents, and of them again under other ids."""
    rows = [*towns, *({**town, "id": f"again-{town['id']}"} for town in towns)]
    file = write_jsonl(folder / "corpus.jsonl", rows)
    return chunk(ChunkConfig(docs_per_shard=15), corpus=file, output=str(folder / "chunk")).path
