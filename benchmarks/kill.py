"""Kill it: every stage, kill -9 of a worker, of the driver or of all at once at seeded moments, the
same command again, and the result beside that of an uninterrupted run.

In: nothing; the tiny chain is made in `--output`. Out: benchmarks/results/kill.json and the part of
docs/results/kill.md below its marker. A moment is a number of committed shards (steps of a
training, artifacts of a sweep) and a part of the time one takes, so a seed gives the same moments
on any machine.

    python -m benchmarks.kill                          # 27 kills: each stage, each kind
    python -m benchmarks.kill --kills 3 --stages embed,lm-ft
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
from safetensors import safe_open

from benchmarks.nodes import Nodes, cluster, stage_workers
from benchmarks.publish import ROOT, measured_by, write_below
from benchmarks.tiny_chain import EVERY, STAGES, build
from radit_ray.data import storage
from radit_ray.data.artifacts import read_manifest
from radit_ray.report.table import text_table

FILE = ROOT / "benchmarks" / "results" / "kill.json"
PAGE = ROOT / "docs" / "results" / "kill.md"
KINDS = ("worker", "driver", "machine")  # machine: the driver and its whole cluster
TRAININGS = ("lm-ft", "r-ft")
LEAVES = (*TRAININGS, "evaluate", "sweep")  # that no other stage reads
TIMEOUT_S = 3000.0  # of one command, on a machine with other work to do
LATEST = 0.6  # of all units: a kill after the last one kills nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a stage has come: what is committed (file -> stamp), and a training's steps."""

    units: int
    committed: dict[str, tuple[int, int]]
    step: int = 0
    checkpoint: int = 0


def progress(stage: str, output: str) -> Progress:
    """Where a stage stands, from its folder alone."""
    root = Path(output)
    if stage in TRAININGS:
        seen = root / "resume" / "progress.json"
        step = 0
        with contextlib.suppress(OSError, ValueError):  # between two steps
            step = int(json.loads(seen.read_text())["step"])
        kept = [n for n in storage.list_folders(f"{output}/resume") if n.startswith("step-")]
        newest = max((int(name.removeprefix("step-")) for name in kept), default=0)
        return Progress(units=step, committed={}, step=step, checkpoint=newest)
    if stage == "sweep":
        files = root.glob("artifacts/*/manifest.json")
    else:
        sidecars = storage.list_files(f"{output}/committed")
        names = (name.removesuffix(".json").replace("--", "/") for name in sidecars)
        # an index shard is committed with its second file; the chunks are the first
        files = (root / name for name in names if not name.endswith(".arrow"))
    stamps = {str(file): stamp(file) for file in files}
    return Progress(units=len(stamps), committed=stamps)


def stamp(file: Path) -> tuple[int, int]:
    """What a second write of a file changes."""
    with contextlib.suppress(OSError):
        found = file.stat()
        return found.st_mtime_ns, found.st_ino
    return 0, 0


def num_units(stage: str, whole: str) -> tuple[int, float]:
    """(units of the uninterrupted run, seconds of one)."""
    if stage == "sweep":
        return len(list(Path(whole).glob("artifacts/*/manifest.json"))), 3.0
    manifest = read_manifest(whole)
    assert manifest is not None, whole
    if stage in TRAININGS:
        steps = int(manifest["config"].get("steps") or manifest["metrics"]["steps"])
        return steps, manifest["cost"]["device_s"] / steps
    data = [file for file in manifest["files"] if file["name"].endswith((".parquet", ".faiss"))]
    return len(data), manifest["cost"]["device_s"] / len(data)


def difference(stage: str, whole: str, output: str) -> float:
    """0 where the result is that of the uninterrupted run, bit for bit; otherwise the largest
    difference of two weights of a training, the share of other files or points of anything else.
    """
    if stage in TRAININGS:
        return max(
            furthest(file, Path(output, file.relative_to(whole)))
            for file in Path(whole).rglob("model.safetensors")
        )
    one, other = results(stage, whole), results(stage, output)
    return sum(a != b for a, b in itertools.zip_longest(one, other)) / max(len(one), len(other))


def results(stage: str, output: str) -> list[Any]:
    """What two runs must have in common, part by part."""
    if stage == "sweep":
        return list(storage.read_json(f"{output}/sweep.json")["points"])
    manifest = read_manifest(output)
    assert manifest is not None, output
    metrics = ("variants", "contrasts", "t_r", "recall@1", "num_chunks")
    return [*manifest["files"], *(manifest["metrics"].get(name) for name in metrics)]


