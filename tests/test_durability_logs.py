"""Contract of the logs of benchmarks/kill.py and benchmarks/multinode.py: how far a killed stage
had come is read off its folder alone, a shard that was written again is counted, results are
compared part by part, and every row has what a benchmark's row must have (docs/design.md).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import kill, multinode
from benchmarks.kill import KINDS, Log, Progress, difference, plan, progress, repeated
from benchmarks.publish import BELOW
from benchmarks.streaming import Timeline
from benchmarks.tiny_chain import EVERY, STAGES
from radit_ray.data import artifacts, storage

ROW = {"name", "ours", "peer", "ratio", "floor", "better", "unit"}


def shards(folder: Path, count: int) -> str:
    """An unfinished artifact of so many shards."""
    for number in range(count):
        artifacts.commit_shard(str(folder), f"v/part-{number}.parquet", pa.table({"x": [number]}))
    artifacts.commit_shard(str(folder), "shard-0.arrow", lambda path: Path(path).touch(), rows=0)
    return str(folder)


def test_committed_shards_are_counted_and_one_that_is_written_again_shows(tmp_path: Path) -> None:
    output = shards(tmp_path, 3)
    before = progress("evaluate", output)
    assert before.units == 3  # an index shard's chunks are no unit of their own
    assert progress("evaluate", output).committed == before.committed
    artifacts.commit_shard(output, "v/part-1.parquet", pa.table({"x": [1]}))
    after = progress("evaluate", output).committed
    assert [Path(file).name for file in after if after[file] != before.committed[file]] == [
        "part-1.parquet"
    ]


def test_a_training_is_as_far_as_its_last_step(tmp_path: Path) -> None:
    output = str(tmp_path)
    assert progress("lm-ft", output) == Progress(units=0, committed={})
    for step in (5, 10):
        storage.write_json(f"{output}/resume/step-{step:06d}/state.json", {})
    storage.write_json(f"{output}/resume/progress.json", {"step": 13, "loss": 0.1})
    at = progress("lm-ft", output)
    assert (at.step, at.checkpoint, at.units) == (13, 10, 13)
    row = repeated("lm-ft", at, 0)
    assert row["ratio"] == pytest.approx(4 / EVERY)  # three steps and the one under way
    assert row["floor"] == 1.0
    assert repeated("embed", at, 0)["ratio"] == 1.0
    assert repeated("embed", at, 2)["ratio"] == 3.0


def test_weights_are_compared_by_their_largest_difference(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", 1.25)):
        (tmp_path / name / "model").mkdir(parents=True)
        weights = {"w": torch.tensor([value, 2.0])}
        save_file(weights, tmp_path / name / "model" / "model.safetensors")
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert difference("lm-ft", one, one) == 0.0
    assert difference("lm-ft", one, two) == pytest.approx(0.25)


def test_points_of_a_sweep_are_compared_one_by_one(tmp_path: Path) -> None:
    for name, last in (("one", 2), ("two", 3)):
        storage.write_json(str(tmp_path / name / "sweep.json"), {"points": [1, last]})
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    assert difference("sweep", one, one) == 0.0
    assert difference("sweep", one, two) == 0.5


def test_a_few_kills_reach_many_stages_and_all_of_them_everything() -> None:
    stages = list(STAGES)
    assert len({stage for stage, _ in plan(stages, 5)}) == 5
    assert set(plan(stages, 27)) == {(stage, kind) for stage in stages for kind in KINDS}
    assert set(plan(["embed", "lm-ft"], 6)) == {(s, k) for s in ("embed", "lm-ft") for k in KINDS}


def row(**more: Any) -> dict[str, Any]:
    return {
        "name": "embed: worker after 2 of 16",
        "stage": "embed",
        "killed": "worker",
        "moment": "2 committed and 0.50 of the next",
        "committed": 2,
        "redone": 0,
        "equal": True,
        "difference": 0.0,
        "went_on": True,
        "rerun_s": 3.0,
        **repeated("embed", Progress(units=2, committed={}), 0),
        **more,
    }


def test_the_log_of_kills_is_a_page_and_rows(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("sys.argv", ["kill.py", "--kills", "2"])
    late = row(killed="nothing, it came too late")
    prose, text = tmp_path / "kill.md", f"# Kill it\n\nprose\n\n{BELOW}\n"
    prose.write_text(f"{text}\nof an earlier run\n")
    shown = kill.publish(
        {"seed": 0, "rows": [row(), late]}, tmp_path / "kill.json", prose, kill.page
    )
    found = storage.read_json(str(tmp_path / "kill.json"))
    assert {"commit", "hardware", "versions", "command", "rows"} <= found.keys()
    assert found["command"] == "python -m benchmarks.kill --kills 2"
    assert all(one.keys() >= ROW for one in found["rows"])
    assert prose.read_text() == f"{text}\n{shown}\n"
    assert "1 kills; 1 results equal" in shown
    assert "went on in 1 of 1 cases" in shown


def test_the_log_of_nodes_is_a_page_and_rows(tmp_path: Path) -> None:
    rows = [
        multinode.row_of(
            "embed: one of 2 nodes lost", 0.0, 0.0, nodes=2, went_on=True, seconds=1.0
        ),
        multinode.row_of("lm-ft: ZeRO-3, 2 workers", 1e-3, 1e-4, nodes=2, seconds=1.0),
    ]
    assert all(one.keys() >= ROW for one in rows)
    made = {"command": "c", "commit": "0", "hardware": "h", "rows": rows, "s3": "S3 was left out."}
    shown = multinode.page(made)
    assert "1 of 2 results are those of the uninterrupted run" in shown
    assert shown.endswith("S3 was left out.")
    assert os.path.exists(multinode.PAGE)
    assert os.path.exists(kill.PAGE)


def test_a_log_goes_on_where_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"commit": "c0ffee", "command": "python -m benchmarks.kill"}
    monkeypatch.setattr(kill, "measured_by", lambda script: made | {"script": script})

    def rows_of(*values: int) -> Log:
        log = Log("kill", str(tmp_path))
        for value in values:
            log.add(lambda value=value: {"value": value})
        return log

    rows_of(1, 2)
    again = rows_of(7, 8, 3)  # the first two are kept
    assert [row["value"] for row in again.rows] == [1, 2, 3]
    made["command"] += " --seed 1"
    assert [row["value"] for row in rows_of(4).rows] == [4]
    made["commit"] += "-dirty"
    rows_of(5)
    assert [row["value"] for row in rows_of(6).rows] == [6]
    made.update({"commit": "c0ffee", "command": "python -m benchmarks.kill"})
    again.close()
    assert [row["value"] for row in rows_of(9).rows] == [9]


def test_a_timeline_parts_the_first_half_from_the_whole(tmp_path: Path) -> None:
    seen = Timeline(str(tmp_path))
    for number, held in enumerate((10, 30, 20, 50)):
        seen.see(held, 2 * held)
        storage.write_json(f"{tmp_path}/committed/{number}.json", {})
    storage.remove(f"{tmp_path}/committed")  # as `finish` does
    seen.see(90, 100)
    peaks = seen.peaks()
    assert peaks["process"] == {"half": 30, "whole": 90}
    assert peaks["together"] == {"half": 60, "whole": 100}
