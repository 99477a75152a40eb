"""Tasks by name: `task:NAME[:SPLIT][@N]` in, the files or hub splits to read out.

`task:NAME` is what the paper uses of a set: the split it measures, as our split `eval` (official
dev sets sampled to 2,500), or the training split. `task:NAME:SPLIT` is that split, whole, under its
own name. `@N` keeps N examples, the first of a seeded order, and `@M+N` the N after those M. A file
below $RADIT_DATA, else ../shared/data, comes before the hub.

Any JSONL is a task without code: `id question answers` and, where they matter, `task category
template metric scoring choices context` (see `rows`).
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.hub import PREFIX as HUB
from radit_ray.data.hub import SPLIT_NAMES
from radit_ray.data.more_tasks import BEYOND
from radit_ray.data.native_files import archive_parts
from radit_ray.data.paper_tasks import EVALUATION, TRAINING
from radit_ray.data.storage import exists, join
from radit_ray.data.task_spec import Source, Task

PREFIX = "task:"
DEV_SAMPLE = 2500  # of an official dev set that is measured (paper, section 5)
TASKS = {task.name: task for task in (*EVALUATION, *TRAINING, *BEYOND)}


def data_folder() -> str:
    """Where native files lie: $RADIT_DATA, else ../shared/data."""
    return os.environ.get("RADIT_DATA") or os.path.join("..", "shared", "data")


def task_named(name: str) -> Task:
    """The task of that name; InputError with the nearest one otherwise."""
    if name not in TASKS:
        close = difflib.get_close_matches(name.lower(), TASKS, n=1, cutoff=0.4)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        raise InputError(
            f"unknown task {name!r}{hint} `radit tasks` lists them; any file of yours works as well"
        )
    return TASKS[name]


def parse_task(spec: str) -> tuple[Task, str]:
    """(task, split or "") of `task:NAME[:SPLIT]`; InputError for a split that the set lacks.

    >>> parse_task("task:nq:validation")[1]
    'dev'
    """
    spec, _, _ = _amount(spec)
    name, _, asked = spec.removeprefix(PREFIX).strip().partition(":")
    task = task_named(name)
    split = SPLIT_NAMES.get(asked, asked)
    # "validation" is our dev, but not of a set that has another split of the name dev
    other = asked != split and task.hub_splits.get(split) == split
    if asked and (split not in task.splits or other):
        raise InputError(f"task {name!r} has no split {asked!r} (it has: {', '.join(task.splits)})")
    return task, split


def _amount(spec: str) -> tuple[str, int, int]:
    """(spec without it, skip, sample) of `...@N` or `...@M+N`; sample 0 = all.

    >>> _amount("task:nq:dev@50+5")
    ('task:nq:dev', 50, 5)
    """
    name, separator, amount = spec.partition("@")
    if not separator:
        return spec, 0, 0
    skip, plus, sample = amount.rpartition("+")
    if not sample.isdecimal() or not int(sample) or (plus and not skip.isdecimal()):
        raise InputError(f"{spec!r}, expected @N or @M+N behind a task, with N of 1 or more")
    return name, int(skip or 0), int(sample)


def sources(spec: str) -> list[Source]:
    """What to read for `task:NAME[:SPLIT][@N]`."""
    task, asked = parse_task(spec)
    _, skip, amount = _amount(spec)
    split = asked or task.split
    measured = not asked and split != "train"
    shown = "eval" if measured else split
    sample = amount or (DEV_SAMPLE if measured and split == "dev" else 0)
    found = local_files(task, split)
    files, inside = task.files_of(split)
    if found:
        return [
            Source(
                path=path,
                split="" if inside else shown,
                only=split if inside else "",
                task=task,
                part=spec,
                skip=skip,
                sample=sample,
            )
            for path in found
        ]
    if split not in task.hub_splits:
        raise InputError(
            f"task {task.name!r}, split {split}: {join(data_folder(), files)} is not there, and no "
            "copy on the hub is known; set RADIT_DATA to its folder, or give your own file"
        )
    name, _, config = task.hub.partition(":")
    path = f"{HUB}{name}:{config}:{task.hub_splits[split]}"
    return [
        Source(
            path=path,
            split=shown,
            task=task,
            part=spec,
            skip=skip,
            sample=sample,
            instead_of=files,
        )
    ]


def local_files(task: Task, split: str) -> list[str]:
    """The native files of a split below the data folder; none where one of them is missing."""
    listed, _ = task.files_of(split)
    for choice in listed.split(" | ") if listed else ():
        paths = [join(data_folder(), name) for name in choice.split(", ")]
        if all(exists(archive_parts(path)[0]) for path in paths):
            return paths
    return []


def local_splits(task: Task) -> list[str]:
    """The splits whose native files lie below the data folder."""
    return [split for split in task.splits if local_files(task, split)]


def notes(spec: str) -> list[str]:
    """What the files here are that `task:NAME[:SPLIT]` reads, where they are not the set itself."""
    task, asked = parse_task(spec)
    read = local_files(task, asked or task.split)
    return [note for part, note in task.notes.items() if any(path.endswith(part) for path in read)]


def listing() -> Iterator[dict[str, Any]]:
    """One entry a task, in the order of the tables: what `radit tasks` shows."""
    groups = {"evaluation": "evaluation of the paper", "training": "training of the paper"}
    for task in TASKS.values():
        files = local_files(task, task.split)
        yield {
            "name": task.name,
            "group": groups.get(task.paper, "beyond the paper"),
            "split": task.split,
            "splits": list(task.splits),
            "category": task.category,
            "template": task.resolved_template,
            "query": task.query,
            "metric": task.metric,
            "scoring": task.scoring,
            "fine_tunes": list(task.fine_tunes),
            "cap": task.cap,
            "share": task.share,
            "files": files,
            "hub": task.hub if task.split in task.hub_splits else "",
        }
