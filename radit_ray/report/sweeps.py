"""A sweep's points as a table, as text and as a page.

In: what `sweep.json` holds. Out: one row a point, one column a variant, each value with its 95%
interval; the differences that the recipe declares; what was best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.table import difference_text, interval_text, text_table

METRICS = ("em", "f1", "nll", "recall@1")


def render(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """A table for each metric, one for each contrast's EM and NLL, and the best values."""
    found: Sequence[Mapping[str, Any]] = results["points"]
    fields = list(dict.fromkeys(name for point in found for name in point["values"]))
    names = list(dict.fromkeys(name for point in found for name in point["variants"]))
    parts = []
    for metric in METRICS:
        shown = [n for n in names if any(metric in p["variants"].get(n, {}) for p in found)]
        if shown:
            rows = [
                [*_values(point, fields)]
                + [interval_text(point["variants"].get(name, {}).get(metric)) for name in shown]
                for point in found
            ]
            parts.append(
                text_table([*(fields or ["point"]), *_headed(shown, metric)], rows, markdown)
            )
    contrasts = list(dict.fromkeys(name for point in found for name in point["contrasts"]))
    for metric in ("em", "nll"):
        if contrasts:
            rows = [
                [*_values(point, fields)]
                + [difference_text(point["contrasts"].get(c, {}).get(metric)) for c in contrasts]
                for point in found
            ]
            head = [f"{name.replace('-minus-', ' - ')} ({metric})" for name in contrasts]
            parts.append(text_table([*(fields or ["point"]), *head], rows, markdown))
    parts.append(best(results))
    return "\n\n".join(part for part in parts if part)


def best(results: Mapping[str, Any]) -> str:
    """One line with the best values by the objectives; "" where nothing was chosen."""
    chosen = [values for values in results["best"] if values]
    if not chosen or len(results["trials"]) < 2:
        return ""
    wanted = ", ".join(f"{name} {way}" for name, way in results["objectives"].items())
    listed = "; ".join(", ".join(f"{n}={v}" for n, v in values.items()) for values in chosen)
    return f"Best by {wanted}: {listed}"


def page(results: Mapping[str, Any]) -> str:
    """The sweep as one Markdown page."""
    made = results["environment"]
    versions = ", ".join(f"{name} {value}" for name, value in made["versions"].items())
    return "\n".join(
        [
            f"# {results['kind']} of {results['recipe']}",
            "",
            f"- command: `{made['command']}`",
            f"- hardware: {made['hardware']}",
            f"- versions: {versions}",
            f"- training seeds: {', '.join(map(str, results['seeds']))}",
            "",
            "Square brackets: 95% bootstrap over groups of questions; `*`: 0 lies outside; round "
            "brackets: the smallest difference that a sample like this finds 4 times in 5.",
            "",
            render(results, markdown=True),
            "",
        ]
    )


def _values(point: Mapping[str, Any], fields: Sequence[str]) -> list[str]:
    return [str(point["values"].get(name, "-")) for name in fields] or ["as it is"]


def _headed(names: Sequence[str], metric: str) -> list[str]:
    return [f"{name} ({metric})" for name in names]
