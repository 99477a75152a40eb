"""The numbers of a run taken apart, as HTML: by task, by training seed, by article.

In: what `results.json` holds. Out: HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.comparisons import column_of, unbroken, value_of
from radit_ray.report.markup import Html, details, join, table, tag
from radit_ray.report.words import ABSENT, METRICS, TASKS, parts_of, shown_contrast

Results = Mapping[str, Any]
Cells = Mapping[str, Mapping[str, float]]  # {metric: {value or diff, low, high}}
MAIN = ("replug", "it-retrieval", "lm-ft", "r-ft", "radit")  # compared article by article


def tasks(results: Results) -> Html:
    """Every task by itself, where there are several or variants that only tasks report."""
    found = results.get("tasks", {})
    only_here = any(set(variants) - set(results["variants"]) for variants in found.values())
    if len(found) < 2 and not only_here:
        return Html("")
    rows, kept = [], []
    for task, variants in found.items():
        for name, cells in variants.items():
            values = [value_of(cells, metric) for metric in ("em", "f1", "nll")]
            rows.append([task or "all", tag("span", name, class_="name"), *parts_of(name), *values])
        kept += _still_known(task, variants)
    head = ["task", "variant", "LM", "chunks from", *map(column_of, ("em", "f1", "nll"))]
    whole = table(head, rows, label="task by task", texts=4)
    heading = tag("h3", "Task by task")
    headline = results["num_questions"]
    if len(found) > 1 and "variants" in results:
        words = f"The numbers above are those of {headline} questions; here each task by itself."
        kept.insert(0, tag("p", words, class_="note"))
    return join([heading, *kept, details(f"All {len(rows)} rows", whole, is_open=len(rows) < 8)])


def _still_known(task: str, variants: Mapping[str, Cells]) -> list[Html]:
    """What the LM knows by itself, before and after LM-ft, in a sentence."""
    pair = [variants.get(name, {}).get("em") for name in ("closed-book", "lm-ft-closed-book")]
    if pair[0] is None or pair[1] is None:
        return []
    shown = METRICS["em"]
    before, after = (
        unbroken(f"{shown.number(c['value'])}% {shown.range(c['low'], c['high'])}")
        for c in pair
        if c
    )
    told = f" ({TASKS[task]})" if task in TASKS else ""
    which = f"Of the questions of task {task}{told}" if task else "Of the questions"
    about = f"{which}, without any chunk, the base LM answers "
    found = [about, before, " right, after LM-ft ", after]
    found.append(": LM-ft cost knowledge." if pair[1]["high"] < pair[0]["low"] else ".")
    given = [variants.get(name, {}).get("em") for name in ("replug", "lm-ft")]
    if given[0] is not None and given[1] is not None:
        untuned, tuned = (shown.number(cell["value"]) for cell in given if cell)
        found.append(f" With the base retriever's chunks: {untuned}%, after LM-ft {tuned}%.")
    return [tag("p", *found)]


def seeds(results: Results) -> Html:
    """Each training seed's own differences in exact match, where there are several seeds."""
    found = results.get("by_seed", {})
    if len(found) < 2:
        return Html("")
    shown, rows = METRICS["em"], []
    for contrast in results["contrasts"]:
        cells = [seed["contrasts"].get(contrast, {}).get("em") for seed in found.values()]
        above = sum(cell is not None and cell["low"] > 0 for cell in cells)
        texts = [_seed_cell(cell) for cell in cells]
        label = tag("span", shown_contrast(contrast), class_="name")
        rows.append([label, *texts, f"{above} of {len(cells)}"])
    head = ["contrast", *(f"seed {seed}" for seed in found), "lower bound above 0"]
    words = f"Difference in {shown.name}, {shown.unit}, with its 95% interval over questions."
    whole = table(head, rows, label="contrasts by training seed")
    return join([tag("h3", "Every training seed by itself"), tag("p", words), whole])


def _seed_cell(cell: Mapping[str, float] | None) -> Html:
    if cell is None:
        return Html(ABSENT)
    shown = METRICS["em"]
    number = tag("b", shown.number(cell["diff"], "+"))
    return join([number, " ", tag("span", shown.range(cell["low"], cell["high"], "+"))])


def articles(results: Results) -> Html:
    """Plain means article by article, where questions name one."""
    found = results.get("articles", {})
    if not found:
        return Html("")
    names = [name for name in MAIN if name in results["variants"]]
    metrics = ("em", "f1", "nll")
    rows = []
    for article, entry in sorted(found.items()):
        cells: Sequence[Mapping[str, float]] = [entry["variants"].get(name, {}) for name in names]
        numbers = [
            METRICS[metric].number(cell[metric]) if metric in cell else ABSENT
            for cell in cells
            for metric in metrics
        ]
        rows.append([article, str(entry["num_questions"]), *numbers])
    head = ["article", "questions", *(f"{name} {m}" for name in names for m in metrics)]
    whole = table(head, rows, label="article by article")
    note = tag("p", "Means over few questions each, so without intervals.", class_="note")
    return details(f"Article by article ({len(rows)})", note, whole)
