"""Contract of the suites: the paper's values live once, say how far they can be trusted, and their
printed means come out.
"""

from __future__ import annotations

import json
from importlib import resources

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.suites import ROLES, TRUST, suite_named, suites
from radit_ray.data.tasks import parse_task

SIX = suite_named("paper-table-5")
TABLES = tuple(f"paper-table-{number}" for number in (2, 3, 4, 5, 6, 7, 13, 14))


def test_the_pinned_suites_are_there() -> None:
    assert set(suites()) >= {*TABLES, "paper-figure-2", "cross-lingual", "domain", "time"}


@pytest.mark.parametrize("name", sorted(suites()))
def test_a_suite_is_whole(name: str) -> None:
    suite = suite_named(name)
    assert suite.rows
    assert len({row.label for row in suite.rows}) == len(suite.rows)
    for task in suite.tasks:
        parse_task(f"task:{task}")
    for row in suite.rows:
        assert row.role in ROLES or not row.role
        assert set(row.paper) <= set(suite.tasks)
        for cell in row.paper.values():
            assert 0 <= cell.value <= 100
            assert cell.trust in ("", *TRUST)
    assert bool(suite.trust) == name.startswith("paper-")
    assert not suite.trust or suite.trust in TRUST


@pytest.mark.parametrize("name", TABLES)
def test_the_printed_means_come_out(name: str) -> None:
    """Paper.md's check: rows were repaired so that they do, to the rounding of the last digit."""
    text = resources.files("radit_ray").joinpath("assets/paper_results.json").read_text("utf-8")
    suite = suite_named(name)
    checked = 0
    for row, record in zip(suite.rows, json.loads(text)[name]["rows"], strict=True):
        for over, mean in record["averages"].items():
            named = {task.partition(":")[0]: cell.value for task, cell in row.paper.items()}
            tasks = list(named) if over == "all" else over.split(",")
            values = [named[task] for task in tasks]
            assert sum(values) / len(values) == pytest.approx(mean, abs=0.11), (row.label, over)
            checked += 1
    assert checked >= len(suite.rows)


def test_tables_of_dev_read_dev_where_test_is_the_default() -> None:
    assert {"nq:dev", "triviaqa:dev", "fever"} < set(suite_named("paper-table-6").tasks)
    assert {"nq", "triviaqa"} < set(suite_named("paper-table-2").tasks)
    over = [tuple(task.partition(":")[0] for task in part) for part in SIX.averages]
    assert over == [("hotpotqa", "fever", "aida", "zsre", "t-rex", "wow")]


def test_headline_numbers_of_the_paper() -> None:
    rows = {row.label: row for row in suite_named("paper-table-2").rows}
    nq = rows["0-shot RA-DIT"].paper["nq"].value / rows["0-shot REPLUG"].paper["nq"].value - 1
    assert nq == pytest.approx(0.22, abs=0.005)  # the introduction's +22%, relative
    assert rows["64-shot RA-DIT 65B (one model)"].role == "radit-64shot"
    assert rows["64-shot ATLAS 11B (per-task)"].role == ""
    concat = suite_named("paper-table-13").rows[1]
    assert (concat.ensemble, concat.k, concat.shots) == ("concat", 3, 0)


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown suite 'cross-lingua'; did you mean 'cross-ling"):
        suite_named("cross-lingua")
