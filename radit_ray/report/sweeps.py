"""A sweep's points as tables and as one self-contained page with its curves.

In: what `sweep.json` holds. Out: one row a point, one column a variant, each value with its 95%
interval; the differences that the recipe declares; what was best; curves where one thing changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.costs import fronts as fronts_shown
from radit_ray.report.curves import lines
from radit_ray.report.figures import axis_of
from radit_ray.report.fronts import listing
from radit_ray.report.html import counted, document, flat, listed
from radit_ray.report.markup import Html, join, table, tag
from radit_ray.report.points import COMPARED, SHOWN, curves, fields_of, fronts, names_of
from radit_ray.report.table import difference_text, how_made, interval_text, text_table
from radit_ray.report.words import ABSENT, METRICS, seconds, shown_contrast, si

Results = Mapping[str, Any]
NO_CURVE = "Nothing was changed step by step, see the tables."


def render(results: Results, *, markdown: bool = False) -> str:
    """A table for each metric, one for each contrast's EM and NLL, and the best values."""
    found: Sequence[Mapping[str, Any]] = results["points"]
    fields = _columns(results)
    parts = []
    for metric in SHOWN:
        shown = _measured(found, metric)
        if shown:
            rows = [
                [*_values(point, fields)]
                + [interval_text(point["variants"].get(name, {}).get(metric)) for name in shown]
                for point in found
            ]
            parts.append(text_table([*fields, *_headed(shown, metric)], rows, markdown))
    contrasts = names_of(found, "contrasts")
    for metric in COMPARED:
        if contrasts:
            rows = [
                [*_values(point, fields)]
                + [difference_text(point["contrasts"].get(c, {}).get(metric)) for c in contrasts]
                for point in found
            ]
            head = [f"{name.replace('-minus-', ' - ')} ({metric})" for name in contrasts]
            parts.append(text_table([*fields, *head], rows, markdown))
    parts.append(best(results))
    return "\n\n".join(part for part in parts if part)


def best(results: Results) -> str:
    """One line with the best values by the objectives; "" where nothing was chosen. What is best on
    the questions that are reported is no choice: that is said.
    """
    chosen = [values for values in results["best"] if values]
    if not chosen or len(results["trials"]) < 2:
        return ""
    wanted = ", ".join(f"{name} {way}" for name, way in results["objectives"].items())
    told = "; ".join(", ".join(f"{n}={v}" for n, v in values.items()) for values in chosen)
    text = f"Best by {wanted}: {told}"
    if results.get("split", "dev") == "dev":  # files of older versions do not say
        return text
    return f"{text} (on the questions reported here; to choose, --set evaluate.split=dev)"


def page(results: Results) -> str:
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


def trials_table(results: Results, *, markdown: bool = False) -> str:
    """One row a trial: its values, the objectives, seconds of its stages."""
    head, rows = trials(results)
    return text_table(head, rows, markdown)


def trials(results: Results) -> tuple[list[str], list[list[str]]]:
    """(head, rows): values, objectives and seconds of every trial."""
    found = results["trials"]
    fields = list(dict.fromkeys(name for trial in found for name in trial["values"]))
    wanted = [*results["objectives"], "wall_s"]
    rows = [
        [*([str(trial["values"].get(name, "-")) for name in fields] or ["as it is"])]
        + [f"{trial['metrics'][n]:.4g}" if n in trial["metrics"] else "-" for n in wanted]
        for trial in found
    ]
    return [*(fields or ["trial"]), *results["objectives"], "seconds of stages"], rows


def stage_costs(results: Results) -> tuple[list[str], list[list[str]]]:
    """(head, rows): what was made of every stage, and what it cost; shared artifacts once."""
    rows = [
        [name, f"{e['count']:g}", seconds(e["wall_s"]), seconds(e["device_s"])]
        + [si(e[cost]) if e[cost] else ABSENT for cost in ("tokens", "flops")]
        for name, e in results.get("stages", {}).items()
    ]
    return ["stage", "made", "wall time", "device time", "tokens", "FLOPs"], rows


def spent_table(results: Results, *, markdown: bool = False) -> str:
    """The same as text; "" of a sweep that did not record it."""
    head, rows = stage_costs(results)
    return text_table(head, rows, markdown) if rows else ""


def no_front(results: Results) -> str:
    """Why there is no front, in a sentence."""
    if results["kind"] in ("chunks", "corpus", "snapshot"):
        return (
            "All points of this sweep were answered together in one finished run, so none has a "
            "cost of its own."
        )
    return "Fewer than two variants or trials recorded what their answers cost."


def _columns(results: Results) -> list[str]:
    """What was changed, and a note where a point has one."""
    noted = any("note" in point for point in results["points"])
    return [*(fields_of(results) or ["point"]), *["note"] * noted]