def furthest(one: Path, other: Path) -> float:
    """Largest difference of two files of weights."""
    with safe_open(one, framework="pt") as a, safe_open(other, framework="pt") as b:
        assert set(a.keys()) == set(b.keys()), other
        return max(
            float((a.get_tensor(name).float() - b.get_tensor(name).float()).abs().max())
            for name in a.keys()  # noqa: SIM118 - a safetensors handle, not a dict
        )


def command(stage: str, folder: str, output: str, **options: Any) -> list[str]:
    """What makes one stage, and makes it again."""
    words = [sys.executable, "-m", "benchmarks.tiny_chain", folder, "--stages", stage]
    words += ["--output", output]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return words


def complete(words: Sequence[str], env: dict[str, str]) -> None:
    """Runs a command to its end; RuntimeError with its last words where it fails."""
    done = subprocess.run(
        words, cwd=ROOT, env=env, timeout=TIMEOUT_S, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words[3:])}: {done.stderr[-2000:]}")


def ends_well(driver: subprocess.Popen[bytes]) -> bool:
    """Whether a command went on by itself; one that hangs is killed."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        return driver.wait(TIMEOUT_S) == 0
    driver.kill()
    driver.wait()
    return False


def prepare(folder: str, stages: Sequence[str], nodes: Nodes) -> None:
    """The world, the models, and every stage uninterrupted, each once."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    build(folder)
    needed = [s for s in STAGES if s not in LEAVES or s in stages]
    last = max(needed.index(stage) for stage in stages)
    for stage in needed[: last + 1]:
        made = f"{folder}/whole/{stage}"
        finished = "sweep.json" if stage == "sweep" else "manifest.json"
        if not os.path.exists(f"{made}/{finished}"):
            complete(command(stage, folder, f"{folder}/whole"), nodes.driver)


