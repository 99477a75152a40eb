"""Answers that a finished evaluation beside this one holds: the same LM asked the same questions
over the same chunks in the same way answers the same, so nothing of it is asked again.

In: an evaluation under way, named by its fingerprint in the folder where a run, its seeds and the
trials of a sweep keep all their artifacts. Out: the older answers, committed as its own shards,
with what they cost then (`reused_device_s`, `reused_tokens`, `reused_flops`, `reused_wall_s`).
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import commit_shard, read_manifest, read_shard
from radit_ray.data.work import Work
from radit_ray.engines.variants import Variant

ASKED_BY = ("split", "limit", "seed", "precision")  # of the config: they decide the answers
GROUPED = ("name", "k", "t_r")  # of a variant: what those that are answered together may differ in


def answer_keys(identity: Mapping[str, Any]) -> dict[str, str]:
    """{variant: all that decides its answers, as JSON}; `identity` is that of `Work`. Empty for one
    whose variants have other fields than ours: what those would say is not known.

    Variants that differ in nothing but k are answered together, and the deepest one bears the cost:
    the ks of all of them are part of what each was asked. (A temperature may be written as itself
    or as 0, the recorded one, hence all pairs of k and T_R.)
    """
    config, inputs = identity["config"], identity["inputs"]
    fields = {field.name for field in dataclasses.fields(Variant)}
    asked = [config.get(name) for name in ASKED_BY]
    how: dict[str, str] = {}
    depths: dict[str, set[tuple[int, float]]] = {}
    for record in config["variants"]:
        if record.keys() != fields:
            return {}
        variant = Variant(**record)
        ranked = inputs.get(f"ranked/{variant.name}", inputs["ranked"])
        same = {name: value for name, value in record.items() if name not in GROUPED}
        of = [ranked, inputs[f"lm/{variant.name}"], same, asked, variant.nested or variant.k]
        how[variant.name] = json.dumps(of)
        depths.setdefault(how[variant.name], set()).add((variant.k, variant.t_r))
    return {
        v["name"]: json.dumps([v["k"], v["t_r"], sorted(depths[how[v["name"]]]), how[v["name"]]])
        for v in config["variants"]
    }


def take_answers(work: Work[Any]) -> dict[str, dict[str, str]]:
    """Commits to an evaluation what finished ones in the same folder have answered already:
    {variant: fingerprint and commit of the evaluation that its answers are from}.
    """
    wanted, committed = answer_keys(work.identity), work.committed()
    found: dict[str, dict[str, str]] = {}
    for path, manifest in _beside(work.output, work.identity["version"]):
        if len(found) == len(wanted):
            break
        there = {key: name for name, key in answer_keys(_identity(manifest)).items()}
        same = {n: there[key] for n, key in wanted.items() if key in there and n not in found}
        told: dict[str, Any] = {
            "fingerprint": manifest["fingerprint"],
            "commit": manifest["versions"].get("commit", ""),
        }
        paid: set[str] = set()
        for name, source in same.items():
            tables = _read(path, source, manifest)
            if tables is None:
                continue
            # a second name of the same variant costs nothing more
            cost = {} if source in paid else _spent(manifest, source)
            paid.add(source)
            total = sum(table.num_rows for table in tables.values())
            for shard, table in tables.items():
                if f"{name}/{shard}" not in committed:
                    part = table.num_rows / max(1, total)
                    stats = {f"reused_{what}": value * part for what, value in cost.items()}
                    mine = dict.fromkeys(("device_s", "tokens", "flops"), 0.0)
                    commit_shard(work.output, f"{name}/{shard}", table, **mine, **stats)
            found[name] = told
        if taken := [name for name in same if found.get(name) is told]:
            print(f"radit: {', '.join(taken)}: answered before, {path}", file=sys.stderr)
    return found


def _beside(output: str, version: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, manifest) of the finished evaluations of a version in the folder of `output`; one that
    cannot be read is nobody's business here.
    """
    folder, _, own = output.rpartition("/")
    for name in storage.list_folders(folder):
        if not name.startswith("evaluate-") or name == own:
            continue
        try:
            manifest = read_manifest(storage.join(folder, name))
        except InputError:
            continue
        if (
            manifest is not None
            and manifest["version"] == version
            and "cost" in manifest["metrics"]
        ):
            yield storage.join(folder, name), manifest


def _identity(manifest: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {name: value["fingerprint"] for name, value in manifest["inputs"].items()}
    return {**manifest, "inputs": inputs}


def _read(path: str, source: str, manifest: Mapping[str, Any]) -> dict[str, pa.Table] | None:
    """{shard: answers} of a variant; None where one is damaged, and all are answered anew."""
    names = [file["name"] for file in manifest["files"] if file["name"].startswith(f"{source}/")]
    try:
        return {name[len(source) + 1 :]: read_shard(storage.join(path, name)) for name in names}
    except InputError:
        return None


def _spent(manifest: Mapping[str, Any], source: str) -> dict[str, float]:
    """What a variant's answers cost where they were given; FLOPs and wall time of the whole in
    proportion.
    """
    costs, whole = manifest["metrics"]["cost"], manifest["cost"]
    mine = {what: float(costs[source][what]) for what in ("device_s", "tokens")}
    for what, by in (("flops", "tokens"), ("wall_s", "device_s")):
        total = whole.get(by, 0.0) + whole.get(f"reused_{by}", 0.0)
        spent = whole.get(what, 0.0) + whole.get(f"reused_{what}", 0.0)
        mine[what] = spent * mine[by] / total if total else 0.0
    return mine
