"""Contract: every formula of `core.duplicates` against the slow obvious one, on texts of a few
words so that copies happen by chance.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radit_ray.core import duplicates
from radit_ray.core.duplicates import Buckets
from radit_ray.core.errors import InputError

PLAIN = settings(deadline=None, database=None, derandomize=True)
TEXT = st.lists(st.sampled_from("abcd"), max_size=12)
HASHES = st.lists(st.integers(0, 6), min_size=1, max_size=40)
SIMILARITY = st.sampled_from([0.8, 0.9, 1.0])


def shingle_set(words: list[str], size: int) -> set[tuple[str, ...]]:
    """The shingles themselves; of a shorter text all of it."""
    size = min(size, max(1, len(words)))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def slow_jaccard(a: list[str], b: list[str], size: int) -> float:
    left, right = shingle_set(a, size), shingle_set(b, size)
    return len(left & right) / len(left | right) if left and right else 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop!", ["don", "t", "stop"]),
        ("  a\tb\n", ["a", "b"]),
        ("Zu\u0308rich ZÜRICH", ["zürich", "zürich"]),
        ("東京は", ["東", "京", "は"]),
        ("… — !", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert duplicates.words(text) == expected


@PLAIN
@given(TEXT, TEXT)
def test_text_hash_is_equal_where_the_words_are(a: list[str], b: list[str]) -> None:
    assert (duplicates.text_hash(a) == duplicates.text_hash(b)) == (a == b)
    assert len(duplicates.text_hash(a)) == 16


@PLAIN
@given(TEXT, st.integers(1, 6))
def test_runs_are_equal_where_the_words_are(words: list[str], size: int) -> None:
    hashes = duplicates.runs(duplicates.word_hashes(words, {}), size)
    expected = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
    assert len(hashes) == len(expected)
    for (h, a), (g, b) in itertools.combinations(zip(hashes, expected, strict=True), 2):
        assert (h == g) == (a == b)


@PLAIN
@given(TEXT, TEXT, st.integers(1, 5))
def test_jaccard_of_shingles_is_that_of_the_sets(a: list[str], b: list[str], size: int) -> None:
    known: dict[str, int] = {}
    sets = [duplicates.shingles(words, size, known) for words in (a, b)]
    assert [len(found) for found in sets] == [len(shingle_set(words, size)) for words in (a, b)]
    assert all((np.diff(found.astype(object)) > 0).all() for found in sets)  # sorted, each once
    assert duplicates.jaccard(*sets) == slow_jaccard(a, b, size)


def test_miss_probability_is_the_share_of_pairs_without_a_band() -> None:
    generator = np.random.default_rng(0)
    agree = generator.random((20_000, 5, 3)) < 0.6
    share = 1 - agree.all(axis=2).any(axis=1).mean()
    # 20,000 draws: standard error 0.0035
    assert share == pytest.approx(duplicates.miss_probability(0.6, bands=5, rows=3), abs=0.012)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.8, 0.95])
def test_bands_for_is_the_longest_rows_that_miss_few_enough(threshold: float) -> None:
    bands, rows = duplicates.bands_for(threshold, 128, 0.01)
    assert duplicates.miss_probability(threshold, bands=bands, rows=rows) <= 0.01
    longer = range(rows + 1, 129)
    assert all(
        duplicates.miss_probability(threshold, bands=128 // r, rows=r) > 0.01 for r in longer
    )
    with pytest.raises(InputError, match=r"threshold=0\.1 with num_perm=4 .*raise num_perm"):
        duplicates.bands_for(0.1, 4, 0.01)


def test_band_hashes_are_equal_where_the_rows_are() -> None:
    place_NM = np.random.default_rng(0).integers(0, 3, (60, 8), dtype=np.uint32)
    hash_NB = duplicates.band_hashes(place_NM, 3, 2)  # the last two places are left over
    assert hash_NB.shape == (60, 3)
    for a, b in itertools.combinations(range(60), 2):
        for band in range(3):
            places = slice(2 * band, 2 * band + 2)
            equal = bool((place_NM[a, places] == place_NM[b, places]).all())
            assert (hash_NB[a, band] == hash_NB[b, band]) == equal


@PLAIN
@given(HASHES)
def test_first_of_equal(numbers: list[int]) -> None:
    hashes = np.array([duplicates.text_hash([str(n)]) for n in numbers], dtype="V16")
    assert duplicates.first_of_equal(hashes).tolist() == [numbers.index(n) for n in numbers]


@PLAIN
@given(HASHES, st.integers(1, 50))
def test_buckets_pair_each_text_with_the_first_of_its_bucket(numbers: list[int], cap: int) -> None:
    buckets = Buckets.of(np.array(numbers, dtype=np.uint64))
    blocks = [(a.tolist(), b.tolist()) for a, b in buckets.pairs(cap)]
    assert all(len(left) <= len(numbers) for left, _ in blocks)
    found = [pair for left, right in blocks for pair in zip(left, right, strict=True)]
    expected, cut = set(), 0
    for right, number in enumerate(numbers):
        earlier = [left for left in range(right) if numbers[left] == number]
        expected |= {(left, right) for left in earlier[:cap]}
        cut += len(earlier[cap:])
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert buckets.num_cut(cap) == cut


@PLAIN
@given(st.dictionaries(st.tuples(st.integers(0, 9), st.integers(0, 9)), SIMILARITY), st.randoms())
def test_keep_first_drops_what_resembles_a_kept_one(
    drawn: dict[tuple[int, int], float], chance: random.Random
) -> None:
    near = {(a, b): s for (a, b), s in drawn.items() if a < b}
    pairs = [(a, b, s) for (a, b), s in near.items()]
    dropped = keep_first(pairs)
    for copy, (kept, similarity) in dropped.items():
        assert kept < copy
        assert kept not in dropped
        assert near[kept, copy] == similarity
    # nothing that stayed resembles an earlier one that stayed
    assert all(a in dropped or b in dropped for a, b in near)
    chance.shuffle(pairs)
    assert keep_first(pairs) == dropped


def keep_first(pairs: list[tuple[int, int, float]]) -> dict[int, tuple[int, float]]:
    columns = np.array(pairs).reshape(-1, 3).T
    return duplicates.keep_first(columns[0].astype(int), columns[1].astype(int), columns[2])


def test_joined_copies_hand_a_copy_of_a_dropped_text_on() -> None:
    first_N = np.array([0, 1, 2, 1, 4, 0])
    assert duplicates.joined_copies(first_N, {1: (0, 0.9)}) == {
        1: (0, 0.9, "near"),
        3: (0, 0.9, "exact"),
        5: (0, 1.0, "exact"),
    }
