"""Two ways of doing the same thing, by turns in one run: medians, spread, ratio.

In: two sides, each a call that does the work once and says what it gave and what it took (`timed`
for what runs in this process, `Peer.side` for what runs in a peer's own environment). Out: rows of
a result file as docs/design.md pins them, written after each row.

What is compared is the CPU time of one thread (`--clock cpu`), which other work on the machine
disturbs little; wall seconds stand beside it, and `--clock wall` compares those. The ratio is the
median over the repeats of peer / ours, each pair measured one after the other, the first of a pair
by turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.publish import ROOT, measured_by
from radit_ray.data import storage

RESULTS = ROOT / "benchmarks" / "results"
CACHE = Path(os.environ.get("RADIT_BENCH_CACHE", ROOT / ".bench"))  # environments, models, quick
QUICK = CACHE / "quick"  # results of `--quick`, which are never published
NAIVE = "naive reference"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """One call: what it gave, CPU seconds of its process, wall seconds."""

    result: Any
    cpu_s: float
    wall_s: float


Side = Callable[[], Done]


def timed(work: Callable[[], Any]) -> Side:
    """A side that runs in this process."""

    def side() -> Done:
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Done(
            result=result, cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall
        )

    return side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """Both sides' seconds in one run, repeat by repeat."""

    ours: list[Done]
    peer: list[Done]
    clock: str

    def seconds(self, side: str, clock: str = "") -> list[float]:
        """Of each repeat, by the clock that is compared or another one."""
        return [getattr(done, f"{clock or self.clock}_s") for done in getattr(self, side)]

    def ratios(self, clock: str = "") -> list[float]:
        """peer / ours of each repeat: above 1 where ours is faster."""
        both = zip(self.seconds("peer", clock), self.seconds("ours", clock), strict=True)
        return [peer / ours for peer, ours in both]


def alternate(
    ours: Side, peer: Side, options: argparse.Namespace, check: Callable[[Any, Any], None]
) -> Compared:
    """Runs both once to warm up, lets `check(ours, peer)` compare what they gave, then `repeats`
    times by turns.
    """
    check(ours().result, peer().result)
    found: dict[str, list[Done]] = {"ours": [], "peer": []}
    sides = [("ours", ours), ("peer", peer)]
    for number in range(options.repeats):
        for name, side in sides if number % 2 == 0 else reversed(sides):
            found[name].append(side())
    return Compared(**found, clock=options.clock)


def speed_row(
    name: str, compared: Compared, *, count: float, unit: str, floor: float | None, **more: Any
) -> dict[str, Any]:
    """A row for `count` units of work a call: units a second, more is better."""
    ratios = sorted(compared.ratios())
    seconds = {side: median(compared.seconds(side)) for side in ("ours", "peer")}
    return {
        "name": name,
        "ours": count / seconds["ours"],
        "peer": count / seconds["peer"],
        "ratio": median(ratios),
        "floor": floor,
        "better": "higher",
        "unit": f"{unit}/{'CPU s' if compared.clock == 'cpu' else 's'}",
        "bound": "",
        "spread": [ratios[0], ratios[-1]],
        "repeats": len(ratios),
        "ratio_wall": median(compared.ratios("wall")),
        "ours_s": compared.seconds("ours"),
        "peer_s": compared.seconds("peer"),
        **more,
    }


def plain_row(
    name: str,
    *,
    ours: float,
    ratio: float | None,
    floor: float | None,
    better: str,
    unit: str,
    **more: Any,
) -> dict[str, Any]:
    """A row that is no comparison of two speeds."""
    row = {"name": name, "ours": ours, "peer": None, "ratio": ratio, "floor": floor}
    return row | {"better": better, "unit": unit, "bound": "", **more}


def missing_row(name: str, *, floor: float | None, unit: str, why: str) -> dict[str, Any]:
    """A row whose peer could not be had: it says so, and the others go on."""
    row = {"name": name, "ours": None, "peer": None, "ratio": None, "floor": floor}
    return row | {"better": "higher", "unit": unit, "bound": "", "note": why}


def reached(row: dict[str, Any]) -> bool | None:
    """Whether a row is on the right side of its floor; None where there is nothing to compare."""
    if row["ratio"] is None or row["floor"] is None:
        return None
    if row["better"] == "higher":
        return bool(row["ratio"] >= row["floor"])
    return bool(row["ratio"] <= row["floor"])


def with_bound(row: dict[str, Any], bound: str) -> dict[str, Any]:
    """The row with the sentence that says what bounds it, where its floor is missed."""
    return row if reached(row) is not False else {**row, "bound": bound}


class Results:
    """The result file of one script; each row is written and printed as it comes."""

    def __init__(self, script: str, options: argparse.Namespace) -> None:
        folder = QUICK if options.quick else RESULTS
        on = "" if options.device == "cpu" else f"_{options.device}"
        self.path = options.output or str(folder / f"{script}{on}.json")
        self.file: dict[str, Any] = {
            **measured_by(script),
            "threads": options.threads,
            "clock": options.clock,
            "rows": [],
        }

    def add(self, row: dict[str, Any]) -> None:
        self.file["rows"].append(row)
        storage.write_json(self.path, self.file)
        print(line(row), flush=True)


def line(row: dict[str, Any]) -> str:
    """One row for a person to read."""
    if row["ratio"] is None:
        return f"{row['name']}: {row.get('note', 'not measured')}"
    spread = " ({:.2f} to {:.2f})".format(*row["spread"]) if row.get("spread") else ""
    floor = "" if row["floor"] is None else f", floor {row['floor']:g} ({row['better']})"
    told = {True: "", False: ", MISSED", None: ""}[reached(row)]
    ours = f"{row['ours']:.4g}" if row["ours"] is not None else "-"
    return f"{row['name']}: {row['ratio']:.3g}{spread}{floor}{told}; ours {ours} {row['unit']}"


def options_of(doc: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What every script takes."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, a naive reference")
    parser.add_argument("--peers", choices=("auto", "none"), default="", help="default: auto")
    parser.add_argument("--repeats", type=int, default=0, help="default 5, with --quick 3")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", default="", help="result file")
    options = parser.parse_args(argv)
    options.repeats = options.repeats or (3 if options.quick else 5)
    options.peers = options.peers or ("none" if options.quick else "auto")
    if options.device != "cpu":  # the peers' workers run on CPUs
        options.clock, options.peers = "wall", "none"
    torch.set_num_threads(options.threads)
    if options.device == "cpu":
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as the workers: no thread beside those
    return options
