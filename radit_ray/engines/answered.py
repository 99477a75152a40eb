"""Answers that a finished evaluation beside this one holds: the same LM asked the same questions
over the same chunks in the same way answers the same, so nothing of it is asked again.

In: an evaluation under way, named by its fingerprint in the folder where a run, its seeds and the
trials of a sweep keep all their artifacts. Out: the older answers, committed as its own shards,
with what they cost then in `reused_device_s` and `reused_tokens`.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import commit_shard, read_manifest, read_shard
from radit_ray.data.work import Work
from radit_ray.engines.variants import Variant

ASKED_BY = ("split", "limit", "seed", "precision")  # of the config: they decide the answers


def answer_keys(identity: Mapping[str, Any]) -> dict[str, str]:
    """{variant: all that decides its answers, as JSON}; `identity` is that of `Work`.

    Variants that differ in nothing but k are answered together, and the deepest one bears the cost:
    the ks of all of them are part of what each was asked.
    """
    config, inputs = identity["config"], identity["inputs"]
    variants = [Variant(**record) for record in config["variants"]]
    asked = [config[name] for name in ASKED_BY]
    how: dict[str, str] = {}
    ks: dict[str, set[int]] = {}
    for variant in variants:
        ranked = inputs.get(f"ranked/{variant.name}", inputs["ranked"])
        fields = dataclasses.asdict(variant)
        fields |= {"name": "", "k": -1 if variant.nested else variant.k}
        how[variant.name] = json.dumps([ranked, inputs[f"lm/{variant.name}"], fields, asked])
        ks.setdefault(how[variant.name], set()).add(variant.k)
    return {v.name: json.dumps([v.k, sorted(ks[how[v.name]]), how[v.name]]) for v in variants}


def take_answers(work: Work[Any]) -> None:
    """Commits to an evaluation what finished ones in the same folder have answered already."""
    wanted, committed = answer_keys(work.identity), work.committed()
    for path, manifest in _beside(work.output, work.identity["version"]):
        if not wanted:
            return
        there = {key: name for name, key in answer_keys(_identity(manifest)).items()}
        same = {name: there[key] for name, key in wanted.items() if key in there}
        taken = [
            n for n, source in same.items() if _take(work, n, path, source, manifest, committed)
        ]
        if taken:
            print(f"radit: {', '.join(taken)}: answered before, {path}", file=sys.stderr)
        wanted = {name: key for name, key in wanted.items() if name not in taken}


def _beside(output: str, version: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, manifest) of the finished evaluations of a version in the folder of `output`."""
    folder, _, own = output.rpartition("/")
    for name in storage.list_folders(folder):
        if name.startswith("evaluate-") and name != own:
            manifest = read_manifest(storage.join(folder, name))
            if manifest is not None and manifest["version"] == version:
                yield storage.join(folder, name), manifest


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {name: value["fingerprint"] for name, value in manifest["inputs"].items()}
    return {**manifest, "inputs": inputs}


def _take(
    work: Work[Any],
    name: str,
    path: str,
    source: str,
    manifest: Mapping[str, Any],
    committed: Mapping[str, Any],
) -> bool:
    """Whether all shards of a variant could be read and are committed now."""
    spent = manifest["metrics"]["cost"][source]
    cost = {f"reused_{what}": spent[what] for what in ("device_s", "tokens")}
    for file in manifest["files"]:
        shard = file["name"].removeprefix(f"{source}/")
        if shard == file["name"]:
            continue
        if f"{name}/{shard}" not in committed:
            try:
                table = read_shard(storage.join(path, file["name"]))
            except InputError:  # damaged since: it is answered anew
                return False
            commit_shard(work.output, f"{name}/{shard}", table, **cost)
        cost = dict.fromkeys(cost, 0.0)  # the first shard bears it
    return True
