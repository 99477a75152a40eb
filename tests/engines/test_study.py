"""Contract of the study: spaces from text, every point of a grid once, a killed study continues
with the values that an uninterrupted one asks for, another study is refused.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.engines.study import Choices, Range, Study, read_space

TWO = {"radit.em": "max", "s_per_question": "min"}
SPACE = {
    "lm_ft.lr": Range(1e-5, 1e-3, log=True),
    "lm_ft.k_train": Range(1, 5),
    "t": Choices(("a", "b")),
}


def url(folder: Path) -> str:
    return f"sqlite:///{folder}/study.db"


def value_of(values: dict[str, Any]) -> float:
    return float(values["lm_ft.lr"]) * values["lm_ft.k_train"]


def drive(study: Study, *, stop_after: int = 99) -> list[dict[str, Any]]:
    """Asks and tells; the last one is asked and never told, as by a kill."""
    asked: list[dict[str, Any]] = []
    while (found := study.ask()) is not None:
        number, values = found
        asked.append(values)
        if len(asked) > stop_after:
            break
        study.tell(number, [value_of(values)])
    return asked


def drive_all(study: Study) -> list[dict[str, Any]]:
    """Asks and tells until nothing is left."""
    asked = []
    while (found := study.ask()) is not None:
        study.tell(found[0], [1.0])
        asked.append(found[1])
    return asked


def test_spaces_from_text() -> None:
    found = read_space(["a=1..4", "b=0.1..1:log", "c=../x,../y", "d=../models", "e=true,false"])
    assert found == {
        "a": Range(1, 4),
        "b": Range(0.1, 1, log=True),
        "c": Choices(("../x", "../y")),
        "d": Choices(("../models",)),
        "e": Choices(("true", "false")),
    }
    assert (found["a"].whole, found["b"].whole) == (True, False)  # type: ignore[union-attr]
    # hyphens of fields are underscores, those of a key its own
    named = read_space(["lm-ft.lr=1..2", "lm-ft.shares.natural-questions=0.1"])
    assert list(named) == ["lm_ft.lr", "lm_ft.shares.natural-questions"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["lr"], "expected field=value"),
        (["lr="], "expected field=value"),
        (["k=1,1"], "holds a value twice"),
        (["k=1", "k=2"], "names 'k' twice"),
        (["lm_ft.lr=1", "lm-ft.lr=2"], "names 'lm_ft.lr' twice"),
        (["lr=3..1"], "a lower end below the upper one"),
        (["lr=0..1:log"], "log: above 0"),
        (["lr=1..2:lin"], "expected low..high or low..high:log"),
    ],
)
def test_bad_spaces_are_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_space(settings)


def test_a_grid_is_tried_once_and_what_failed_again_at_the_next_start(tmp_path: Path) -> None:
    space = {"k": Choices(("1", "3")), "lr": Choices(("a", "b"))}
    study = Study.open(url(tmp_path), space, {"em": "max"})
    seen = []
    while (found := study.ask()) is not None:
        number, values = found
        seen.append(tuple(values.values()))
        if len(seen) == 2:
            study.fail(number)
        elif len(seen) == 4:
            break  # killed while this one ran
        else:
            study.tell(number, [1.0])
    assert seen == [("1", "a"), ("1", "b"), ("3", "a"), ("3", "b")]
    again = Study.open(url(tmp_path), space, {"em": "max"})
    number, values = again.ask() or (0, {})
    assert values == {"k": "1", "lr": "b"}
    again.tell(number, [0.0])
    assert (again.ask() or (0, {}))[1] == {"k": "3", "lr": "b"}
    assert again.ask() is None  # the other one is running
    assert again.finished()[-1] == {"k": "1", "lr": "b"}


def test_what_failed_is_tried_again_once_whatever_was_queued(tmp_path: Path) -> None:
    space = {"x": Choices(("0", "1")), "y": Choices(("a", "b"))}

    def opened() -> Study:
        return Study.open(url(tmp_path), space, {"em": "max"}, sampler="random", num_trials=3)

    first = opened()
    failed = []
    for _ in range(3):
        number, values = first.ask() or (0, {})
        first.fail(number)
        failed.append(values)
    opened().ask()  # queues what failed, and is killed in its first trial
    last = opened()
    finished = drive_all(last)
    assert len(finished) == 3
    different = [values for n, values in enumerate(failed) if values not in failed[:n]]
    again = finished[: len(different)]
    assert all(values in again for values in different), (failed, finished)


def test_nothing_to_choose_is_one_trial(tmp_path: Path) -> None:
    study = Study.open(url(tmp_path), {}, {"em": "max"})
    number, values = study.ask() or (-1, {"x": 1})
    assert values == {}
    study.tell(number, [1.0])
    assert study.ask() is None


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_killed_twice_asks_for_the_same_values(tmp_path: Path, sampler: str) -> None:
    def opened(name: str) -> Study:
        (tmp_path / name).mkdir(exist_ok=True)
        return Study.open(
            url(tmp_path / name), SPACE, {"em": "max"}, sampler=sampler, num_trials=14, seed=3
        )

    whole = drive(opened("whole"))
    assert len(whole) == 14
    parts = [drive(opened("killed"), stop_after=stop) for stop in (3, 8, 99)]
    asked = [*parts[0][:-1], *parts[1][:-1], *parts[2]]
    assert asked == whole
    assert opened("killed").best() == opened("whole").best()


@pytest.mark.parametrize("objectives", [{"em": "max"}, TWO])
def test_what_is_settled_without_a_value_is_not_tried_again(
    tmp_path: Path, objectives: dict[str, str]
) -> None:
    space = {"retriever": Choices(("a", "bm25"))}
    for asked in (["a", "bm25"], []):  # the second start has nothing to do
        study = Study.open(url(tmp_path), space, objectives)
        found = []
        while (trial := study.ask()) is not None:
            number, values = trial
            found.append(values["retriever"])
            if values["retriever"] == "bm25":
                study.settle(number, "no r-ft")
            else:
                study.tell(number, [1.0] * len(objectives))
        assert found == asked
        assert study.finished() == study.best() == [{"retriever": "a"}]
        assert study.settled() == [({"retriever": "bm25"}, "no r-ft")]
        assert study.given_up == []


@pytest.mark.parametrize(("direction", "stop_early"), [("max", "median"), ("min", "quartile")])
def test_a_trial_behind_the_others_is_stopped_for_good(
    tmp_path: Path, direction: str, stop_early: str
) -> None:
    """Six trials as good as their number says; one in the middle is not behind by quartiles."""
    goodness = [5.0, 1.0, 4.0, 3.0, 2.9, 0.5, 6.0]
    space = {"x": Choices(tuple(map(str, range(len(goodness)))))}

    def opened() -> Study:
        return Study.open(url(tmp_path), space, {"em": direction}, stop_early=stop_early)

    study = opened()
    stopped = []
    while (found := study.ask()) is not None:
        number, values = found
        value = goodness[int(values["x"])]
        assert study.look(number, 1, value) == study.look(number, 1, value)  # said twice: once
        if study.look(number, 2, value):
            stopped.append(int(values["x"]))
            study.settle(number, "stopped early at step 2")
        else:
            study.tell(number, [value if direction == "max" else -value])
    # 2.9 is behind the median of 1, 3, 4, 5, not behind three quarters of them; of fewer than four
    # trials none is stopped, however far behind
    assert stopped == ([4, 5] if stop_early == "median" else [5])
    again = opened()
    assert again.ask() is None
    assert [int(values["x"]) for values, _ in again.settled()] == stopped
    assert again.best() == [{"x": "6"}]
    with pytest.raises(InputError, match="holds a study of another stop_early"):
        Study.open(url(tmp_path), space, {"em": direction})


def test_several_objectives_have_several_best(tmp_path: Path) -> None:
    study = Study.open(url(tmp_path), {"k": Choices(("1", "3", "5"))}, TWO)
    for values in ([0.2, 1.0], [0.5, 3.0], [0.4, 4.0]):  # the last one is beaten in both
        number, _ = study.ask() or (0, {})
        study.tell(number, values)
    assert study.best() == [{"k": "1"}, {"k": "3"}]


def test_contradictions_and_another_study_are_one_line(tmp_path: Path) -> None:
    grid = {"k": Choices(("1", "3"))}
    for space, more, message in (
        (SPACE, {}, "a grid needs the values of 'lm_ft.lr' one by one"),
        (SPACE, {"sampler": "tpe"}, "num_trials=0"),
        ({}, {"sampler": "tpe", "num_trials": 3}, "the space is empty"),
        (grid, {"num_trials": 3}, "num_trials=3 with --sampler grid, which tries every point"),
        (grid, {"sampler": "gird"}, "unknown sampler 'gird'.*grid"),
    ):
        with pytest.raises(InputError, match=message):
            Study.open(url(tmp_path), space, {"em": "max"}, **more)
    with pytest.raises(InputError, match=r"unknown stop_early 'medain'.*median"):
        Study.open(url(tmp_path), grid, {"em": "max"}, stop_early="medain")
    with pytest.raises(InputError, match="stop_early=median with 2 objectives: a trial is behind"):
        Study.open(url(tmp_path), grid, TWO, stop_early="median")
    with pytest.raises(InputError, match="objective em:up"):
        Study.open(url(tmp_path), grid, {"em": "up"})
    urls = ("study.db", "sqlite:////nowhere/study.db", "postgresql://me:secret@x/y")
    for storage in (*urls, "redis://me:secret@x"):
        with pytest.raises(InputError, match=r"cannot be used.*SQLAlchemy URL such as") as found:
            Study.open(storage, grid, {"em": "max"})
        assert "secret" not in str(found.value)
        assert "\n" not in str(found.value)
    for storage in ("sqlite://", "sqlite:///:memory:", "sqlite:///:memory:?cache=shared"):
        with pytest.raises(InputError, match="a database in memory is gone with its process"):
            Study.open(storage, grid, {"em": "max"})
    hashes = [letter * 64 for letter in "abc"]
    whole = {"recipe": {"lm_ft": {"lr": 1e-5, "steps": 9}}, "lm": hashes[:2]}
    Study.open(url(tmp_path), grid, {"em": "max"}, about=whole)
    other = {"recipe": {"lm_ft": {"lr": 2e-5, "steps": 9}, "cycles": 2}, "lm": hashes[1:]}
    told = (
        "study.db holds a study of another recipe.lm_ft.lr (1e-05, here 2e-05), "
        'recipe.cycles (null, here 2), lm (["aaaaaaaaaaaa"], here ["cccccccccccc"]); choose'
    )
    with pytest.raises(InputError, match=re.escape(told)):
        Study.open(url(tmp_path), grid, {"em": "max"}, about=other)
    told = 'space.k.values (["1", "3"], here ["5"]), recipe.lm_ft.lr (1e-05, here 2e-05), recipe'
    with pytest.raises(InputError, match=re.escape(told) + ".* and 1 more; choose"):
        Study.open(url(tmp_path), {"k": Choices(("5",))}, {"em": "max"}, about=other)
