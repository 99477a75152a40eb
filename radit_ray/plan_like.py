"""What a run will cost, from a small one of the same kind on the same sort of machine: the work of
each stage grows with what it has to do, its start-up does not.

    small = read_pilot("runs/small")
    print(text(plan_like(small, replace(small.counts, num_chunks=35_000), num_devices=2)))

In: the folder of a finished run with the same models (a few hundred documents and questions will
do). Out: the stages of `plan`, with FLOPs, seconds and bytes in proportion to chunks, questions,
steps and k. Models too small to fill a device, which no share of its peak tells anything about, are
planned as well as large ones.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import read_manifest, run_record
from radit_ray.plan import QUERY_BATCH, StagePlan

MODELS = ("lm-ft", "it", "r-ft")  # trainings: their files are as large after any number of steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """How much there is of what a recipe reads."""

    num_chunks: float
    num_train: float  # questions of each split
    num_dev: float
    num_eval: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pilot:
    """A finished run as the plan of a larger one reads it."""

    recipe: Mapping[str, Any]  # as run.json has it
    counts: Counts
    num_devices: int  # of the cluster: GPUs where its workers took them, else CPUs
    stages: Mapping[str, Mapping[str, Any]]  # the manifests, by role

    @property
    def dimension(self) -> int:
        """Width of the vectors."""
        return int(self.stages["index"]["metrics"]["dimension"])

    def share(self, name: str, recipe: Mapping[str, Any], counts: Counts, devices: int) -> float:
        """The part of a stage's work that the busiest of its workers has: no shard is cut up."""
        if name == "embed":
            chunks = self.stages["chunk"]
            documents = counts.num_chunks * chunks["metrics"]["num_documents"] / chunks["rows"]
            shards = documents / recipe["chunk"]["docs_per_shard"]
        elif name in ("retrieve", "retrieve-tuned", "score"):
            asked = counts.num_train + counts.num_dev + counts.num_eval
            shards = asked / recipe["retrieve"]["examples_per_shard"]
        else:
            return 1 / devices
        loads = [0.0] * devices
        for number in range(math.ceil(shards)):
            loads[loads.index(min(loads))] += min(1.0, shards - number)
        return max(loads) / shards


def read_pilot(run: str, num_devices: int = 0) -> Pilot:
    """The run in a folder; `num_devices` where its results do not say what its cluster had.
    InputError where it is no finished run, or has several cycles.
    """
    record = run_record(run)
    results = storage.read_json(storage.join(run, "results.json"))
    stages = {name: read_manifest(storage.join(run, name)) for name in results["stages"]}
    cycles = [name for name in stages if name.startswith("cycle-")]
    lost = [name for name, manifest in stages.items() if manifest is None]
    lost += [name for name in ("chunk", "index", "retrieve") if name not in stages]
    if cycles or lost:
        why = "it has several cycles" if cycles else f"stage {lost[0]} is not there"
        raise InputError(f"{run}: {why}; expected a finished run of one cycle")
    found = {name: manifest for name, manifest in stages.items() if manifest is not None}
    metrics = found["retrieve"]["metrics"]
    made = (found["retrieve"]["resources"] or {}).get("gpus_per_worker", 0)
    kind = "GPU" if made else "CPU"
    devices = num_devices or int(results["environment"].get("cluster", {}).get(kind, 0))
    if devices < 1:
        raise InputError(f"{run} does not say how many {kind}s it had; give --devices N")
    counts = Counts(
        num_chunks=float(found["chunk"]["rows"]),
        num_train=float(metrics["num_train"] - record["recipe"]["retrieve"]["corpus_examples"]),
        num_dev=float(metrics["num_dev"]),
        num_eval=float(metrics["num_eval"]),
    )
    return Pilot(recipe=record["recipe"], counts=counts, num_devices=devices, stages=found)


def changes_of(settings: Sequence[str]) -> dict[str, float]:
    """FIELD=NUMBER as a mapping."""
    found = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--set {setting}; expected FIELD=NUMBER") from None
    return found


