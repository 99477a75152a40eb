"""Which chunks of a corpus are similar: sketches of every chunk shard, then a comparison for each
MinHash band, both spread over Ray Data actors. What `dedup` drops or marks rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from radit_ray.core import duplicates
from radit_ray.core.duplicates import Buckets, Positions
from radit_ray.data import storage
from radit_ray.data.artifacts import commit_shard, read_shard, sidecar_file
from radit_ray.data.sketches import Sketches, sketch_table, with_shingles, write_sketches
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models import minhash

BUCKET = 100  # chunks of a bucket that each later one is compared with
PAIRS = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("similarity", pa.float64())])
Near = dict[int, tuple[int, float]]  # dropped position: (kept position, similarity)


@dataclass(frozen=True, kw_only=True)
class Sketching:
    """How a chunk is sketched; without bands for exact duplicates alone."""

    ngram: int
    num_perm: int
    seed: int
    bands: int
    rows: int


def sketch(
    how: Sketching, chunks: str, names: list[str], folder: str, resources: Resources
) -> list[str]:
    """Sketches every chunk shard into `folder`; returns the files in the corpus' order."""
    files = [storage.join(folder, arrow_name(name)) for name in names]
    items = [{"name": n} for n, f in zip(names, files, strict=True) if not _committed(f)]
    map_shards(
        SketchWorker,
        {"how": how, "chunks": chunks, "output": folder},
        items,
        resources=resources,
        label="dedup: sketch",
        unit="shard",
        gpu=False,
    )
    return files


class SketchWorker:
    """Sketches one chunk shard a call."""

    def __init__(self, *, how: Sketching, chunks: str, output: str) -> None:
        self.how, self.chunks, self.output = how, chunks, output

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.chunks, item["name"]), ["title", "text"])
        made, cost = Meter().measure(lambda: (self._sketches(table), 0))
        return commit_shard(
            self.output,
            arrow_name(item["name"]),
            lambda path: write_sketches(made, path),
            rows=table.num_rows,
            **cost,
        )

    def _sketches(self, table: pa.Table) -> pa.Table:
        pairs = zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
        words_N = [duplicates.words(f"{title} {text}") for title, text in pairs]
        made = sketch_table([duplicates.text_hash(words) for words in words_N])
        if not self.how.bands:
            return made
        known: dict[str, int] = {}  # of this shard's words, so that it stays small
        sets = [duplicates.shingles(words, self.how.ngram, known) for words in words_N]
        place_NM = minhash.signatures(sets, num_perm=self.how.num_perm, seed=self.how.seed)
        band_NB = duplicates.band_hashes(place_NM, self.how.bands, self.how.rows)
        return with_shingles(made, band_NB, sets)


def compare(
    files: list[str],
    first_N: Positions,
    *,
    bands: int,
    threshold: float,
    folder: str,
    resources: Resources,
) -> tuple[Near, dict[str, int]]:
    """(the near duplicates among the chunks that are no exact ones, how many pairs were compared
    and cut), a worker a band.
    """
    names = [f"band-{number:03d}.parquet" for number in range(bands)]
    paths = [storage.join(folder, name) for name in names]
    items = [
        {"name": names[number], "band": number}
        for number, path in enumerate(paths)
        if not _committed(path)
    ]
    distinct = storage.join(folder, "distinct.npy")
    with storage.atomic_file(distinct) as path, open(path, "wb") as file:
        np.save(file, np.flatnonzero(first_N == np.arange(len(first_N))))
    map_shards(
        CompareWorker,
        {"files": files, "distinct": distinct, "threshold": threshold, "output": folder},
        items,
        resources=resources,
        label="dedup: compare",
        unit="band",
        gpu=False,
        worker_bytes=66.0 * len(first_N),
    )
    pairs = pa.concat_tables([PAIRS.empty_table(), *(read_shard(path) for path in paths)])
    columns = [pairs[name].to_numpy() for name in PAIRS.names]
    del pairs  # `to_numpy` copies what lies in several pieces
    stats = [storage.read_json(sidecar_file(folder, name))["stats"] for name in names]
    counts = {name: int(sum(s[name] for s in stats)) for name in ("num_compared", "num_cut")}
    return duplicates.keep_first(*columns), counts


class CompareWorker:
    """Compares the chunks that share a band, a band a call. A pair belongs to the first band in
    which it agrees, so none is compared twice.
    """

    def __init__(self, *, files: list[str], distinct: str, threshold: float, output: str) -> None:
        self.sketches = Sketches.open(files)
        self.distinct = np.load(storage.local_copy(distinct), mmap_mode="r")
        self.threshold, self.output = threshold, output

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        buckets = Buckets.of(self.sketches.band(item["band"], self.distinct))
        counts = {"num_compared": 0, "num_cut": buckets.num_cut(BUCKET)}

        def work() -> tuple[pa.Table, int]:
            found = []
            for left_P, right_P in self._pairs(buckets, item["band"]):
                counts["num_compared"] += len(left_P)
                found.append(self._similar(left_P, right_P))
            return pa.concat_tables([PAIRS.empty_table(), *found]), 0

        found, cost = Meter().measure(work)
        return commit_shard(self.output, item["name"], found, **cost, **counts)

    def _pairs(self, buckets: Buckets, band: int) -> Iterator[tuple[Positions, Positions]]:
        """Pairs of this band's buckets that agree in no earlier band."""
        for left_P, right_P in buckets.pairs(BUCKET):
            left_P, right_P = self.distinct[left_P], self.distinct[right_P]
            left_PB = self.sketches.first_bands(left_P, band)
            new_P = ~(left_PB == self.sketches.first_bands(right_P, band)).any(axis=1)
            yield left_P[new_P], right_P[new_P]

    def _similar(self, left_P: Positions, right_P: Positions) -> pa.Table:
        shingles = self.sketches.shingles_of
        pairs = zip(left_P.tolist(), right_P.tolist(), strict=True)
        similarity_P = np.array([duplicates.jaccard(shingles(a), shingles(b)) for a, b in pairs])
        kept_P = similarity_P >= self.threshold
        columns = [column[kept_P] for column in (left_P, right_P, similarity_P)]
        return pa.table(columns, schema=PAIRS)


def arrow_name(shard: str) -> str:
    """The file of sketches of a chunk shard."""
    return f"{shard.removesuffix('.parquet')}.arrow"


def _committed(file: str) -> bool:
    folder, _, name = file.rpartition("/")
    return storage.exists(sidecar_file(folder, name))
