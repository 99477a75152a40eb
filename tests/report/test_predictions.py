"""Contract of `radit predictions`: the rows of the artifact and nothing else, in its order; a file
that KILT's scorer takes; whole or not there; a wrong word is one line.
"""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radit_ray.cli import _dispatch, _guarded
from radit_ray.core.errors import InputError
from radit_ray.core.metrics import accuracy, exact_match, f1, rouge_l
from radit_ray.data import storage
from radit_ray.data.native_examples import partial_examples
from radit_ray.engines.answering import METRICS, PREDICTION, SCORE
from radit_ray.report import predictions as module
from radit_ray.report.predictions import NO_ANSWER, kilt_row, write_predictions

SAID = ["Oslo", "", "Ødegård; «a» \n", "Bodø"]
TASKS = ["zsre", "zsre", "zsre", "nq"]


def row(number: int) -> dict[str, Any]:
    task = TASKS[number % len(TASKS)]
    return {
        "id": f"{task}/{number}",
        "task": task,
        "question": f"Which one is {number}?",
        "answers": ["Oslo", "Kristiania"],
        "prediction": SAID[number % len(SAID)],
        **dict.fromkeys((*METRICS, SCORE), 0.25 * number),
        "recall@1": None,
        "nll": float("inf") if number == 2 else 1.5,
        "chunk_ids": ["7#0", "a#b#11", "7#3"],
        "p_r": [0.5, 0.25, 0.25],
        "chunk_answers": ["x"],
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder whose evaluation has two variants of two shards of four questions."""
    folder = tmp_path / "run" / "evaluate"
    names = [f"{v}/part-0000{n}.parquet" for v in ("radit", "replug") for n in range(2)]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        first = 4 * int(name[-9])
        table = pa.Table.from_pylist([row(first + n) for n in range(4)], schema=PREDICTION)
        pq.write_table(table, folder / name)
    manifest = {"format_version": 1, "stage": "evaluate", "fingerprint": "f"}
    files = [{"name": name, "sha256": storage.sha256_of(str(folder / name))} for name in names]
    storage.write_json(str(folder / "manifest.json"), {**manifest, "files": files})
    return folder.parent


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_jsonl_and_parquet_hold_the_rows_in_order(run: Path, tmp_path: Path) -> None:
    count = write_predictions(str(run), "radit", output=str(tmp_path / "out.jsonl"))
    assert count == {"rows": 8, "empty": 2}
    write_predictions(str(run), "radit", output=str(tmp_path / "out.parquet"), form="parquet")
    columns = ["id", "task", "question", "answers", "prediction", *METRICS, SCORE]
    columns += ["chunk_ids", "p_r"]
    expected = [{name: row(n)[name] for name in columns} for n in range(8)]
    assert pq.read_table(tmp_path / "out.parquet").to_pylist() == expected
    expected[2]["nll"] = None  # JSON knows no infinity
    found = lines(tmp_path / "out.jsonl")
    assert found == expected
    assert [list(line) for line in found] == [columns] * 8


def test_one_task_and_the_artifact_itself(run: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "nq.jsonl"
    count = write_predictions(str(run / "evaluate"), "replug", output=str(output), task="nq")
    assert count == {"rows": 2, "empty": 0}
    assert [line["id"] for line in lines(output)] == ["nq/3", "nq/7"]


def test_kilts_scorer_would_take_the_file(run: Path, tmp_path: Path) -> None:
    """What its `validate_input` and its retrieval scores ask of a line of predictions."""
    output = tmp_path / "kilt.jsonl"
    count = write_predictions(str(run), "radit", output=str(output), form="kilt", task="zsre")
    found = lines(output)
    assert count == {"rows": 6, "empty": 2}
    assert [line["id"] for line in found] == ["0", "1", "2", "4", "5", "6"]
    for line in found:
        assert set(line) == {"id", "output"}
        (only,) = line["output"]  # exactly one answer, with a character in it
        assert only["answer"].strip() == only["answer"] != ""
        assert only["provenance"] == [{"wikipedia_id": "7"}, {"wikipedia_id": "a#b"}]
    assert found[2]["output"][0]["answer"] == "Ødegård; «a»"


def test_fever_gets_kilts_verdicts_back() -> None:
    """KILT's accuracy compares character by character, so with our yes and no it would be 0."""
    gold = {"yes": "SUPPORTS", "no": "REFUTES"}
    for said, verdict in gold.items():
        native = {"id": "f", "input": "It is.", "output": [{"answer": verdict}]}
        (asked,) = partial_examples(native, "fact-checking")
        assert asked["answers"] == [said]
        fever = {"id": "fever/f", "task": "fever", "prediction": f"{said}\n", "chunk_ids": []}
        assert kilt_row(fever)["output"][0]["answer"] == verdict
        other = {**fever, "task": "boolq"}
        assert kilt_row(other)["output"][0]["answer"] == said
    assert kilt_row({**fever, "prediction": ""})["output"][0]["answer"] == NO_ANSWER
    assert kilt_row({**fever, "prediction": "unsure"})["output"][0]["answer"] == "unsure"


def test_the_stand_in_for_no_answer_scores_as_an_empty_one() -> None:
    for answers in (["Oslo"], ["- - -", "no"], ["a.b", "the"]):
        for metric in (exact_match, f1, accuracy, rouge_l):
            assert metric(NO_ANSWER, answers) == metric("", answers)


def test_a_file_is_replaced_at_once_or_kept(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("before")

    def fails(value: Any) -> Any:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(module, "_finite", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        write_predictions(str(run), "radit", output=str(output))
    assert output.read_text() == "before"
    monkeypatch.undo()
    write_predictions(str(run), "radit", output=str(output))
    assert len(lines(output)) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "run"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "raddit"}, r"no variant 'raddit'; did you mean 'radit'\? \(one of: radit, "),
        ({"task": "nqq"}, r"no question of task 'nqq'; did you mean 'nq'"),
        ({"form": "kilt"}, "questions of 2 tasks and KILT has one file a task.*: nq, zsre"),
        ({"form": "json"}, "unknown format 'json'; did you mean 'jsonl'"),
        ({"output": ""}, "is a folder"),
        ({"output": "run/evaluate/manifest.json/out"}, "give a file in a folder"),
        ({"folder": "nowhere"}, "nowhere: does not exist.*radit evaluate"),
        ({"folder": "run/evaluate/radit"}, "unfinished"),
    ],
)
def test_wrong_words_are_one_line(
    run: Path, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    asked = {"folder": "run", "variant": "radit", "output": "out.jsonl", **changes}
    asked |= {name: str(tmp_path / asked[name]) for name in ("folder", "output")}
    with pytest.raises(InputError, match=message) as found:
        write_predictions(**asked)  # type: ignore[arg-type]
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_the_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "out.jsonl")
    words = ["predictions", str(run), "radit", "--format", "kilt", "--task", "zsre"]
    assert _guarded(lambda: _dispatch([*words, "--output", output])) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{output}: 6 predictions of radit\n"
    assert shown.err == "radit: 2 of them are empty, written as '<>'\n"
    assert _guarded(lambda: _dispatch(["predictions", str(run), "radit"])) == 2
    assert "--output" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        _dispatch(["predictions", "--help"])
    assert not stop.value.code
    assert "--format {jsonl,kilt,parquet}" in capsys.readouterr().out


def test_doctests() -> None:
    assert doctest.testmod(module).failed == 0
