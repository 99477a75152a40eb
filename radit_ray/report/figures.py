"""What is plotted, once: the page draws these as SVG (curves.py, fronts.py, comparisons.py), the
PNGs are drawn from the same values (pictures.py), and report.md prints the same notes.

In: what `results.json` or `sweep.json` holds. Out: figures with their titles, axes and notes. Each
says how many questions stand behind it and what its lines and bands are.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from radit_ray.report.words import METRICS, seconds

Results = Mapping[str, Any]
Cell = tuple[float, float, float]  # value, low, high, in the unit of the axis

NUM_COLOURS, NUM_MARKS = 6, 6  # in page.css, pictures.py and frames.py; the colours are apart from
# each other for colour-blind readers too
INTERVAL = "95% interval (bootstrap over groups of questions)"
SAME_COST = 1.1  # factor; timings of the same work differ by so much from run to run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Look:
    """Colour, mark and dash of one line."""

    colour: int
    mark: int
    dashed: bool


KNOWN = {  # variant -> colour, mark, dashed (those without chunks): the same in every plot
    "replug": Look(colour=0, mark=0, dashed=False),
    "replug-5shot": Look(colour=5, mark=4, dashed=False),
    "closed-book": Look(colour=0, mark=4, dashed=True),
    "it": Look(colour=1, mark=3, dashed=True),
    "it-retrieval": Look(colour=1, mark=1, dashed=False),
    "lm-ft": Look(colour=3, mark=2, dashed=False),
    "lm-ft-closed-book": Look(colour=3, mark=1, dashed=True),
    "r-ft": Look(colour=2, mark=3, dashed=False),
    "radit": Look(colour=4, mark=5, dashed=False),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dots:
    """Numbers with their intervals, a row each."""

    file: str  # of the PNG, without its end
    title: str
    metric: str
    cells: Mapping[str, Mapping[str, float]]  # {label: {"value" or "diff", low, high[, mde]}}
    note: str

    @property
    def key(self) -> str:
        return "diff" if any("diff" in cell for cell in self.cells.values()) else "value"

    @property
    def bands(self) -> bool:
        """Whether each row knows the smallest difference that would be found."""
        return all("mde" in cell for cell in self.cells.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curves:
    """Lines with bands over what was changed step by step, None where a line has no value."""

    file: str
    title: str
    axis: str  # below
    upright: str  # at the left
    labels: tuple[str, ...]
    series: Mapping[str, tuple[Cell | None, ...]]
    note: str
    zero: bool = False  # whether 0 is worth a line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spot:
    """One variant's metric and cost; `best`: none is as good for less, or better for as much."""

    series: str
    label: str  # of the trial; "" in a run
    cost: float
    cell: Cell
    best: bool = False

    @property
    def name(self) -> str:
        return f"{self.series}, {self.label}" if self.label else self.series


@dataclasses.dataclass(frozen=True, kw_only=True)
class Front:
    """A metric against its cost, with the Pareto front, cheapest first."""

    file: str
    title: str
    metric: str
    axis: str
    upright: str
    spots: tuple[Spot, ...]
    note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bars:
    """Seconds of every stage: by the clock, and of all workers added up."""

    file: str
    title: str
    rows: Mapping[str, tuple[float, float]]
    note: str


Figure = Dots | Curves | Front | Bars


def looks(names: Iterable[str]) -> dict[str, Look]:
    """How each line looks: a known variant always the same, others in the colours that are left.

    >>> looks(["radit", "a-minus-b"])["a-minus-b"]
    Look(colour=0, mark=1, dashed=False)
    """
    every = list(dict.fromkeys(names))
    taken = {KNOWN[name].colour for name in every if name in KNOWN}
    free = [colour for colour in range(NUM_COLOURS) if colour not in taken]
    others = itertools.cycle(free or range(NUM_COLOURS))
    found: dict[str, Look] = {}
    for number, name in enumerate(every):
        if name in KNOWN:
            found[name] = KNOWN[name]
            continue
        colour = next(others)
        again = any(look.colour == colour for look in found.values())  # the second one is dashed
        found[name] = Look(colour=colour, mark=number % NUM_MARKS, dashed=again)
    return found


def axis_of(metric: str, *, diff: bool = False) -> str:
    """
    >>> axis_of("em"), axis_of("nll", diff=True)
    ('exact match, %', 'difference in NLL of the right answer, nats')
    """
    shown = METRICS[metric]
    unit = shown.unit if diff or shown.unit != "points" else "%"
    return f"{'difference in ' if diff else ''}{shown.name}{',' if unit else ''} {unit}"


def better(metric: str) -> str:
    return "lower is better" if METRICS[metric].lower_is_better else "higher is better"


def counted(results: Results) -> str:
    """What the numbers stand for, of a run or a sweep.

    >>> counted({"recipe": "demo", "num_questions": 2566, "seeds": [0]})
    'demo: 2,566 questions, 1 training seed'
    """
    seeds = len(results["seeds"])
    # a trial that was stopped early has a point without questions
    of_points = [point["num_questions"] for point in results.get("points", ())]
    count = results.get("num_questions", max(of_points, default=0))
    told = f"{count:,} questions, {seeds} training seed{'s' if seeds > 1 else ''}"
    return f"{results['recipe']}: {told}"


def title_of(metric: str, *, diff: bool = False) -> str:
    name = METRICS[metric].name
    shown = f"Difference in {name}" if diff else name[0].upper() + name[1:]
    return f"{shown} ({better(metric)})"


