"""Shard-wise work on a pool of Ray Data actors: the models are loaded once per actor, results come
back as small rows.

A worker is a class: `__init__` loads, `__call__(item) -> row` does one shard and commits it. Since
a shard is done by one call, no batch crosses a shard's border, and what was committed before a kill
is never done again.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.data import ActorPoolStrategy
from tqdm import tqdm

from radit_ray.core.errors import FULL, READ_ONLY, InputError, check_bounds
from radit_ray.data.artifacts import committed_shard, sidecar_file
from radit_ray.engines.resources import Resources

# items for each worker: where there are more, a second one waits at every worker, so that none
# idles between two; where there are fewer, it would wait there while another has nothing to do
MANY = 16


def num_workers(resources: Resources, num_items: int, *, worker_bytes: float = 0) -> int:
    """Actors to start: what was asked for, else what the cluster's CPUs, GPUs and memory hold
    (`worker_bytes` each), and never more than items.

    InputError where a single worker does not fit, since Ray would wait for it for ever.
    """
    check_bounds(resources, resources.BOUNDS)
    cluster = ray.cluster_resources()
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    free = cluster.get("CPU", 0) - resources.reserved_cpus
    fit = math.floor(free / cpus + 1e-9) if cpus else num_items
    if gpus:
        fit = min(fit, math.floor(cluster.get("GPU", 0) / gpus))
    if fit < 1 or resources.num_workers > fit:
        raise InputError(
            f"{max(1, resources.num_workers)} workers of {cpus:g} CPU and {gpus:g} GPU do not fit "
            "the cluster "
            f"({free:g} CPU, {cluster.get('GPU', 0):g} GPU); lower "
            "--resources.num-workers, "
            "--resources.cpus-per-worker or --resources.gpus-per-worker"
        )
    if worker_bytes and not resources.gpus_per_worker:
        fit = min(fit, max(1, math.floor(cluster.get("memory", math.inf) / worker_bytes)))
    return max(1, min(resources.num_workers or fit, num_items))


def call(function: Callable[..., Any], *arguments: Any, resources: Resources) -> Any:
    """Runs a function once in a task of its own, where the memory of its model goes with it; an
    InputError or an error of the disk there is raised here as itself.
    """
    guarded = ray.remote(
        num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker or None
    )(_call)
    return answers([ray.get(guarded.remote(function, arguments))])[0]


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    try:
        return function(*arguments), None
    except (InputError, OSError) as error:
        return None, _as_row(error)


def map_shards(
    worker: type,
    arguments: dict[str, Any],
    items: list[dict[str, Any]],
    *,
    resources: Resources,
    label: str,
    unit: str,
    gpu: bool = True,
    worker_bytes: float = 0,
) -> list[dict[str, Any]]:
    """Runs `worker(**arguments)(item)` for each item on a Ray Data actor pool; returns their
    sidecars in any order.

    `gpu=False` is for workers without a model. An InputError, or an error of the disk, raised
    in a worker is raised here as itself.
    """
    if not items:
        return []
    if not gpu:
        resources = dataclasses.replace(resources, gpus_per_worker=0.0)
    size = num_workers(resources, len(items), worker_bytes=worker_bytes)
    pool = ray.data.from_items(items, override_num_blocks=len(items)).map(
        Guard,
        fn_constructor_kwargs={"worker": worker, "arguments": arguments},
        compute=ActorPoolStrategy(
            size=size, max_tasks_in_flight_per_actor=2 if len(items) > MANY * size else 1
        ),
        num_cpus=resources.cpus_per_worker,
        num_gpus=resources.gpus_per_worker or None,
    )
    results = []
    for packed in progress(pool.iter_rows(), total=len(items), label=label, unit=unit):
        row = json.loads(packed["row"])
        if "errno" in row:
            _raise_row(row)
        results.append(row)
    return results


def progress(rows: Iterable[Any], *, total: int | None, label: str, unit: str) -> Iterator[Any]:
    """A progress bar on stderr: one line in a terminal, a line every ten seconds in a log file."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    yield from tqdm(
        rows, total=total, desc=label, unit=unit, mininterval=interval, smoothing=0.1, leave=True
    )


class Guard:
    """A worker whose InputError or error of the disk comes back as a row, since Ray's wrappers drop
    the cause of an error. As a Ray Data worker it is called with items; as an actor of its own it
    answers by `run`, and `answers` unpacks that.
    """

    def __init__(self, worker: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self.error: dict[str, Any] | None = None
        self.output = str(arguments.get("output", ""))
        try:
            self.worker = worker(**arguments)
        except (InputError, OSError) as error:
            self.error = _as_row(error)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.error is not None:
            return {"row": json.dumps(self.error)}
        try:
            # Ray calls again for what a killed worker had in hand, and perhaps had just committed
            made = None
            if self.output and "name" in item:
                made = committed_shard(self.output, sidecar_file(self.output, item["name"]))
            return {"row": json.dumps(made or self.worker(item))}
        except (InputError, OSError) as error:
            return {"row": json.dumps(_as_row(error))}

    def run(self, method: str, *arguments: Any) -> tuple[Any, Any]:
        """(what the worker's method gives, None), or (None, the error as a row)."""
        if self.error is not None:
            return None, self.error
        return _call(getattr(self.worker, method), arguments)


def answers(pairs: Iterable[tuple[Any, Any]]) -> list[Any]:
    """The values of what several calls of `Guard.run` gave; the first error among them is raised
    here as itself.
    """
    found = list(pairs)
    for _, error in found:
        if error is not None:
            _raise_row(error)
    return [value for value, _ in found]


def _as_row(error: InputError | OSError) -> dict[str, Any]:
    """An error for the person at the keyboard as a row; any other one is raised again and ends the
    stage.
    """
    if isinstance(error, InputError):
        return {"error": str(error), "errno": 0}
    if error.errno in (*FULL, *READ_ONLY, errno.EIO):
        # EIO: also storage that failed again and again, whose message says how
        told = "" if error.strerror == os.strerror(error.errno) else str(error.strerror)
        return {"error": str(error.filename or ""), "errno": error.errno, "told": told}
    raise error


def _raise_row(row: dict[str, Any]) -> None:
    """Raises on the driver what a worker reported."""
    if row["errno"]:
        told = row["told"] or os.strerror(row["errno"])
        raise OSError(row["errno"], told, row["error"] or None)
    raise InputError(row["error"])


class Meter:
    """Counts what a shard cost: seconds, tokens, estimated FLOPs, peak memory of the process."""

    def __init__(self, flops_per_token: float = 0.0) -> None:
        self.flops_per_token = flops_per_token

    def measure(self, work: Callable[[], tuple[Any, int]]) -> tuple[Any, dict[str, float]]:
        """Runs `work() -> (result, tokens)`; returns the result and the numbers for the sidecar."""
        start = time.perf_counter()
        result, tokens = work()
        seconds = time.perf_counter() - start
        return result, {
            "device_s": seconds,
            "tokens": tokens,
            "flops": tokens * self.flops_per_token,
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
