"""What deduplication knows of each chunk, in memory-mapped Arrow files, one for each chunk shard.

A sketch is the hash of the chunk's words (16 bytes) and, for near duplicates, its MinHash bands (8
bytes each) and its shingles (8 bytes each, about 190 for 200 words). To open them costs no memory:
what is asked for is read through the disk's cache. Positions count chunks in the corpus' order,
over all shards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from radit_ray.data import storage
from radit_ray.data.integrity import arrow_damage_named

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]


def sketch_table(texts: Sequence[bytes]) -> pa.Table:
    """Sketches for exact duplicates alone, of one shard's chunks in order."""
    return pa.table({"text": pa.array(texts, pa.binary(16))})


def with_shingles(table: pa.Table, band_NB: Hashes, shingles: Sequence[Hashes]) -> pa.Table:
    """The same with what near duplicates need."""
    offsets = pa.array(np.cumsum([0, *(len(found) for found in shingles)], dtype=np.int64))
    flat = pa.array(np.concatenate(shingles) if shingles else np.empty(0, dtype=np.uint64))
    bands = pa.FixedSizeListArray.from_arrays(pa.array(band_NB.ravel()), band_NB.shape[1])
    table = table.append_column("bands", bands)
    return table.append_column("shingles", pa.LargeListArray.from_arrays(offsets, flat))


def write_sketches(table: pa.Table, path: str) -> None:
    """One Arrow file with one batch, so that a column is one piece of memory."""
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())


@dataclass(frozen=True)
class Sketches:
    """The sketches of a whole corpus: views of the mapped files, shard by shard."""

    start_S: Positions  # of each shard's first chunk; behind the last the number of all
    texts: tuple[NDArray[np.void], ...]  # (N,) of 16 bytes
    bands: tuple[Hashes, ...]  # (N, bands); none for exact duplicates alone
    shingles: tuple[tuple[Positions, Hashes], ...]  # (where each chunk's begin, all of them)

    @classmethod
    def open(cls, files: Sequence[str]) -> Sketches:
        """Maps the files of all shards, in the corpus' order."""
        tables = [_mapped(file) for file in files]
        near = [table for table in tables if "bands" in table.column_names]
        sizes = [table.num_rows for table in tables]
        return cls(
            start_S=np.cumsum([0, *sizes], dtype=np.int64),
            texts=tuple(_bytes(table["text"].chunk(0)) for table in tables),
            bands=tuple(_matrix(table["bands"].chunk(0)) for table in near),
            shingles=tuple(_lists(table["shingles"].chunk(0)) for table in near),
        )

    def band(self, number: int, position_N: Positions) -> Hashes:
        """One band of some chunks, their positions rising. Shape (N,)."""
        return np.concatenate([bands_NB[:, number] for bands_NB in self.bands])[position_N]

    def first_bands(self, position_P: Positions, number: int) -> Hashes:
        """The first `number` bands of some chunks. Shape (P, number)."""
        shard_P = np.searchsorted(self.start_S, position_P, side="right") - 1
        found = np.empty((len(position_P), number), dtype=np.uint64)
        by_shard = np.argsort(shard_P, kind="stable")
        shards, counts = np.unique(shard_P, return_counts=True)
        for shard, last, count in zip(shards, np.cumsum(counts), counts, strict=True):
            here = by_shard[last - count : last]
            found[here] = self.bands[shard][position_P[here] - self.start_S[shard], :number]
        return found

    def shingles_of(self, position: int) -> Hashes:
        """The shingles of one chunk, sorted."""
        shard = int(np.searchsorted(self.start_S, position, side="right")) - 1
        offsets, values = self.shingles[shard]
        local = position - int(self.start_S[shard])
        return values[offsets[local] : offsets[local + 1]]


def _mapped(file: str) -> pa.Table:
    with arrow_damage_named(file):
        return pa.ipc.open_file(pa.memory_map(storage.local_copy(file))).read_all()


def _bytes(column: pa.Array) -> NDArray[np.void]:
    # void and not bytes: numpy's bytes lose zeros at their end
    return np.frombuffer(column.buffers()[1], dtype="V16", count=len(column))


def _matrix(column: pa.Array) -> Hashes:
    return np.asarray(column.flatten()).reshape(len(column), column.type.list_size)


def _lists(column: pa.Array) -> tuple[Positions, Hashes]:
    return np.asarray(column.offsets), np.asarray(column.values)
