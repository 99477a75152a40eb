"""What a run cost as HTML: an answer of every variant against how good it is, and every stage.

In: what `results.json` holds. Out: HTML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.figures import Front, per_question, run_fronts, stage_times
from radit_ray.report.fronts import picture
from radit_ray.report.markup import Html, join, table, tag
from radit_ray.report.plots import bar
from radit_ray.report.words import ABSENT, METRICS, STAGES, seconds, si

Results = Mapping[str, Any]


def answers(results: Results) -> Html:
    """Exact match and NLL against device seconds of a question, as pictures and as a table."""
    costs, shown = per_question(results), run_fronts(results)
    if not shown:
        words = "This run did not record what each variant's answers cost (its evaluate is older)."
        return tag("p", words, class_="note")
    best = {figure.metric: {spot.series for spot in figure.spots if spot.best} for figure in shown}
    rows = []
    for name, spent in sorted(costs.items(), key=lambda item: item[1]["device_s"]):
        cells = results["variants"][name]
        numbers = [
            METRICS[m].number(cells[m]["value"]) if m in cells else ABSENT for m in ("em", "nll")
        ]
        on = ", ".join(metric.upper() for metric, names in best.items() if name in names)
        label = tag("span", name, class_="name")
        spent_s = f"{spent['device_s']:.3g}"
        rows.append([label, on or ABSENT, spent_s, si(spent["tokens"]), *numbers])
    head = ["variant", "on the front of", "device s", "tokens", "exact match, %", "NLL, nats"]
    whole = table(head, rows, label="cost of an answer", texts=2, class_="answers")
    return join([fronts(shown), tag("h3", "What a question costs"), whole])


def fronts(shown: Sequence[Front]) -> Html:
    note = tag("p", shown[0].note, class_="note")
    return join([tag("div", *map(picture, shown), class_="plots"), note])


def times(results: Results) -> Html:
    """Wall seconds, worker seconds, tokens and FLOPs of every stage."""
    plot = stage_times(results)
    costs = {name: stage["cost"] for name, stage in results["stages"].items()}
    longest = max((wall for wall, _ in plot.rows.values()), default=0.0) or 1.0
    rows = []
    for name, (wall_s, device_s) in plot.rows.items():
        wall = seconds(wall_s)
        rows.append(
            [
                tag("span", name, class_="name"),
                STAGES.get(name.rpartition("/")[2], ""),
                bar(wall_s / longest, f"{name}: {wall}"),
                wall,
                seconds(device_s),
                *(
                    si(costs[name][key]) if costs[name].get(key) else ABSENT
                    for key in ("tokens", "flops")
                ),
            ]
        )
    total = {
        key: sum(cost.get(key, 0.0) for cost in costs.values())
        for key in ("wall_s", "device_s", "tokens", "flops")
    }
    foot = ["together", "", "", seconds(total["wall_s"]), seconds(total["device_s"])]
    foot += [si(total["tokens"]), si(total["flops"])]
    head = ["stage", "what it does", "", "wall time", "device time", "tokens", "FLOPs"]
    words = f"{plot.note} FLOPs: estimated from tokens and parameters."
    if len(results["seeds"]) > 1:
        words += (
            f" All {len(results['seeds'])} training seeds together took "
            f"{seconds(results['wall_s'])}, what they share counted once."
        )
    whole = table(head, rows, label="cost of every stage", texts=3, foot=foot, class_="time")
    return tag("figure", whole, tag("figcaption", words))
