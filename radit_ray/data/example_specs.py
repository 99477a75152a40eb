"""What a spec of examples names: files, hub sets and tasks, each with the split of its rows.

A spec is one file, a folder with files named by split (`train.jsonl`, `dev` or `validation`, `eval`
or `test`), `train=PATH,dev=PATH,eval=PATH` in any subset, `hf:NAME[:CONFIG][:SPLIT]`, or
`task:NAME[:SPLIT]` (see `tasks`); tasks and what has a split in front may be mixed in one comma
list.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection

from radit_ray.core.errors import InputError
from radit_ray.data import tasks
from radit_ray.data.hub import PREFIX, SPLIT_NAMES, saved_splits
from radit_ray.data.records import suffixes
from radit_ray.data.storage import is_local, join, list_files, local
from radit_ray.data.task_spec import Source

_NAMED = re.compile(rf"({'|'.join(SPLIT_NAMES)})=")


def sources_of(spec: str, endings: Collection[str]) -> list[Source]:
    """The files, hub sets and tasks that a spec names, in order; `endings` are of files that can be
    read. InputError for an empty spec, or a folder whose files do not say their split.
    """
    if not spec.strip():
        raise InputError("the examples are an empty string; give a file, a folder or hf:NAME")
    found = []
    for part in _parts(spec):
        named = _NAMED.match(part)
        split = SPLIT_NAMES[named[1]] if named else ""
        path = part[named.end() :] if named else part
        if path.startswith(tasks.PREFIX):
            found += [
                dataclasses.replace(source, split=split or source.split)
                for source in tasks.sources(path)
            ]
        elif named:
            found.append(Source(path=path, split=split))
        elif is_local(path) and os.path.isdir(local(path)):
            found += [Source(path=p, split=name) for name, p in _folder_files(local(path), endings)]
        else:
            found.append(Source(path=path))
    return found


def _parts(spec: str) -> list[str]:
    """The items of a comma list. A comma inside a path stays: a new item begins with a split or
    with `task:`, or follows a task.
    """
    parts: list[str] = []
    for text in spec.split(","):
        item = text.strip()
        after_task = bool(parts) and _NAMED.sub("", parts[-1], count=1).startswith(tasks.PREFIX)
        if not parts or after_task or _NAMED.match(item) or item.startswith(tasks.PREFIX):
            parts.append(item)
        else:
            parts[-1] += f",{text}"
    return parts


def _folder_files(folder: str, known: Collection[str]) -> list[tuple[str, str]]:
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
        if endings[-1] not in known:
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
