"""Contract of `ARCHIVE!PATTERN`: the members that fit, by name, from every kind of archive; one
that is cut, damaged or dangerous is one line that names it, and never fewer rows in silence.
"""

from __future__ import annotations

import gzip
import io
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
from written import PACKERS, fails, fields, jsonl, outcome, tarred, write, zipped

from radit_ray.data import native_files
from radit_ray.data.examples import read_examples

QUESTIONS = {
    "a/test/1.jsonl": jsonl({"question": "one?", "answer": "1"}),
    "a/test/2.jsonl": jsonl({"question": "two?", "answer": "2"}),
    "a/train/1.jsonl": jsonl({"question": "three?", "answer": "3"}),
    "a/test/empty.jsonl": "",
    "README.md": "not a question",
}


@pytest.mark.parametrize("ending", ["zip", "tar", "tgz", *(f"tar{end}" for end in PACKERS)])
def test_members_that_fit_the_pattern_by_name(tmp_path: Path, ending: str) -> None:
    if ending == "zip":
        content = zipped(QUESTIONS)
    else:
        packer = PACKERS.get(".gz" if ending == "tgz" else ending.removeprefix("tar"), bytes)
        content = packer(tarred(QUESTIONS))
    path = write(tmp_path / f"x.{ending}", content)
    rows = read_examples(f"{path}!a/test/*.jsonl")
    assert fields(rows, "id", "question", "answers", "article") == [
        ("a/test/1:1", "one?", ["1"], "1"),
        ("a/test/2:1", "two?", ["2"], "2"),
    ]
    assert [row["question"] for row in read_examples(f"{path}!*/train/*")] == ["three?"]
    both = read_examples(f"train={path}!a/train/*,eval={path}!a/test/*.jsonl")
    assert [row["split"] for row in both] == ["train", "eval", "eval"]


def test_packed_members_and_other_formats_inside(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("x.jsonl.gz", gzip.compress(QUESTIONS["a/test/1.jsonl"].encode()))
        packed.writestr("y.csv", "question,answer\ntwo?,2\n")
    path = write(tmp_path / "x.zip", stream.getvalue())
    assert [row["question"] for row in read_examples(f"{path}!*")] == ["one?", "two?"]


def test_a_pattern_without_members_and_an_archive_that_is_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "x.zip", zipped(QUESTIONS))
    message = fails(f"{path}!*.csv")
    assert message.startswith(f"{path}: no member '*.csv' (it holds README.md, a/test/1.jsonl")
    assert fails(f"{path}!a/test/empty.jsonl").startswith(f"{path}: no member")
    assert fails(f"{tmp_path}/no.tar.gz!*") == f"{tmp_path}/no.tar.gz: no such file; check the path"
    assert "unknown ending" in fails(f"{path}!README.md")


def test_a_bad_row_of_a_member_is_named_by_archive_and_member(tmp_path: Path) -> None:
    """And not by the copy that is read, which nobody can open afterwards."""
    bad = {"b.jsonl": QUESTIONS["a/test/1.jsonl"] + "{broken\n" + jsonl({"question": "no?"})}
    for name, content in (("x.zip", zipped(bad)), ("x.tar", tarred(bad))):
        path = write(tmp_path / name, content)
        assert fails(f"{path}!*").startswith(f"{path}!b.jsonl:2: broken JSON")
        kept: list[dict[str, Any]] = []
        rows = read_examples(f"{path}!*", on_bad_row="quarantine", quarantine=kept.append)
        assert [row["question"] for row in rows] == ["one?"]
        places = [(entry["file"], entry["line"]) for entry in kept]
        assert places == [(f"{path}!b.jsonl", 2), (f"{path}!b.jsonl", 3)]


def archive_of(ending: str) -> bytes:
    # random words, so that a packed archive is long enough to break anywhere
    draw = random.Random(0)
    long = " ".join(str(draw.random()) for _ in range(200))
    members = {f"{n}.jsonl": jsonl({"question": f"{n}?", "answer": long}) for n in range(3)}
    if ending.startswith("zip"):
        return zipped(members, zipfile.ZIP_STORED if ending == "zip0" else zipfile.ZIP_DEFLATED)
    return PACKERS.get(ending.removeprefix("tar"), bytes)(tarred(members))


@pytest.mark.parametrize("ending", ["zip0", "zip", "tar", *(f"tar{end}" for end in PACKERS)])
def test_a_cut_archive_is_one_line_or_lacks_nothing(tmp_path: Path, ending: str) -> None:
    """Wherever it breaks off: in a member, between two, in the list of a zip. Only what is behind
    the end mark of a tar may be missing.
    """
    content = archive_of(ending)
    path = str(tmp_path / f"x.{ending.replace('zip0', 'zip')}")
    marks = {0, *range(1, len(content), max(1, len(content) // 150))}
    for length in marks | {n for n in range(512, len(content), 512) if ending == "tar"}:
        write(Path(path), content[:length])
        found = outcome(f"{path}!*.jsonl")
        if isinstance(found, str):
            assert found.startswith(path), length
        else:
            assert (found, ending) == (3, "tar"), length
            assert not any(content[length - 512 :]), length


@pytest.mark.parametrize("ending", ["zip0", "zip", "tar", *(f"tar{end}" for end in PACKERS)])
def test_a_damaged_archive_never_ends_in_a_traceback(tmp_path: Path, ending: str) -> None:
    content = archive_of(ending)
    path = str(tmp_path / f"x.{ending.replace('zip0', 'zip')}")
    draw, refused = random.Random(ending), 0
    for _ in range(150):
        broken = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            # in the first member as often as anywhere else; the first bytes tell the packer
            end = draw.choice((len(content), 600))
            broken[draw.randrange(6, end)] = draw.randrange(256)
        write(Path(path), bytes(broken))
        found = outcome(f"{path}!*.jsonl")
        if isinstance(found, str):
            assert found.startswith(path)
            refused += 1
    assert refused > 10


def test_a_header_that_is_damaged_does_not_end_a_tar_in_silence(tmp_path: Path) -> None:
    content = bytearray(tarred({"1.jsonl": QUESTIONS["a/test/1.jsonl"], "2.jsonl": "{}"}))
    content[1024 + 5] ^= 1  # the second member's name, and with it its checksum
    path = write(tmp_path / "x.tar", bytes(content))
    assert "the archive cannot be read (no end mark: bad checksum)" in fails(f"{path}!*")


@pytest.mark.parametrize("ending", ["zip", "tar", "tar.gz"])
def test_no_archive_at_all(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"x.{ending}", "question\tanswer\n" * 100)
    assert fails(f"{path}!*").startswith(f"{path}: the archive cannot be read")


def test_a_member_outside_the_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "x.tar", tarred({"../../out.jsonl": jsonl({"question": "q"})}))
    assert fails(f"{path}!*").startswith(f"{path}: the archive cannot be read")
    path = write(tmp_path / "in" / "x.zip", zipped({"../../out.jsonl": jsonl({"a": 1})}))
    assert fails(f"{path}!*").startswith(f"{path}!out.jsonl:1: ")  # as zipfile cuts such names
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_that_unpacks_to_too_much(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / f"x.{ending}", archive_of(ending))
    monkeypatch.setattr(native_files, "MAX_UNPACKED", 9000)
    assert fails(f"{path}!*") == f"{path}: unpacks to more than 0 GiB; unpack it"
