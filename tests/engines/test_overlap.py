"""Contract: what the report counts is what a slow search of every text for every phrase counts;
groups of files and workers change nothing; a user's mistake is one line.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from tiny import documents, questions, write_jsonl

from radit_ray.cli import _dispatch, _guarded
from radit_ray.core.duplicates import words
from radit_ray.core.errors import InputError
from radit_ray.data.rows import example_row
from radit_ray.engines import overlap as engine
from radit_ray.engines.overlap import OverlapConfig, overlap
from radit_ray.engines.resources import Resources
from radit_ray.overlap_command import OverlapArgs, chosen
from radit_ray.stages.chunk import ChunkConfig, chunk

SMALL = OverlapConfig(ngram=4, short_ngram=3, shown=2)


@pytest.fixture
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_here(
        worker: Any, arguments: dict[str, Any], items: list[dict[str, Any]], **_: Any
    ) -> list[dict[str, Any]]:
        # as they come back from Ray: in any order, through JSON
        found = [json.loads(json.dumps(worker(**arguments)(item))) for item in items]
        return found[::-1]

    monkeypatch.setattr(engine, "map_shards", map_here)


def row(number: int, question: str, answers: list[str], **fields: Any) -> dict[str, Any]:
    return example_row({"id": f"q{number}", "question": question, "answers": answers, **fields})


def drawn(seed: int, num: int) -> list[dict[str, Any]]:
    """Questions of 2 to 7 words from a small vocabulary, so that they meet by chance."""
    chance = random.Random(seed)

    def text(length: int) -> str:
        return " ".join(chance.choice("vwxyz") for _ in range(length))

    return [
        row(
            number,
            text(chance.randint(2, 7)).upper() + "?",
            [text(chance.randint(1, 3)) for _ in range(chance.randint(1, 2))],
            task=f"task-{number % 2}",
        )
        for number in range(num)
    ]


def holds(text: list[str], phrase: list[str]) -> bool:
    width = len(phrase)
    return any(text[start : start + width] == phrase for start in range(len(text) - width + 1))


def grams(question: str) -> list[list[str]]:
    asked = words(question)
    width = 4 if len(asked) >= 4 else min(3, len(asked))
    return [asked[start : start + width] for start in range(len(asked) - width + 1)]


@pytest.mark.usefixtures("_here")
def test_counts_are_those_of_a_slow_search(tmp_path: Path) -> None:
    asked, training = drawn(0, 40), drawn(1, 60)
    texts = [f"{row['question']} and {row['answers'][0]}" for row in drawn(2, 12)]
    for number, part in enumerate((texts[:5], texts[5:6], texts[6:])):
        rows = [{"id": f"{number}-{n}", "title": "w v", "text": t} for n, t in enumerate(part)]
        write_jsonl(tmp_path / f"{number}.jsonl", rows)
    report = overlap(SMALL, asked, training=training, corpus=str(tmp_path))
    documents_ = [words(f"w v {text}") for text in texts]
    trained = [words(row["question"]) for row in training]
    known = {tuple(words(answer)) for row in training for answer in row["answers"]}
    expected = {
        "train.question": lambda r: words(r["question"]) in trained,
        "train.ngram": lambda r: any(holds(t, g) for t in trained for g in grams(r["question"])),
        "train.answer": lambda r: any(tuple(words(a)) in known for a in r["answers"]),
        "corpus.question": lambda r: any(holds(d, words(r["question"])) for d in documents_),
        "corpus.ngram": lambda r: any(
            holds(d, g) for d in documents_ for g in grams(r["question"])
        ),
        "corpus.answer": lambda r: any(
            holds(d, words(a)) for d in documents_ for a in r["answers"]
        ),
    }
    assert list(report["tasks"]) == ["all", "task-0", "task-1"]
    for task, counts in report["tasks"].items():
        rows = [r for r in asked if task in ("all", r["task"])]
        assert counts["num_questions"] == counts["num_answered"] == len(rows)
        for name, found in expected.items():
            number = sum(map(found, rows))
            assert counts[name] == {"count": number, "share": number / len(rows)}
            assert 0 < report["tasks"]["all"][name]["count"] < len(asked), name
    for name, shown in report["shown"].items():
        assert [r["id"] for r in shown] == [r["id"] for r in asked if expected[name](r)][:2]
        for hit in shown if name.startswith("corpus") else []:
            file, line = hit["place"].split("-")
            text = (tmp_path / f"{file}.jsonl").read_text().splitlines()[int(line)]
            assert holds(words(f"w v {json.loads(text)['text']}"), hit["with"].split())


@pytest.mark.usefixtures("_here")
def test_patterns_and_choices_are_not_looked_for(tmp_path: Path) -> None:
    corpus = write_jsonl(
        tmp_path / "c.jsonl", [{"id": "1", "title": "", "text": "it was A in 1999"}]
    )
    asked = [
        row(0, "which of them was it", ["A"], choices=["A", "B"]),
        row(1, "in which year was it", ["1999", "19.."], metric="regex"),
        row(2, "in which year was this", ["1999"]),
    ]
    counts = overlap(SMALL, asked, corpus=corpus)["tasks"]["all"]
    assert (counts["num_questions"], counts["num_answered"]) == (3, 1)
    assert counts["corpus.answer"] == {"count": 1, "share": 1.0}
    only = overlap(SMALL, asked[:1], corpus=corpus)["tasks"]["all"]
    assert only["corpus.answer"] == {"count": 0, "share": None}


def test_which_questions_are_compared_with_which(tmp_path: Path) -> None:
    split = {
        name: write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in questions().items()
    }
    both = ",".join(f"{name}={path}" for name, path in split.items())
    for args, asked, training in (
        (OverlapArgs(examples=both), {"dev", "eval"}, 36),
        (OverlapArgs(examples=both, split="eval"), {"eval"}, 36),
        (OverlapArgs(examples=split["eval"], train=split["train"]), {"train"}, 36),
        (OverlapArgs(examples=split["eval"], train=both), {"train"}, 36),
        (OverlapArgs(examples=split["eval"], corpus="c"), {"train"}, 0),
    ):
        found, trained = chosen(args)
        assert {r["split"] for r in found} == asked
        assert len(trained) == training
    assert len(chosen(OverlapArgs(examples=both))[0]) == 24
    with pytest.raises(
        InputError, match="no example of split 'dev', only of train; change --split"
    ):
        chosen(OverlapArgs(examples=split["eval"], split="dev"))


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = questions()
    rows["eval"][0]["question"] = rows["train"][0]["question"].upper()
    given = {name: write_jsonl(tmp_path / f"{name}.jsonl", rows[name]) for name in rows}
    output = tmp_path / "out" / "overlap.json"
    arguments = ["overlap", "--examples", given["eval"], "--train", given["train"]]
    assert _guarded(lambda: _dispatch([*arguments, "--output", str(output)])) == 0
    shown = capsys.readouterr().out
    assert "tiny  12         1 (8.3%)" in shown
    assert f"{rows['eval'][0]['question']}  [{rows['eval'][0]['id']}]" in shown
    report = json.loads(output.read_text())
    assert report["tasks"]["tiny"]["train.question"] == {"count": 1, "share": 1 / 12}
    assert report["config"] == {
        **{"ngram": 13, "short_ngram": 8, "shown": 3},
        **{"num_training": 36},
    }
    assert _guarded(lambda: _dispatch([*arguments, "--json"])) == 0
    assert json.loads(capsys.readouterr().out) == report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--examples"),
        (["--examples", "nowhere.jsonl"], "nowhere.jsonl': no such file"),
        (["--examples", "FILE"], "nothing to compare the questions with; give --train or --corpus"),
        (["--examples", "FILE", "--train", "no.jsonl"], "no.jsonl': no such file"),
        (["--examples", "FILE", "--corpus", "no.jsonl"], "no.jsonl: no such file"),
        (["--examples", "FILE", "--ngram", "0"], "ngram=0 of OverlapConfig; expected 1 to 100"),
        (["--examples", "FILE", "--ngram", "5"], "short_ngram=8 is above ngram=5"),
        (["--examples", "FILE", "--train", "FILE", "--output", "."], "--output . is a folder"),
        (["--examples", "FILE", "--train", "FILE", "--output", ""], "expected a folder or file"),
    ],
)
def test_wrong_words_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = write_jsonl(tmp_path / "qa.jsonl", questions()["eval"])
    given = [file if word == "FILE" else word for word in arguments]
    assert _guarded(lambda: _dispatch(["overlap", *given])) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("radit: ")
    assert err.count("\n") == 1


@pytest.mark.ray
def test_two_workers_find_what_one_finds_in_files_and_in_a_chunk_artifact(
    ray_cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    for number in range(4):
        write_jsonl(tmp_path / "docs" / f"{number}.jsonl", documents()[number::4])
    corpus = str(tmp_path / "docs")
    asked = [example_row(row) for row in questions()["eval"]]
    one, two = (
        overlap(SMALL, asked, corpus=corpus, resources=Resources(num_workers=n)) for n in (1, 2)
    )
    assert one == two
    assert one["tasks"]["tiny"]["corpus.answer"]["count"] == 12
    chunks = chunk(ChunkConfig(docs_per_shard=3), corpus=corpus, output=str(tmp_path / "chunk"))
    assert overlap(SMALL, asked, corpus=chunks.path)["tasks"] == one["tasks"]
    write_jsonl(tmp_path / "docs" / "4.jsonl", [{"text": "x"}])
    with pytest.raises(InputError, match=r"4\.jsonl:1: no `id`"):
        overlap(SMALL, asked, corpus=corpus)
