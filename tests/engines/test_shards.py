"""Contract: what a guarded actor cannot do comes back as a value and is raised again as itself; a
call that is made again does nothing that is committed.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import commit_shard
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import IndexShard
from radit_ray.engines.shards import Guard, answers, map_shards
from radit_ray.stages.chunk import ChunkConfig, ChunkWorker

TOLD = {errno.EIO: "storage failed 5 times"}  # as data.remote says it


class Worker:
    def __init__(self, start: int) -> None:
        if start < 0:
            raise InputError(f"start={start}, expected 0 or more")
        self.start = start

    def add(self, number: int) -> int:
        if number > 9:
            raise InputError(f"number={number}, expected at most 9")
        if number < 0:
            raise OSError(-number, TOLD.get(-number, os.strerror(-number)), "x")
        return self.start + number


def test_values_come_back_in_order_and_the_first_error_as_itself() -> None:
    guard = Guard(Worker, {"start": 5})
    assert answers([guard.run("add", 1), guard.run("add", 2)]) == [6, 7]
    with pytest.raises(InputError, match=r"^number=10, expected at most 9$"):
        answers([guard.run("add", 1), guard.run("add", 10)])
    with pytest.raises(AttributeError):
        guard.run("subtract", 1)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "No space left on device: 'x'"),
        (errno.EACCES, "Permission denied: 'x'"),
        (errno.EROFS, "Read-only file system: 'x'"),
        (errno.EIO, "storage failed 5 times: 'x'"),
    ],
)
def test_an_error_of_the_disk_is_raised_again_as_itself(number: int, message: str) -> None:
    guard = Guard(Worker, {"start": 5})
    with pytest.raises(OSError, match=message) as caught:
        answers([guard.run("add", -number)])
    assert caught.value.errno == number


def test_any_other_error_ends_the_worker() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Guard(Worker, {"start": 5}).run("add", -errno.EBADF)


def test_an_actor_that_could_not_be_made_says_why_at_the_first_call() -> None:
    guard = Guard(Worker, {"start": -1})
    with pytest.raises(InputError, match=r"^start=-1, expected 0 or more$"):
        answers([guard.run("add", 1)])


def test_a_broken_index_shard_is_the_line_of_its_error(tmp_path: Path) -> None:
    (tmp_path / "shard.faiss").write_bytes(b"damaged")
    shard: dict[str, Any] = {"faiss": "shard.faiss", "arrow": "x", "rows": 1, "sha256": "0" * 64}
    guard = Guard(IndexShard, {"index": str(tmp_path), "shard": shard, "dimension": 4, "nprobe": 0})
    with pytest.raises(InputError, match="sha256"):
        answers([guard.run("num_allowed")])


class Writer:
    """Commits a shard whose rows say how often this was done."""

    def __init__(self, output: str) -> None:
        self.output, self.calls = output, 0

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.calls += 1
        return commit_shard(self.output, item["name"], pa.table({"call": [self.calls]}))


class Patient:
    """The item that begins first takes until all others have begun, on another worker."""

    def __init__(self, folder: str, number: int) -> None:
        self.folder, self.number = Path(folder), number

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        (self.folder / item["id"]).touch()
        try:
            (self.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            return {"begun": 0}
        deadline, begun = time.monotonic() + 30, 0
        while begun < self.number and time.monotonic() < deadline:
            time.sleep(0.05)
            begun = sum(path.name != "first" for path in self.folder.iterdir())
        return {"begun": begun}


@pytest.mark.ray
def test_no_item_waits_behind_a_long_one_while_a_worker_is_idle(
    ray_cluster: None, tmp_path: Path
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it
    items = [{"id": f"item-{number}"} for number in range(6)]
    arguments = {"folder": str(tmp_path), "number": len(items)}
    resources = Resources(num_workers=2)
    made = map_shards(Patient, arguments, items, resources=resources, label="wait", unit="item")
    assert sorted(row["begun"] for row in made) == [0] * 5 + [len(items)]


def test_a_call_made_again_does_nothing_that_is_committed(tmp_path: Path) -> None:
    guard = Guard(Writer, {"output": str(tmp_path)})
    first = guard({"name": "a.parquet"})
    again = Guard(Writer, {"output": str(tmp_path)})  # another worker, since the first was killed
    assert again({"name": "a.parquet"}) == first
    assert again.worker.calls == 0
    (tmp_path / "a.parquet").write_bytes(b"torn")
    again({"name": "a.parquet"})
    assert again.worker.calls == 1
    again({"name": "b.parquet"})
    assert again.worker.calls == 2


def test_a_file_that_is_read_again_keeps_its_chunk_shards(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": str(number), "title": "", "text": f"words {number}"} for number in range(6)]
    corpus.write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "chunk"
    arguments = {
        **{"config": ChunkConfig(docs_per_shard=2), "corpus": str(corpus)},
        **{"output": str(output), "committed": []},
    }
    item = {"file": str(corpus), "number": 0}
    ChunkWorker(**arguments)(item)
    files = sorted(output.glob("*.parquet"))
    assert len(files) == 3
    files[1].unlink()
    before = [file.stat().st_mtime_ns for file in (files[0], files[2])]
    ChunkWorker(**arguments)(item)
    assert files[1].exists()
    assert [file.stat().st_mtime_ns for file in (files[0], files[2])] == before
