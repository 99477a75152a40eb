"""Contract of a lexical shard: BM25 as its formula says, whatever the number of shards; ties by
row, parts of the corpus, what was saved and nothing else loads.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from tiny import documents

from radit_ray.core.errors import InputError
from radit_ray.data.storage import sha256_of
from radit_ray.models.lexical import K1, B, Corpus, LexicalShard, Words, build, count_words, load

QUERIES = ["Who is the mayor of Arden?", "merchants trading salt", "zzz qqq", "Anna Dario Anna"]
TEXTS = [document["text"] for document in documents()] + ["Anna " * 30, "", "the of"]
EXACT = {"rtol": 2e-6, "atol": 2e-6}  # fp32, a few additions


@pytest.fixture(scope="module")
def chunks() -> list[list[str]]:
    return Words().encode_queries(TEXTS)


def slow_scores(query: list[str], chunks: list[list[str]]) -> list[float]:
    """BM25 with Lucene's idf, term by term."""
    mean = sum(map(len, chunks)) / len(chunks)
    scores = []
    for chunk in chunks:
        score = 0.0
        for word in query:
            holding = sum(word in other for other in chunks)
            if chunk.count(word):
                idf = math.log(1 + (len(chunks) - holding + 0.5) / (holding + 0.5))
                long = 1 - B + B * len(chunk) / mean
                score += idf * chunk.count(word) / (chunk.count(word) + K1 * long)
        scores.append(score)
    return scores


def sharded(chunks: list[list[str]], borders: list[int]) -> list[LexicalShard]:
    corpus = count_words(chunks)
    ends = [*borders, len(chunks)]
    return [build(chunks[a:b], corpus) for a, b in zip([0, *borders], ends, strict=True)]


def test_words_are_stemmed_and_stop_words_are_not_searched() -> None:
    words = Words()
    asked = ["The merchants of Arden, trading; 1200 a", "the of and"]
    assert words.encode_queries(asked) == [["merchant", "arden", "trade", "1200"], []]
    assert words.last_num_tokens == 4
    assert words.spans("Who  goes there?") == [(0, 3), (5, 9), (10, 16)]


def test_scores_are_the_formula_in_one_shard_and_in_several(chunks: list[list[str]]) -> None:
    queries = Words().encode_queries(QUERIES)
    slow_QN = np.array([slow_scores(query, chunks) for query in queries])
    assert slow_QN.max() > 1
    for borders in ([], [7, 30], [1, 40, 41, 42]):  # the last shards hold hardly a word
        found_QN = np.zeros_like(slow_QN)
        start = 0
        for shard in sharded(chunks, borders):
            scores_QK, rows_QK = shard.search(queries, shard.count)
            assert (np.sort(rows_QK, axis=1) == np.arange(shard.count)).all()
            np.put_along_axis(found_QN[:, start : start + shard.count], rows_QK, scores_QK, 1)
            start += shard.count
        np.testing.assert_allclose(found_QN, slow_QN, **EXACT)


def test_best_first_equal_ones_by_row_and_only_what_is_allowed(chunks: list[list[str]]) -> None:
    queries = Words().encode_queries(QUERIES)
    (shard,) = sharded(chunks, [])
    scores_QK, rows_QK = shard.search(queries, 9)
    assert (np.diff(scores_QK, axis=1) <= 0).all()
    assert rows_QK[2].tolist() == list(range(9))  # nothing is known of the words: all are equal
    allowed = np.array([3, 11, 40], dtype=np.int64)
    part_QK, among_QK = shard.search(queries, 4, allowed=allowed)
    assert set(among_QK[:, :3].ravel().tolist()) == {3, 11, 40}
    assert (among_QK[:, 3] == -1).all()
    assert among_QK[3, 0] == 40  # "Anna" thirty times
    whole_QK = shard.search(queries, shard.count)
    for number in range(len(queries)):
        known = dict(zip(whole_QK[1][number].tolist(), whole_QK[0][number].tolist(), strict=True))
        assert [known[row] for row in among_QK[number, :3].tolist()] == part_QK[number, :3].tolist()


def test_a_saved_shard_answers_as_before(chunks: list[list[str]], tmp_path: Path) -> None:
    queries = Words().encode_queries(QUERIES)
    for number, shard in enumerate(sharded(chunks, [20, 42])):  # the last one without a word
        path = str(tmp_path / f"{number}.safetensors")
        shard.save(path)
        again = load(path, sha256=sha256_of(path), count=shard.count)
        for before, after in zip(shard.search(queries, 5), again.search(queries, 5), strict=True):
            np.testing.assert_array_equal(before, after)
        with pytest.raises(InputError, match="has sha256"):
            load(path, sha256="0" * 64, count=shard.count)


def test_counts_of_parts_add_up(chunks: list[list[str]]) -> None:
    whole, parts = count_words(chunks), [count_words(chunks[:9]), count_words(chunks[9:])]
    added = {w: sum(p.counts.get(w, 0) for p in parts) for w in whole.counts}
    assert whole == Corpus(
        num_chunks=sum(p.num_chunks for p in parts),
        num_words=sum(p.num_words for p in parts),
        counts=added,
    )
