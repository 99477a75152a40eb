"""Contract: the files of an artifact on S3 are those on a path; of two different runs at once one
has the folder; what workers write is seen by a driver that has looked before. Over the real
protocol, by s3fs; skipped without the extra `s3`.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3 import have_s3, s3_server
from test_artifacts import Config, make

from radit_ray.core.errors import InputError
from radit_ray.data import artifacts, storage

pytestmark = pytest.mark.skipif(not have_s3(), reason="needs the extra s3")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, s3_server() as variables:
        for name, value in variables.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem().mkdir("radit")
        yield "s3://radit"


@pytest.fixture
def root(bucket: str) -> str:
    return f"{bucket}/{time.monotonic_ns()}"


def test_an_artifact_is_the_one_of_a_path(root: str, tmp_path: Path) -> None:
    plain, made = make(str(tmp_path / "out")), make(f"{root}/out")
    assert plain is not None
    assert made is not None
    files = [storage.read_json(f"{one.path}/manifest.json")["files"] for one in (plain, made)]
    assert files[0] == files[1]
    assert make(f"{root}/out") == made
    given = artifacts.artifact_input(made.path, "toy")
    assert sum(table.num_rows for table in artifacts.iter_tables(given)) == 6
    assert sorted(storage.list_files(made.path)) == sorted(
        name for name in storage.list_files(plain.path) if name != ".lock"
    )


def test_a_resumed_artifact_keeps_its_shards(root: str) -> None:
    assert make(f"{root}/out", stop_after=2) is None
    before = storage.version_of(f"{root}/out/part-0.parquet")
    assert make(f"{root}/out") is not None
    assert storage.version_of(f"{root}/out/part-0.parquet") == before


def test_a_record_is_created_once(root: str) -> None:
    name, found = f"{root}/identity.json", []

    def create(number: int) -> None:
        found.append((storage.create_json(name, {"of": number}), number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = (number for created, number in found if created)
    assert storage.read_json(name) == {"of": winner}
    make(f"{root}/out")
    with pytest.raises(InputError, match="size 2 there, 3 asked"):
        make(f"{root}/out", config=Config(size=3))


def test_what_another_process_wrote_is_seen(root: str, bucket: str) -> None:
    """A listing that s3fs remembers would hide what workers have committed since."""
    import boto3

    storage.write_bytes(f"{root}/committed/one.json", b"1")
    assert storage.list_files(f"{root}/committed") == ["one.json"]
    key = f"{root.removeprefix(bucket + '/')}/committed/two.json"
    boto3.client("s3").put_object(Bucket="radit", Key=key, Body=json.dumps(2).encode())
    assert storage.list_files(f"{root}/committed") == ["one.json", "two.json"]
    assert storage.exists(f"{root}/committed/two.json")


def test_a_folder_goes_there_and_back(root: str, tmp_path: Path) -> None:
    for name in ("config.json", "weights/a.bin"):
        storage.write_bytes(f"{tmp_path}/model/{name}", name.encode())
    storage.put_folder(f"{tmp_path}/model", f"{root}/model")
    copy = storage.local_copy(f"{root}/model")
    assert storage.list_files(copy) == ["config.json", "weights/a.bin"]
    assert Path(copy, "weights", "a.bin").read_bytes() == b"weights/a.bin"
    assert artifacts.folder_fingerprint(copy) == artifacts.folder_fingerprint(f"{root}/model")
    storage.remove(f"{root}/model")
    assert not storage.exists(f"{root}/model")


def test_a_bucket_that_is_not_there_is_an_error(bucket: str) -> None:
    with pytest.raises(OSError, match="nowhere"):
        make("s3://nowhere-at-all/out")
