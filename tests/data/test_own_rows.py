"""Contract: a row in somebody's own words is never taken for another set's, and none vanishes.

Without an answer it is refused with file and line; what a known set marks as unanswerable is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.examples import read_examples

COT = "chain-of-thought"


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_passage_with_an_answer_in_words_is_not_boolq(tmp_path: Path) -> None:
    row = {"question": "Who sat?", "passage": "The cat sat."}
    answers = ["the cat", True, False]
    path = written(tmp_path / "x.jsonl", *({**row, "answer": answer} for answer in answers))
    found = read_examples(path)
    assert [example["answers"] for example in found] == [["the cat"], ["yes"], ["no"]]
    assert [example["choices"] for example in found] == [[], ["yes", "no"], ["yes", "no"]]
    assert [example["category"] for example in found] == [
        *("open-domain-qa", "multiple-choice", "multiple-choice")
    ]


@pytest.mark.parametrize("answer", [None, 3, "", [], {}, ["", " "]])
def test_a_passage_without_an_answer_is_not_no(answer: Any, tmp_path: Path) -> None:
    row = {"question": "q?", "passage": "p", "answer": answer}
    with pytest.raises(InputError, match=r"x.jsonl:1: .*answer"):
        read_examples(written(tmp_path / "x.jsonl", row))


@pytest.mark.parametrize(
    ("category", "row", "message"),
    [
        (COT, {"question": "q?", "facts": ["f"], "answer": "Paris"}, "'Paris'; expected true or"),
        (COT, {"question": "q?", "facts": ["f"], "answer": None}, "'None'; expected true or"),
        ("", {"instruction": "q?", "output": "o", "answer": "Paris"}, "'paris', expected true or"),
    ],
)
def test_no_answer_in_words_becomes_no(
    category: str, row: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=f"x.jsonl:1: .*{message}"):
        read_examples(written(tmp_path / "x.jsonl", row), category=category)


GOOD = {"question": "good?", "answers": ["x"]}
BLANKS = ["", " ", None, [], [""], [None], ["", " "], 5, 1.5, {}, {"text": []}, {"text": [""]}]


@pytest.mark.parametrize("field", ["answer", "answers"])
@pytest.mark.parametrize("blank", BLANKS)
def test_an_own_row_without_an_answer_is_refused(field: str, blank: Any, tmp_path: Path) -> None:
    path = written(tmp_path / "x.jsonl", GOOD, {"question": "q?", field: blank}, GOOD)
    with pytest.raises(InputError, match=r"x.jsonl:2: .*answer") as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)
    bad: list[dict] = []
    kept = read_examples(path, on_bad_row="quarantine", quarantine=bad.append)
    assert (len(kept), [row["line"] for row in bad]) == (2, [2])


def test_an_own_answer_that_says_nothing_is_refused(tmp_path: Path) -> None:
    for answers in ("---", ["---"]):
        path = written(tmp_path / "x.jsonl", GOOD, {"question": "q?", "answers": answers})
        with pytest.raises(InputError, match=r"x.jsonl:2: answer '---' .* normalises to nothing"):
            read_examples(path)


def test_a_tables_empty_cell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("id,question,answer\n1,q?,x\n2,r?,\n")
    with pytest.raises(InputError, match=r"x.csv:3: .*no answer"):
        read_examples(str(path))
    dpr = tmp_path / "y.tsv"
    dpr.write_text("q?\t['x']\nr?\t['']\n")
    with pytest.raises(InputError, match=r"y.tsv:2: .*no answer"):
        read_examples(str(dpr))


def test_known_sets_keep_their_own_rule(tmp_path: Path) -> None:
    """NQ-open's few answers that say nothing, and what SQuAD v2 marks, are left out as before."""
    squad = {
        "id": "s",
        "question": "q",
        "context": "c",
        "answers": {"text": [], "answer_start": []},
    }
    native = [
        {"question": "nq", "answer": ["---"]},
        {"question": "hotpotqa, simplified", "answer": "The The"},
        squad,
        {"query_id": 3, "query": "q", "passages": {}, "answers": ["No Answer Present."]},
    ]
    path = written(tmp_path / "x.jsonl", GOOD, *native)
    assert [row["question"] for row in read_examples(path)] == ["good?"]
    read = read_examples(path, category="reading-comprehension")
    assert [row["answers"] for row in read] == [["x"], ["I don't know"]]
