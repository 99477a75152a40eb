"""A Hugging Face data set in, its rows out as raw records, streamed: `hf:NAME[:CONFIG][:SPLIT]`.

NAME is a hub id, or a local folder: one that `Dataset.save_to_disk` wrote is memory-mapped, any
other is read as `datasets.load_dataset` reads folders. Nothing is executed: scripts in data sets
are refused by `datasets` itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.records import Record, one_line

PREFIX = "hf:"
SPLIT_NAMES = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "eval": "eval",
    "test": "eval",
}


def parse_hub(spec: str) -> tuple[str, str, str]:
    """(name, config, split) of `hf:NAME[:CONFIG][:SPLIT]`; "" where not given.

    One part after the name is a split if it is a usual split name, else a config; `hf:NAME::SPLIT`
    gives an unusual split without a config.

    >>> parse_hub("hf:a/b:test"), parse_hub("hf:a/b:en"), parse_hub("hf:a/b:en:test")
    (('a/b', '', 'test'), ('a/b', 'en', ''), ('a/b', 'en', 'test'))
    """
    name, *rest = spec.removeprefix(PREFIX).split(":")
    if not name or len(rest) > 2:
        raise InputError(f"{spec!r} is not of the form hf:NAME[:CONFIG][:SPLIT]")
    if len(rest) == 2:
        return name, rest[0], rest[1]
    if rest and rest[0] not in SPLIT_NAMES:
        return name, rest[0], ""
    return name, "", rest[0] if rest else ""


def saved_splits(folder: str) -> list[str] | None:
    """Split names of a folder that `save_to_disk` wrote ([""] for a single data set), else None."""
    if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        names = sorted(os.listdir(folder))
        return [name for name in names if os.path.isfile(os.path.join(folder, name, "state.json"))]
    parts = ("dataset_info.json", "state.json")
    return [""] if all(os.path.isfile(os.path.join(folder, part)) for part in parts) else None


def iter_hub(spec: str) -> Iterator[Record]:
    """The rows of the data set; split "train" unless given (or the only one of a saved folder)."""
    name, config, split = parse_hub(spec)
    row = 0
    try:
        for value in _load(spec, name, config, split):
            row += 1
            yield Record(line=row, value=value)
    except InputError:
        raise
    # Hub, network and file-system layers each have their own exceptions without a common base.
    except Exception as error:
        fix = (
            "check config and split, or copy or save the folder again"
            if os.path.isdir(name)
            else "check its name, config and split, or give the path of a local copy"
        )
        raise InputError(
            f"{spec}:{row}: the data set cannot be read ({one_line(error)}); {fix}"
        ) from error


def _load(spec: str, name: str, config: str, split: str) -> Any:
    import datasets

    splits = saved_splits(name) if os.path.isdir(name) else None
    if splits is None:
        return datasets.load_dataset(name, config or None, split=split or "train", streaming=True)
    folder = name
    if splits != [""]:
        wanted = split or (splits[0] if len(splits) == 1 else "train")
        if wanted not in splits:
            raise InputError(f"{spec}: no split {wanted!r} in {name}{nearest(wanted, splits)}")
        folder = os.path.join(name, wanted)
    return datasets.load_from_disk(folder)
