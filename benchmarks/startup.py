"""What stands around the work: `radit --help`, `import radit_ray.core`, and what a stage takes on
tiny input beside its own work.

    python -m benchmarks.startup [--quick]

The stages are those of one `radit run own` with tiny models, in a process whose Ray is up: wall
seconds of each stage less what its workers spent in their work. Training counts its steps as work,
the other stages their shards. What bounds them is measured beside them: a training of Ray Train
that does nothing, and a process that does nothing but load a tiny LM.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from benchmarks import stand_ins
from benchmarks.reuse import recipe_of
from benchmarks.side_by_side import Results, options_of, plain_row, with_bound
from radit_ray.data.artifacts import read_manifest
from radit_ray.engines.connect import connect
from radit_ray.models.causal_lm import CausalLM
from radit_ray.pipeline import pipeline
from radit_ray.runs import Run

HELP_S, STAGE_S = 0.5, 10.0
HEAVY = ("transformers", "ray", "faiss", "pyarrow")


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The median wall seconds of a call."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return median(found)


def nothing(_: dict[str, Any]) -> None:
    """A training that trains nothing."""


def load(path: str) -> None:
    """What every process with an LM begins with."""
    CausalLM.load(path)


def bounds(folder: str) -> dict[str, str]:
    """{stage: what it waits for, as measured here}."""
    trainer = functools.partial(
        TorchTrainer,
        nothing,
        train_loop_config={},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 2}),
    )
    # each has a process of its own: an idle one is not asked again
    task = ray.remote(max_calls=1)(load)
    fit_s = seconds(lambda: trainer(run_config=RunConfig(storage_path=folder)).fit())
    load_s = seconds(lambda: ray.get(task.remote(stand_ins.lm("tiny"))))
    told = (
        f"a training of Ray Train that does nothing takes {fit_s:.1f} s here, and a process that "
        f"loads a tiny LM {load_s:.1f} s, nearly all of it imports of torch and transformers; this "
        "stage starts "
    )
    return {
        "lm-ft": f"{told}two, one after the other: for tokens, and training",
        "r-ft": f"{told}two, one after the other: for what it trains on, and training",
        "retrieve": f"{told}two at once: a shard of the index, the query encoder",
    }


def main() -> None:
    options = options_of(__doc__)
    results = Results("startup", options)
    asked = [sys.executable, "-m", "radit_ray.cli", "--help"]
    run = functools.partial(subprocess.run, asked, check=True, capture_output=True)
    taken = seconds(run, options.repeats)
    facts = {"ours": taken, "ratio": taken, "floor": HELP_S, "better": "lower", "unit": "s"}
    results.add(plain_row("start-up: radit --help", **facts))
    code = f"import sys, radit_ray.core; print(*set({HEAVY!r}) & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    count = len(loaded.stdout.split())
    facts = {"ours": count, "ratio": count, "floor": 0, "better": "lower", "unit": "packages"}
    results.add(plain_row(f"start-up: of {', '.join(HEAVY)} by import radit_ray.core", **facts))
    connect(num_cpus=2)
    try:
        with tempfile.TemporaryDirectory(prefix="radit-bench-") as scratch:
            recipe = recipe_of(f"{scratch}/world")
            pipeline(recipe, Run(recipe, f"{scratch}/run"))
            bound_of = bounds(f"{scratch}/ray")
            for folder in sorted(Path(scratch, "run", "artifacts").iterdir()):
                manifest = read_manifest(str(folder))
                assert manifest is not None
                cost = manifest["cost"]
                outside = cost["wall_s"] - cost.get("device_s", 0.0)
                stage = folder.name.rpartition("-")[0]
                name = f"start-up: {stage} on tiny input, beside its work"
                facts = {"ours": outside, "ratio": outside, "floor": STAGE_S, "better": "lower"}
                row = plain_row(name, **facts, unit="s")
                results.add(with_bound(row, bound_of.get(stage, "")))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
