"""Paired differences of the open questions as tables: intervals over subjects and training seeds,
what a sample of that size would find, and what each contrast says.

In: contrasts as `compared` makes them, {name: {metric: {diff, power}}}. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.intervals import FEW_DIFFERING, FEW_GROUPS
from radit_ray.report.table import difference_text, text_table

METRICS = ("em", "f1", "nll", "recall@1")
JUDGED = ("em", "nll")  # whose contrasts get words
LOWER = ("nll",)  # smaller is better
POWER = ("questions / subjects / seeds", "by seed", "p", "worth finding", "questions that takes")
QUALITY, GAINS = ("better", "worse"), ("gains more", "gains less")


def contrasts_table(contrasts: Mapping[str, Any], metrics: Sequence[str] = METRICS) -> str:
    """Paired differences with intervals over subjects and training seeds."""
    rows = [
        [_plain(name), *(difference_text(weighed(cells.get(metric))) for metric in metrics)]
        for name, cells in contrasts.items()
    ]
    return text_table(["contrast (detectable)", *metrics], rows, True) if rows else ""


def weighed(cell: Mapping[str, Any] | None) -> dict[str, float] | None:
    """A difference with the interval that weighs seeds too; None of a single subject."""
    if cell is None or cell["power"]["low"] is None:
        return None
    found = cell["power"]
    numbers = {"low": found["low"], "high": found["high"], "mde": found["detectable"]}
    return {"diff": cell["diff"], **numbers}


def power_table(contrasts: Mapping[str, Any], metrics: Sequence[str] = JUDGED) -> str:
    """What a sample of these subjects and seeds would find, by contrast; what it says."""
    rows = []
    for name, cells in contrasts.items():
        for metric in metrics:
            if metric in cells:
                found = cells[metric]["power"]
                words = GAINS if ".gain-" in name else QUALITY
                told = verdict(found, words[::-1] if metric in LOWER else words)
                rows.append([_plain(name), metric, *power_cells(found), told])
    head = ["power", "metric", *POWER, "verdict"]
    return text_table(head, rows, True) if rows else ""


def power_cells(found: Mapping[str, Any]) -> list[str]:
    """POWER: sizes, differences by seed, p, worth, questions needed."""
    sizes = [found[name] for name in ("num_questions", "num_groups", "num_seeds")]
    return [
        " / ".join(map(str, sizes)),
        ", ".join(f"{value:+.3f}" for value in found["by_seed"]),
        p_text(found["p"]),
        "-" if found["worth"] is None else f"{found['worth']:g}",
        _needed(found),
    ]


def p_text(p: float | None) -> str:
    """Three digits, or that it is smaller."""
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _needed(found: Mapping[str, Any]) -> str:
    """Questions that show what is worth finding, or why none do; "-" where too few subjects differ
    to tell how much others would.
    """
    if found["worth"] is None or _few(found):
        return "-"
    if found["detectable"] is not None and found["detectable"] <= found["worth"]:
        return "enough"
    if found["needed"] is not None:
        return f"{found['needed']:,}"
    seeds = found["seeds_needed"]
    return "none: the seeds differ by more" if seeds is None else f"none: {seeds} seeds or more"


def verdict(found: Mapping[str, Any], words: Sequence[str]) -> str:
    """What a difference says: `words` (above 0, below 0) where the 95% interval over subjects and
    seeds leaves out 0, whether it can be as large as is worth finding, or why nothing is said.
    """
    if few := _few(found):
        return few
    low, high, worth = found["low"], found["high"], found["worth"]
    small = worth is not None and -worth < low and high < worth
    if low <= 0 <= high:
        told = "no difference worth finding" if small else "undecided"
    else:
        told = words[0 if low > 0 else 1] + (", less than is worth finding" if small else "")
    alone = found["trained"] and found["num_seeds"] == 1
    return f"{told} (one training)" if alone else told


def _few(found: Mapping[str, Any]) -> str:
    """Why nothing is said of other subjects; "" where something is."""
    if found["num_groups"] < FEW_GROUPS:
        return "too few subjects"
    differing = found["num_differing"]
    if differing is None or differing >= FEW_DIFFERING:
        return ""
    return f"{differing or 'no'} subject{'s' * (differing > 1)} differ{'s' * (differing < 2)}"


def _plain(name: str) -> str:
    return name.replace("-minus-", " - ")
