"""Contract: a disk that is full or can no longer be written stops a stage with an error that says
so; nothing half-written counts, and the same call completes once there is room or permission.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from disks import Disk, disk
from test_artifacts import NAMES, Config, make, snapshot, source, to_fp32

from radit_ray.core.errors import InputError
from radit_ray.data import artifacts, storage
from radit_ray.data.artifacts import Artifact
from radit_ray.data.work import Work


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Disk]:
    with disk(tmp_path / "disk", "80k") as mounted:
        yield mounted


def make_large(output: str) -> Artifact:
    """A stage call of three shards, of which 80 kB hold two."""
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        for number, name in enumerate(NAMES):
            if name in work.missing(NAMES):
                noise = np.random.default_rng(number).bytes(24_000)
                artifacts.commit_shard(work.output, name, pa.table({"x": [noise]}))
        return work.finish(metrics={})


def test_a_full_disk_keeps_what_is_whole(small: Disk, tmp_path: Path) -> None:
    output = str(small.path / "out")
    with pytest.raises(OSError, match="No space left") as caught:
        make_large(output)
    assert caught.value.errno == errno.ENOSPC
    assert artifacts.read_manifest(output) is None
    assert [n for n in storage.list_files(output) if n.endswith(".parquet")] == NAMES[:2]
    assert not [name for name in os.listdir(output) if name.endswith(".tmp")]
    kept = {name: stamp for name, (stamp, _) in snapshot(output).items() if name in NAMES}
    small.remount("size=1m")
    made = make_large(output)
    assert {name: Path(output, name).stat().st_mtime_ns for name in kept} == kept
    plain = make_large(str(tmp_path / "plain"))
    files = [storage.read_json(f"{one.path}/manifest.json")["files"] for one in (made, plain)]
    assert files[0] == files[1]


@pytest.mark.parametrize("left", [0, 4096])
def test_a_disk_that_is_full_at_the_manifest(small: Disk, left: int) -> None:
    """Not even the manifest fits, or half of it does: the artifact stays unfinished."""
    output = str(small.path / "out")
    assert make(output, stop_after=3) is not None
    small.remount("size=2m")
    os.unlink(f"{output}/manifest.json")
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        filler = small.path / "filler"
        filler.write_bytes(bytes(small.free_bytes() - left))
        notes = {"note": "x" * 100_000}
        with pytest.raises(OSError, match="No space left"):
            work.finish(metrics=notes)
        assert artifacts.read_manifest(output) is None
        filler.unlink()
        assert work.finish(metrics=notes).metrics == notes


def test_permission_lost_half_way(small: Disk) -> None:
    output = str(small.path / "out")
    assert make(output, stop_after=1) is None
    small.remount("ro")
    with pytest.raises(InputError, match=r"out cannot be written \(Read-only file system\)"):
        make(output)
    with pytest.raises(OSError, match="Read-only") as caught:
        artifacts.commit_shard(output, NAMES[1], pa.table({"x": [1]}))
    assert caught.value.errno == errno.EROFS
    small.remount("rw")
    made = make(output)
    assert made is not None
    assert made.rows == 6


def test_a_finished_artifact_on_a_disk_that_is_read_only_is_still_read(small: Disk) -> None:
    output = str(small.path / "out")
    make(output)
    small.remount("ro")
    given = artifacts.artifact_input(output, "toy")
    assert sum(table.num_rows for table in artifacts.iter_tables(given)) == 6


@pytest.mark.parametrize("year", [1970, 2100])
def test_clocks_that_differ_change_nothing(tmp_path: Path, year: int) -> None:
    """Files from a machine whose clock is far off: resumed, reused, and damage still seen."""
    output, wrong = str(tmp_path / "out"), (year - 1970) * 31_556_952
    assert make(output, stop_after=2) is None
    for name in storage.list_files(output):
        os.utime(Path(output, name), (wrong, wrong))
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        assert work.missing(NAMES) == NAMES[2:]
    made = make(output)
    assert made is not None
    assert make(output) == made
    shard = Path(output, NAMES[0])
    assert artifacts.read_shard(str(shard)).num_rows == 2
    content, times = bytearray(shard.read_bytes()), shard.stat()
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a copy that keeps times does
    with pytest.raises(InputError, match="its manifest says"):
        artifacts.read_shard(str(shard))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_torn_sidecar_is_a_shard_to_do_again(tmp_path: Path, share: float) -> None:
    output = str(tmp_path / "out")
    assert make(output, stop_after=2) is None
    sidecar = Path(output, "committed", f"{NAMES[0]}.json")
    content = sidecar.read_bytes()
    sidecar.write_bytes(content[: int(share * len(content))])
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        assert work.missing(NAMES) == [NAMES[0], NAMES[2]]
    made = make(output)
    assert made is not None
    assert made.rows == 6


@pytest.mark.parametrize("name", ["manifest.json", "identity.json"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.95])
def test_a_torn_record_is_never_taken_for_a_whole_one(
    tmp_path: Path, name: str, share: float
) -> None:
    output = str(tmp_path / "out")
    if name == "manifest.json":
        make(output)
    else:
        make(output, stop_after=1)
    content = Path(output, name).read_bytes()
    Path(output, name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=rf"{name} is damaged or breaks off.*; delete the folder"):
        make(output)
