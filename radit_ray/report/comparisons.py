"""The numbers of a run as HTML: who is who, what each half brought, all variants.

In: what `results.json` holds. Out: HTML. Shares are printed as percentages, their differences as
points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report import figures
from radit_ray.report.figures import Dots
from radit_ray.report.markup import Html, join, table, tag
from radit_ray.report.plots import Scale, axis, scale_of, strip
from radit_ray.report.table import truncation_note
from radit_ray.report.words import (
    ABSENT,
    METRICS,
    NO_CHUNKS,
    PARTS,
    WHAT,
    parts_of,
    sentence,
    shown_contrast,
    verdict,
)

Results = Mapping[str, Any]
Cells = Mapping[str, Mapping[str, float]]  # {metric: {value or diff, low, high}}
VERDICTS = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
SHOWN = ("closed-book", "replug", "lm-ft", "r-ft", "radit")  # of tasks that do not count
DOTS = "Dot and line: the difference and its 95% interval; hollow where 0 lies inside."
BANDS = (
    " Grey band, and smallest detectable: a true difference of this size would be found 4 times in "
    "5; smaller ones are easily missed with this many questions."
)


def grid(results: Results) -> Html:
    """Who is who: the LM down, what finds its chunks across, exact match and the name inside."""
    known = {name: PARTS[name] for name in results["variants"] if name in PARTS}
    lms = list(dict.fromkeys(lm for lm, _ in known.values()))
    finders = [
        finder
        for finder in (NO_CHUNKS, "base retriever", "R-ft retriever")
        if finder in {found for _, found in known.values()}
    ]
    names = {parts: name for name, parts in known.items()}
    rows = [
        [lm, *(_grid_cell(names.get((lm, finder)), results) for finder in finders)] for lm in lms
    ]
    return tag(
        "figure",
        table(["", *finders], rows, label="variants by LM and retriever", class_="grid"),
        tag(
            "figcaption",
            "Every variant is one LM (rows) with one source of chunks (columns); all answer the "
            "same questions. Large: exact match in percent. R-ft is the step to the right column, "
            "LM-ft the step to the last row.",
        ),
    )


def who(results: Results) -> Html:
    """A sentence for every variant that has one."""
    pairs = [
        tag("div", tag("dt", tag("span", name, class_="name")), tag("dd", WHAT[name]))
        for name in results["variants"]
        if name in WHAT
    ]
    return tag("dl", *pairs, class_="who")


def _grid_cell(name: str | None, results: Results) -> Html:
    if name is None:
        return Html("")
    cells = results["variants"][name]
    parts = [tag("span", name, class_="name")]
    share = 0.0
    if "em" in cells:
        share = cells["em"]["value"]
        parts.insert(0, tag("b", METRICS["em"].number(share)))
    if "nll" in cells:
        parts.append(tag("span", f"NLL {METRICS['nll'].number(cells['nll']['value'])}"))
    return tag("div", *parts, class_="cell", style=f"--share:{share:.3f}")


def halves(results: Results, counted: Sequence[str] = ()) -> Html:
    """Every declared contrast in a sentence, then as intervals around 0, metric by metric. counted:
    the tasks whose questions they are about; empty for all.
    """
    contrasts = results["contrasts"]
    if not contrasts:
        return tag("p", "This run compares no two variants.", class_="note")
    seeds = results["seeds"]
    trained = (
        f"Each question counts with its mean over {len(seeds)} training seeds; below each stands "
        "by itself."
        if len(seeds) > 1
        else "One training seed."
    )
    asked = (
        "Each card compares two variants on the same questions. LM-ft is held against "
        "instruction tuning, the same training without chunks, so that more training alone does "
        "not count as its merit. In brackets: 95% intervals, from drawing groups of questions "
        "(those about one subject or paragraph) again; they speak of other questions, not of other "
        f"trainings. {trained}"
    )
    lines = [_verdict(name, cells) for name, cells in contrasts.items()]
    parts = [tag("p", asked), tag("ul", *lines, class_="verdicts"), _weak_control(results)]
    parts += _other_tasks(results, counted)
    for figure in figures.contrasts(results):
        parts += [tag("h3", _titled(figure.metric)), forest(figure)]
    known = any("mde" in cell for cells in contrasts.values() for cell in cells.values())
    return join([*parts, tag("p", DOTS + BANDS * known, class_="note")])


def _weak_control(results: Results) -> Html:
    """Where instruction tuning cost the control more than it brought, LM-ft is easy to beat it."""
    names = ("it-retrieval", "replug", "lm-ft")
    cells = [results["variants"].get(name, {}).get("em") for name in names]
    if any(cell is None for cell in cells) or cells[0]["high"] >= cells[1]["low"]:
        return Html("")
    control, untuned, tuned = (METRICS["em"].number(cell["value"]) for cell in cells)
    gain = METRICS["em"].number(cells[2]["value"] - cells[1]["value"], "+")
    words = (
        f"Read LM-ft's card with care: tuned without chunks, the control ({control}%) reads them "
        f"worse than the untuned LM does ({untuned}%). Against the untuned LM with the same chunks "
        f"LM-ft ({tuned}%) makes a difference of {gain} points."
    )
    return tag("p", words)


def _other_tasks(results: Results, counted: Sequence[str]) -> list[Html]:
    """Tasks that were asked and do not count above: what the whole and its parts did there."""
    found = []
    for task, variants in results.get("tasks", {}).items():
        if not counted or task in counted:
            continue
        values = ", ".join(
            f"{name} {METRICS['em'].number(variants[name]['em']['value'])}"
            for name in SHOWN
            if "em" in variants.get(name, {})
        )
        words = (
            f"Not counted above: the questions of task {task}, exact match in percent: {values}. "
            'All its numbers stand under "All variants".'
        )
        found.append(tag("p", words))
    return found


def _titled(metric: str) -> str:
    shown = METRICS[metric]
    better = "lower" if shown.lower_is_better else "higher"
    return f"Difference in {shown.name}, {shown.unit}; {better} is better"


def _verdict(contrast: str, cells: Cells) -> Html:
    known = [metric for metric in ("em", "nll", "recall@1") if metric in cells]
    if not known:
        return Html("")
    found = [verdict(cells[metric], metric) for metric in known]
    lines = [sentence(contrast, metric, cells[metric]) for metric in known]
    return tag(
        "li",
        tag("span", f"{METRICS[known[0]].name}: {VERDICTS[found[0]]}", class_="badge"),
        tag("p", tag("strong", unbroken(lines[0]))),
        *(tag("p", unbroken(line), class_="note") for line in lines[1:]),
        class_=f"verdict {found[0]}",
    )


def unbroken(line: str) -> Html:
    """A sentence whose interval stays on one line."""
    words, bracket, interval = line.partition("[")
    return join([words, tag("span", bracket + interval, class_="unbroken")])


def forest(figure: Dots) -> Html:
    """One row a contrast: its difference as a dot with an interval, and the band that the sample
    cannot resolve where `mde` is known.
    """
    contrasts, shown, known = figure.cells, METRICS[figure.metric], figure.bands
    scale = dots_scale(figure)
    rows = []
    for name, cell in contrasts.items():
        label = shown_contrast(name)
        number = shown.number(cell["diff"], "+")
        interval = shown.range(cell["low"], cell["high"], "+")
        kind = verdict(cell, figure.metric)
        row = [
            tag("span", label, class_="name"),
            _strip(cell, "diff", figure.metric, scale, kind=kind, label=label),
            join([tag("b", number), " ", tag("span", interval, class_="note")]),
        ]
        rows.append([*row, shown.number(cell["mde"])] if known else row)
    sides = ["better", "worse"] if shown.lower_is_better else ["worse", "better"]
    ends = tag("span", tag("span", f"← {sides[0]}"), tag("span", f"{sides[1]} →"), class_="ends")
    head = ["contrast", ends, f"{shown.unit} [95%]"]
    foot = ["", axis(scale, shown.unit), ""]
    return table(
        [*head, "smallest detectable"] if known else head,
        rows,
        label=_titled(figure.metric),
        foot=[*foot, ""] if known else foot,
        texts=2,
        class_="forest",
    )


def dots_scale(figure: Dots) -> Scale:
    """From the lowest to the highest edge of all intervals and bands, in the unit shown."""
    edges = [cell[edge] for cell in figure.cells.values() for edge in ("low", "high")]
    bands = [sign * c.get("mde", 0.0) for c in figure.cells.values() for sign in (-1, 1)]
    factor = METRICS[figure.metric].factor
    return scale_of(value * factor for value in [*edges, *(bands if figure.bands else [])])


def _strip(
    cell: Mapping[str, float], key: str, metric: str, scale: Scale, *, kind: str, label: str
) -> Html:
    shown = METRICS[metric]
    low, value, high = (cell[name] * shown.factor for name in ("low", key, "high"))
    sign = "+" if key == "diff" else ""
    spoken = (
        f"{label}: {shown.number(cell[key], sign)} {shown.unit}, 95% interval "
        f"{shown.number(cell['low'], sign)} to {shown.number(cell['high'], sign)}"
    )
    band = cell.get("mde", 0.0) * shown.factor
    return strip(low, value, high, scale, kind=kind, label=spoken, band=band)


def ablation(results: Results) -> Html:
    """All variants with all metrics, the best of each column marked; exact match also as dots."""
    variants = results["variants"]
    metrics = [name for name in METRICS if any(name in cells for cells in variants.values())]
    best = {}
    for metric in metrics:
        values = [cells[metric]["value"] for cells in variants.values() if metric in cells]
        best[metric] = (min if METRICS[metric].lower_is_better else max)(values)
    dots = {figure.metric: figure for figure in figures.ablation(results)}
    scale = dots_scale(dots["em"]) if "em" in dots else scale_of([])
    rows = []
    for name, cells in variants.items():
        plot = Html("")
        if "em" in dots and name in dots["em"].cells:
            plot = _strip(dots["em"].cells[name], "value", "em", scale, kind="plain", label=name)
        rows.append(
            [
                tag("span", name, class_="name"),
                *parts_of(name),
                plot,
                *(value_of(cells, metric, best[metric]) for metric in metrics),
            ]
        )
    head = ["variant", "LM", "chunks from", "exact match", *map(column_of, metrics)]
    foot = ["", "", "", axis(scale, "percent"), *[""] * len(metrics)]
    whole = table(head, rows, label="all variants", texts=4, foot=foot, class_="variants")
    words = (
        f"{results['num_questions']} questions. Brackets: 95% intervals. Bold with a star: best of "
        "the column. NLL in nats, the others in percent. Recall only where chunks are shown. "
        + truncation_note(results)
    )
    return tag("figure", whole, tag("figcaption", words))


def column_of(metric: str) -> str:
    return {"em": "exact match, %", "nll": "NLL, nats"}.get(metric, f"{METRICS[metric].name}, %")


def value_of(cells: Cells, metric: str, best: float | None = None) -> Html:
    """A number with its interval below; a star where it is the best."""
    cell, shown = cells.get(metric), METRICS[metric]
    if cell is None:
        return Html(ABSENT)
    text = shown.number(cell["value"])
    first = tag("strong", f"★ {text}") if cell["value"] == best else Html(text)
    return join([first, tag("span", shown.range(cell["low"], cell["high"]), class_="under")])