def _values(point: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The point's cells under `_columns`."""
    known = {"point": "as it is", **point["values"], "note": point.get("note", "")}
    return [str(known.get(name, "-")) for name in columns]


def _headed(names: Sequence[str], metric: str) -> list[str]:
    return [f"{name} ({metric})" for name in names]


def _measured(found: Sequence[Mapping[str, Any]], metric: str) -> list[str]:
    """The variants that have this metric at some point."""
    return [n for n in names_of(found) if any(metric in p["variants"].get(n, {}) for p in found)]


# --- the page ---


def html(results: Results) -> str:
    """The sweep as one page that needs nothing from outside."""
    made = results["environment"]
    facts = {
        "points": str(len(results["points"])),
        "questions": f"{max(point['num_questions'] for point in results['points']):,}",
        "training seeds": counted(results["seeds"]),
        "hardware": made["hardware"],
        "commit": made["versions"].get("commit", "unknown"),
        "command": tag("code", made["command"]),
    }
    shown = fronts(results)
    sections = [
        ("sweep", "This sweep", join([listed(facts, class_="facts"), tag("p", best(results))])),
        ("curves", "Curves", _curves(results)),
        (
            "answers",
            "What an answer costs",
            join([fronts_shown(shown), *map(listing, shown)])
            if shown
            else tag("p", no_front(results), class_="note"),
        ),
        ("tables", "All numbers", _tables(results)),
        ("time", "Where the time went", _trials(results)),
        ("made", "How it was made", _made(results)),
    ]
    return document(f"RA-DIT: {results['kind']} of {results['recipe']}", sections)


def _curves(results: Results) -> Html:
    parts: list[Html] = []
    for same, figures in curves(results):
        if same:
            parts.append(tag("h3", same))
        parts += map(lines, figures)
        parts.append(tag("p", figures[0].note, class_="note"))
    if not parts:
        return tag("p", NO_CURVE, class_="note")
    words = "Places on the axis below are equally far apart."
    return join([tag("p", words, class_="note"), tag("div", *parts, class_="plots")])


def _tables(results: Results) -> Html:
    found, fields = results["points"], _columns(results)
    parts = []
    for metric in SHOWN:
        names = _measured(found, metric)
        rows = []
        for point in found:
            cells = [point["variants"].get(name, {}).get(metric) for name in names]
            rows.append([*_values(point, fields), *(_interval(c, metric) for c in cells)])
        if names:
            title = axis_of(metric)
            whole = table([*fields, *names], rows, label=title, texts=len(fields))
            parts += [tag("h3", title[0].upper() + title[1:]), whole]
    contrasts = names_of(found, "contrasts")
    for metric in COMPARED:
        rows = []
        for point in found:
            cells = [point["contrasts"].get(name, {}).get(metric) for name in contrasts]
            rows.append([*_values(point, fields), *(_difference(c, metric) for c in cells)])
        if any(metric in cells for p in found for cells in p["contrasts"].values()):
            title = axis_of(metric, diff=True)
            names = [shown_contrast(name) for name in contrasts]
            whole = table([*fields, *names], rows, label=title, texts=len(fields))
            parts += [tag("h3", title[0].upper() + title[1:]), whole]
    return join(parts)


def _interval(cell: Mapping[str, float] | None, metric: str) -> Html:
    if cell is None:
        return Html(ABSENT)
    shown = METRICS[metric]
    return _under(shown.number(cell["value"]), shown.range(cell["low"], cell["high"]))


def _difference(cell: Mapping[str, float] | None, metric: str) -> Html:
    if cell is None:
        return Html(ABSENT)
    shown = METRICS[metric]
    clear = cell["low"] > 0 or cell["high"] < 0
    number = f"{shown.number(cell['diff'], '+')}{' *' * clear}"
    return _under(number, shown.range(cell["low"], cell["high"], "+"))


def _under(number: str, interval: str) -> Html:
    return join([number, tag("span", interval, class_="under")])


def _trials(results: Results) -> Html:
    head, rows = trials(results)
    num_fields = len(head) - len(results["objectives"]) - 1
    spent = [t["metrics"]["wall_s"] for t in results["trials"] if "wall_s" in t["metrics"]]
    words = (
        f"Seconds of all stages behind a trial, also of those that it shares with others; answers "
        f"taken from another trial count where they were given. Together {seconds(sum(spent))}."
    )
    whole = table(head, rows, label="trials", texts=num_fields)
    parts = [tag("figure", whole, tag("figcaption", words))]
    head, rows = stage_costs(results)
    if rows:
        words = "What was made for all trials and points, each artifact counted once. FLOPs: "
        caption = tag("figcaption", words + "estimated from tokens and parameters.")
        parts.append(tag("figure", table(head, rows, label="stages", texts=1), caption))
    return join(parts)


def _made(results: Results) -> Html:
    """Versions, what was searched, and every model's size where it is known."""
    space = {
        name: ", ".join(map(str, field["values"]))
        if "values" in field
        else f"{field['low']} to {field['high']}{' (log)' if field.get('log') else ''}"
        for name, field in results.get("space", {}).items()
    }
    versions = {name: str(v) for name, v in results["environment"]["versions"].items()}
    sizes = {name: si(size) for name, size in results.get("parameters", {}).items() if size}
    failed = [", ".join(f"{k}={v}" for k, v in flat(t).items()) for t in results.get("failed", [])]
    objectives = ", ".join(f"{n} {way}" for n, way in results["objectives"].items())
    chosen = {"sampler": results.get("sampler", "grid"), "objectives": objectives, **space}
    told = (
        "Every trial is a run's folder of its own beside sweep.json; what two trials share is made "
        "once, in artifacts/. "
    )
    rest = " of a trial's folder shows its questions, stages and lineage."
    parts = [tag("p", told, tag("code", "radit report"), rest), listed(chosen)]
    if failed:
        parts.append(tag("p", f"Failed, without a point: {'; '.join(failed)}."))
    if sizes:
        parts += [tag("h3", "Parameters"), listed(sizes)]
    return join([*parts, tag("h3", "Versions"), listed(versions)])
