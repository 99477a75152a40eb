"""Contract: a field of a known set's row that holds null, a number, a list or an object where the
set has something else never ends in a traceback. Either the row can be read all the same, or one
line names the file and the row.

The rows are those of `test_native_rows` and the project's own, each with one field after the other
replaced, however deep it lies.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_native_rows import ROWS

from radit_ray.core.errors import InputError
from radit_ray.data.examples import _source_rows, read_examples
from radit_ray.data.records import BadRows
from radit_ray.data.task_spec import Source, Task

OTHERS: tuple[Any, ...] = (None, 7, [], {}, [7], {"a": 7})
SQUAD = {
    "data": [
        {
            "title": "T",
            "paragraphs": [
                {
                    "context": "c",
                    "qas": [{"id": "s", "question": "q?", "answers": [{"text": "x"}]}],
                }
            ],
        }
    ]
}
STEM = {
    "stem": "q?",
    "choices": [{"label": "A", "text": "x"}, {"label": "B", "text": "y"}],
}
MESSAGE = {"message_id": "m", "parent_id": None, "message_tree_id": "t", "role": "r", "text": "x"}
OWN = {"question": "q?", "answers": ["x"], "choices": ["x", "y"], "context": "c", "split": "dev"}
MORE: list[tuple[str, str, Any]] = [
    ("squad", "", SQUAD),
    ("squad, read", "reading-comprehension", SQUAD),
    ("commonsenseqa, arc", "", {"id": "c", "question": STEM, "answerKey": "B"}),
    ("oasst on the hub", "dialogue", MESSAGE),
    ("triviaqa", "", {"question_id": "t", "question": "q?", "answer": {"value": "x"}}),
    ("own", "", {"id": "o", **OWN, "task": "t", "gold_ids": ["g"], "date": "d", "title": "T"}),
    ("own, native names", "", {"qId": "w", "qText": "q?", "answer": "x", "gold_pid": "g"}),
    (
        "dream, the list",
        "",
        [["M: Hi"], [{"question": "q?", "choice": ["x", "y"], "answer": "y"}], "5-1"],
    ),
]
ALL = [*((name, category, native) for name, category, native, _ in ROWS), *MORE]


def changed(value: Any) -> Iterator[Any]:
    """The value with each text, number and container in it replaced in turn."""
    for place, item in value.items() if isinstance(value, dict) else enumerate(value):
        inner = changed(item) if isinstance(item, dict | list) else ()
        for other in (*OTHERS, *inner):
            copy: Any = value.copy()
            copy[place] = other
            yield copy


def refused(read: Callable[[], Any]) -> str:
    """The one line of the InputError; "" where the rows could be read."""
    try:
        read()
    except InputError as error:
        return str(error)
    return ""


def read_as_texts(path: str, category: str) -> None:
    """Reads, and no null has become a word."""
    for row in read_examples(path, category=category):
        told = (row["question"], row["context"], row["query"], *row["answers"], *row["choices"])
        assert "None" not in " ".join(told), row


@pytest.mark.parametrize(("name", "category", "native"), ALL, ids=[row[0] for row in ALL])
def test_a_field_of_another_type_is_read_or_named(
    name: str, category: str, native: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    good = json.dumps({"question": "good?", "answers": ["x"]})
    for row in changed(native):
        path.write_text(f"{good}\n{json.dumps(row)}\n")
        message = refused(lambda: read_as_texts(str(path), category))
        assert not message or message.startswith(f"{path}:2: "), row
        assert "\n" not in message, row


def test_an_unknown_field_type_says_what_was_expected(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"question": {**STEM, "choices": ["x", 7]}, "answerKey": "B"}))
    with pytest.raises(InputError, match=r"x.jsonl:1: a field of the row .*`choices` one of texts"):
        read_examples(str(path))


@pytest.mark.parametrize("metric", ["regex", "em"])
@pytest.mark.parametrize("field", ["id", "question", "answers"])
def test_a_task_names_the_row_as_well(metric: str, field: str, tmp_path: Path) -> None:
    """Its ids, and the text that stands before CuratedTREC's patterns, are made of the fields
    before these are checked.
    """
    path = tmp_path / "x.jsonl"
    good = {"id": "i", "question": "q?", "answers": ["x"]}
    source = Source(path=str(path), task=Task(name="t", metric=metric))
    for other in (*OTHERS, [None], [["x"]]):
        path.write_text(json.dumps({**good, field: other}) + "\n")
        message = refused(lambda: list(_source_rows(source, BadRows(), "", "")))
        assert not message or message.startswith(f"{path}:1: "), other
