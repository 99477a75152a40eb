"""Contract of the trackers: a trial's values and numbers arrive, nothing secret is written, one
that cannot be had or reached costs one line and not the sweep.
"""

from __future__ import annotations

import sqlite3
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.cloudpickle import register_pickle_by_value

from radit_ray.core.errors import InputError
from radit_ray.engines.doctor import environment
from radit_ray.engines.study import Choices, Study
from radit_ray.engines.sweep import run_study
from radit_ray.engines.tracking import Careful, check_trackers, metrics_of, tracking

SECRET = "planted4f9d1c77a2be40c8b3d6e5f8091a2b3c4d"  # as long as a key of W&B
VALUES = ("0.125", "0.25")


def test_commands_are_recorded_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    urls = (f"postgresql://me:{SECRET}@host/db", f"mysql://host/db?password={SECRET}&x=1")
    for url in urls:
        monkeypatch.setattr(sys, "argv", ["radit", "sweep", "--storage", url])
        command = environment()["command"]
        assert command.startswith("radit sweep --storage ")
        assert SECRET not in command
        assert "***" in command


def test_only_our_numbers_are_passed_on() -> None:
    result = {
        "radit.recall@1": 0.5,
        "lm-ft.nll": 3,
        "training_iteration": 2,
        "training": "lm-ft",
        "pid": 17,
        "done": True,
        "hostname": "here",
        "config": {"lr": 1},
        "failed": "why",
    }
    assert metrics_of(result) == {
        "radit.recall_at_1": 0.5,
        "lm-ft.nll": 3,
        "training_iteration": 2,
    }


def test_a_tracker_that_fails_costs_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken:
        calls = 0

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any) -> None:
            Broken.calls += 1
            assert result == {"radit.recall_at_1": 0.5}
            raise OSError("no route to http://me:secret@host\nmore")

    tracker = Careful("mlflow", Broken())
    for _ in range(2):
        tracker.on_trial_result(0, [], None, {"radit.recall@1": 0.5})
    assert Broken.calls == 1
    shown = capsys.readouterr().err
    expected = "radit: no mlflow: no route to http://me:***@host; the sweep goes on without it\n"
    assert shown == expected


def test_a_trial_that_failed_is_no_success_of_the_tracker() -> None:
    """For Tune it came to its end, with a result that says why it has none."""

    ends = []

    class Seen:
        def on_trial_complete(self, *args: Any) -> None:
            ends.append("complete")

        def on_trial_error(self, *args: Any) -> None:
            ends.append("error")

    tracker = Careful("mlflow", Seen())
    for result in ({"radit.em": 0.5}, {"failed": "out of memory"}, None):
        tracker.on_trial_complete(0, [], SimpleNamespace(last_result=result))
    assert ends == ["complete", "error", "complete"]


def test_a_tracker_that_cannot_be_had_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"unknown tracker 'mlfow'.*mlflow"):
        check_trackers(["mlfow"])
    monkeypatch.setitem(sys.modules, "mlflow", None)  # as where it is not installed
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert tracking(["mlflow", "wandb"], output=str(tmp_path), name="x") == []
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("radit: no mlflow: ")
    assert second.startswith("radit: no wandb: ")


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_server_that_does_not_answer_is_a_warning(
    tracker: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(tracker)
    nobody = f"http://me:{SECRET}@127.0.0.1:9"  # the port of `discard`
    monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert tracking([tracker], output=str(tmp_path), name="x") == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"radit: no {tracker}: ")
    assert line.endswith("the sweep goes on without it")
    assert SECRET not in line


def measured(values: dict[str, Any]) -> dict[str, float]:
    return {"radit.em": float(values["lr"]), "radit.recall@1": 0.5}


@pytest.mark.ray
@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_values_and_metrics_arrive_and_no_secret_is_written(
    tracker: str,
    ray_cluster: None,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip(tracker)
    register_pickle_by_value(sys.modules[__name__])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, SECRET)
    url = f"sqlite:///{tmp_path}/study.db"
    study = Study.open(url, {"lr": Choices(VALUES)}, {"radit.em": "max"})
    output = tmp_path / "out"
    run_study(study, measured, ["radit.em"], output=str(output), trackers=[tracker])
    assert len(study.finished()) == 2
    assert "radit: no " not in capfd.readouterr().err
    arrived = {"mlflow": _mlflow_runs, "wandb": _wandb_files}[tracker](output)
    assert arrived == [(value, float(value), 0.5) for value in VALUES]
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    import ray

    logs = Path(ray._private.worker._global_node.get_session_dir_path(), "logs")
    assert not [p for p in logs.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


def _mlflow_runs(output: Path) -> list[tuple[str, float, float]]:
    """(value, em, recall) of each run in the database, which names nothing else."""
    with sqlite3.connect(output / "mlflow.db") as database:
        runs = [run for (run,) in database.execute("select run_uuid from runs order by start_time")]
        found = []
        for run in runs:
            params = dict(database.execute("select key, value from params where run_uuid=?", [run]))
            metrics = dict(
                database.execute("select key, value from metrics where run_uuid=?", [run])
            )
            assert set(params) == {"lr"}
            assert set(metrics) == {"radit.em", "radit.recall_at_1", "training_iteration"}
            found.append((params["lr"], metrics["radit.em"], metrics["radit.recall_at_1"]))
    return found


def _log_records(data: bytes) -> list[bytes]:
    """The records of a log in LevelDB's format behind a header of 7 bytes: blocks of 32 KiB, in
    them pieces with checksum, length and kind (1 whole, 2 first, 3 middle, 4 last).
    """
    found, place, part = [], 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            found.append(part)
            part = b""
    return found


def _wandb_files(output: Path) -> list[tuple[str, float, float]]:
    """The same of W&B's offline runs."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted((output / "wandb").glob("offline-run-*/*.wandb")):
        values: dict[str, str] = {}
        for data in _log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = [*record.run.config.update, *record.config.update, *record.history.item]
            values |= {item.key or ".".join(item.nested_key): item.value_json for item in items}
        assert not [name for name in values if "host" in name or "pid" in name or "args" in name]
        found.append(
            (
                values["lr"].strip('"'),
                float(values["radit.em"]),
                float(values["radit.recall_at_1"]),
            )
        )
    return found
