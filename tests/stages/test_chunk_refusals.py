"""Contract: a corpus that chunk refuses leaves its folder free for the next call, and the bad rows
with their reasons where the message says; two documents of one id are named by their lines.

The workers run in this process: what Ray adds is tested in `test_corpus_side`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import Artifact, read_manifest
from radit_ray.stages import chunk as stage
from radit_ray.stages.chunk import ChunkConfig

GOOD = {"id": "a", "title": "t", "text": "some words"}
NO_TEXT = {"id": "b", "title": "t"}
QUARANTINE = ChunkConfig(on_bad_row="quarantine")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_here(
        worker: Any, arguments: dict[str, Any], items: list[dict[str, Any]], **_: Any
    ) -> list[dict[str, Any]]:
        return [worker(**arguments)(item) for item in items]

    monkeypatch.setattr(stage, "map_shards", map_here)


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chunk(corpus: Path, output: Path, config: ChunkConfig = QUARANTINE) -> Artifact:
    return stage.chunk(config, corpus=str(corpus), output=str(output))


def refused(corpus: Path, output: Path, config: ChunkConfig = QUARANTINE) -> str:
    with pytest.raises(InputError) as caught:
        chunk(corpus, output, config)
    assert "\n" not in str(caught.value)
    assert read_manifest(str(output)) is None
    return str(caught.value)


def test_a_corpus_of_bad_rows_can_be_tried_again_and_mended(tmp_path: Path) -> None:
    corpus, output = written(tmp_path / "x.jsonl", NO_TEXT, NO_TEXT), tmp_path / "out"
    for _ in range(2):
        message = refused(corpus, output)
        assert (
            f"no usable row, 2 went to quarantine; mend them by the reasons in {output}" in message
        )
        bad = Path(re.search(r"reasons in (\S+)", message)[1], "00000.jsonl").read_text()  # type: ignore[index]
        assert [json.loads(line)["line"] for line in bad.splitlines()] == [1, 2]
    written(corpus, GOOD)
    artifact = chunk(corpus, output)
    assert (artifact.rows, artifact.metrics["num_bad_rows"]) == (1, 0)
    assert not (output / "quarantine" / "00000.jsonl").exists()  # of another corpus
    names = [file["name"] for file in read_manifest(str(output))["files"]]  # type: ignore[index]
    assert names == ["part-00000-00000.parquet"]


def test_a_broken_file_behind_a_quarantined_row_can_be_mended(tmp_path: Path) -> None:
    folder, output = tmp_path / "docs", tmp_path / "out"
    folder.mkdir()
    written(folder / "a.jsonl", GOOD, NO_TEXT)
    (folder / "b.jsonl").write_bytes(b"\n")
    assert "b.jsonl:1: the file holds no rows" in refused(folder, output)
    written(folder / "b.jsonl", {**GOOD, "id": "c"})
    assert chunk(folder, output).metrics["num_bad_rows"] == 1
    assert (output / "quarantine" / "00000.jsonl").exists()


def test_other_files_are_still_foreign(tmp_path: Path) -> None:
    corpus, output = written(tmp_path / "x.jsonl", GOOD), tmp_path / "out"
    (output / "quarantine").mkdir(parents=True)
    (output / "quarantine" / "notes.txt").write_text("mine")
    assert "holds other files (quarantine/notes.txt, ...)" in refused(corpus, output)
    assert (output / "quarantine" / "notes.txt").read_text() == "mine"


def test_two_documents_of_one_id_are_named_by_their_lines(tmp_path: Path) -> None:
    other = {**GOOD, "id": "z"}
    corpus = written(tmp_path / "x.jsonl", other, GOOD, GOOD)
    message = refused(corpus, tmp_path / "out", ChunkConfig())
    assert f"duplicate document id 'a': {corpus}:2 and {corpus}:3; ids must be unique" in message
    listed = tmp_path / "y.json"
    listed.write_text(json.dumps([GOOD, GOOD]))
    message = refused(listed, tmp_path / "out", ChunkConfig())
    assert f"'a': {listed}:1 (item 1) and {listed}:1 (item 2)" in message
    written(corpus, other, GOOD)
    assert chunk(corpus, tmp_path / "out", ChunkConfig()).rows == 2


def test_a_document_in_two_files_is_named_in_both(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    a = written(folder / "a.jsonl", NO_TEXT, GOOD)
    b = written(folder / "b.jsonl", GOOD)
    assert f"'a': {a}:2 and {b}:1;" in refused(folder, tmp_path / "out")