def plain(name: str) -> str:
    """A name as part of a file's name.

    >>> plain("recall@1"), plain("r_ft.lr=1e-4")
    ('recall-1', 'r_ft.lr-1e-4')
    """
    return re.sub(r"[^\w.]+", "-", name).strip("-")


# --- of a run ---


def contrasts(results: Results) -> list[Dots]:
    """The declared differences around 0, metric by metric."""
    found = []
    for metric in ("em", "nll", "recall@1"):
        cells = {n: c[metric] for n, c in results["contrasts"].items() if metric in c}
        if cells:
            made = Dots(
                file=f"contrasts-{plain(metric)}",
                title=title_of(metric, diff=True),
                metric=metric,
                cells=cells,
                note="",
            )
            found.append(dataclasses.replace(made, note=_dots_note(made, results)))
    return found


def _dots_note(figure: Dots, results: Results) -> str:
    band = (
        " Grey band: a true difference inside it is easily missed (found less than 4 times in 5)."
        if figure.bands
        else ""
    )
    if figure.key == "value":
        return f"{counted(results)}. Dot and line: value and {INTERVAL}."
    return (
        f"{counted(results)}. Dot and line: difference and {INTERVAL}; hollow where 0 lies inside."
        f"{band}"
    )


def ablation(results: Results) -> list[Dots]:
    """Every variant's exact match and NLL."""
    found = []
    for metric in ("em", "nll"):
        cells = {n: c[metric] for n, c in results["variants"].items() if metric in c}
        if cells:
            made = Dots(
                file=f"variants-{plain(metric)}",
                title=title_of(metric),
                metric=metric,
                cells=cells,
                note="",
            )
            found.append(dataclasses.replace(made, note=_dots_note(made, results)))
    return found


def per_question(results: Results) -> dict[str, dict[str, float]]:
    """{variant: device seconds and tokens of a question}. A variant that another one's answers gave
    for nothing (one that differs in k alone) has no cost of its own and is left out.
    """
    return {
        name: {what: spent[what] / spent["questions"] for what in ("device_s", "tokens")}
        for name, spent in results.get("cost", {}).items()
        if name in results["variants"] and spent["questions"] and spent["device_s"]
    }


def run_fronts(results: Results) -> list[Front]:
    """Exact match and NLL of the variants against device seconds of a question."""
    costs = per_question(results)
    found = []
    for metric in ("em", "nll"):
        spots = [
            Spot(series=name, label="", cost=costs[name]["device_s"], cell=cell_of(cells, metric))
            for name, cells in results["variants"].items()
            if name in costs and metric in cells
        ]
        if len(spots) > 1:
            found.append(front(spots, metric, counted(results)))
    return found


def stage_times(results: Results) -> Bars:
    """Where the time went, stage by stage, of the first training seed."""
    costs = {name: stage["cost"] for name, stage in results["stages"].items()}
    seeds = results["seeds"]
    which = f"Training seed {seeds[0]} of {len(seeds)}. " if len(seeds) > 1 else ""
    taken = sum(cost.get("reused_device_s", 0.0) for cost in costs.values())
    older = (
        f" Answers of earlier evaluations took {seconds(taken)} then, not shown." if taken else ""
    )
    return Bars(
        file="time",
        title="Where the time went",
        rows={name: (cost["wall_s"], cost.get("device_s", 0.0)) for name, cost in costs.items()},
        note=f"{results['recipe']}. {which}Wall: from the stage's start to its end. Device: all "
        f"its workers added up.{older} {results['environment']['hardware']}.",
    )


# --- of both ---


def cell_of(cells: Mapping[str, Mapping[str, float]], metric: str, key: str = "value") -> Cell:
    """In the unit of the axis."""
    factor = METRICS[metric].factor
    cell = cells[metric]
    return factor * cell[key], factor * cell["low"], factor * cell["high"]


def front(spots: Sequence[Spot], metric: str, about: str) -> Front:
    """The figure of some spots, those on the Pareto front marked."""
    lower = METRICS[metric].lower_is_better
    return Front(
        file=f"front-{plain(metric)}",
        title=f"{title_of(metric)} against its cost",
        axis="device seconds of answering a question",
        upright=axis_of(metric),
        metric=metric,
        spots=tuple(pareto(spots, lower_is_better=lower)),
        note=f"{about}. Bars: {INTERVAL}. Line and full marks: the Pareto front, by the values "
        f"themselves; costs less than {SAME_COST - 1:.0%} apart count as equal. Cost: seconds of "
        "all workers; finding the chunks is not in it.",
    )


def pareto(spots: Sequence[Spot], *, lower_is_better: bool) -> list[Spot]:
    """The spots, cheapest first, with those marked that no other one beats: as good or better for
    as much or less, and one of both truly. Costs within SAME_COST are as much.
    """
    sign = -1.0 if lower_is_better else 1.0

    def beats(a: Spot, b: Spot) -> bool:
        gain = sign * (a.cell[0] - b.cell[0])
        if gain < 0 or a.cost > b.cost * SAME_COST:
            return False
        return gain > 0 or a.cost * SAME_COST < b.cost

    marked = [
        dataclasses.replace(spot, best=not any(beats(other, spot) for other in spots))
        for spot in spots
    ]
    return sorted(marked, key=lambda spot: (spot.cost, -sign * spot.cell[0]))
