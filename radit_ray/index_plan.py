"""Which index, for how many chunks, what recall and how much memory: `radit plan index`.

    made = choices(num_chunks=399e6, dimension=768, rows=measured()["rows"])
    best = recommend(made, num_chunks=399e6, recall=0.9, memory_bytes=100e9)

Bytes of a chunk are arithmetic, and those of FAISS' files. Recall@10 and queries/s are measured:
`benchmarks/index_kinds.py` writes assets/index_kinds.json, and every figure here says at which size
it was measured. Beyond that size it is a guess, and said to be one.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.models.faiss_shard import default_cells, default_probes, largest_divisor

TABLE = Path(__file__).parent / "assets" / "index_kinds.json"
SHARD_BYTES = 8e9  # of one index shard: it is built in one process, which holds it
FACTORS = (1, 2, 4, 8)  # cells visited, in square roots of the cells there are
PQ_SHARES = (8, 4, 2)  # width over bytes of one vector
EF = (64, 128, 256)  # hnsw: candidates of a query
HNSW_LINKS = 32
HNSW_MOST = 1e6  # vectors; its graph is built by one thread, and beyond it not recommended


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """One way to build and search an index, with what it costs and finds."""

    kind: str
    pq_bytes: int  # of `radit index`, 0 = none
    nprobe: int  # of `radit retrieve`, 0 = none
    num_shards: int
    bytes_per_chunk: float
    total_bytes: float
    recall: float  # at 10, of the worst of the measured sets of vectors
    queries_per_s: float  # of one thread, at the measured size
    measured_chunks: int  # the size at which that was measured

    @property
    def command(self) -> str:
        """The options it stands for."""
        pq = f" --pq-bytes {self.pq_bytes}" if self.pq_bytes else ""
        probe = f"; radit retrieve --nprobe {self.nprobe}" if self.nprobe else ""
        return f"radit index --kind {self.kind} --num-shards {self.num_shards}{pq}{probe}"


def bytes_per_chunk(
    kind: str, *, num_vectors: float, dimension: int, pq_bytes: int = 0, links: int = HNSW_LINKS
) -> float:
    """Bytes of a FAISS file for each of its vectors, texts not counted.

    >>> bytes_per_chunk("flat", num_vectors=1e6, dimension=768)
    1536.0
    """
    # of a cell: its centroid and size
    coarse = default_cells(num_vectors) * (4.0 * dimension + 8) / num_vectors
    if kind == "flat":
        return 2.0 * dimension
    if kind == "sq":
        return dimension * (1 + 8 / num_vectors)  # each component's range
    if kind == "ivf":
        return 2.0 * dimension + 8 + coarse  # 8: the id
    if kind == "ivfpq":
        return pq_bytes + 8 + coarse + 1024.0 * dimension / num_vectors  # 256 centroids a part
    if kind == "hnsw":
        # links of the lowest level, of the higher ones, each a 4-byte id; level and offset
        return 2.0 * dimension + 4 * (2 * links + links / (links - 1)) + 12
    raise InputError(f"kind {kind!r} has no size known beforehand")


def measured(file: Path = TABLE) -> dict[str, Any]:
    """The table of the benchmark: `rows`, and how it was made."""
    return dict(json.loads(file.read_text(encoding="utf-8")))


def choices(
    *, num_chunks: float, dimension: int, rows: Sequence[Mapping[str, Any]]
) -> list[Choice]:
    """All measured ways, each at the size nearest to the one asked for; of several sets of vectors
    the worst recall counts.
    """
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        share = round(row["dimension"] / row["pq_bytes"]) if row["pq_bytes"] else 0
        key = (row["kind"], share, row["effort"])
        found.setdefault(key, []).append(row)
    made = []
    for (kind, share, effort), same in found.items():
        if kind == "hnsw" and num_chunks > HNSW_MOST:
            continue
        nearest: dict[str, Mapping[str, Any]] = {}
        for row in sorted(same, key=lambda row: abs(math.log(row["num_chunks"] / num_chunks))):
            nearest.setdefault(row["vectors"], row)
        closest, *_ = nearest.values()
        pq_bytes = largest_divisor(dimension, dimension // share) if share else 0
        size = {"num_vectors": num_chunks, "dimension": dimension, "pq_bytes": pq_bytes}
        total = num_chunks * bytes_per_chunk(kind, **size)
        num_shards = max(1, math.ceil(total / SHARD_BYTES))
        each = num_chunks / num_shards
        total = num_chunks * bytes_per_chunk(kind, **{**size, "num_vectors": each})
        made.append(
            Choice(
                kind=kind,
                pq_bytes=pq_bytes,
                nprobe=_nprobe(kind, effort, each),
                num_shards=num_shards,
                bytes_per_chunk=total / num_chunks,
                total_bytes=total,
                recall=min(row["recall"] for row in nearest.values()),
                queries_per_s=closest["queries_per_s"],
                measured_chunks=closest["num_chunks"],
            )
        )
    return made


def recommend(
    made: Sequence[Choice], *, num_chunks: float, recall: float, memory_bytes: float
) -> Choice:
    """The fastest that finds as much and fits; equal ones: the smaller. InputError where none does,
    with the nearest on either side.
    """
    if not 0 < recall <= 1:
        raise InputError(f"recall {recall:g}, expected above 0 and at most 1")
    if memory_bytes <= 0:
        raise InputError(f"memory {memory_bytes / 1e9:g} GB, expected above 0")
    good = [one for one in made if one.recall >= recall]
    fitting = [one for one in made if one.total_bytes <= memory_bytes]
    both = [one for one in good if one in fitting]
    if both:
        return max(both, key=lambda one: (one.queries_per_s, -one.total_bytes))
    smallest = min(good, key=lambda one: one.total_bytes)  # flat finds everything
    told = f"recall {recall:g} takes {smallest.total_bytes / 1e9:.3g} GB ({smallest.kind})"
    if not fitting:
        least = min(one.total_bytes for one in made)
        raise InputError(
            f"{memory_bytes / 1e9:g} GB hold no index of {num_chunks:.3g} chunks: the smallest "
            f"measured takes {least / 1e9:.3g} GB, {told}; raise --memory, or let "
            "--resources.memory-map leave the index on disk"
        )
    best = max(fitting, key=lambda one: one.recall)
    raise InputError(
        f"no measured index finds {recall:g} within {memory_bytes / 1e9:g} GB: {told}, and within "
        f"them {best.kind} finds {best.recall:.3f}; raise --memory or lower --recall"
    )


def text(made: Sequence[Choice], best: Choice, table: Mapping[str, Any], num_chunks: float) -> str:
    """The measured ways by size, and what is recommended."""
    from radit_ray.report.table import text_table

    head = ["kind", "pq bytes", "nprobe", "bytes a chunk", "GB", "recall@10", "queries/s", "at"]
    rows = [
        [
            f"{'-> ' if one == best else ''}{one.kind}",
            str(one.pq_bytes or "-"),
            str(one.nprobe or "-"),
            f"{one.bytes_per_chunk:.0f}",
            f"{one.total_bytes / 1e9:.3g}",
            f"{one.recall:.3f}",
            f"{one.queries_per_s:.0f}",
            f"{one.measured_chunks:,}",
        ]
        for one in sorted(made, key=lambda one: (one.total_bytes, one.nprobe))
    ]
    source = f"{table['command']}, commit {table['commit']}, {table['hardware']}"
    lines = [text_table(head, rows, False), "", best.command, f"measured: {source}"]
    if best.measured_chunks < num_chunks / 3:
        lines.append(
            f"recall and queries/s were measured at {best.measured_chunks:,} chunks, and at "
            f"{num_chunks:,.0f} they are a guess: build it, and compare with kind flat on a "
            "--num-documents part"
        )
    return "\n".join(lines)


def _nprobe(kind: str, effort: int, num_vectors: float) -> int:
    """What retrieve is given for an effort of the table; 0 = its own default."""
    if kind == "hnsw":
        return effort
    if kind in ("ivf", "ivfpq"):
        nlist = default_cells(num_vectors)
        return min(nlist, effort * default_probes(nlist))
    return 0
