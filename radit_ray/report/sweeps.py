"""A sweep's points as tables and as curves: text, Markdown, and one self-contained page.

In: what `sweep.json` holds. Out: one row a point, one column a variant, each value with its 95%
interval; the differences that the recipe declares; what was best; curves where one thing changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.data import storage
from radit_ray.report.curves import Cell, lines
from radit_ray.report.html import document
from radit_ray.report.markup import Html, join, table, tag
from radit_ray.report.table import difference_text, how_made, interval_text, text_table
from radit_ray.report.words import seconds

SHOWN = {  # metric -> (title, factor)
    "em": ("Exact match, percent; higher is better", 100.0),
    "f1": ("F1, percent; higher is better", 100.0),
    "nll": ("NLL of the gold answer, nats; lower is better", 1.0),
    "recall@1": ("Recall@1, percent; higher is better", 100.0),
}


def render(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """A table for each metric, one for each contrast's EM and NLL, and the best values."""
    found: Sequence[Mapping[str, Any]] = results["points"]
    names = _names(found)
    parts = []
    for metric in SHOWN:
        shown = [n for n in names if any(metric in p["variants"].get(n, {}) for p in found)]
        if shown:
            rows = [
                [interval_text(point["variants"].get(name, {}).get(metric)) for name in shown]
                for point in found
            ]
            parts.append(_table(found, _headed(shown, metric), rows, markdown))
    contrasts = list(dict.fromkeys(name for point in found for name in point["contrasts"]))
    for metric in ("em", "nll") if contrasts else ():
        rows = [
            [difference_text(point["contrasts"].get(c, {}).get(metric)) for c in contrasts]
            for point in found
        ]
        head = [f"{name.replace('-minus-', ' - ')} ({metric})" for name in contrasts]
        parts.append(_table(found, head, rows, markdown))
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
    return "\n".join(
        [
            f"# {results['kind']} of {results['recipe']}",
            "",
            *how_made(results),
            "",
            "Square brackets: 95% bootstrap over groups of questions; `*`: 0 lies outside; round "
            "brackets: the smallest difference that a sample like this finds 4 times in 5.",
            "",
            render(results, markdown=True),
            "",
        ]
    )


def _table(
    found: Sequence[Mapping[str, Any]],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    markdown: bool,
) -> str:
    whole = [[*_values(point, found), *row] for point, row in zip(found, rows, strict=True)]
    return text_table([*_fields(found), *head], whole, markdown)


