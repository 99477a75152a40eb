"""What a run will cost, from a small one of the same kind on the same sort of machine: the work of
each stage grows with what it has to do, its start-up does not.

    small = read_pilot("runs/small")
    print(text(plan_like(small, replace(small.counts, num_chunks=35_000))))

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
from radit_ray.models.presets import LEXICAL
from radit_ray.plan import QUERY_BATCH, StagePlan

MODELS = ("lm-ft", "it", "r-ft")  # trainings: their files are as large after any number of steps
ON_CPUS = ("chunk", "dedup", "index")
SETTINGS = {  # fields of the recipe that the work of a stage goes with, and the least they may be
    "k_infer": 0,
    "chunk.docs_per_shard": 1,
    "retrieve.k": 1,
    "score.k": 0,
    "retrieve.corpus_examples": 0,
    "retrieve.examples_per_shard": 1,
    "lm_ft.steps": 1,
    "lm_ft.batch_size": 1,
    "score.num_examples": 0,
    "score.dev_limit": 0,
    "r_ft.epochs": 0,
    "evaluate.limit": 0,
}
Settings = Mapping[str, float]


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

    settings: Settings  # SETTINGS as the run had them
    counts: Counts
    cluster: Mapping[str, float]  # CPUs and GPUs it ran on
    stages: Mapping[str, Mapping[str, Any]]  # the manifests, by role
    note: str = ""

    @property
    def on_gpus(self) -> bool:
        """Whether its models were on GPUs."""
        return bool(self._resources("embed").get("gpus_per_worker"))

    def workers(self, name: str, devices: float) -> int:
        """How many a stage has on so many CPUs, or GPUs where it took them."""
        asked = self._resources(name)
        if asked.get("num_workers"):
            return int(asked["num_workers"])
        gpus = 0.0 if name in ON_CPUS else asked.get("gpus_per_worker", 0.0)
        return max(1, int(devices / (gpus or asked.get("cpus_per_worker") or 1.0)))

    def share(self, name: str, settings: Settings, counts: Counts, devices: float) -> float:
        """The part of a stage's work that the busiest of its workers has: no shard is cut up."""
        workers = self.workers(name, devices)
        if name in ("embed", "dedup"):
            chunks = self.stages["chunk"]
            documents = counts.num_chunks * chunks["metrics"]["num_documents"] / chunks["rows"]
            shards = documents / settings["chunk.docs_per_shard"]
        elif name in ("retrieve", "retrieve-tuned", "score"):
            rows = _ranked(settings, counts, corpus=name != "retrieve-tuned")
            shards = rows / settings["retrieve.examples_per_shard"]
        else:
            return 1 / workers
        whole, part = divmod(shards, 1)
        return (whole // workers + (1 if whole % workers else part)) / shards

    def _resources(self, name: str) -> Mapping[str, Any]:
        return self.stages.get(name, {}).get("resources") or {}


def read_pilot(run: str, cluster: Mapping[str, float] | None = None) -> Pilot:
    """The run in a folder, its first training seed; `cluster` {CPU, GPU}: what it ran on, where its
    results do not say. InputError where it is no finished run of one cycle with questions.
    """
    record = run_record(run)
    file = storage.join(run, "results.json")
    results = storage.read_json(file) if storage.exists(file) else {"stages": {}}
    stages = {name: read_manifest(storage.join(run, name)) for name in results["stages"]}
    lost = [name for name in ("chunk", "index", "retrieve") if not stages.get(name)]
    lost += [name for name, manifest in stages.items() if manifest is None]
    why = f"stage {lost[0]} is not there" if lost else ""
    if any(name.startswith("cycle-") for name in stages):
        why = "it has several cycles"
    found = {name: manifest for name, manifest in stages.items() if manifest is not None}
    metrics = found["retrieve"]["metrics"] if not why else {}
    if not why and not metrics.get("num_eval"):
        why = "it has no evaluated question"
    if why:
        raise InputError(f"{run}: {why}; expected a finished run of one cycle, with questions")
    known = cluster or results["environment"].get("cluster") or {}
    if not known.get("CPU"):
        raise InputError(f"{run} does not say how many CPUs it ran on; give --run-cpus N")
    recipe = record["recipe"]
    settings = {name: float(_field(recipe, name)) for name in SETTINGS}
    # what was there to draw: a small corpus has fewer chunks than are asked for, BM25 draws none
    drawn = found["retrieve"]["config"]["corpus_examples"]
    drawn = min(drawn, found["chunk"]["rows"])
    if recipe["retriever"] == LEXICAL:
        settings |= {"retrieve.corpus_examples": 0.0, "score.num_examples": 1.0}
    counts = Counts(
        num_chunks=float(found["chunk"]["rows"]),
        num_train=float(max(0, metrics.get("num_train", 0) - drawn)),
        num_dev=float(metrics.get("num_dev", 0)),
        num_eval=float(metrics["num_eval"]),
    )
    seeds = len(recipe["seeds"])
    note = f"one training seed of {seeds}" if seeds > 1 else ""
    made = Pilot(settings=settings, counts=counts, cluster=known, stages=found, note=note)
    if made.on_gpus and not known.get("GPU"):
        raise InputError(f"{run} does not say how many GPUs it had; give --run-cpus and --run-gpus")
    return made


def _field(recipe: Mapping[str, Any], name: str) -> Any:
    stage, _, field = name.rpartition(".")
    # a run may be older than a field
    return recipe[stage].get(field, SETTINGS[name]) if stage else recipe[field]


def changes_of(settings: Sequence[str]) -> dict[str, float]:
    """FIELD=NUMBER as a mapping; InputError for a field that no stage's work goes with."""
    found = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in SETTINGS:
            raise InputError(
                f"--set {setting}: a plan like a run goes by {', '.join(SETTINGS)}"
                f"{nearest(name, SETTINGS)}"
            )
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not SETTINGS[name] <= number < math.inf:
            raise InputError(f"--set {setting}; expected a number of {SETTINGS[name]} or more")
        found[name] = number
    return found


def _ranked(settings: Settings, counts: Counts, *, corpus: bool = True) -> float:
    """Rows that a retrieval makes: questions, and examples drawn from the corpus."""
    asked = counts.num_train + counts.num_dev + counts.num_eval
    return asked + corpus * min(settings["retrieve.corpus_examples"], counts.num_chunks)


def work_of(settings: Settings, counts: Counts) -> dict[str, float]:
    """{stage: what its work is in proportion to}: chunks, questions times chunks, or instances
    trained on.
    """
    drawn = min(settings["retrieve.corpus_examples"], counts.num_chunks)
    room = counts.num_train + drawn
    scored = min(settings["score.num_examples"] or room, room)
    asked = min(settings["evaluate.limit"] or counts.num_eval, counts.num_eval)
    trained = settings["lm_ft.steps"] * settings["lm_ft.batch_size"]
    dev = min(settings["score.dev_limit"], counts.num_dev)
    return {
        **dict.fromkeys(("chunk", "dedup", "embed", "index"), counts.num_chunks),
        "retrieve": _ranked(settings, counts),
        "retrieve-tuned": _ranked(settings, counts, corpus=False),
        **dict.fromkeys(("lm-ft", "it"), trained),
        "score": (scored + dev) * (settings["score.k"] or settings["retrieve.k"]),
        "r-ft": scored * settings["r_ft.epochs"],
        "evaluate": asked * max(1.0, settings["k_infer"]),
    }


def plan_like(
    pilot: Pilot,
    counts: Counts,
    changes: Settings | None = None,
    *,
    num_devices: int = 0,
    price_per_hour: float = 0.0,
    search_bytes_per_s: float = 0.0,
) -> list[StagePlan]:
    """Every stage of the pilot for other counts, with `changes` of its SETTINGS, on `num_devices`
    GPUs where it had GPUs, else CPUs; 0 = as many. An exact search reads every vector:
    `search_bytes_per_s` of a device says what that adds where there are many more of them.
    InputError on numbers below 0.
    """
    for name, value in (("devices", num_devices), ("price", price_per_hour)):
        if not 0 <= value < math.inf:
            raise InputError(f"--{name} {value}; expected 0 or more")
    settings = {**pilot.settings, **(changes or {})}
    before, after = work_of(pilot.settings, pilot.counts), work_of(settings, counts)
    kind = "GPU" if pilot.on_gpus else "CPU"
    times_devices = num_devices / pilot.cluster[kind] if num_devices else 1.0
    plans = []
    for name, manifest in pilot.stages.items():
        if not before.get(name):
            continue
        small, times = _cost(manifest), after[name] / before[name]
        device_s, memory, note = small["device_s"] * times, small["peak_memory_bytes"], pilot.note
        devices = pilot.cluster["CPU" if name in ON_CPUS else kind]
        here = pilot.share(name, settings, counts, devices * times_devices)
        there = pilot.share(name, pilot.settings, pilot.counts, devices)
        if name in MODELS:  # one process with all cores, or one for each GPU
            there = 1 / small["num_workers"]
            here = there / times_devices
        vectors = _vectors(pilot, counts) if name in ("index", "retrieve", "retrieve-tuned") else 0
        if vectors:
            memory += vectors / (1 if name == "index" else devices * times_devices)
            if name != "index" and search_bytes_per_s:
                device_s += math.ceil(after[name] / QUERY_BATCH) * vectors / search_bytes_per_s
            elif name != "index" and counts.num_chunks > 10 * pilot.counts.num_chunks:
                note = "without reading the vectors of so many chunks: give --rates"
        wall = max(0.0, small["wall_s"] - small["device_s"] * there) + device_s * here
        size = float(sum(file["bytes"] for file in manifest["files"]))
        plans.append(
            StagePlan(
                name=name,
                flops=small["flops"] * times,
                device_s=device_s,
                wall_s=wall,
                memory_bytes=memory,
                storage_bytes=size if name in MODELS else size * times,
                money=wall / 3600 * pilot.cluster[kind] * times_devices * price_per_hour,
                note=note,
            )
        )
    return plans


def _cost(manifest: Mapping[str, Any]) -> dict[str, float]:
    """A manifest's cost, with what answers that were taken from elsewhere cost there."""
    cost = manifest["cost"]
    names = ("wall_s", "device_s", "flops")
    found = {name: cost.get(name, 0.0) + cost.get(f"reused_{name}", 0.0) for name in names}
    peak, workers = cost.get("peak_memory_bytes", 0.0), cost.get("num_workers", 1)
    return {**found, "peak_memory_bytes": peak, "num_workers": workers}


def _vectors(pilot: Pilot, counts: Counts) -> float:
    """Bytes of a flat index beyond the pilot's; 0 of one of another kind, whose size goes by other
    rules (`radit plan index`).
    """
    made = pilot.stages["index"]["metrics"]
    if made["kind"] != "flat":
        return 0.0
    return 2.0 * max(0.0, counts.num_chunks - pilot.counts.num_chunks) * made["dimension"]
