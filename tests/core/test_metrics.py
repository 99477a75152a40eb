"""Metrics against KILT's and DPR's definitions, written out again here, and against cases worked by
hand.
"""

from __future__ import annotations

import math
import random
import sys

import pytest

from radit_ray.core import metrics
from radit_ray.core.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("  An   apple, a day! ", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre and anthem", "theatre and anthem"),  # articles are whole words
        ("A-Team", "ateam"),  # punctuation goes before articles, as in KILT
        ("the", ""),
        ("«Zürich»", "«zürich»"),  # only ASCII punctuation is stripped
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert metrics.normalize(text) == expected


def test_exact_match_takes_the_best_answer() -> None:
    assert metrics.exact_match("the  Jane Austen.", ["Charlotte Brontë", "jane austen"]) == 1.0
    assert metrics.exact_match("Austen", ["Jane Austen"]) == 0.0
    assert metrics.exact_match("Austen", []) == 0.0


def test_f1_counts_repeated_words_once_per_occurrence() -> None:
    assert metrics.f1("red red house", ["red house house"]) == pytest.approx(2 / 3)
    assert metrics.f1("red house", ["blue", "a red car"]) == pytest.approx(0.5)
    assert metrics.f1("", ["x"]) == 0.0
    assert metrics.f1("the", ["the"]) == 0.0  # nothing is left of either
    assert metrics.f1("x", []) == 0.0


def test_accuracy_is_literal() -> None:
    assert metrics.accuracy(" SUPPORTS\n", ["SUPPORTS "]) == 1.0
    assert metrics.accuracy("supports", ["SUPPORTS"]) == 0.0


def _slow_rouge_l(prediction: str, answer: str) -> float:
    """For single sentences without repeated words: F of the longest common subsequence."""
    a, b = prediction.split(), answer.split()
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = (
                table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
            )
    common = table[-1][-1]
    return 2 * common / (len(a) + len(b))


def test_rouge_l_is_the_f_of_the_longest_common_subsequence() -> None:
    generator = random.Random(0)
    words = [f"w{n}" for n in range(12)]
    for _ in range(20):
        a, b = (" ".join(generator.sample(words, 8)) for _ in range(2))
        assert metrics.rouge_l(a, [b]) == pytest.approx(_slow_rouge_l(a, b), abs=1e-6)


def test_rouge_l_of_nothing_and_of_very_long_sentences() -> None:
    assert metrics.rouge_l("", ["x"]) == 0.0
    assert metrics.rouge_l(" . \n", ["x"]) == 0.0
    assert metrics.rouge_l("x", [""]) == 0.0
    assert metrics.rouge_l("x", []) == 0.0
    assert metrics.rouge_l("the cat", ["a dog", "the cat"]) == pytest.approx(1.0, abs=1e-6)
    limit = sys.getrecursionlimit()
    long = " ".join(f"w{n}" for n in range(700))
    assert metrics.rouge_l(long, ["x " + long]) > 0.99  # 1401 steps back through the table
    assert sys.getrecursionlimit() == limit


def test_recall_and_reciprocal_rank() -> None:
    hits = [False, False, True, False, True]
    assert [metrics.recall_at_k(hits, k) for k in (1, 2, 3, 5, 99)] == [0, 0, 1, 1, 1]
    assert metrics.reciprocal_rank(hits) == pytest.approx(1 / 3)
    assert metrics.reciprocal_rank([False]) == metrics.reciprocal_rank([]) == 0.0
    with pytest.raises(InputError, match="k is 0"):
        metrics.recall_at_k(hits, 0)


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Born in New York City in 1901.", "new york city", True),
        ("Born in New  York,  City", "New York City", False),  # a comma is a token
        ("Newark is a city", "New", False),  # whole tokens only
        ("He moved to Zu\u0308rich", "Zürich", True),  # composed and decomposed
        ("Zurich", "Zürich", False),
        ("the don't-know case", "don't", True),
        ("日本 の 首都", "首都", True),
        ("anything", "", False),
        ("zero\u200bwidth ok", "width ok", True),  # control characters are no tokens
    ],
)
def test_contains_answer(text: str, answer: str, expected: bool) -> None:
    assert metrics.contains_answer(text, [answer]) is expected


def test_contains_answer_tries_every_answer() -> None:
    assert metrics.contains_answer("a b c", ["x", "b c"])
    assert not metrics.contains_answer("a b c", [])


def test_auc_is_the_share_of_pairs_in_order() -> None:
    generator = random.Random(1)
    scores = [generator.randint(0, 9) for _ in range(60)]
    labels = [generator.random() < 0.3 for _ in range(60)]
    positive = [s for s, label in zip(scores, labels, strict=True) if label]
    negative = [s for s, label in zip(scores, labels, strict=True) if not label]
    pairs = [1.0 if p > n else 0.5 if p == n else 0.0 for p in positive for n in negative]
    assert metrics.auc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))
    assert math.isnan(metrics.auc([1.0, 2.0], [True, True]))
