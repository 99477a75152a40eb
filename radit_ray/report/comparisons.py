"""The numbers of a run as HTML: who is who, what each half brought, all variants, tasks, seeds.

In: what `results.json` holds. Out: HTML. Shares are printed as percentages, their differences as
points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.markup import Html, details, join, table, tag
from radit_ray.report.plots import Scale, axis, scale_of, strip
from radit_ray.report.table import truncation_note
from radit_ray.report.words import (
    ABSENT,
    METRICS,
    NO_CHUNKS,
    PARTS,
    TASKS,
    parts_of,
    sentence,
    shown_contrast,
    verdict,
)

Results = Mapping[str, Any]
Cells = Mapping[str, Mapping[str, float]]  # {metric: {value or diff, low, high}}
VERDICTS = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
DOTS = "Dot and line: the difference and its 95% interval; hollow where 0 lies inside."
BANDS = (
    " Grey band and last column: a true difference of this size would be found 4 times in 5; "
    "smaller ones are easily missed with this many questions."
)
MAIN = ("replug", "it-retrieval", "lm-ft", "r-ft", "radit")  # compared article by article


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


def halves(results: Results) -> Html:
    """Every declared contrast in a sentence, then as intervals around 0, metric by metric."""
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
    for metric in ("em", "nll", "recall@1"):
        found = {name: cells[metric] for name, cells in contrasts.items() if metric in cells}
        if found:
            parts += [tag("h3", _titled(metric)), forest(found, metric)]
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
        tag("p", tag("strong", _unbroken(lines[0]))),
        *(tag("p", _unbroken(line), class_="note") for line in lines[1:]),
        class_=f"verdict {found[0]}",
    )


def _unbroken(line: str) -> Html:
    """A sentence whose interval stays on one line."""
    words, bracket, interval = line.partition("[")
    return join([words, tag("span", bracket + interval, class_="unbroken")])


def forest(contrasts: Mapping[str, Mapping[str, float]], metric: str) -> Html:
    """One row a contrast: its difference as a dot with an interval, and the band that the sample
    cannot resolve where `mde` is known.
    """
    shown = METRICS[metric]
    known = all("mde" in cell for cell in contrasts.values())
    edges = [cell[edge] for cell in contrasts.values() for edge in ("low", "high")]
    bands = [sign * c["mde"] for c in contrasts.values() for sign in (-1, 1)] if known else []
    scale = scale_of(value * shown.factor for value in [*edges, *bands])
    rows = []
    for name, cell in contrasts.items():
        label = shown_contrast(name)
        number = shown.number(cell["diff"], "+")
        interval = shown.range(cell["low"], cell["high"], "+")
        row = [
            tag("span", label, class_="name"),
            _strip(cell, "diff", metric, scale, kind=verdict(cell, metric), label=label),
            join([tag("b", number), " ", tag("span", interval, class_="note")]),
        ]
        rows.append([*row, shown.number(cell["mde"])] if known else row)
    sides = ["better", "worse"] if shown.lower_is_better else ["worse", "better"]
    ends = tag("span", tag("span", f"← {sides[0]}"), tag("span", f"{sides[1]} →"), class_="ends")
    head = ["contrast", ends, f"{shown.unit} [95%]"]
    foot = ["", axis(scale, shown.unit), ""]
    return table(
        [*head, "detectable"] if known else head,
        rows,
        label=_titled(metric),
        foot=[*foot, ""] if known else foot,
        texts=2,
        class_="forest",
    )


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
    dotted = [cells["em"] for cells in variants.values() if "em" in cells]
    scale = scale_of(100 * cell["high"] for cell in dotted)
    rows = []
    for name, cells in variants.items():
        plot = Html("")
        if "em" in cells:
            plot = _strip(cells["em"], "value", "em", scale, kind="plain", label=name)
        rows.append(
            [
                tag("span", name, class_="name"),
                *parts_of(name),
                plot,
                *(_value(cells, metric, best[metric]) for metric in metrics),
            ]
        )
    head = ["variant", "LM", "chunks from", "exact match", *map(_column, metrics)]
    foot = ["", "", "", axis(scale, "percent"), *[""] * len(metrics)]
    whole = table(head, rows, label="all variants", texts=4, foot=foot, class_="variants")
    words = (
        f"{results['num_questions']} questions. Brackets: 95% intervals. Bold with a star: best of "
        "the column. NLL in nats, the others in percent. Recall only where chunks are shown. "
        + truncation_note(results)
    )
    return tag("figure", whole, tag("figcaption", words))


def _column(metric: str) -> str:
    return {"em": "exact match, %", "nll": "NLL, nats"}.get(metric, f"{METRICS[metric].name}, %")


def _value(cells: Cells, metric: str, best: float | None = None) -> Html:
    """A number with its interval below; a star where it is the best."""
    cell, shown = cells.get(metric), METRICS[metric]
    if cell is None:
        return Html(ABSENT)
    text = shown.number(cell["value"])
    first = tag("strong", f"★ {text}") if cell["value"] == best else Html(text)
    return join([first, tag("span", shown.range(cell["low"], cell["high"]), class_="under")])


def tasks(results: Results) -> Html:
    """Every task by itself, where there are several or variants that only tasks report."""
    found = results.get("tasks", {})
    only_here = any(set(variants) - set(results["variants"]) for variants in found.values())
    if len(found) < 2 and not only_here:
        return Html("")
    rows, kept = [], []
    for task, variants in found.items():
        for name, cells in variants.items():
            values = [_value(cells, metric) for metric in ("em", "f1", "nll")]
            rows.append([task or "all", tag("span", name, class_="name"), *parts_of(name), *values])
        kept += _still_known(task, variants)
    head = ["task", "variant", "LM", "chunks from", *map(_column, ("em", "f1", "nll"))]
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
        _unbroken(f"{shown.number(c['value'])}% {shown.range(c['low'], c['high'])}")
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