def changed(recipe: Mapping[str, Any], changes: Mapping[str, float]) -> dict[str, Any]:
    """A recipe's record with numbers replaced by dotted name; InputError for one it lacks."""
    made = {name: dict(v) if isinstance(v, dict) else v for name, v in recipe.items()}
    for name, value in changes.items():
        *above, last = name.split(".")
        place: Any = made
        for part in above:
            place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict) or not isinstance(place.get(last), int | float):
            known = [f"{a}.{b}" for a, v in made.items() if isinstance(v, dict) for b in v]
            raise InputError(f"--set {name}={value:g}: no number of the run{nearest(name, known)}")
        place[last] = value
    return made


def work_of(recipe: Mapping[str, Any], counts: Counts) -> dict[str, float]:
    """{stage: what its work is in proportion to}: chunks, questions times chunks, or instances
    trained on.
    """
    asked = counts.num_train + counts.num_dev + counts.num_eval
    drawn = recipe["retrieve"]["corpus_examples"]
    score, lm_ft, k = recipe["score"], recipe["lm_ft"], recipe["retrieve"]["k"]
    room = counts.num_train + drawn
    scored = min(score["num_examples"] or room, room)
    trained = float(lm_ft["steps"] * lm_ft["batch_size"])
    return {
        **dict.fromkeys(("chunk", "embed", "index"), counts.num_chunks),
        "retrieve": asked + drawn,
        "retrieve-tuned": asked,
        **dict.fromkeys(("lm-ft", "it"), trained),
        "score": (scored + min(score["dev_limit"], counts.num_dev)) * k,
        "r-ft": scored * recipe["r_ft"]["epochs"],
        "evaluate": counts.num_eval * max(1, recipe["k_infer"]),
    }


def plan_like(
    pilot: Pilot,
    counts: Counts,
    changes: Mapping[str, float] | None = None,
    *,
    num_devices: int = 0,
    price_per_hour: float = 0.0,
    search_bytes_per_s: float = 0.0,
) -> list[StagePlan]:
    """Every stage of the pilot for other counts, with `changes` of its recipe; `num_devices` of its
    kind, 0 = as many. An exact search reads every vector: `search_bytes_per_s` of a device says
    what that adds where there are many more of them.
    """
    recipe = changed(pilot.recipe, changes or {})
    before, after = work_of(pilot.recipe, pilot.counts), work_of(recipe, counts)
    devices = num_devices or pilot.num_devices
    small, plans = pilot.counts, []
    for name, manifest in pilot.stages.items():
        if not before.get(name):
            continue
        cost, times, note = manifest["cost"], after[name] / before[name], ""
        device_s = cost["device_s"] * times
        if name.startswith("retrieve") and search_bytes_per_s:
            vectors = 2.0 * max(0.0, counts.num_chunks - small.num_chunks) * pilot.dimension
            reads = math.ceil(after[name] / QUERY_BATCH)
            device_s += reads * vectors / search_bytes_per_s
        elif name.startswith("retrieve") and counts.num_chunks > 10 * small.num_chunks:
            note = "without reading the vectors of so many chunks: give --rates"
        there = pilot.share(name, pilot.recipe, small, pilot.num_devices)
        here = pilot.share(name, recipe, counts, devices)
        if name in MODELS:  # one process with all cores, or one for each GPU
            there, here = 1 / cost["num_workers"], pilot.num_devices / devices / cost["num_workers"]
        start = max(0.0, cost["wall_s"] - cost["device_s"] * there)
        wall = start + device_s * here
        size = float(sum(file["bytes"] for file in manifest["files"]))
        plans.append(
            StagePlan(
                name=name,
                flops=cost.get("flops", 0.0) * times,
                device_s=device_s,
                wall_s=wall,
                memory_bytes=cost.get("peak_memory_bytes", 0.0),
                storage_bytes=size if name in MODELS else size * times,
                money=wall / 3600 * devices * price_per_hour,
                note=note,
            )
        )
    return plans
