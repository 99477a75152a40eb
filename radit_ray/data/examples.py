"""Question files in, example rows (`rows.EXAMPLE`) out, each in its split.

A spec is one file, a folder with files named by split (`train.jsonl`, `dev` or `validation`, `eval`
or `test`), `train=PATH,dev=PATH,eval=PATH` in any subset, or `hf:NAME[:CONFIG][:SPLIT]`. Formats:
JSONL, JSON list, Parquet, SQuAD JSON, DPR's `question TAB ['answer', ...]` (.txt .tsv .csv), all of
them also packed. Field names of the well-known sets are understood: see `native_examples`.

Splits are never drawn by question but by `group` (gold chunk, else article title, else id), so that
what was asked in training is not asked again in other words.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.hub import PREFIX, SPLIT_NAMES, iter_hub, saved_splits
from radit_ray.data.json_records import iter_json
from radit_ray.data.native_examples import flat_squad, is_squad, iter_dpr, partial_example
from radit_ray.data.records import (
    BadRows,
    OnBadRow,
    Quarantine,
    Record,
    iter_parquet,
    stem,
    suffixes,
)
from radit_ray.data.rows import CATEGORIES, SPLITS, example_row
from radit_ray.data.storage import exists, is_local, join, list_files, local

_READERS = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson", ".jsonlines"), iter_json),
    **dict.fromkeys((".parquet", ".pq"), iter_parquet),
    **dict.fromkeys((".txt", ".tsv", ".csv"), iter_dpr),
}
_NAMED = re.compile(rf"({'|'.join(SPLIT_NAMES)})=")


def read_examples(
    spec: str,
    *,
    task: str = "",
    category: str = "",
    seed: int = 0,
    dev_share: float = 0.0,
    eval_share: float = 0.0,
    limit: int | None = None,
    on_bad_row: OnBadRow = "fail",
    quarantine: Quarantine | None = None,
) -> list[dict[str, Any]]:
    """All example rows of a spec, in file order.

    `task` and `category` fill rows that name none. A row's split is that of its file, else its own
    `split` field, else "train"; where no row is in dev (eval), `dev_share` (`eval_share`) of the
    groups move there from train, by a seeded hash. `limit` keeps at most that many per split, by
    a seeded hash of the ids. A bad row (no question, no answers, a repeated id, ...) is an
    InputError that names file:line, or is skipped with `on_bad_row="quarantine"`.
    """
    _check(category, dev_share, eval_share, limit)
    bad = BadRows(mode=on_bad_row, quarantine=quarantine)
    rows: list[dict[str, Any]] = []
    place_of: dict[str, str] = {}
    for split, path in _files(spec):
        for record, partial in _partial_rows(path, bad, category):
            place = f"{path}:{record.line}" + (f" (item {record.item})" if record.item else "")
            row = _row(record, partial, path, split, task, category, bad)
            if row is None:
                continue
            if row["id"] in place_of:
                reason = f"id {row['id']!r} is taken by {place_of[row['id']]}; make ids unique"
                bad.report(path, record, reason)
                continue
            place_of[row["id"]] = place
            rows.append(row)
    if not rows:
        raise InputError(f"{spec}: no usable example; expected rows with `question` and `answers`")
    _cut_splits(rows, {"dev": dev_share, "eval": eval_share}, seed)
    return rows if limit is None else _limited(rows, limit, seed)


def _check(category: str, dev_share: float, eval_share: float, limit: int | None) -> None:
    if category and category not in CATEGORIES:
        raise InputError(f"unknown category {category!r}{nearest(category, CATEGORIES)}")
    for name, share in (("dev_share", dev_share), ("eval_share", eval_share)):
        if not 0 <= share < 1:
            raise InputError(f"{name} is {share}; expected a share of the groups in [0, 1)")
    if dev_share + eval_share >= 1:
        total = dev_share + eval_share
        raise InputError(f"dev_share + eval_share is {total:g}; expected less than 1, to train on")
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1, or None for all examples")


def _partial_rows(
    path: str, bad: BadRows, category: str
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Records of one file with their fields under the project's names."""
    found = False
    for record in _records(path):
        found = True
        try:
            if record.fault:
                raise InputError(record.fault)
            if is_squad(record.value):
                for partial in flat_squad(record.value, category):
                    yield record, partial
                continue
            partial = partial_example(record.value)
        except InputError as error:
            bad.report(path, record, str(error))
            continue
        yield record, partial
    if not found:
        raise InputError(f"{path}:1: the file holds no rows; remove it or write it again")


