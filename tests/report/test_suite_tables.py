"""Contract of a suite's table: means in percent by task, averages over the tasks measured, paired
differences to the row above with as many demonstrations, and what is missing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from radit_ray.data.suites import Cell, Suite, SuiteRow
from radit_ray.report.suites import suite_entries, suite_page

SUITE = Suite(
    name="paper-table-x",
    title="a table",
    tasks=("nq", "fever"),
    rows=(
        SuiteRow(label="no chunks", role="closed-book", k=0),
        SuiteRow(label="REPLUG", role="replug", k=10, paper={"nq": Cell(value=28.8)}),
        SuiteRow(label="LM-ft", role="lm-ft", k=10),
        SuiteRow(
            label="RA-DIT", role="radit", k=10, paper={"nq": Cell(value=35.2, trust="repaired")}
        ),
        SuiteRow(label="5-shot RA-DIT", role="radit", shots=5, k=10),
        SuiteRow(label="64-shot", role="radit-64shot", k=10),
        SuiteRow(label="ATLAS", role="", paper={"nq": Cell(value=42.4, trust="recalled")}),
    ),
    trust="ocr",
    note="means reproduce",
    averages=(("nq", "fever"),),
)


def rows_of(values: dict[str, list[float]]) -> dict[str, list[dict[str, Any]]]:
    return {
        task: [{"id": f"{task}/{n}", "group": f"g{n}", "score": v} for n, v in enumerate(scores)]
        for task, scores in values.items()
    }


OURS = {
    "no chunks": rows_of({"nq": [0, 0, 0, 0], "fever": [1, 0]}),
    "REPLUG": rows_of({"nq": [1, 0, 0, 1], "fever": [1, 1]}),
    "LM-ft": rows_of({"nq": [1, 1, 0, 1], "fever": [0, 1]}),
    "RA-DIT": rows_of({"nq": [1, 1, 0, 1], "fever": [1, 1]}),
    "5-shot RA-DIT": rows_of({"nq": [1, 1, 1, 1]}),
}


@pytest.fixture(scope="module")
def entries() -> dict[str, dict[str, Any]]:
    return {entry["label"]: entry for entry in suite_entries(SUITE, OURS)}


def test_means_are_those_of_the_rows(entries: dict[str, Any]) -> None:
    assert entries["REPLUG"]["ours"]["nq"]["value"] == 50
    assert entries["no chunks"]["average"]["value"] == 25  # of tasks, not of questions
    assert entries["REPLUG"]["paper_average"] == 28.8  # over the tasks that both have
    for entry in entries.values():
        for cell in entry.get("ours", {}).values():
            assert cell["low"] <= cell["value"] <= cell["high"]


def test_a_row_is_compared_with_its_peers(entries: dict[str, Any]) -> None:
    against = {
        label: [one["against"] for one in entry.get("comparisons", [])]
        for label, entry in entries.items()
    }
    assert against["no chunks"] == []
    assert against["REPLUG"] == ["no chunks"]
    assert against["LM-ft"] == ["REPLUG"]  # as many chunks
    assert against["RA-DIT"] == ["REPLUG", "LM-ft"]  # and the half alone
    assert against["5-shot RA-DIT"] == []  # no other row with 5 shots
    to_replug, to_lm_ft = entries["RA-DIT"]["comparisons"]
    assert to_replug["differences"]["nq"]["value"] == 25
    assert to_replug["differences"]["fever"] == {"value": 0, "low": 0, "high": 0}
    assert to_replug["average"]["value"] == 12.5
    assert to_lm_ft["differences"]["nq"]["value"] == 0


def test_averages_are_over_the_same_tasks_as_the_papers(entries: dict[str, Any]) -> None:
    assert entries["RA-DIT"]["average"]["value"] == 75  # nq alone: the paper has no other
    assert entries["RA-DIT"]["paper_average"] == 35.2
    (both,) = entries["RA-DIT"]["averages"]
    assert (both["tasks"], both["value"], both["paper"]) == (["nq", "fever"], 87.5, None)
    assert entries["5-shot RA-DIT"]["averages"] == []  # one of the tasks was not measured


def test_the_interval_of_a_difference_is_paired(entries: dict[str, Any]) -> None:
    cell = entries["RA-DIT"]["comparisons"][0]["differences"]["nq"]
    draws = np.random.default_rng(0).integers(4, size=(20_000, 4))
    naive = np.percentile(100 * np.array([0, 1, 0, 0])[draws].mean(axis=1), [2.5, 97.5])
    np.testing.assert_allclose([cell["low"], cell["high"]], naive, atol=1e-9)


def test_what_is_missing_says_what_would_bring_it(entries: dict[str, Any]) -> None:
    assert entries["RA-DIT"]["missing"] == ""
    missing = entries["64-shot"]["missing"]
    assert missing == "radit few-shot RUN --output DIR, then --variants RUN,DIR/variants.json"
    assert "ours" not in entries["ATLAS"]
    assert entries["ATLAS"]["paper"]["nq"]["trust"] == "recalled"
    assert entries["REPLUG"]["paper"]["nq"]["trust"] == "ocr"


def test_the_page(entries: dict[str, Any]) -> None:
    task = {"num_questions": 4, "num_demonstrations": 64, "metric": "em", "missing": ""}
    task |= {"num_truncated": 0, "num_question_cut": 0}
    results = {
        "suite": SUITE.name,
        "title": SUITE.title,
        "trust": SUITE.trust,
        "note": SUITE.note,
        "limit": 4,
        "tasks": {
            "nq": {**task, "num_question_cut": 3},
            "fever": {**task, "num_demonstrations": 0},
            "eli5": {**task, "missing": "not here"},
        },
        "rows": list(entries.values()),
    }
    page = suite_page(results, markdown=True)
    assert "| RA-DIT | 75.0 [25, 100] / 35.2r (+39.8) | 100.0 [100, 100] |" in page
    assert "| 5-shot RA-DIT | 100.0 [100, 100] | - |" in page
    assert "| RA-DIT - REPLUG | +25.0 [+0.0, +75.0] |" in page
    assert "| RA-DIT - LM-ft | +0.0 [+0.0, +0.0] |" in page
    assert "| nq, fever | RA-DIT | 87.5 [62.5, 100.0] |" in page
    assert " r: a damaged cell" in page
    assert "- eli5: not here" in page
    assert "- nq: 3 questions longer than the LM's context lost their beginning; 0 lost" in page
    assert "fever: 0 questions" not in page
    assert "- fever: 0 demonstrations, no few-shot row" in page
    assert "`radit few-shot RUN --output DIR, then --variants RUN,DIR/variants.json`" in page
    assert "At most 4 questions a task" in page
