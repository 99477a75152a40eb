"""Contract of corpus examples: first and last tokens, no overlap, a seeded sample of rows."""

from __future__ import annotations

import re

import numpy as np
import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.corpus_examples import MIN_TOKENS, corpus_example, sample_rows, split_chunk


def words(num):
    text = " ".join(f"w{index}" for index in range(num))
    return text, [match.span() for match in re.finditer(r"\S+", text)]


@pytest.mark.parametrize("num", [MIN_TOKENS, 9, 50, 51, 99, 100, 101, 237])
def test_first_and_last_tokens_equal_list_slices_and_never_overlap(num):
    text, spans = words(num)
    tokens = text.split()
    size = 50 if num >= 100 else num // 2
    query, answer = split_chunk(text, spans)
    assert query.split() == tokens[:size]
    assert answer.split() == tokens[-(50 if num >= 100 else num - size) :]
    assert not set(query.split()) & set(answer.split())


def test_num_tokens_is_an_argument():
    text, spans = words(10)
    assert split_chunk(text, spans, num_tokens=2) == ("w0 w1", "w8 w9")
    with pytest.raises(InputError, match="num_tokens is 0"):
        split_chunk(text, spans, num_tokens=0)


def test_too_short_and_special_tokens():
    text, spans = words(MIN_TOKENS - 1)
    assert split_chunk(text, spans) is None
    assert split_chunk(text, [(0, 0), *spans, (0, 0)]) is None
    text, spans = words(MIN_TOKENS)
    assert split_chunk(text, [(0, 0), *spans, (0, 0)]) == split_chunk(text, spans)


def test_tokens_that_share_a_character_do_not_make_the_parts_overlap():
    text = "abc\U0001f681def"  # a byte-level BPE cuts the one character into four tokens
    spans = [(0, 1), (1, 2), (2, 3), (3, 4), (3, 4), (3, 4), (3, 4), (4, 5), (5, 6), (6, 7)]
    assert split_chunk(text, spans) == ("abc\U0001f681", "def")
    assert split_chunk("\U0001f681", [(0, 1)] * 8) is None


def test_white_space_alone_is_no_query():
    assert split_chunk(" " * 8 + "abcdefgh", [(i, i + 1) for i in range(16)]) is None


def test_the_example_excludes_its_own_chunk():
    text, spans = words(20)
    chunk = {"id": "d#3", "doc_id": "d", "title": "T", "text": text, "source": "", "date": "2018"}
    row = corpus_example(chunk, spans, split="dev")
    assert row["id"] == "corpus:d#3"
    assert (row["task"], row["category"], row["split"]) == ("corpus", "corpus", "dev")
    assert row["question"] == row["query"] == " ".join(text.split()[:10])
    assert row["answers"] == [" ".join(text.split()[10:])]
    assert (row["exclude_ids"], row["gold_ids"], row["group"]) == (["d#3"], [], "d")
    assert row["date"] == "2018"
    assert corpus_example(chunk, spans[:3]) is None


def test_sample_is_sorted_seeded_without_replacement():
    sample = sample_rows(1_000, 100, 1)
    assert sample.dtype == np.int64
    assert len(set(sample.tolist())) == 100
    assert (np.diff(sample) > 0).all()
    assert sample.min() >= 0
    assert sample.max() < 1_000
    assert (sample == sample_rows(1_000, 100, 1)).all()
    assert (sample != sample_rows(1_000, 100, 2)).any()
    assert sample_rows(3, 9, 0).tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="cannot sample -1"):
        sample_rows(3, -1, 0)


def test_sample_is_uniform():
    # Mean of 4,000 draws from 0..999 without replacement, 40 seeds: 499.5 with a standard error
    # of 288.7 / sqrt(4000) = 4.6; 5 of these.
    mean = np.mean([sample_rows(1_000, 100, seed).mean() for seed in range(40)])
    assert abs(mean - 499.5) < 23
