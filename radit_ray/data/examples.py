"""Question files in, example rows (`rows.EXAMPLE`) out, each in its split.

A spec names files, hub sets and tasks: see `example_specs`. Formats: JSONL, JSON list, Parquet,
SQuAD JSON, tables with a header (.csv .tsv), DPR's `question TAB ['answer', ...]` (.txt .tsv .csv),
QuAIL's XML, all of them also packed, and members of an archive as `ARCHIVE.zip!PATTERN`. Rows of
the well-known sets are understood: see `native_examples`.

Splits are never drawn by question but by `group` (gold chunk, else article title, else id), so that
what was asked in training is not asked again in other words.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import tasks
from radit_ray.data.example_specs import sources_of
from radit_ray.data.hub import PREFIX, SPLIT_NAMES, iter_hub, saved_splits
from radit_ray.data.native_examples import is_own, iter_dpr, partial_examples
from radit_ray.data.native_files import (
    archive_parts,
    is_curated,
    iter_curated,
    iter_header_table,
    iter_json_rows,
    iter_quail_xml,
    joined,
    unpacked,
)
from radit_ray.data.patterns import example_of
from radit_ray.data.records import (
    BadRows,
    OnBadRow,
    Quarantine,
    Record,
    iter_parquet,
    stem,
    suffixes,
)
from radit_ray.data.rows import (
    CATEGORIES,
    SPLITS,
    WORD_METRICS,
    example_row,
    says_nothing,
    seeded_order,
)
from radit_ray.data.storage import exists, is_local, local
from radit_ray.data.task_spec import Source


def _iter_table(path: str) -> Iterator[Record]:
    """A table with a header, CuratedTREC's lines, or DPR's questions."""
    return iter_header_table(path) or (iter_curated if is_curated(path) else iter_dpr)(path)


_READERS = {
    **dict.fromkeys((".jsonl", ".json", ".ndjson", ".jsonlines"), iter_json_rows),
    **dict.fromkeys((".parquet", ".pq"), iter_parquet),
    **dict.fromkeys((".txt", ".tsv", ".csv"), _iter_table),
    ".xml": iter_quail_xml,
}
_SPLIT_ENDING = re.compile(r"_(train|dev|val|test)$")


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
    for _, group in itertools.groupby(sources_of(spec, _READERS), key=lambda source: source.part):
        sources = list(group)
        read = [item for s in sources for item in _source_rows(s, bad, task, category)]
        if sources[0].sample:
            kept = _limited([row for _, _, row in read], sources[0].sample, seed, sources[0].skip)
            ids = {row["id"] for row in kept}
            read = [item for item in read if item[2]["id"] in ids]
        for path, record, row in read:
            place = record.place(path)
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


def first_example(spec: str) -> dict[str, Any]:
    """The first row of a spec, without reading the rest."""
    bad = BadRows()
    for source in sources_of(spec, _READERS):
        for _, _, row in _source_rows(source, bad, "", ""):
            return row
    raise InputError(f"{spec}: no usable example; expected rows with `question` and `answers`")


def _source_rows(
    source: Source, bad: BadRows, task: str, category: str
) -> Iterator[tuple[str, Record, dict[str, Any]]]:
    """(file, record, example row) of one source.

    A task's ids begin with its name, so that those of different sets never meet; one that a file
    repeats gets a number. Rows of known sets that no metric over words can judge ("The The", "---":
    less than 1 in 1,000) are left out; among a user's own rows they are an error (`_to_mend`).
    """
    spec, taken = source.task, Counter[str]()
    source_category = spec.category if spec else category
    for path, name, record, partial in _partial_rows(source, bad, category):
        own = _split(partial.get("split") or "train")
        if source.only and own != source.only:
            continue
        partial["split"] = source.split or own
        partial["id"] = partial.get("id") or f"{name}:{record.item or record.line}"
        metric = spec.metric if spec else partial.get("metric") or "em"
        if (
            metric in WORD_METRICS
            and says_nothing(partial)
            and (spec or not _to_mend(record.value, partial, source_category))
        ):
            continue
        # an id that is no text is reported with the other fields
        if spec is None or not isinstance(partial["id"], str):
            partial["task"] = partial.get("task") or task
            row = _row(path, record, partial, category, bad)
        else:
            taken[partial["id"]] += 1
            again = f":{taken[partial['id']]}" if taken[partial["id"]] > 1 else ""
            row = _row(path, record, _of_task(partial, source, again), category, bad)
        if row is not None:
            yield path, record, row


def _to_mend(value: Any, partial: dict[str, Any], category: str) -> bool:
    """Whether a row whose answers say nothing is refused, since it is somebody's own.

    With the project's field `answers` it always is. Without any set's own fields it is where the
    answer is blank ("", [""]); "---" and "The The" in a field `answer` stand in files of NQ-open,
    DPR and HotpotQA, and are left out. An answer that is missing, null, a number or an empty list
    is refused in every row. What a set itself marks as unanswerable (SQuAD v2, MS MARCO, ...) is no
    bad row: `native_examples` leaves it out, or reads it as "I don't know".
    """
    if isinstance(value, dict) and isinstance(value.get("answers"), list | str):
        return True
    blank = not any(isinstance(text, str) and text.strip() for text in partial["answers"])
    return blank and is_own(value, category)


def _split(name: Any) -> Any:
    return SPLIT_NAMES.get(name.lower(), name) if isinstance(name, str) else name


def _of_task(partial: dict[str, Any], source: Source, again: str) -> dict[str, Any]:
    """A row of a task: its spec says what the set's own fields cannot."""
    spec = source.task
    assert spec is not None
    answers = partial.get("answers") or []
    if spec.metric == "regex":
        shown = [example_of(text) for text in answers[:1] if isinstance(text, str)]
        answers = [*filter(None, shown), *answers]
    return {
        **partial,
        "date": partial.get("date") or spec.date,
        "answers": answers,
        "id": f"{spec.name}/{partial['id']}{again}",
        "task": spec.name,
        "category": spec.category,
        "template": spec.template,
        "metric": spec.metric,
        "scoring": spec.scoring,
    }


