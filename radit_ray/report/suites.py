"""A suite's predictions -> its table: ours beside the paper's, as data and as text.

Values are in percent, each task by its own metric (Table 11). Intervals are 95%, over groups of
questions; a row is compared, on the same questions, with rows above it (`_bases`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.intervals import bootstrap_macro
from radit_ray.data.suites import ALONE, ROLES, TRUST, Suite, SuiteRow
from radit_ray.engines.answering import SCORE
from radit_ray.engines.measuring import Rows
from radit_ray.report.table import text_table

Measured = Mapping[str, Rows]  # task -> prediction rows
MARKS = {"repaired": "r", "recalled": "?"}  # behind a value of the paper that is uncertain
Stratum = tuple[list[float], list[str]]  # values in percent, groups


def suite_entries(
    suite: Suite, ours: Mapping[str, Measured], reasons: Mapping[str, str] = {}
) -> list[dict[str, Any]]:
    """One entry a row of the suite; `ours` holds the measured rows by label, `reasons` why one
    whose models are given was not measured.

    paper {task: {value, trust, low, high}}; missing: the command that would bring the row, ""
    where it was measured; ours {task: {value, low, high}}; average over the tasks that both have
    (else ours) and paper_average over the same; averages [{tasks, value, low, high, paper}] that
    the paper prints over some tasks; comparisons [{against (a label), differences {task: {...}},
    average}].
    """
    return [_entry(row, suite, ours, reasons.get(row.label, "")) for row in suite.rows]


def _entry(
    row: SuiteRow, suite: Suite, ours: Mapping[str, Measured], reason: str
) -> dict[str, Any]:
    what, command = ROLES.get(row.role, ("figures of another system", "another system"))
    measured = ours.get(row.label)
    entry: dict[str, Any] = {
        "label": row.label,
        "role": row.role,
        "what": what,
        "shots": row.shots,
        "k": row.k,
        "paper": {task: _paper_cell(row, suite, task) for task in row.paper},
        "missing": "" if measured else reason or command,
    }
    if not measured:
        return entry
    entry["ours"] = {task: _macro([_values(rows)]) for task, rows in measured.items()}
    same = [task for task in measured if task in row.paper]
    entry["average"] = _macro([_values(measured[task]) for task in same or measured])
    if same:
        entry["paper_average"] = _mean(row, same)
    entry["averages"] = [
        {
            "tasks": list(over),
            **_macro([_values(measured[task]) for task in over]),
            "paper": _mean(row, over) if set(over) <= set(row.paper) else None,
        }
        for over in suite.averages
        if set(over) <= set(measured)
    ]
    entry["comparisons"] = [
        _comparison(measured, other.label, ours[other.label])
        for other in _bases(row, suite, ours)
        if set(measured) & set(ours[other.label])
    ]
    return entry


def _mean(row: SuiteRow, tasks: Sequence[str]) -> float:
    return sum(row.paper[task].value for task in tasks) / len(tasks)


def _comparison(measured: Measured, label: str, others: Measured) -> dict[str, Any]:
    """Paired differences to another row, on the tasks that both have."""
    pairs = {task: _paired(measured[task], others[task]) for task in measured if task in others}
    return {
        "against": label,
        "differences": {task: _macro([pair]) for task, pair in pairs.items()},
        "average": _macro(list(pairs.values())),
    }


def _bases(row: SuiteRow, suite: Suite, ours: Mapping[str, Measured]) -> list[SuiteRow]:
    """The measured rows above that this one is compared with: the first with as many demonstrations
    and chunks, else as many demonstrations; and those of each half alone (`ALONE`).
    """
    above = []
    for other in suite.rows:
        if other is row:
            break
        if other.label in ours and other.shots == row.shots:
            above.append(other)
    like = [other for other in above if other.k == row.k]
    halves = [other for other in like if other.role in ALONE.get(row.role, ())]
    return list({other.label: other for other in [*(like or above)[:1], *halves]}.values())


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
            f"{row['label']} - {one['against']}",
            *(_difference(one["differences"].get(task)) for task in read),
            _difference(one["average"]),
        ]
        for row in results["rows"]
        for one in row.get("comparisons", [])
    ]
    if partial := _averages(results["rows"]):
        parts.append(text_table(["the paper's averages over", "row", "average"], partial, markdown))
    if differences:
        parts.append(text_table(["paired difference", *read, "average"], differences, markdown))
    return "\n\n".join([*parts, *_missing(results, markdown)])


def _cell(row: Mapping[str, Any], task: str) -> str:
    """`ours [low, high] / paper's (ours - paper's)`, with a mark where the paper's is uncertain."""
    ours, paper = row["ours"].get(task), row["paper"].get(task)
    shown = f"{ours['value']:.1f} [{ours['low']:.0f}, {ours['high']:.0f}]" if ours else "-"
    if not paper:
        return shown
    shown += f" / {_printed(paper)}{MARKS.get(paper['trust'], '')}"
    return f"{shown} ({ours['value'] - paper['value']:+.1f})" if ours else shown


def _printed(paper: Mapping[str, Any]) -> str:
    """The paper's value; both, where copies of it disagree."""
    low, high = paper.get("low"), paper.get("high")
    return f"{paper['value']:.1f}" if low is None or low == high else f"{low:.1f} to {high:.1f}"


def _average(row: Mapping[str, Any]) -> str:
    if "average" not in row:
        return "-"
    return _mean_cell(row["average"], row.get("paper_average"))


def _mean_cell(mean: Mapping[str, float], paper: float | None) -> str:
    shown = f"{mean['value']:.1f} [{mean['low']:.1f}, {mean['high']:.1f}]"
    return shown if paper is None else f"{shown} / {paper:.1f} ({mean['value'] - paper:+.1f})"


def _averages(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Lines for the averages that the paper prints over some of its tasks."""
    return [
        [", ".join(one["tasks"]), row["label"], _mean_cell(one, one["paper"])]
        for row in rows
        for one in row.get("averages", [])
    ]


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
            f"{results['note']}), and ours minus it; averages are over the tasks that both have."
        )
        seen = {cell["trust"] for row in results["rows"] for cell in row["paper"].values()}
        words += "".join(f" {MARKS[kind]}: {TRUST[kind]}." for kind in MARKS if kind in seen)
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
    copies = [
        f"{name}: {'; '.join(task['notes'])}"
        for name, task in results["tasks"].items()
        if task.get("notes")
    ]
    return [
        f"{title}:\n" + "\n".join(f"- {line}" for line in lines)
        for title, lines in (
            ("What was read here", copies),
            ("Missing tasks", tasks + few),
            ("Cut to the LM's context, in the row that lost most", cut),
            ("Missing rows (their models may come from a variants file, one table a role)", rows),
        )
        if lines
    ]
