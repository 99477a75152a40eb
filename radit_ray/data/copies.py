"""Which chunks stand for which: `duplicates.arrow` of the stage dedup, and what follows from it for
the ids that examples name.

A dropped chunk's text is still in the corpus, in the chunk that was kept. So where an example calls
the dropped one gold, the kept one is right as well; and where it must not see the dropped one, the
kept one would show it. A kept chunk carries the ids of its copies in the column `duplicate_ids`
through embeddings and index, so that `retrieve` needs no other artifact to know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from radit_ray.data import storage
from radit_ray.data.integrity import arrow_damage_named
from radit_ray.data.rows import DUPLICATE_IDS

FILE = "duplicates.arrow"
COPIES = pa.schema(
    [
        ("id", pa.string()),  # of the copy
        ("kept_id", pa.string()),
        ("kind", pa.string()),  # "exact" or "near"
        ("similarity", pa.float64()),  # Jaccard, of the copy or its exact twin and the kept chunk
        ("position", pa.int64()),  # in the corpus' order, rising
        ("kept_position", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Copies:
    """duplicates.arrow, memory-mapped; 24 bytes a copy in memory."""

    table: pa.Table
    position_C: NDArray[np.int64]  # of copies, rising
    kept_C: NDArray[np.int64]  # of what they were dropped for, rising
    by_kept_C: NDArray[np.int64]  # rows of the table in that order

    @classmethod
    def open(cls, path: str) -> Copies:
        """Maps the file; InputError where it breaks off."""
        with arrow_damage_named(path):
            table = pa.ipc.open_file(pa.memory_map(storage.local_copy(path))).read_all()
        kept = table["kept_position"].to_numpy()
        by_kept = np.argsort(kept, kind="stable")
        return cls(table, table["position"].to_numpy(), kept[by_kept], by_kept)

    def drop(self, chunks: pa.Table, start: int) -> pa.Table:
        """The shard whose first chunk has position `start`, without its copies; the others name
        theirs in `duplicate_ids`.
        """
        num = chunks.num_rows
        stays_N = np.ones(num, dtype=bool)
        stays_N[self.position_C[_between(self.position_C, start, num)] - start] = False
        here = _between(self.kept_C, start, num)
        count_N = np.bincount(self.kept_C[here] - start, minlength=num)[stays_N]
        offsets = pa.array(np.cumsum([0, *count_N.tolist()]), pa.int32())
        ids = self.table["id"].take(pa.array(self.by_kept_C[here])).combine_chunks()
        column = pa.ListArray.from_arrays(offsets, ids)
        return chunks.filter(pa.array(stays_N)).append_column(DUPLICATE_IDS, column)

    def mark(self, chunks: pa.Table, start: int) -> pa.Table:
        """The whole shard, with what each copy repeats and how similar it is; "" and 0 for
        others.
        """
        here = _between(self.position_C, start, chunks.num_rows)
        kept, similarity = [""] * chunks.num_rows, [0.0] * chunks.num_rows
        for row in self.table.slice(here.start, here.stop - here.start).to_pylist():
            kept[row["position"] - start] = row["kept_id"]
            similarity[row["position"] - start] = row["similarity"]
        marked = chunks.append_column("duplicate_of", pa.array(kept, pa.string()))
        return marked.append_column("similarity", pa.array(similarity, pa.float64()))


def _between(rising: NDArray[np.int64], start: int, num: int) -> slice:
    """Where the positions of a shard lie among these."""
    low, high = np.searchsorted(rising, [start, start + num]).tolist()
    return slice(low, high)


def with_kept_chunks(
    examples: list[dict[str, Any]], tables: Iterable[pa.Table]
) -> list[dict[str, Any]]:
    """The examples, their `gold_ids` and `exclude_ids` with the chunks that stand for dropped ones.

    Ids name chunks or, of gold, documents. `tables` are the chunks of an index; those without
    `duplicate_ids` change nothing.
    """
    named = {name for row in examples for name in (*row["gold_ids"], *row["exclude_ids"])}
    kept_of: dict[str, list[str]] = defaultdict(list)
    for table in tables if named else ():
        if DUPLICATE_IDS not in table.column_names:
            break  # nor do the others: they need not be opened
        for copy, kept in _dropped(table):
            # a chunk's id is its document's, "#" and a number
            for name in {copy, copy.rpartition("#")[0]} & named:
                kept_of[name].append(kept)
    if not kept_of:
        return examples

    def joined(names: list[str]) -> list[str]:
        return list(dict.fromkeys([*names, *(kept for name in names for kept in kept_of[name])]))

    return [
        {**row, "gold_ids": joined(row["gold_ids"]), "exclude_ids": joined(row["exclude_ids"])}
        for row in examples
    ]


def _dropped(table: pa.Table) -> Iterable[tuple[str, str]]:
    """(dropped chunk, kept chunk) of an index's table."""
    for batch in table.select(["id", DUPLICATE_IDS]).to_batches():
        lists = batch[DUPLICATE_IDS]
        kept = batch["id"].take(lists.value_parent_indices())
        yield from zip(lists.flatten().to_pylist(), kept.to_pylist(), strict=True)
