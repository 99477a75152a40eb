"""Contract: what a worker raised is found again in what Ray makes of it, as an object or as text.

The errors are built as Ray 2.60 builds them: pickling drops `__cause__`, and the text stays.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable

import pytest
from ray.exceptions import ActorDiedError, RayTaskError, UserCodeException
from ray.train.v2.api.exceptions import WorkerGroupError

from radit_ray.cli import _guarded
from radit_ray.core.errors import InputError
from radit_ray.engines.failures import input_error, root_cause
from radit_ray.engines.sweep import _measured

LINE = "LM 'x': 6 tensors are not in its weights; give another folder"


def refuse() -> None:
    try:
        raise KeyError("lm_head")
    except KeyError as error:
        raise InputError(LINE) from error


def crash() -> None:
    raise ZeroDivisionError("division by zero")


def from_task(work: Callable[[], None], *, wrapped: bool) -> RayTaskError:
    """What `ray.get` raises where a task, or Ray Data's wrapper around a function, raised."""
    try:
        try:
            work()
        except Exception as error:
            if wrapped:
                raise UserCodeException("UDF failed to process a data block.") from error
            raise
    except Exception as error:
        cause = pickle.loads(pickle.dumps(error))
        text = traceback.format_exc() + "\n"
        made = RayTaskError("Map(Guard)", text, cause, proctitle="ray::Map", pid=1, ip="1.2.3.4")
        return made.as_instanceof_cause()
    raise AssertionError("the work did not fail")


def died(work: Callable[[], None]) -> ActorDiedError:
    task = from_task(work, wrapped=False)
    plain = RayTaskError("f", str(task), task.cause, proctitle="ray::f", pid=1, ip="1.2.3.4")
    return ActorDiedError(plain)


def in_train(work: Callable[[], None]) -> WorkerGroupError:
    error = from_task(work, wrapped=False)
    return WorkerGroupError("[Rank 0 Error Snippet]:\nsee above", {0: error})


WRAPS = {
    "task": lambda work: from_task(work, wrapped=False),
    "data": lambda work: from_task(work, wrapped=True),
    "actor": died,
    "train": in_train,
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_the_input_error_of_a_worker_is_the_line_and_exit_code_2(
    wrap: Callable[..., BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    error = wrap(refuse)
    assert input_error(error) == LINE

    def work() -> None:
        raise error

    assert _guarded(work) == 2
    assert capsys.readouterr().err == f"radit: {LINE}\n"
    assert _measured(lambda values: work(), {}) == {"failed": LINE}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_the_crash_of_a_worker_is_told_and_not_rays_advice(
    wrap: Callable[..., BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    error = wrap(crash)
    assert input_error(error) is None
    assert root_cause(error) == "ZeroDivisionError: division by zero"

    def work() -> None:
        raise error

    assert _guarded(work) == 1
    err = capsys.readouterr().err
    assert err.startswith("radit: failed: ZeroDivisionError: division by zero (traceback in ")
    assert err.count("\n") == 1
    assert _measured(lambda values: work(), {})["failed"] == root_cause(error)


def test_an_error_of_ray_alone_keeps_its_last_line() -> None:
    assert root_cause(ActorDiedError()) == f"ActorDiedError: {ActorDiedError.BASE_ERROR_MSG}"


def test_an_error_without_ray_is_kind_and_last_line() -> None:
    assert root_cause(ValueError("a\nb\n")) == "ValueError: b"
    assert root_cause(KeyError("x")) == "KeyError: 'x'"
    assert input_error(ValueError("InputError: no")) is None
    assert input_error(InputError(LINE)) == LINE
