"""The points of a sweep as figures: a curve where one thing changed, a metric against its cost.

In: what `sweep.json` holds. Out: figures (figures.py). What is measured within one finished run
(chunks, corpus, snapshot) has no cost of its own and no front.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.figures import (
    INTERVAL,
    Curves,
    Front,
    Spot,
    axis_of,
    cell_of,
    counted,
    front,
    plain,
    title_of,
)
from radit_ray.report.words import shown_contrast, si

Results = Mapping[str, Any]
Point = Mapping[str, Any]
SHOWN = ("em", "f1", "nll", "recall@1")
COMPARED = ("em", "nll")
FIELDS = {  # what moved, as an axis says it
    "k_infer": "chunks shown (k)",
    "num_documents": "documents searched",
    "corpus": "corpus searched",
    "cycles": "cycles of LM-ft and R-ft",
    "lm": "base LM (parameters)",
    "retriever": "base retriever",
}


def fields_of(results: Results) -> list[str]:
    return list(dict.fromkeys(name for point in results["points"] for name in point["values"]))


def names_of(found: Sequence[Point], part: str = "variants") -> list[str]:
    """Variants, or contrasts, of any of the points."""
    return list(dict.fromkeys(name for point in found for name in point[part]))


def groups(results: Results) -> list[tuple[str, str, list[Point]]]:
    """(what stayed the same, what changed, points): a curve for each value of the other fields. The
    field that changes is the last one that takes several values.
    """
    found = results["points"]
    several = [f for f in fields_of(results) if len({str(p["values"].get(f)) for p in found}) > 1]
    if "keep_gold" in several:  # two curves over the sizes, not two points a size
        several.remove("keep_gold")
        fixed = [*several[:-1], "keep_gold"]
    else:
        fixed = several[:-1]
    moving = several[-1] if several else ""
    sizes = results.get("parameters", {})
    made: dict[str, list[Point]] = {}
    for point in found:
        same = ", ".join(f"{f}={point['values'].get(f)}" for f in fixed)
        made.setdefault(same, []).append(point)
    return [
        (same, moving, sorted(points, key=lambda p: _by_number(p["values"].get(moving), sizes)))
        for same, points in made.items()
    ]


def _by_number(value: Any, sizes: Mapping[str, int]) -> tuple[bool, float]:
    """Numbers in their order, models by their size, whatever else as it came."""
    try:
        return False, float(sizes.get(value) or value)
    except (TypeError, ValueError):
        return True, 0.0


def curves(results: Results) -> list[tuple[str, list[Curves]]]:
    """(what stayed the same, a figure for each metric, then for each metric's differences)."""
    found = []
    several = len(groups(results)) > 1
    for number, (same, moving, points) in enumerate(groups(results), 1):
        if len(points) < 2:
            continue
        before = f"{number}-" if several else ""
        labels = _labels(results, points, moving)
        about = counted(results) + (f", {same}" if same else "")
        figures = [
            made
            for part, metrics in (("variants", SHOWN), ("contrasts", COMPARED))
            for metric in metrics
            if (made := _curve(points, part, metric, before))
        ]
        axis, note = FIELDS.get(moving, moving), f"{about}. Bands: {INTERVAL}."
        figures = [
            dataclasses.replace(made, axis=axis, labels=labels, note=note) for made in figures
        ]
        found.append((same, figures))
    return found


def _curve(points: Sequence[Point], part: str, metric: str, before: str) -> Curves | None:
    """One metric of every variant, or of every contrast, over the points; None where it is not
    known.
    """
    diff = part == "contrasts"
    key = "diff" if diff else "value"
    series = {
        shown_contrast(name): tuple(_cell(p[part].get(name), metric, key) for p in points)
        for name in names_of(points, part)
    }
    series = {name: line for name, line in series.items() if any(line)}
    if not series:
        return None
    return Curves(
        file=f"curve-{before}{'differences-' if diff else ''}{plain(metric)}",
        title=title_of(metric, diff=diff),
        axis="",
        upright=axis_of(metric, diff=diff),
        labels=(),
        series=series,
        zero=diff,
        note="",
    )


def _cell(cells: Any, metric: str, key: str) -> tuple[float, float, float] | None:
    return cell_of(cells, metric, key) if cells and metric in cells else None


def _labels(results: Results, points: Sequence[Point], moving: str) -> tuple[str, ...]:
    """What stands below the axis; a model with its parameters."""
    values = [str(point["values"][moving]) for point in points]
    sizes = results.get("parameters", {})
    short = ends(values)
    return tuple(
        f"{label} ({si(sizes[value]).replace(' ', chr(0xA0))})" if sizes.get(value) else label
        for label, value in zip(short, values, strict=True)
    )


def ends(values: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell them apart; other values as they are.

    >>> ends(["runs/a/lm-ft/model", "runs/b/lm-ft/model", "10"])
    ['a/lm-ft/model', 'b/lm-ft/model', '10']
    """
    parts = [value.rstrip("/").split("/") for value in values]
    for length in range(1, max(map(len, parts))):
        short = ["/".join(part[-length:]) for part in parts]
        if len(set(short)) == len(set(values)):
            return short
    return list(values)


def fronts(results: Results) -> list[Front]:
    """Exact match and NLL of every trial's variants against device seconds of a question."""
    found = []
    for metric in COMPARED:
        spots = _spots(results, metric)
        if len(spots) > 1:
            found.append(front(spots, metric, counted(results)))
    return found


def _spots(results: Results, metric: str) -> list[Spot]:
    """One a trial and variant; what several trials share (an untuned pair) is one, with all their
    values.
    """
    points = {json.dumps(p["values"], sort_keys=True): p for p in results["points"]}
    trials = [t for t in results["trials"] if json.dumps(t["values"], sort_keys=True) in points]
    labels: dict[tuple[Any, ...], list[str]] = {}
    for trial, label in zip(trials, trial_labels(trials), strict=True):
        point = points[json.dumps(trial["values"], sort_keys=True)]
        for name, cells in point["variants"].items():
            cost = trial["metrics"].get(f"{name}.s_per_question")
            if cost and metric in cells:
                labels.setdefault((name, cost, cell_of(cells, metric)), []).append(label)
    return [
        Spot(series=name, label=" / ".join(filter(None, told)), cost=cost, cell=cell)
        for (name, cost, cell), told in labels.items()
    ]


def trial_labels(trials: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells the trials apart, in short."""
    fields = list(dict.fromkeys(name for trial in trials for name in trial["values"]))
    columns = {
        field: ends([str(trial["values"].get(field, "-")) for trial in trials]) for field in fields
    }
    moved = [field for field, column in columns.items() if len(set(column)) > 1]
    return [
        ", ".join(_told(field, columns[field][row]) for field in moved)
        for row in range(len(trials))
    ]


def _told(field: str, value: str) -> str:
    """A number says what it counts; a name needs no more words.

    >>> _told("k_infer", "5"), _told("lm", "gpt2")
    ('k_infer 5', 'gpt2')
    """
    return f"{field} {value}" if value[:1].isdigit() else value
