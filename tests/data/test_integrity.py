"""Contract: a shard of a finished artifact is read only as its manifest knows it, and a file that
breaks off is one line that names it and the fix.
"""

from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radit_ray.core.errors import InputError
from radit_ray.data import artifacts, integrity, storage
from radit_ray.data.artifacts import read_shard

NAME = "radit/part-0.parquet"  # one folder below the artifact, as evaluate's variants are


def finished(root: str, values: list[int]) -> str:
    """An artifact of one shard; its folder."""
    folder = storage.join(root, "artifact")
    sidecar = artifacts.commit_shard(folder, NAME, pa.table({"x": values}))
    files = [{key: sidecar[key] for key in ("name", "bytes", "sha256")}]
    manifest = {name: {} for name in artifacts.MANIFEST}
    manifest |= {"format_version": 1, "stage": "toy", "files": files}
    storage.write_json(storage.join(folder, "manifest.json"), manifest)
    return folder


def refused(path: str) -> str:
    with pytest.raises(InputError) as caught:
        read_shard(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=["path", "memory://"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "memory://":
        return f"memory://integrity-{time.monotonic_ns()}"
    return str(tmp_path)


def test_a_shard_that_was_replaced_is_refused(root: str) -> None:
    folder = finished(root, [1, 2])
    shard = storage.join(folder, NAME)
    assert read_shard(shard)["x"].to_pylist() == [1, 2]
    before = storage.sha256_of(shard)
    time.sleep(0.01)  # of a file system with coarse times
    with storage.atomic_file(shard) as file:  # a good Parquet file of the same rows and columns
        pq.write_table(pa.table({"x": [1, 3]}), file)
    message = refused(shard)
    after = storage.sha256_of(shard)
    assert message.startswith(
        f"{shard} has sha256 {after[:12]}..., its manifest says {before[:12]}..."
    )
    assert f"delete the folder {folder} and run the same command again" in message


def test_a_link_to_a_variant_leads_to_the_manifest(tmp_path: Path) -> None:
    folder = finished(str(tmp_path), [1])
    link = tmp_path / "run" / "evaluate" / "radit"
    artifacts.make_link(str(link), f"{folder}/radit")
    Path(folder, NAME).write_bytes(b"other")
    assert "its manifest says" in refused(f"{link}/part-0.parquet")


def test_a_missing_shard_is_named(root: str) -> None:
    folder = finished(root, [1])
    storage.remove(storage.join(folder, NAME))
    assert "is in the manifest and is missing" in refused(storage.join(folder, NAME))


def test_a_shard_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = finished(str(tmp_path), [1])
    hashed: list[str] = []
    plain = storage.sha256_of
    monkeypatch.setattr(storage, "sha256_of", lambda path: hashed.append(path) or plain(path))
    for _ in range(3):
        read_shard(f"{folder}/{NAME}")
    assert hashed == [f"{folder}/{NAME}"]


def test_a_shard_without_a_manifest_is_read_unless_it_breaks_off(root: str) -> None:
    shard = storage.join(root, "artifact", "part-0.parquet")
    artifacts.commit_shard(storage.join(root, "artifact"), "part-0.parquet", pa.table({"x": [1]}))
    assert read_shard(shard).num_rows == 1
    storage.write_bytes(shard, storage.read_bytes(shard)[:-40])
    assert refused(shard).startswith(f"{shard} is damaged or breaks off")
    with pytest.raises(FileNotFoundError):
        read_shard(storage.join(root, "no.parquet"))


def test_a_broken_manifest_names_the_folder_to_make_again(root: str) -> None:
    folder = finished(root, [1])
    storage.write_bytes(storage.join(folder, "manifest.json"), b'{"format_version": 1, "fi')
    for read in (
        lambda: artifacts.read_manifest(folder),
        lambda: read_shard(storage.join(folder, NAME)),
    ):
        with pytest.raises(InputError, match=r"manifest\.json is damaged or breaks off") as caught:
            read()
        assert f"delete the folder {folder}" in str(caught.value)


def test_a_manifest_that_lost_its_shape_is_named(root: str) -> None:
    folder = finished(root, [1])
    path = storage.join(folder, "manifest.json")
    whole = storage.read_json(path)
    (file,) = whole["files"]
    for damaged, expected in (
        ({**whole, "files": [{"name": file["name"]}]}, "is damaged: expected a list `files`"),
        ({**whole, "files": None}, "is damaged: expected a list `files`"),
        (
            {n: v for n, v in whole.items() if n != "fingerprint"},
            "is damaged: it lacks fingerprint",
        ),
        ([whole], "format_version None, expected 1"),
    ):
        storage.write_json(path, damaged)
        with pytest.raises(InputError, match=expected):
            artifacts.read_manifest(folder)


def test_a_manifest_of_another_program_says_nothing_about_a_model(tmp_path: Path) -> None:
    folder = str(tmp_path / "site" / "model")
    storage.write_bytes(storage.join(folder, "weights.bin"), b"1")
    alone = artifacts.folder_fingerprint(folder)
    for foreign in ({"name": "a web application", "icons": []}, ["a", "list"]):
        storage.write_json(str(tmp_path / "site" / "manifest.json"), foreign)
        assert artifacts.folder_fingerprint(folder) == alone


def test_an_arrow_file_that_breaks_off_is_named(tmp_path: Path) -> None:
    file = tmp_path / "part.arrow"
    table = pa.table({"x": list(range(1000))})
    with pa.OSFile(str(file), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table)
    file.write_bytes(file.read_bytes()[:-100])
    with (
        pytest.raises(InputError, match=r"part\.arrow is damaged or breaks off"),
        integrity.arrow_damage_named(str(file)),
    ):
        pa.ipc.open_file(pa.memory_map(str(file)))


def test_an_error_of_the_disk_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), integrity.arrow_damage_named(str(tmp_path)):
        raise PermissionError(13, "Permission denied")
