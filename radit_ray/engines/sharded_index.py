"""Exact search over the shards of an index: each shard answers for itself, one merge decides.

A shard is a FAISS file (of a lexical index: one with BM25's scores) and an Arrow file with the
chunks in the same order; the Arrow file is memory-mapped, so texts cost no memory. Shards live in
Ray actors spread over the nodes, or in this process (`radit ask`). The merged ids are those of one
flat index, up to ties: equal scores are ordered by position.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, read_manifest
from radit_ray.data.integrity import arrow_damage_named, verify
from radit_ray.data.rows import seeded_order
from radit_ray.engines.shards import Guard, answers
from radit_ray.models import faiss_shard, lexical
from radit_ray.models.presets import LEXICAL

Queries = Any  # (Q, D) vectors, or a list of words for each query


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A part of the corpus: the first documents in a seeded order, so that a smaller part lies in a
    larger one whatever the sizes.
    """

    num_documents: int
    seed: int = 0
    kept: frozenset[str] = frozenset()  # chunk or document ids that belong to every part

    def last(self, doc_ids: Iterable[str]) -> bytes:
        """What `seeded_order` gives the last document of the part; InputError where the corpus has
        fewer.
        """
        places = sorted(seeded_order(self.seed, name) for name in set(doc_ids))
        if not 1 <= self.num_documents <= len(places):
            raise InputError(
                f"num_documents={self.num_documents}, expected 1 to {len(places)}, the documents "
                "of the index (0 = all)"
            )
        return places[self.num_documents - 1]


class IndexShard:
    """One shard: the vectors in FAISS, the chunks in a memory-mapped Arrow file."""

    def __init__(
        self,
        *,
        index: str,
        shard: dict[str, Any],
        dimension: int,
        nprobe: int,
        prefix: Prefix | None = None,
        last: bytes = b"",
        memory_map: bool = False,
        device: str = "cpu",
    ) -> None:
        file = storage.local_copy(storage.join(index, file_of(shard)))
        checks = {"sha256": shard["sha256"], "count": shard["rows"]}
        self.words = lexical.load(file, **checks) if LEXICAL in shard else None
        if self.words is None:
            loaded = faiss_shard.load(file, **checks, dimension=dimension, memory_map=memory_map)
            self.faiss, self.tiles = faiss_shard.on_device(loaded, device, nprobe=nprobe)
        self.nprobe = nprobe
        chunks = storage.join(index, shard["arrow"])
        verify(chunks, storage.local_copy(chunks) if storage.exists(chunks) else "")
        self.table = chunk_table(index, shard)
        if self.table.num_rows != shard["rows"]:
            raise InputError(
                f"{shard['arrow']} has {self.table.num_rows} chunks, expected {shard['rows']}; "
                "make the index again"
            )
        self.batches = self.table.to_batches()
        self.batch_starts = np.cumsum([0, *(batch.num_rows for batch in self.batches)])
        self.allowed = None if prefix is None else allowed_rows(self.table, prefix, last)

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows of this shard), each (Q, k), best first; -1 where the shard has fewer."""
        if self.words is not None:
            return self.words.search(queries, k, allowed=self.allowed)
        return faiss_shard.search(
            self.faiss, queries, k, nprobe=self.nprobe, allowed=self.allowed, tiles=self.tiles
        )

    def num_allowed(self) -> int:
        """How many chunks can be found."""
        return self.table.num_rows if self.allowed is None else len(self.allowed)

    def chunks(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """The chunk rows at these positions, batch by batch: `take` of the whole table would copy
        all its texts.
        """
        batch_R = np.searchsorted(self.batch_starts, rows, side="right") - 1
        found: dict[int, dict[str, Any]] = {}
        for number in np.unique(batch_R).tolist():
            here = rows[batch_R == number]
            taken = self.batches[number].take(pa.array(here - self.batch_starts[number]))
            found |= zip(here.tolist(), taken.to_pylist(), strict=True)
        return [found[row] for row in rows.tolist()]


def file_of(shard: Mapping[str, Any]) -> str:
    """The name of a shard's file beside its chunks."""
    return str(shard[LEXICAL] if LEXICAL in shard else shard["faiss"])


