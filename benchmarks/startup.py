"""What stands around the work: `radit --help`, `import radit_ray.core`, and what a stage takes on
tiny input beside its own work.

    python -m benchmarks.startup [--quick]

The stages are those of one `radit run own` with tiny models, in a process whose Ray is up: wall
seconds of each stage less what its workers spent in their work. Training counts its steps as work,
the other stages their shards.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import ray

from benchmarks.reuse import recipe_of
from benchmarks.side_by_side import Results, options_of, plain_row
from radit_ray.data.artifacts import read_manifest
from radit_ray.engines.connect import connect
from radit_ray.pipeline import pipeline
from radit_ray.runs import Run

HELP_S, STAGE_S = 0.5, 10.0
HEAVY = ("transformers", "ray", "faiss", "pyarrow")


def seconds(*command: str, repeats: int) -> float:
    """The median wall seconds of a command."""
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        found.append(time.perf_counter() - start)
    return median(found)


def main() -> None:
    options = options_of(__doc__)
    results = Results("startup", options)
    taken = seconds("-m", "radit_ray.cli", "--help", repeats=options.repeats)
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
            for folder in sorted(Path(scratch, "run", "artifacts").iterdir()):
                manifest = read_manifest(str(folder))
                assert manifest is not None
                cost = manifest["cost"]
                outside = cost["wall_s"] - cost.get("device_s", 0.0)
                name = f"start-up: {folder.name.rpartition('-')[0]} on tiny input, beside its work"
                facts = {"ours": outside, "ratio": outside, "floor": STAGE_S, "better": "lower"}
                results.add(plain_row(name, **facts, unit="s"))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
