"""Contract: storage that is slow or fails now and then changes nothing but the clock; storage that
goes on failing is one error that names the path; no failed request is taken for "there is nothing".
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest
from flaky import line
from test_artifacts import Config, make, source, to_fp32

from radit_ray.core.errors import InputError
from radit_ray.data import artifacts, storage
from radit_ray.data import remote as requests
from radit_ray.data.work import Work


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.0)


@pytest.fixture
def remote(tmp_path: Path) -> str:
    return f"flaky://{tmp_path}"


def test_a_stage_outlives_a_bad_line(remote: str, tmp_path: Path) -> None:
    """One request in twenty fails; the files are those of a good disk."""
    plain = make(str(tmp_path / "plain"))
    assert plain is not None
    with line(share=0.05) as bad:
        made = make(f"{remote}/out")
        assert bad.failed > 0
        assert made is not None
        assert make(f"{remote}/out") == made
        given = artifacts.artifact_input(made.path, "toy")
        assert pa.concat_tables(artifacts.iter_tables(given)).num_rows == 6
        with pytest.raises(InputError, match="size 2 there, 3 asked"):
            make(f"{remote}/out", config=Config(size=3))
    manifests = [storage.read_json(f"{path}/manifest.json") for path in (made.path, plain.path)]
    assert manifests[0]["files"] == manifests[1]["files"]


def test_a_slow_line_changes_nothing(remote: str) -> None:
    with line(delay_s=0.002) as slow:
        made = make(f"{remote}/out")
        assert made is not None
        assert made.rows == 6
        assert slow.asked > 20


def test_large_files_are_read_through_breaks(remote: str, tmp_path: Path) -> None:
    content = os.urandom(3 << 20)
    Path(tmp_path, "large.bin").write_bytes(content)
    with line(share=0.15) as bad:
        assert storage.read_bytes(f"{remote}/large.bin") == content
        with storage.open_read(f"{remote}/large.bin") as stream:
            assert stream.seek(-10, os.SEEK_END) == len(content) - 10
            assert stream.read() == content[-10:]
            stream.seek(1 << 20)
            assert stream.read(100) == content[1 << 20 :][:100]
        assert Path(storage.local_copy(f"{remote}/large.bin")).read_bytes() == content
        assert bad.failed > 0


def test_a_folder_is_copied_whole_through_breaks(remote: str, tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        storage.write_bytes(f"{tmp_path}/model/{name}", name.encode())
    with line(share=0.05):
        copy = storage.local_copy(f"{remote}/model")
        assert storage.list_files(copy) == ["a", "b/c"]
        # written anew under the same names: another copy, not the one from before
        time.sleep(0.01)
        storage.write_bytes(f"{tmp_path}/model/a", b"new")
        assert Path(storage.local_copy(f"{remote}/model"), "a").read_bytes() == b"new"


def test_storage_that_stays_away_is_named(remote: str) -> None:
    storage.write_json(f"{remote}/x.json", 1)
    for ask in (
        lambda: storage.exists(f"{remote}/x.json"),  # False would mean: make it again
        lambda: storage.list_files(remote),  # so would an empty list
        lambda: storage.read_json(f"{remote}/x.json"),
        lambda: storage.write_json(f"{remote}/y.json", 2),
        lambda: storage.size_of(f"{remote}/x.json"),
        lambda: make(f"{remote}/out"),
    ):
        with line(share=1.0), pytest.raises(OSError, match="storage failed 5 times") as caught:
            ask()
        assert str(remote) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert storage.list_files(remote) == ["x.json"]


def test_no_corpus_file_is_left_out(remote: str, tmp_path: Path) -> None:
    """A folder whose listing failed is not an empty one."""
    for name in ("a/1.jsonl", "a/2.jsonl", "b/3.jsonl"):
        storage.write_bytes(f"{tmp_path}/{name}", b"{}")
    for _ in range(10):
        with line(share=0.05):
            assert len(storage.glob_files(f"{remote}/*/*.jsonl")) == 3
            assert storage.is_folder(f"{remote}/a")
            assert not storage.is_folder(f"{remote}/a/1.jsonl")
    assert storage.glob_files(f"{remote}/c/*.jsonl") == []
    with line(share=1.0), pytest.raises(OSError, match="storage failed 5 times"):
        storage.glob_files(f"{remote}/*/*.jsonl")


def test_what_repeating_cannot_mend_is_asked_once(remote: str) -> None:
    with line() as good, pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{remote}/nothing")
    assert good.asked <= 2


def test_what_another_process_wrote_is_seen(remote: str, tmp_path: Path) -> None:
    """File systems remember listings; a driver counts what its workers have committed since."""
    Path(tmp_path, "one").write_bytes(b"1")
    assert storage.list_files(remote) == ["one"]
    Path(tmp_path, "two").write_bytes(b"2")
    assert storage.list_files(remote) == ["one", "two"]


def test_of_two_different_runs_at_once_one_is_refused(remote: str) -> None:
    """Object stores have no lock: both find an empty folder, the first to create its record has
    it.
    """
    output = f"{remote}/out"

    def other_was_first(_: str) -> None:
        with Work.open("toy", 1, Config(size=3), source(), output, to_fp32):
            pass

    with line() as good:
        good.before_create = other_was_first
        with pytest.raises(InputError, match="size 3 there, 2 asked"):
            make(output)
    done = make(output, config=Config(size=3))  # the other goes on as if nothing had been
    assert done is not None
    assert storage.read_json(f"{output}/manifest.json")["config"]["size"] == 3


def test_of_two_equal_runs_at_once_both_go_on(remote: str) -> None:
    output = f"{remote}/out"

    def other_was_first(_: str) -> None:
        with Work.open("toy", 1, Config(), source(), output, to_fp32):
            pass

    with line() as good:
        good.before_create = other_was_first
        made = make(output)
    assert made is not None
    assert made.rows == 6


def test_no_permission_passes_at_once(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise PermissionError(13, "Permission denied", remote)

    with pytest.raises(PermissionError):
        requests.patiently(refuse, remote)


def test_passwords_stay_out_of_the_message() -> None:
    def fail() -> None:
        raise ConnectionError("gone")

    with pytest.raises(OSError, match=r"ftp://me:\*\*\*@host") as caught:
        requests.patiently(fail, "ftp://me:secret@host/x")
    assert "secret" not in str(caught.value)