def _fields(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was changed, and a note where a point has one."""
    fields = list(dict.fromkeys(name for point in found for name in point["values"]))
    return [*(fields or ["point"]), *["note"] * any("note" in point for point in found)]


def _values(point: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The point's cells under `_fields`."""
    known = {"point": "as it is", **point["values"], "note": point.get("note", "")}
    return [str(known.get(name, "-")) for name in _fields(found)]


def _headed(names: Sequence[str], metric: str) -> list[str]:
    return [f"{name} ({metric})" for name in names]


def write_sweep(folder: str) -> str:
    """Writes `<folder>/report.html` from sweep.json and returns its path."""
    results = storage.read_json(storage.join(folder, "sweep.json"))
    path = storage.join(folder, "report.html")
    storage.write_bytes(path, html(results).encode())
    return path


def html(results: Mapping[str, Any]) -> str:
    """The sweep as one page that needs nothing from outside."""
    made = results["environment"]
    facts = {
        "points": str(len(results["points"])),
        "questions": f"{max(point['num_questions'] for point in results['points']):,}",
        "training seeds": ", ".join(map(str, results["seeds"])),
        "hardware": made["hardware"],
        "commit": made["versions"].get("commit", "unknown"),
        "command": tag("code", made["command"]),
    }
    listed = [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    sections = [
        (
            "sweep",
            "This sweep",
            join([tag("dl", *listed, class_="facts"), tag("p", best(results))]),
        ),
        ("curves", "Curves", _curves(results)),
        ("tables", "All numbers", _tables(results)),
    ]
    return document(f"RA-DIT: {results['kind']} of {results['recipe']}", sections)


def groups(results: Mapping[str, Any]) -> list[tuple[str, str, list[Mapping[str, Any]]]]:
    """(what stayed the same, what changed, points): a curve for each value of the other fields. The
    field that changes is the last one that takes several values.
    """
    found = results["points"]
    fields = list(dict.fromkeys(name for point in found for name in point["values"]))
    several = [f for f in fields if len({str(p["values"].get(f)) for p in found}) > 1]
    if "keep_gold" in several:  # two curves over the sizes, not two points a size
        several.remove("keep_gold")
        fixed = [*several[:-1], "keep_gold"]
    else:
        fixed = several[:-1]
    moving = several[-1] if several else ""
    made: dict[str, list[Mapping[str, Any]]] = {}
    for point in found:
        same = ", ".join(f"{f}={point['values'].get(f)}" for f in fixed)
        made.setdefault(same, []).append(point)
    return [
        (same, moving, sorted(points, key=lambda p: _by_number(p["values"].get(moving))))
        for same, points in made.items()
    ]


def _curves(results: Mapping[str, Any]) -> Html:
    parts: list[Html] = []
    for same, moving, found in groups(results):
        if len(found) < 2:
            continue
        labels = _labels([str(point["values"][moving]) for point in found])
        names = _names(found)
        if same:
            parts.append(tag("h3", same))
        for metric, (title, factor) in SHOWN.items():
            series = {name: [_cell(p, name, metric, factor) for p in found] for name in names}
            series = {name: line for name, line in series.items() if any(line)}
            if series:
                parts.append(lines(labels, series, title=title, axis=moving))
    if not parts:
        return tag("p", "Nothing was changed step by step, see the tables.", class_="note")
    words = "Bands: 95% intervals over groups of questions. Places on the x axis are equally apart."
    return join([tag("p", words, class_="note"), tag("div", *parts, class_="plots")])


def _cell(point: Mapping[str, Any], name: str, metric: str, factor: float) -> Cell:
    cell = point["variants"].get(name, {}).get(metric)
    return None if cell is None else tuple(factor * cell[k] for k in ("value", "low", "high"))


def _labels(values: Sequence[str]) -> list[str]:
    """The shortest ends of paths that tell them apart; other values as they are.

    >>> _labels(["runs/a/lm-ft/model", "runs/b/lm-ft/model", "10"])
    ['a/lm-ft/model', 'b/lm-ft/model', '10']
    """
    parts = [value.rstrip("/").split("/") for value in values]
    for length in range(1, max(map(len, parts))):
        ends = ["/".join(part[-length:]) for part in parts]
        if len(set(ends)) == len(set(values)):
            return ends
    return list(values)


def _by_number(value: Any) -> tuple[bool, float]:
    """Numbers in their order, whatever else as it came."""
    try:
        return False, float(value)
    except (TypeError, ValueError):
        return True, 0.0


def _tables(results: Mapping[str, Any]) -> Html:
    found = results["points"]
    fields = _fields(found)
    parts = []
    for metric, (title, factor) in SHOWN.items():
        names = [n for n in _names(found) if any(metric in p["variants"].get(n, {}) for p in found)]
        rows = []
        for point in found:
            cells = [_cell(point, name, metric, factor) for name in names]
            shown = [f"{c[0]:.1f} [{c[1]:.1f}, {c[2]:.1f}]" if c else "-" for c in cells]
            rows.append([*_values(point, found), *shown])
        if names:
            whole = table([*fields, *names], rows, label=title, texts=len(fields))
            parts += [tag("h3", title), whole]
    spent = [t["metrics"].get("wall_s") for t in results["trials"] if "wall_s" in t["metrics"]]
    if spent:
        parts.append(tag("p", f"All trials: {seconds(sum(spent))} of stages.", class_="note"))
    return join(parts)


def _names(found: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for point in found for name in point["variants"]))
