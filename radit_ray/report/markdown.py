"""The report as Markdown with its pictures beside it: what the page shows, every table in full.

In: what `results.json` and `run.json`, or `sweep.json`, hold; the questions; which PNGs there are.
Out: the text of `report.md`. Pictures are named by their path from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report import figures, points
from radit_ray.report.figures import Figure, Front
from radit_ray.report.html import flat
from radit_ray.report.questions import Card, Side, excerpt, mixed, right, wins
from radit_ray.report.sweeps import NO_CURVE, no_front, render, spent_table, trials_table
from radit_ray.report.table import (
    articles_table,
    contrasts_table,
    how_made,
    r_ft_dev,
    retrieval_table,
    seeds_table,
    stages_table,
    tasks_table,
    text_table,
    truncation_note,
    variants_table,
)
from radit_ray.report.words import sentence

Results = Mapping[str, Any]
FOLDER = "plots"
ABOUT = (
    "em and f1 with KILT's normalisation; nll of the first gold answer under the mixture, nats; "
    "recall of the ranked list. Square brackets: 95% bootstrap over groups of questions; `*`: 0 "
    "lies outside; round brackets: the smallest difference that a sample like this finds 4 times "
    "in 5."
)


def run_figures(results: Results) -> list[Figure]:
    """All that a run has to show, in the order of its page."""
    if not results["variants"]:
        return [figures.stage_times(results)]
    return [
        *figures.contrasts(results),
        *figures.ablation(results),
        *figures.run_fronts(results),
        figures.stage_times(results),
    ]


def sweep_figures(results: Results) -> list[Figure]:
    return [
        *(figure for _, found in points.curves(results) for figure in found),
        *points.fronts(results),
    ]


def run_page(
    results: Results, record: Mapping[str, Any], cards: Sequence[Card], *, plots: bool
) -> str:
    """A run's `report.md`; `plots`: whether the PNGs lie beside it."""
    parts = [f"# RA-DIT: {results['recipe']}", "\n".join(how_made(results))]
    if results["variants"]:
        parts += [
            ABOUT,
            *_halves(results, plots),
            *_variants(results, plots),
            *_answers(results, plots),
            "## Questions, before and after",
            *(map(_card, cards) if cards else ["The run's folder holds no predictions."]),
        ]
    else:
        parts += ["## What R-ft changed", _dev(results)]
    parts += [
        "## Where the time went",
        *_pictures([figures.stage_times(results)], plots),
        stages_table(results, markdown=True),
        "## How it was made",
        _lineage(results),
        *_fields(record),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def sweep_page(results: Results, *, plots: bool) -> str:
    """A sweep's `report.md`."""
    parts = [f"# RA-DIT: {results['kind']} of {results['recipe']}", "\n".join(how_made(results))]
    parts += [ABOUT, "## Curves"]
    drawn = points.curves(results)
    for same, found in drawn:
        parts += [f"### {escaped(same)}"] if same else []
        parts += _pictures(found, plots)
    parts += [] if drawn else [NO_CURVE]
    shown = points.fronts(results)
    parts += ["## What an answer costs", *(_fronts(shown, plots) or [no_front(results)])]
    parts += ["## All numbers", render(results, markdown=True)]
    parts += ["## Where the time went", trials_table(results, markdown=True)]
    parts += [part for part in [spent_table(results, markdown=True)] if part]
    return "\n\n".join(filter(None, parts)) + "\n"


def _pictures(found: Sequence[Figure], plots: bool) -> list[str]:
    """Each figure with its note; nothing where there are no PNGs."""
    if not plots:
        return []
    return [
        f"![{escaped(figure.title)}]({FOLDER}/{figure.file}.png)\n\n*{escaped(figure.note)}*"
        for figure in found
    ]


def _halves(results: Results, plots: bool) -> list[str]:
    if not results["contrasts"]:
        return ["## What each half brought", "This run compares no two variants."]
    told = [
        f"- {sentence(name, metric, cells[metric])}"
        for name, cells in results["contrasts"].items()
        for metric in ("em", "nll", "recall@1")
        if metric in cells
    ]
    parts = ["## What each half brought", "\n".join(told)]
    parts += _pictures(figures.contrasts(results), plots)
    parts.append(contrasts_table(results, markdown=True))
    if len(results.get("by_seed", {})) > 1:
        parts += ["### Every training seed by itself", seeds_table(results, markdown=True)]
    return parts


def _variants(results: Results, plots: bool) -> list[str]:
    parts = ["## All variants", *_pictures(figures.ablation(results), plots)]
    parts += [variants_table(results, markdown=True), truncation_note(results)]
    tasks = results.get("tasks", {})
    if len(tasks) > 1 or any(set(t) - set(results["variants"]) for t in tasks.values()):
        parts += ["### Task by task", tasks_table(results, markdown=True)]
    parts += ["### Retrieval", retrieval_table(results, markdown=True)]
    if results.get("articles"):
        parts += ["### Article by article", articles_table(results, markdown=True)]
    return parts


def _answers(results: Results, plots: bool) -> list[str]:
    shown = figures.run_fronts(results)
    if not shown:
        return []
    rows = [
        [name, f"{spent['device_s']:.4g}", f"{spent['tokens']:.4g}"]
        for name, spent in figures.per_question(results).items()
    ]
    head = ["variant", "device s a question", "tokens a question"]
    return ["## What an answer costs", *_fronts(shown, plots), text_table(head, rows, True)]


def _fronts(shown: Sequence[Front], plots: bool) -> list[str]:
    """Each front as a picture and as a table, cheapest first."""
    parts = []
    for figure in shown:
        rows = [
            [
                escaped(spot.name),
                f"{spot.cost:.4g}",
                f"{spot.cell[0]:.4g} [{spot.cell[1]:.4g}, {spot.cell[2]:.4g}]",
                "yes" if spot.best else "",
            ]
            for spot in figure.spots
        ]
        head = ["", figure.axis, figure.upright, "on the front"]
        parts += [*_pictures([figure], plots), text_table(head, rows, True)]
    return parts


def _card(card: Card) -> str:
    """One question with what two variants saw and said."""
    asked = card.sides[0].prediction
    said = ", ".join(
        f"`{name}` {escaped(row['prediction'] or 'no answer')} {_mark(row)}"
        for name, row in card.said.items()
    )
    parts = [
        f"### {escaped(asked['question'])}",
        f"{escaped(card.title)}. Right answer: **{escaped(asked['answers'][0])}**.",
        *map(_side, card.sides),
        f"Every variant: {said}.",
    ]
    return "\n\n".join(parts)


def _side(side: Side) -> str:
    prediction, ranked = side.prediction, side.ranked
    each = len(prediction["p_r"]) == len(prediction["chunk_ids"])
    alone = prediction["chunk_answers"]
    rows = []
    for place, chunk in enumerate(prediction["chunk_ids"]):
        title, text = (ranked["titles"][place], ranked["texts"][place]) if ranked else (chunk, "")
        own = escaped(alone[place]) if each and place < len(alone) else "-"
        rows.append(
            [
                escaped(title or chunk),
                f"{prediction['p_r'][place]:.3f}" if each else "-",
                f"**{own}** (wins)" if each and wins(prediction, place) else own,
                escaped(excerpt(text, prediction["answers"])),
            ]
        )
    final = f"`{side.variant}` answers **{escaped(prediction['prediction'] or 'no answer')}** "
    shares = ", ".join(f"{escaped(text)} {share:.2g}" for text, share in mixed(prediction))
    table = text_table(["chunk", "p_R", "alone it gives", "text"], rows, True)
    told = f"{final}{_mark(prediction)}"
    return "\n\n".join([told + (f"; under all chunks together: {shares}" if shares else ""), table])


def _mark(row: Mapping[str, Any]) -> str:
    return "✓" if right(dict(row)) else "✗"


def _dev(results: Results) -> str:
    """R-ft on its dev examples."""
    head, rows = r_ft_dev(results)
    return text_table(head, rows, True) if rows else "R-ft was not run."


def _lineage(results: Results) -> str:
    rows = [[name, f"`{s['fingerprint']}`"] for name, s in results["stages"].items()]
    return text_table(["stage", "fingerprint of settings and inputs"], rows, True)


def _fields(record: Mapping[str, Any]) -> list[str]:
    rows = [[f"`{name}`", escaped(value)] for name, value in flat(record["recipe"]).items()]
    return ["### All fields of the recipe", text_table(["field", "value"], rows, True)]


def escaped(text: str) -> str:
    r"""A text of a corpus as text in a Markdown table: no markup, no HTML, one line.

    >>> escaped("a | b\n<b>*c*</b>")
    'a \\| b \\<b\\>\\*c\\*\\</b\\>'
    """
    return re.sub(r"([\\`*_\[\]<>|#~$!&])", r"\\\1", " ".join(text.split()))
