"""Contract: a local path and an fsspec URI behave alike; a write is seen whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data import remote, storage


@pytest.fixture(params=["path", "file://", "memory://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """One empty folder of each kind."""
    if request.param == "memory://":
        return f"memory://storage-{time.monotonic_ns()}"
    return str(tmp_path) if request.param == "path" else f"file://{tmp_path}"


def test_write_read_list_hash_remove(root: str) -> None:
    name = storage.join(root, "a", "b.json")
    assert not storage.exists(name)
    storage.write_json(name, {"x": [1, "é"]})
    storage.write_bytes(storage.join(root, "c.bin"), b"12345")
    assert storage.read_json(name) == {"x": [1, "é"]}
    assert storage.list_files(root) == ["a/b.json", "c.bin"]
    assert storage.list_folders(root) == ["a"]
    assert storage.size_of(storage.join(root, "c.bin")) == 5
    assert storage.sha256_of(storage.join(root, "c.bin")) == hashlib.sha256(b"12345").hexdigest()
    with storage.open_read(storage.join(root, "c.bin")) as stream:
        stream.seek(3)
        assert stream.read() == b"45"
    storage.remove(storage.join(root, "a"))
    storage.remove(storage.join(root, "not there"))
    assert storage.list_files(root) == ["c.bin"]


def test_a_failed_write_leaves_what_was_there(root: str) -> None:
    name = storage.join(root, "file")
    storage.write_bytes(name, b"old")

    def fail() -> None:
        with storage.atomic_file(name) as temporary:
            Path(temporary).write_bytes(b"half of the n")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert storage.read_bytes(name) == b"old"
    assert storage.list_files(root) == ["file"]


def test_put_folder_and_local_copy(root: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = tmp_path_factory.mktemp("made")
    for name in ("x", "sub/y"):
        storage.write_bytes(f"{made}/{name}", name.encode())
    storage.put_folder(str(made), storage.join(root, "model"))
    copy = storage.local_copy(storage.join(root, "model"))
    assert storage.list_files(copy) == ["sub/y", "x"]
    assert Path(copy, "sub", "y").read_bytes() == b"sub/y"
    one = storage.local_copy(storage.join(root, "model", "x"))
    assert Path(one).read_bytes() == b"x"


def test_workers_that_ask_together_share_one_download(monkeypatch: pytest.MonkeyPatch) -> None:
    name, asked = f"memory://together-{time.monotonic_ns()}/x", []
    storage.write_bytes(name, b"large")
    download = remote.get

    def slow(*arguments: Any) -> None:
        asked.append(arguments)
        time.sleep(0.1)
        download(*arguments)

    monkeypatch.setattr(remote, "get", slow)
    with ThreadPoolExecutor(4) as pool:
        copies = list(pool.map(storage.local_copy, [name] * 4))
    assert len(asked) == len(set(copies)) == 1
    assert Path(copies[0]).read_bytes() == b"large"


def test_a_copy_of_nothing_is_not_there() -> None:
    """The reader that asked says what is missing."""
    assert not Path(storage.local_copy(f"memory://nothing-{time.monotonic_ns()}/x")).exists()


def test_a_copy_of_changed_content_is_another_copy() -> None:
    name = f"memory://copies-{time.monotonic_ns()}/x"
    storage.write_bytes(name, b"one")
    first = storage.local_copy(name)
    storage.write_bytes(name, b"two, longer")
    assert Path(storage.local_copy(name)).read_bytes() == b"two, longer"
    assert Path(first).read_bytes() == b"one"


def test_temporary_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".x.abc.tmp").write_bytes(b"half")
    (tmp_path / "x").write_bytes(b"whole")
    assert storage.list_files(str(tmp_path)) == ["x"]


def test_not_a_number_is_no_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(str(tmp_path / "x.json"), {"loss": float("nan")})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("content", [b'{"variants": {', b"", b'{"a": "\xff"}'])
def test_a_json_file_that_breaks_off_is_one_line(root: str, content: bytes) -> None:
    name = storage.join(root, "results.json")
    storage.write_bytes(name, content)
    with pytest.raises(InputError, match=r"is damaged or breaks off .*; delete it") as caught:
        storage.read_json(name)
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"; ask Anna$"):
        storage.read_json(name, fix="ask Anna")


def test_a_file_written_anew_is_another_version(root: str) -> None:
    name = storage.join(root, "x")
    storage.write_bytes(name, b"one")
    first = storage.version_of(name)
    assert storage.version_of(name) == first
    time.sleep(0.01)  # of a file system with coarse times
    storage.write_bytes(name, b"two")
    assert storage.version_of(name) != first
