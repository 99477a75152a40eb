"""dedup: chunks -> the same chunks without copies, or with a mark on each copy. Between chunk and
embed; a run leaves it out unless `deduplicate=true`.

A chunk is compared as the retriever reads it, title and text. Exact: the same words in the same
order. Near: Jaccard similarity of word 5-grams at or above `threshold`; MinHash bands propose the
pairs, the sets themselves decide. The first in the corpus' order stays, whatever the shards and
workers.

In: a chunk artifact. Out: its shards, with the column `duplicate_ids` (of a kept chunk: those that
were dropped for it) or, of "mark", `duplicate_of` and `similarity`; and `duplicates.arrow`, a row
for each copy. What it costs for each chunk: docs/scale.md.

    radit dedup --chunks runs/x/chunk --output runs/x/dedup
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from radit_ray.core import duplicates
from radit_ray.core.duplicates import Positions
from radit_ray.core.errors import SEED, Bounds, InputError, check_bounds, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    commit_shard,
    read_shard,
    shard_names,
)
from radit_ray.data.copies import COPIES, FILE, Copies
from radit_ray.data.sketches import Sketches
from radit_ray.data.work import Work
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models import minhash
from radit_ray.stages.dedup_pairs import Sketching, compare, sketch

VERSION = 1
ACTIONS = ("drop", "mark")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DedupConfig:
    """What decides which chunks are copies."""

    action: str = "drop"  # "drop" copies, or "mark" them and keep all
    threshold: float = 0.8  # Jaccard similarity of a near duplicate; 1 = exact duplicates alone
    ngram: int = 5  # words of a shingle
    num_perm: int = 128  # places of a MinHash signature
    max_miss: float = 0.01  # probability that a pair just at the threshold is never compared
    seed: int = 0  # of the MinHash permutations

    BOUNDS: ClassVar[Bounds] = {
        "threshold": (0.1, 1),
        "ngram": (1, 100),
        "num_perm": (1, 4096),
        "max_miss": (1e-12, 1),
        "seed": SEED,
    }


def check_dedup(config: DedupConfig) -> Sketching:
    """How chunks are sketched; InputError on wrong values, or where datasketch is missing."""
    check_bounds(config, config.BOUNDS)
    if config.action not in ACTIONS:
        raise InputError(f"action={config.action!r}{nearest(config.action, ACTIONS)}")
    bands = rows = 0
    if config.threshold < 1:
        minhash.check_installed()
        bands, rows = duplicates.bands_for(config.threshold, config.num_perm, config.max_miss)
    return Sketching(
        ngram=config.ngram, num_perm=config.num_perm, seed=config.seed, bands=bands, rows=rows
    )


def dedup(
    config: DedupConfig, *, chunks: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Drops or marks every chunk that is a copy of an earlier one.

    Metrics: num_chunks read, num_exact, num_near, num_kept; bands and rows of one, num_compared
    (pairs), num_cut (pairs in very full buckets, not compared). InputError on wrong values, or on a
    threshold that the signatures cannot find.
    """
    how = check_dedup(config)
    source = artifact_input(chunks, "chunk")
    with Work.open("dedup", VERSION, config, {"chunks": source}, output) as work:
        if work.done:
            return work.done
        names = shard_names(source)
        scratch = storage.join(work.output, "resume")
        files = sketch(how, source.path, names, storage.join(scratch, "sketches"), resources)
        sketches = Sketches.open(files)
        first_N = duplicates.first_of_equal(np.concatenate(sketches.texts))
        near, counts = compare(
            files,
            first_N,
            bands=how.bands,
            threshold=config.threshold,
            folder=storage.join(scratch, "pairs"),
            resources=resources,
        )
        copies = duplicates.joined_copies(first_N, near)
        _write_map(work.output, source, names, sketches.start_S, copies)
        _write_shards(work, source, names, sketches.start_S, copies, resources)
        kinds = collections.Counter(kind for _, _, kind in copies.values())
        metrics = {
            "num_chunks": len(first_N),
            "num_exact": kinds["exact"],
            "num_near": kinds["near"],
            "num_kept": len(first_N) - len(copies),
            "bands": how.bands,
            "rows": how.rows,
            **counts,
        }
        return work.finish(resources=resources, metrics=metrics, cost=_cost(work, scratch))


def _cost(work: Work[DedupConfig], scratch: str) -> dict[str, float]:
    """Seconds and memory of all workers, those whose results are scratch among them."""
    names = [name for name in storage.list_files(scratch) if "/committed/" in name]
    sidecars = [storage.read_json(storage.join(scratch, name)) for name in names]
    stats = [sidecar["stats"] for sidecar in (*sidecars, *work.committed().values())]
    return {
        "device_s": sum(s["device_s"] for s in stats),
        "peak_memory_bytes": max(s["peak_memory_bytes"] for s in stats),
    }


def _write_map(
    output: str,
    source: Input,
    names: list[str],
    start_S: Positions,
    copies: Mapping[int, tuple[int, float, str]],
) -> None:
    """duplicates.arrow: a row for each copy, in the corpus' order; ids are read shard by shard."""
    wanted = np.unique(np.array([[copy, kept] for copy, (kept, _, _) in copies.items()] or [[]]))
    id_of: dict[int, str] = {}
    for shard, name in enumerate(names):
        low, high = np.searchsorted(wanted, start_S[shard : shard + 2]).tolist()
        if low < high:
            here = wanted[low:high].astype(np.int64)
            ids = read_shard(source.file(name), ["id"])["id"].take(pa.array(here - start_S[shard]))
            id_of.update(zip(here.tolist(), ids.to_pylist(), strict=True))
    kept = [kept for kept, _, _ in copies.values()]
    table = pa.table(
        {
            "id": [id_of[copy] for copy in copies],
            "kept_id": [id_of[position] for position in kept],
            "kind": [kind for _, _, kind in copies.values()],
            "similarity": [similarity for _, similarity, _ in copies.values()],
            "position": list(copies),
            "kept_position": kept,
        },
        schema=COPIES,
    )
    with (
        storage.atomic_file(storage.join(output, FILE)) as path,
        pa.OSFile(path, "wb") as sink,
        pa.ipc.new_file(sink, COPIES) as writer,
    ):
        writer.write_table(table)


def _write_shards(
    work: Work[DedupConfig],
    source: Input,
    names: list[str],
    start_S: Positions,
    copies: Mapping[int, Any],
    resources: Resources,
) -> None:
    """The shards without copies, or with marks. One that holds copies alone is left out."""
    gone_S = np.histogram(np.fromiter(copies, dtype=np.int64, count=len(copies)), start_S)[0]
    left_S = np.diff(start_S) - (gone_S if work.config.action == "drop" else 0)
    todo = set(work.missing(names))
    items = [
        {"name": name, "start": int(start)}
        for name, start, left in zip(names, start_S, left_S, strict=False)
        if left and name in todo
    ]
    map_shards(
        WriteWorker,
        {"action": work.config.action, "chunks": source.path, "output": work.output},
        items,
        resources=resources,
        label=f"dedup: {work.config.action}",
        unit="shard",
        gpu=False,
    )


class WriteWorker:
    """Writes one shard a call, as duplicates.arrow says."""

    def __init__(self, *, action: str, chunks: str, output: str) -> None:
        self.action, self.chunks, self.output = action, chunks, output
        self.copies = Copies.open(storage.join(output, FILE))

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.chunks, item["name"]))
        change = self.copies.drop if self.action == "drop" else self.copies.mark
        changed, cost = Meter().measure(lambda: (change(table, item["start"]), 0))
        return commit_shard(self.output, item["name"], changed, **cost)
