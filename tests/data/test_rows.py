"""Contract of rows: an example row is complete, fits its Arrow schema, or says what is wrong."""

from __future__ import annotations

import pyarrow as pa
import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.rows import (
    CHUNK,
    DOCUMENT,
    EXAMPLE,
    EXAMPLE_DEFAULTS,
    RANKED,
    SCORED,
    example_row,
    hits_of,
    own_score,
    text_fault,
)

GOOD = {"id": "q1", "question": "Who?", "answers": ["Ann"]}


def test_partial_example_is_filled_with_defaults_and_fits_the_schema():
    row = example_row(GOOD)
    assert row == {**EXAMPLE_DEFAULTS, **GOOD, "group": "q1"}
    assert pa.Table.from_pylist([row], schema=EXAMPLE).to_pylist() == [row]


def test_rows_do_not_share_the_default_lists():
    example_row(GOOD)["gold_ids"].append("x")
    assert example_row(GOOD)["gold_ids"] == []


def test_none_is_the_default_and_empty_or_repeated_answers_go():
    row = example_row({**GOOD, "date": None, "choices": None, "answers": ["b", " ", "a", "b"]})
    assert (row["date"], row["choices"], row["answers"]) == ("", [], ["b", "a"])


def test_ranked_and_scored_extend_the_example_with_typed_columns():
    row = {
        **example_row(GOOD),
        "chunk_ids": ["d#0", "e#1"],
        "doc_ids": ["d", "e"],
        "titles": ["D", "E"],
        "texts": ["t", "u"],
        "scores": [1.5, -0.25],
        "index_version": "0123456789ab",
        "logprobs": [-3.5, -4.0],
        "num_answer_tokens": 2,
    }
    assert pa.Table.from_pylist([row], schema=SCORED).to_pylist() == [row]
    assert SCORED.names[: len(RANKED)] == RANKED.names
    assert RANKED.names[: len(EXAMPLE)] == EXAMPLE.names
    assert RANKED.field("scores").type == pa.list_(pa.float32())
    assert SCORED.field("num_answer_tokens").type == pa.int32()
    assert CHUNK.names == ["id", "doc_id", "title", "text", "source", "date"]
    assert DOCUMENT.names == ["id", "title", "text", "source", "date"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "f:3: the example has no id"),
        ({"question": "  "}, "f:3: example 'q1' has no question"),
        ({"answers": ["", " "]}, "f:3: example 'q1' has no answer"),
        ({"answers": "Ann"}, "f:3: `answers` is str 'Ann', not a list of strings"),
        ({"answers": ["Ann", 3]}, "f:3: `answers[1]` is int '3', not a string"),
        ({"question": 3}, "f:3: `question` is int '3', not a string"),
        ({"question": "a\x00b"}, "f:3: `question` holds a NUL character"),
        ({"context": "a\ud800"}, "f:3: `context` holds a lone surrogate (U+D800)"),
        ({"split": "tran"}, "f:3: unknown split 'tran'; did you mean 'train'?"),
        ({"category": "multi-choice"}, "did you mean 'multiple-choice'?"),
        ({"anwsers": ["x"]}, "f:3: unknown example field 'anwsers'; did you mean 'answers'?"),
        ({"choices": ["x", "y"]}, "('Ann') is one of its 2 choices"),
        ({"choices": ["Ann", " "]}, "f:3: choice 2 of 2 of example 'q1' is empty"),
        ({"answers": ["The A!"]}, "f:3: answer 'The A!' of example 'q1' normalises to nothing"),
        ({"answers": ["a"], "metric": "f1"}, "or set `metric` to accuracy"),
        ({"template": "mmmlu"}, "f:3: unknown template 'mmmlu'; did you mean 'mmlu'?"),
        ({"metric": "rouge"}, "f:3: unknown metric 'rouge'; did you mean 'rouge-l'?"),
        ({"scoring": "nll_chr"}, "f:3: unknown scoring 'nll_chr'; did you mean 'nll_char'?"),
        ({"metric": "regex", "answers": ["("]}, "f:3: example 'q1': answer '(' is no regular"),
    ],
)
def test_a_bad_field_is_one_line_with_the_place(change, message):
    with pytest.raises(InputError) as caught:
        example_row({**GOOD, **change}, where="f:3")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_answers_without_a_word_are_fine_where_no_word_is_compared():
    for change in ({"metric": "accuracy"}, {"category": "corpus"}, {"choices": ["a", "b"]}):
        assert example_row({**GOOD, "answers": ["a"], **change})["answers"] == ["a"]
    assert example_row({**GOOD, "answers": ["a", "Ann"]})["answers"] == ["a", "Ann"]


def test_hits_by_string_by_pattern_and_by_gold_chunk():
    ranked = {"chunk_ids": ["d#0", "e#1"], "doc_ids": ["d", "e"], "texts": ["Feb 9", "Sept?"]}
    row = {**example_row({**GOOD, "answers": ["Sept?"]}), **ranked}
    assert hits_of(row) == [False, True]
    assert hits_of({**row, "metric": "regex", "answers": ["feb(ruary)?"]}) == [True, False]
    assert hits_of({**row, "gold_ids": ["e"]}) == [False, True]


def test_own_score_follows_the_metric_of_the_row():
    row = example_row({**GOOD, "answers": ["the red house", "no"]})
    assert own_score(row, "Red house.") == 1.0
    assert own_score({**row, "metric": "accuracy"}, "Red house.") == 0.0
    assert own_score({**row, "metric": "f1"}, "red") == pytest.approx(2 / 3)
    assert own_score({**row, "metric": "ends"}, "It was not, so no") == 1.0
    assert own_score({**row, "metric": "regex", "answers": ["re[dt]"]}, "Red house") == 1.0


def test_text_fault_accepts_every_real_character():
    assert text_fault("naïve \U0001f681 \u2028\t\n") == ""