def _partial_rows(
    source: Source, bad: BadRows, category: str
) -> Iterator[tuple[str, str, Record, dict[str, Any]]]:
    """(file, its name in ids, record, fields under the project's names) of one source."""
    category = source.task.category if source.task else category
    archive, pattern = archive_parts(source.path)
    if not pattern:
        for record, partial in _file_rows(source, source.path, source.path, bad, category):
            yield source.path, stem(source.path), record, partial
        return
    with unpacked(archive, pattern) as members:
        for member, path in members:
            name, shown = os.path.splitext(member)[0], f"{archive}!{member}"
            for record, partial in _file_rows(source, path, shown, bad, category):
                # MMLU's law_dev.csv and law_test.csv are one subject
                partial.setdefault("article", _SPLIT_ENDING.sub("", name.rpartition("/")[2]))
                yield shown, name, record, partial


def _file_rows(
    source: Source, path: str, shown: str, bad: BadRows, category: str
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """`shown` is the path for people: of an archive's member, not that of its copy."""
    found = False
    for record in joined(path, _records(path, source)):
        found = True
        try:
            if record.fault:
                raise InputError(record.fault)
            partials = list(partial_examples(record.value, category))
        except InputError as error:
            bad.report(shown, record, str(error))
            continue
        for partial in partials:
            yield record, partial
    if not found and not archive_parts(source.path)[1]:
        raise InputError(f"{path}:1: the file holds no rows; remove it or write it again")


def _records(path: str, source: Source) -> Iterator[Record]:
    if path.startswith(PREFIX) or (is_local(path) and saved_splits(local(path))):
        return _hub_records(path, source)
    if not path or not exists(path):
        raise InputError(f"{path!r}: no such file or folder; check the path")
    endings = suffixes(path)
    if not endings or endings[-1] not in _READERS:
        allowed = " ".join(_READERS)
        raise InputError(f"{path}: unknown ending; expected {allowed} (also .gz .xz .zst .bz2)")
    return _READERS[endings[-1]](path)


def _hub_records(path: str, source: Source) -> Iterator[Record]:
    try:
        yield from iter_hub(path)
    except InputError as error:
        if source.task is None:
            raise
        files = source.instead_of or "it has no known file"
        if here := tasks.local_splits(source.task):
            files += f"; {' and '.join(f'task:{source.task.name}:{s}' for s in here)} can be read"
        raise InputError(
            f"task {source.task.name!r} is neither below {tasks.data_folder()} ({files}; set "
            f"RADIT_DATA) nor on the hub: {error}"
        ) from None


def _row(
    path: str, record: Record, partial: dict[str, Any], category: str, bad: BadRows
) -> dict[str, Any] | None:
    default = "multiple-choice" if partial.get("choices") else "open-domain-qa"
    try:
        return example_row({**partial, "category": partial.get("category") or category or default})
    except InputError as error:
        bad.report(path, record, str(error))
        return None


def _cut_splits(rows: list[dict[str, Any]], shares: dict[str, float], seed: int) -> None:
    """Moves whole groups from train into each split that has no row yet and a share above 0.

    The groups are ranked by a hash and cut exactly, so that a small file gets its dev split too:
    at least one group each. InputError where train would keep none.
    """
    present = {row["split"] for row in rows}
    groups = sorted(
        {row["group"] for row in rows if row["split"] == "train"},
        key=lambda group: seeded_order(seed, group),
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


def _limited(
    rows: list[dict[str, Any]], limit: int, seed: int, skip: int = 0
) -> list[dict[str, Any]]:
    """At most `limit` rows of each split, in file order: those whose ids hash lowest, after the
    `skip` lowest.
    """
    kept: set[str] = set()
    for split in SPLITS:
        ids = [row["id"] for row in rows if row["split"] == split]
        kept.update(sorted(ids, key=lambda name: seeded_order(seed, name))[skip : skip + limit])
    return [row for row in rows if row["id"] in kept]
