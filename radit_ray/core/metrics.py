"""Answer and retrieval metrics: strings or hit lists in, one float per example out. Sources: KILT's
scorer, DPR.

Every answer metric takes a prediction and its gold answers and is the maximum over them; 0.0 where
there are none.
"""

from __future__ import annotations

import functools
import re
import string
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from radit_ray.core.errors import InputError

Scoring = Literal["nll", "nll_token", "nll_char", "nll_compl"]  # of choices: `ensembles`

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize(text: str) -> str:
    """KILT's normalisation: lower case, no ASCII punctuation, no a/an/the, single spaces, in this
    order.

    >>> normalize("The  Beatles' first LP!")
    'beatles first lp'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the normalised prediction is one of the normalised answers."""
    return float(normalize(prediction) in {normalize(answer) for answer in answers})


def f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 over the bags of normalised words; 0.0 where nothing overlaps.

    >>> round(f1("the red house", ["a red car", "house"]), 4)
    0.6667
    """
    return max(
        (_f1(normalize(prediction).split(), normalize(answer).split()) for answer in answers),
        default=0.0,
    )


def _f1(predicted: list[str], gold: list[str]) -> float:
    overlap = (Counter(predicted) & Counter(gold)).total()
    if overlap == 0:
        return 0.0
    precision, recall = overlap / len(predicted), overlap / len(gold)
    return 2 * precision * recall / (precision + recall)


def accuracy(prediction: str, answers: Sequence[str]) -> float:
    """KILT's accuracy: the stripped prediction is one of the stripped answers, character by
    character."""
    return float(prediction.strip() in {answer.strip() for answer in answers})


def rouge_l(prediction: str, answers: Sequence[str]) -> float:
    """Rouge-L F of the `rouge` package (KILT's choice), no normalisation; 0.0 for an empty
    prediction or gold.

    >>> round(rouge_l("the cat sat", ["the cat sat down", "a dog"]), 4)
    0.8571
    """
    return max((_rouge_l(prediction, answer) for answer in answers), default=0.0)


def _rouge_l(prediction: str, answer: str) -> float:
    if not all(text.replace(".", " ").split() for text in (prediction, answer)):
        return 0.0  # without any word the package raises, or finds the "word" between two spaces
    from rouge import Rouge  # imported here, so that core itself stays on numpy and torch

    # The package walks back through its table by recursion, one call per word of a pair of
    # sentences.
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, len(prediction.split()) + len(answer.split()) + 1000))
    try:
        return float(Rouge(metrics=["rouge-l"]).get_scores(prediction, answer)[0]["rouge-l"]["f"])
    finally:
        sys.setrecursionlimit(limit)


def ends_with(prediction: str, answers: Sequence[str]) -> float:
    """1.0 where the normalised prediction ends in a normalised answer, word by word: a chain of
    thought, then the answer.

    >>> ends_with("She sold 48 + 24 = 72 clips. 72", ["72"]), ends_with("172", ["72"])
    (1.0, 0.0)
    """
    words = normalize(prediction).split()
    golds = [normalize(answer).split() for answer in answers]
    return float(any(gold and words[-len(gold) :] == gold for gold in golds))


# of one answer; patterns as answers are judged in data.patterns
METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "em": exact_match,
    "f1": f1,
    "accuracy": accuracy,
    "rouge-l": rouge_l,
    "ends": ends_with,
}


def recall_at_k(hits_K: Sequence[bool], k: int) -> float:
    """1.0 where one of the first k chunks is a hit (fewer than k chunks count as they are).

    >>> recall_at_k([False, True], 1), recall_at_k([False, True], 5)
    (0.0, 1.0)
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1: set k to 1 or more")
    return float(any(hits_K[:k]))


def reciprocal_rank(hits_K: Sequence[bool]) -> float:
    """1 / the rank of the first hit, best first; 0.0 without one. Its mean over examples is the
    MRR.

    >>> reciprocal_rank([False, True, True])
    0.5
    """
    return next((1.0 / rank for rank, hit in enumerate(hits_K, start=1) if hit), 0.0)


def contains_answer(text: str, answers: Sequence[str]) -> bool:
    """DPR's string match: some answer's tokens stand in the text in order and without a gap,
    ignoring case.

    Tokens are runs of letters, digits and marks, and every other visible character by itself, after
    Unicode NFD.

    >>> contains_answer("She was born in Zürich, in 1901.", ["paris", "zürich"])
    True
    >>> contains_answer("art history", ["art hist"])
    False
    """
    haystack = _tokens(text)
    return any(_is_run(_tokens(answer), haystack) for answer in answers)


def auc(scores: Sequence[float], labels: Sequence[bool]) -> float:
    """The chance that a positive scores above a negative, ties half; NaN where either kind is
    missing.

    >>> auc([0.9, 0.4, 0.4, 0.1], [True, True, False, False])
    0.875
    """
    score_N, positive_N = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=bool)
    num_positive = int(positive_N.sum())
    num_negative = len(positive_N) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, place_N, count = np.unique(score_N, return_inverse=True, return_counts=True)
    mean_rank = (
        np.cumsum(count) - (count - 1) / 2
    )  # tied scores share the mean of their ranks, counted from 1
    rank_sum = float(mean_rank[place_N][positive_N].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def _is_run(needle: list[str], haystack: list[str]) -> bool:
    """An empty answer is nowhere, although every list contains the empty one."""
    width = len(needle)
    return width > 0 and any(
        haystack[start] == needle[0] and haystack[start : start + width] == needle
        for start in range(len(haystack) - width + 1)
    )


def _tokens(text: str) -> list[str]:
    found = _token_pattern().findall(unicodedata.normalize("NFD", text.lower()))
    return [token for token in found if len(token) > 1 or unicodedata.category(token)[0] != "C"]


@functools.cache
def _token_pattern() -> re.Pattern[str]:
    """DPR's `[\\p{L}\\p{N}\\p{M}]+|[^\\p{Z}\\p{C}]` in the standard library's `re`, which lacks
    \\p{M}: after NFD accents are characters of their own that `\\w` leaves out, and would cut every
    accented word in pieces.
    """
    marks = "".join(
        chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"
    )
    return re.compile(f"(?:[^\\W_]|[{marks}])+|\\S")