def shard_arguments(index: str, *, nprobe: int = 0) -> list[dict[str, Any]]:
    """What `IndexShard` needs for each shard of the index artifact at `index`, in order."""
    manifest = read_manifest(index)
    assert manifest is not None
    metrics = manifest["metrics"]
    sha256 = {f["name"]: f["sha256"] for f in manifest["files"]}
    return [
        {
            "index": index,
            "shard": {**shard, "sha256": sha256[file_of(shard)]},
            "dimension": metrics["dimension"],
            "nprobe": nprobe,
        }
        for shard in metrics["shards"]
    ]


def shard_starts(arguments: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Position of each shard's first chunk in the whole index."""
    rows = [a["shard"]["rows"] for a in arguments]
    return tuple(int(n) for n in np.cumsum([0, *rows[:-1]]))


def chunk_table(index: str, shard: Mapping[str, Any]) -> pa.Table:
    """The chunks of a shard, memory-mapped; InputError where the file breaks off."""
    file = storage.join(index, shard["arrow"])
    with arrow_damage_named(file):
        return pa.ipc.open_file(pa.memory_map(storage.local_copy(file))).read_all()


def allowed_rows(table: pa.Table, prefix: Prefix, last: bytes) -> np.ndarray:
    """Rows of a shard that belong to a part of the corpus, ascending."""
    pairs = zip(table["id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    inside = [
        seeded_order(prefix.seed, doc_id) <= last or not prefix.kept.isdisjoint((chunk_id, doc_id))
        for chunk_id, doc_id in pairs
    ]
    return np.flatnonzero(inside).astype(np.int64)


@dataclass(frozen=True)
class ShardedIndex:
    """Handles of all shards and where each begins; small, so that workers get a copy each."""

    shards: tuple[Any, ...]  # IndexShard objects, or handles of actors that hold one in a Guard
    starts: tuple[int, ...]  # position of each shard's first chunk in the whole index
    num_chunks: int  # of the whole index
    num_allowed: int  # that can be found
    dimension: int  # 0: words are searched, no vectors
    version: str  # of the index artifact, as rows name it
    remote: bool

    @classmethod
    def open(
        cls,
        path: str,
        *,
        nprobe: int = 0,
        remote: bool = True,
        prefix: Prefix | None = None,
        memory_map: bool = False,
        gpus: float = 0.0,
    ) -> ShardedIndex:
        """Loads every shard of the index artifact at `path`, checked by sha256; into actors if
        `remote`. `prefix`: the part of the corpus that is searched, None = all of it. memory_map:
        vectors stay on disk. gpus: share of a GPU for each actor, which then searches there.

        The actors hold memory and no CPU share: they work while the query encoder waits for them.
        Of a whole corpus nobody waits for them here: `ready` does.
        """
        source = artifact_input(path, "index")
        arguments = shard_arguments(source.path, nprobe=nprobe)
        last = b""
        if prefix is not None:
            tables = (chunk_table(source.path, a["shard"]) for a in arguments)
            last = prefix.last(name for table in tables for name in table["doc_id"].to_pylist())
        further = {"prefix": prefix, "last": last, "memory_map": memory_map}
        further["device"] = "cuda" if gpus else "cpu"
        arguments = [{**a, **further} for a in arguments]
        if remote:
            # of a lost node they start again on another one; a search is safe to repeat
            lost = {"max_restarts": 3, "max_task_retries": 3, "scheduling_strategy": "SPREAD"}
            actor = ray.remote(num_cpus=0, num_gpus=gpus or None, **lost)(Guard)
            shards = tuple(actor.remote(IndexShard, a) for a in arguments)
        else:
            shards = tuple(IndexShard(**a) for a in arguments)
        rows = [a["shard"]["rows"] for a in arguments]
        return cls(
            shards=shards,
            starts=shard_starts(arguments),
            num_chunks=sum(rows),
            # actors load while the workers that will ask them load an encoder
            num_allowed=sum(rows if prefix is None else _allowed(shards, remote)),
            dimension=arguments[0]["dimension"],
            version=source.version,
            remote=remote,
        )

    def ready(self) -> None:
        """Waits until every shard is loaded; InputError says what is wrong with one."""
        _allowed(self.shards, self.remote)

    def check(self, retriever: str) -> None:
        """InputError where a retriever of words would search vectors, or the other way round."""
        if (retriever == LEXICAL) != (self.dimension == 0):
            raise InputError(
                f"the index holds {'vectors' if self.dimension else 'words'}, and retriever "
                f"{retriever!r} does not search those; bm25 goes with an index of kind bm25, and "
                "nothing else does"
            )

    def search(self, queries: Queries, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, positions in the whole index), each (Q, k), best first. All shards work at
        once. `queries`: vectors (Q, D), or the words of each for a lexical index.
        """
        if self.dimension and queries.shape[1] != self.dimension:
            raise InputError(
                f"the query encoder gives vectors of width {queries.shape[1]}, the index holds "
                "width "
                f"{self.dimension}; use the retriever that embedded the chunks"
            )
        if self.remote:
            # one copy for all shards of a node, not one for each shard
            asked = ray.put(queries) if len(self.shards) > 1 else queries
            calls = [shard.run.remote("search", asked, k) for shard in self.shards]
            found = answers(ray.get(calls))
        else:
            found = [shard.search(queries, k) for shard in self.shards]
        positions = [
            np.where(rows_QK < 0, -1, rows_QK + start)
            for (_, rows_QK), start in zip(found, self.starts, strict=True)
        ]
        return merge_top_k([scores for scores, _ in found], positions, k)

    def chunks(self, positions: np.ndarray) -> dict[int, dict[str, Any]]:
        """{position: chunk row} for the distinct positions asked, each shard read once."""
        wanted = np.unique(positions[positions >= 0])
        shard_of = np.searchsorted(self.starts, wanted, side="right") - 1
        groups = [wanted[shard_of == number] for number in range(len(self.shards))]
        calls = [
            (shard, rows - start, rows)
            for shard, start, rows in zip(self.shards, self.starts, groups, strict=True)
            if len(rows)
        ]
        if self.remote:
            running = [shard.run.remote("chunks", local) for shard, local, _ in calls]
            found = answers(ray.get(running))
        else:
            found = [shard.chunks(local) for shard, local, _ in calls]
        return {
            int(position): row
            for (_, _, rows), chunks in zip(calls, found, strict=True)
            for position, row in zip(rows, chunks, strict=True)
        }


def _allowed(shards: Sequence[Any], remote: bool) -> list[int]:
    """How many chunks each shard can find, once it is loaded."""
    if remote:
        return answers(ray.get([shard.run.remote("num_allowed") for shard in shards]))
    return [shard.num_allowed() for shard in shards]


def merge_top_k(
    scores: list[np.ndarray], positions: list[np.ndarray], k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of all shards' candidates per query; equal scores by position, missing ones (-1)
    last.

    >>> a, b = np.array([[0.9, 0.1]]), np.array([[0.5, 0.5]])
    >>> [x.tolist() for x in merge_top_k([a, b], [np.array([[4, 2]]), np.array([[9, 7]])], 3)]
    [[[0.9, 0.5, 0.5]], [[4, 7, 9]]]
    """
    score_QC, position_QC = np.concatenate(scores, axis=1), np.concatenate(positions, axis=1)
    score_QC = np.where(position_QC < 0, -np.inf, score_QC)
    order = np.lexsort((position_QC, -score_QC), axis=1)[:, :k]
    return np.take_along_axis(score_QC, order, 1), np.take_along_axis(position_QC, order, 1)