def kill_once(
    stage: str, kind: str, folder: str, nodes: Nodes, chance: random.Random
) -> dict[str, Any]:
    """One kill and what came of it: a row of the log."""
    whole = f"{folder}/whole/{stage}"
    units, unit_s = num_units(stage, whole)
    after, part = chance.randrange(1, max(2, int(LATEST * units))), chance.random()
    pick, place = chance.random(), f"{folder}/killed/{stage}-{kind}-{chance.randrange(10**6):06d}"
    output = f"{place}/{stage}"
    shutil.rmtree(place, ignore_errors=True)  # of an earlier call
    words = command(stage, folder, place)
    env = nodes.driver if kind != "machine" else nodes.environment
    driver = subprocess.Popen(
        words, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    family = wait_until(driver, lambda: progress(stage, output).units >= after)
    time.sleep(part * unit_s)
    victims = family if kind == "machine" else [psutil.Process(driver.pid)]
    if kind == "worker":
        working = stage_workers(nodes.processes()["head"])
        victims = sorted(working, key=lambda one: one.pid)[int(pick * len(working)) :][:1]
    at = progress(stage, output)
    for victim in victims:
        with contextlib.suppress(psutil.Error):
            victim.kill()
    if kind != "worker":
        driver.wait()
        psutil.wait_procs(victims, timeout=30)
    went_on = kind == "worker" and ends_well(driver)
    too_late = not victims or (kind != "worker" and finished(stage, output))
    started = time.monotonic()
    complete(words, nodes.driver)
    redone = sum(stamp(Path(file)) != before for file, before in at.committed.items())
    furthest_off = difference(stage, whole, output)
    row = {
        "name": f"{stage}: {kind} after {at.units} of {units}",
        "stage": stage,
        "killed": "nothing, it came too late" if too_late else kind,
        "moment": f"{after} committed and {part:.2f} of the next",
        "committed": at.checkpoint if stage in TRAININGS else at.units,
        "redone": redone,
        "equal": furthest_off == 0.0,
        "difference": furthest_off,
        "went_on": went_on,
        "rerun_s": time.monotonic() - started,
    }
    return row | repeated(stage, at, redone)


def repeated(stage: str, at: Progress, redone: int) -> dict[str, Any]:
    """How much was done twice, in the unit of resuming: what was under way counts as whole."""
    if stage in TRAININGS:
        share = (at.step + 1 - at.checkpoint) / EVERY
        unit = "checkpoint intervals"
    else:
        share, unit = float(redone + 1), "shards" if stage != "sweep" else "artifacts"
    return {
        "ours": share,
        "peer": None,
        "ratio": share,
        "floor": 1.0,
        "better": "lower",
        "unit": f"{unit} done again",
    }


def finished(stage: str, output: str) -> bool:
    """Whether nothing is left to do."""
    return os.path.exists(f"{output}/{'sweep' if stage == 'sweep' else 'manifest'}.json")


def wait_until(
    driver: subprocess.Popen[bytes], reached: Callable[[], bool]
) -> list[psutil.Process]:
    """Returns the driver and all it started once `reached()` or the driver has ended."""
    family = [psutil.Process(driver.pid)]
    end, look = time.monotonic() + TIMEOUT_S, 0.0
    while not reached() and driver.poll() is None:
        if time.monotonic() > end:
            driver.kill()
            raise RuntimeError(f"nothing to kill after {TIMEOUT_S:.0f} s")
        if time.monotonic() > look:  # workers run on for a while after their driver is gone
            with contextlib.suppress(psutil.Error):
                family = [family[0], *family[0].children(recursive=True)]
            look = time.monotonic() + 0.3
        time.sleep(0.004)
    with contextlib.suppress(psutil.Error):
        family = [family[0], *family[0].children(recursive=True)]
    return family


def plan(stages: Sequence[str], num_kills: int) -> list[tuple[str, str]]:
    """(stage, kind) of each kill: stages in turn, so that a few kills already reach many of them,
    and all kinds of each stage after three rounds.
    """
    turns = (divmod(number, len(stages)) for number in range(num_kills))
    return [(stages[stage], KINDS[(turn + stage) % len(KINDS)]) for turn, stage in turns]


def page(found: dict[str, Any]) -> str:
    """The log as Markdown."""
    rows = found["rows"]
    real = [row for row in rows if row["killed"] in KINDS]
    exact = sum(row["equal"] for row in real)
    parts = [
        f"`{found['command']}`, commit {found['commit']}, {found['hardware']}.",
        f"{len(real)} kills; {exact} results equal to the uninterrupted one bit for bit, the "
        f"largest difference {max((row['difference'] for row in real), default=0.0):g}; committed "
        f"shards done again: {sum(row['redone'] for row in real)}; most that was repeated: "
        f"{max((row['ours'] for row in real), default=0.0):.1f} shards or checkpoint intervals "
        f"(what was under way counts as whole). After a killed worker the same command went on in "
        f"{sum(row['went_on'] for row in real)} of "
        f"{sum(row['killed'] == 'worker' for row in real)} cases.",
        text_table(
            ["stage", "killed", "moment", "committed", "redone", "repeated", "equal", "rerun s"],
            [
                [
                    row["stage"],
                    row["killed"],
                    row["moment"],
                    str(row["committed"]),
                    str(row["redone"]),
                    f"{row['ours']:.1f} {row['unit'].removesuffix(' done again')}",
                    "yes" if row["equal"] else f"{row['difference']:g}",
                    f"{row['rerun_s']:.0f}",
                ]
                for row in rows
            ],
            markdown=True,
        ),
    ]
    return "\n\n".join(parts)


class Log:
    """The rows so far, kept below the chain: a call that was cut off goes on behind them, with
    rows of the same command and commit (none where that is changed by hand).
    """

    def __init__(self, script: str, folder: str) -> None:
        made = measured_by(script)
        asked = hashlib.sha256(f"{made['commit']} {made['command']}".encode()).hexdigest()[:8]
        self.file = f"{folder}/rows-{asked}.json"
        self.rows: list[dict[str, Any]] = []
        known = os.path.exists(self.file) and not made["commit"].endswith("-dirty")
        self.kept = storage.read_json(self.file) if known else []

    def add(self, make: Callable[[], dict[str, Any]]) -> None:
        """The next row: the one that is kept, or a new one."""
        number = len(self.rows)
        self.rows.append(self.kept[number] if number < len(self.kept) else make())
        print(json.dumps(self.rows[-1]), flush=True)
        if number >= len(self.kept):
            storage.write_json(self.file, self.rows)

    def close(self) -> None:
        """Forgets them once they are published: the same command measures anew."""
        storage.remove(self.file)


def publish(
    found: dict[str, Any], file: Path, page_file: Path, render: Callable[[dict[str, Any]], str]
) -> str:
    """Writes the JSON, and the page below its marker; returns the page's part."""
    found = {**measured_by(file.stem), **found}
    storage.write_json(str(file), found)
    write_below(page_file, render(found))
    return render(found)


def main() -> None:
    parser = argparse.ArgumentParser(description="kill every stage at random moments")
    parser.add_argument("--kills", type=int, default=3 * len(STAGES))
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default="runs/kill", help="the chain, kept between calls")
    args = parser.parse_args()
    stages, folder = args.stages.split(","), str(Path(args.output).resolve())
    with cluster(head_cpus=2) as nodes:
        prepare(folder, stages, nodes)
        log = Log("kill", folder)
        for number, (stage, kind) in enumerate(plan(stages, args.kills)):
            chance = random.Random(args.seed * 1000 + number)
            log.add(functools.partial(kill_once, stage, kind, folder, nodes, chance))
    print(publish({"seed": args.seed, "rows": log.rows}, FILE, PAGE, page))
    log.close()


if __name__ == "__main__":
    main()