def _records(path: str) -> Iterator[Record]:
    if path.startswith(PREFIX) or (is_local(path) and saved_splits(local(path))):
        return iter_hub(path)
    if not path or not exists(path):
        raise InputError(f"{path!r}: no such file or folder; check the path")
    endings = suffixes(path)
    if not endings or endings[-1] not in _READERS:
        allowed = " ".join(_READERS)
        raise InputError(f"{path}: unknown ending; expected {allowed} (also .gz .xz .zst .bz2)")
    return _READERS[endings[-1]](path)


def _row(
    record: Record,
    partial: dict[str, Any],
    path: str,
    split: str,
    task: str,
    category: str,
    bad: BadRows,
) -> dict[str, Any] | None:
    default = "multiple-choice" if partial.get("choices") else "open-domain-qa"
    own = partial.get("split") or "train"
    try:
        return example_row(
            {
                **partial,
                "id": partial.get("id") or f"{stem(path)}:{record.item or record.line}",
                "task": partial.get("task") or task,
                "category": partial.get("category") or category or default,
                "split": split or (SPLIT_NAMES.get(own, own) if isinstance(own, str) else own),
            }
        )
    except InputError as error:
        bad.report(path, record, str(error))
        return None


def _files(spec: str) -> list[tuple[str, str]]:
    """(split or "", path) of every file, in order."""
    if _NAMED.match(spec):
        parts = re.split(rf",\s*(?={_NAMED.pattern.replace('(', '(?:', 1)})", spec)
        named = [part.strip().split("=", 1) for part in parts]
        return [(SPLIT_NAMES[name], path) for name, path in named]
    if not spec.strip():
        raise InputError("the examples are an empty string; give a file, a folder or hf:NAME")
    if is_local(spec) and os.path.isdir(local(spec)):
        return _folder_files(local(spec))
    return [("", spec)]


def _folder_files(folder: str) -> list[tuple[str, str]]:
    """Files of a folder by the one split name in theirs; a single file may have any name."""
    splits = saved_splits(folder)
    if splits == [""]:
        return [("", folder)]
    if splits:
        named = [(SPLIT_NAMES.get(name, ""), f"{PREFIX}{folder}::{name}") for name in splits]
        return [(split, path) for split, path in named if split]
    plain, files = [], []
    for name in list_files(folder):
        endings = suffixes(name)
        if "/" in name or name.startswith((".", "_")) or not endings:
            continue
        if endings[-1] not in _READERS:
            continue
        words = re.split(r"[^a-z]+", name.lower())
        found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
        if len(found) == 1:
            files.append((found.pop(), join(folder, name)))
        else:
            plain.append(("", join(folder, name)))
    if files or len(plain) == 1:
        return files or plain
    raise InputError(
        f"{folder}: {len(plain)} example files, none named by its split; expected train.jsonl, "
        "dev.jsonl, eval.jsonl, or give train=PATH,dev=PATH,eval=PATH"
    )


def _cut_splits(rows: list[dict[str, Any]], shares: dict[str, float], seed: int) -> None:
    """Moves whole groups from train into each split that has no row yet and a share above 0.

    The groups are ranked by a hash and cut exactly, so that a small file gets its dev split too:
    at least one group each. InputError where train would keep none.
    """
    present = {row["split"] for row in rows}
    groups = sorted(
        {row["group"] for row in rows if row["split"] == "train"},
        key=lambda group: _hash(seed, group),
    )
    num_groups, split_of = len(groups), {}
    for split, share in shares.items():
        if split in present or share == 0:
            continue
        if len(groups) < 2:
            raise InputError(
                f"{split}_share is {share:g}, but train has {num_groups} group(s) and keeps one; "
                f"give a {split} file, other `group`s, or {split}_share=0"
            )
        num = min(max(1, math.floor(share * num_groups + 0.5)), len(groups) - 1)
        split_of.update(dict.fromkeys(groups[:num], split))
        groups = groups[num:]
    for row in rows:
        if row["split"] == "train":
            row["split"] = split_of.get(row["group"], "train")


def _limited(rows: list[dict[str, Any]], limit: int, seed: int) -> list[dict[str, Any]]:
    kept: set[str] = set()
    for split in SPLITS:
        ids = [row["id"] for row in rows if row["split"] == split]
        kept.update(sorted(ids, key=lambda name: _hash(seed, name))[:limit])
    return [row for row in rows if row["id"] in kept]


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()
