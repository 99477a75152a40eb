"""A suite's predictions -> its table: ours beside the paper's, as data and as text.

Values are in percent, each task by its own metric (Table 11). Intervals are 95%, over groups of
questions; a row is compared, on the same questions, with the first one of its table that has as
many demonstrations and chunks, else with the first of as many demonstrations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from radit_ray.core.intervals import bootstrap_macro
from radit_ray.data.suites import ROLES, TRUST, Suite, SuiteRow
from radit_ray.engines.answering import SCORE
from radit_ray.engines.measuring import Rows
from radit_ray.report.table import text_table

Measured = Mapping[str, Rows]  # task -> prediction rows
Stratum = tuple[list[float], list[str]]  # values in percent, groups


def suite_entries(suite: Suite, ours: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """One entry a row of the suite; `ours` holds the measured rows by label.

    paper {task: {value, trust, low, high}}; missing: the command that would bring the row, "" where
    it was measured; ours {task: {value, low, high}}, average, paper_average (over the same tasks);
    against (a label), differences {task: {...}}, average_difference.
    """
    return [_entry(row, suite, ours) for row in suite.rows]


def _entry(row: SuiteRow, suite: Suite, ours: Mapping[str, Measured]) -> dict[str, Any]:
    what, command = ROLES.get(row.role, ("figures of another system", "another system"))
    entry: dict[str, Any] = {
        "label": row.label,
        "role": row.role,
        "what": what,
        "shots": row.shots,
        "k": row.k,
        "paper": {task: _paper_cell(row, suite, task) for task in row.paper},
        "missing": "" if row.label in ours else command,
    }
    measured = ours.get(row.label)
    if not measured:
        return entry
    entry["ours"] = {task: _macro([_values(rows)]) for task, rows in measured.items()}
    entry["average"] = _macro([_values(rows) for rows in measured.values()])
    same = [task for task in measured if task in row.paper]
    if same:
        entry["paper_average"] = sum(row.paper[task].value for task in same) / len(same)
    base = _base(row, suite, ours)
    if base is not None:
        pairs = {
            task: _paired(rows, ours[base.label][task])
            for task, rows in measured.items()
            if task in ours[base.label]
        }
        entry["against"] = base.label
        entry["differences"] = {task: _macro([pair]) for task, pair in pairs.items()}
        entry["average_difference"] = _macro(list(pairs.values()))
    return entry


def _base(row: SuiteRow, suite: Suite, ours: Mapping[str, Measured]) -> SuiteRow | None:
    """The measured row above that this one is compared with."""
    above = []
    for other in suite.rows:
        if other is row:
            break
        if other.label in ours and other.shots == row.shots:
            above.append(other)
    return next((other for other in above if other.k == row.k), above[0] if above else None)


def _paper_cell(row: SuiteRow, suite: Suite, task: str) -> dict[str, Any]:
    cell = row.paper[task]
    return {**dataclasses.asdict(cell), "trust": cell.trust or suite.trust}


def _values(rows: Rows) -> Stratum:
    return [100 * row[SCORE] for row in rows], [row["group"] for row in rows]


def _paired(rows: Rows, others: Rows) -> Stratum:
    other = {row["id"]: row[SCORE] for row in others}
    return [100 * (row[SCORE] - other[row["id"]]) for row in rows], [row["group"] for row in rows]


def _macro(strata: list[Stratum]) -> dict[str, float]:
    value, low, high = bootstrap_macro(strata)
    return {"value": value, "low": low, "high": high}


def suite_page(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """The table, what differs, what is missing and how to bring it."""
    tasks = list(results["tasks"])
    read = [task for task in tasks if not results["tasks"][task]["missing"]]
    head = [f"{task} ({results['tasks'][task]['num_questions']})" for task in read]
    rows = [
        [row["label"], *(_cell(row, task) for task in read), _average(row)]
        for row in results["rows"]
        if not row["missing"]
    ]
    parts = [
        f"{'## ' if markdown else ''}{results['suite']}: {results['title']}",
        text_table(["row (questions)", *head, "average"], rows, markdown),
        _legend(results),
    ]
    differences = [
        [
            f"{row['label']} - {row['against']}",
            *(_difference(row["differences"].get(task)) for task in read),
            _difference(row["average_difference"]),
        ]
        for row in results["rows"]
        if "against" in row
    ]
    if differences:
        parts.append(text_table(["paired difference", *read, "average"], differences, markdown))
    return "\n\n".join([*parts, *_missing(results, markdown)])


def _cell(row: Mapping[str, Any], task: str) -> str:
    """`ours [low, high] / paper's`."""
    ours, paper = row["ours"].get(task), row["paper"].get(task)
    shown = f"{ours['value']:.1f} [{ours['low']:.0f}, {ours['high']:.0f}]" if ours else "-"
    return f"{shown} / {paper['value']:.1f}" if paper else shown


def _average(row: Mapping[str, Any]) -> str:
    if "average" not in row:
        return "-"
    mean = row["average"]
    shown = f"{mean['value']:.1f} [{mean['low']:.1f}, {mean['high']:.1f}]"
    return f"{shown} / {row['paper_average']:.1f}" if "paper_average" in row else shown


def _difference(cell: Mapping[str, float] | None) -> str:
    if cell is None:
        return "-"
    clear = cell["low"] > 0 or cell["high"] < 0
    shown = f"{cell['value']:+.1f} [{cell['low']:+.1f}, {cell['high']:+.1f}]"
    return f"{shown}{'*' if clear else ''}"


def _legend(results: Mapping[str, Any]) -> str:
    words = "In percent, each task by its own metric, with 95% intervals."
    if results["trust"]:
        words += (
            f" Behind the slash: the paper's value for its own models ({TRUST[results['trust']]}: "
            f"{results['note']}); averages are over the tasks shown."
        )
    if results["limit"]:
        words += f" At most {results['limit']} questions a task, a seeded choice."
    return f"{words} *: 0 lies outside of the interval of a difference."


def _missing(results: Mapping[str, Any], markdown: bool) -> list[str]:
    tasks = [
        f"{name}: {task['missing']}" for name, task in results["tasks"].items() if task["missing"]
    ]
    few = [
        f"{name}: {task['num_demonstrations']} demonstrations, no few-shot row"
        for name, task in results["tasks"].items()
        if not task["missing"]
        and task["num_demonstrations"] < max(row["shots"] for row in results["rows"])
    ]
    cut = [
        f"{name}: {task['num_question_cut']} questions longer than the LM's context lost their "
        f"beginning; {task['num_truncated']} lost demonstrations or background"
        for name, task in results["tasks"].items()
        if task["num_question_cut"] or task["num_truncated"]
    ]
    code = "`" if markdown else ""
    rows = [
        f"{row['label']} ({row['what']}): {code}{row['missing']}{code}"
        for row in results["rows"]
        if row["missing"]
    ]
    return [
        f"{title}:\n" + "\n".join(f"- {line}" for line in lines)
        for title, lines in (
            ("Missing tasks", tasks + few),
            ("Cut to the LM's context, in the row that lost most", cut),
            ("Missing rows (their models may come from a variants file, one table a role)", rows),
        )
        if lines
    ]
