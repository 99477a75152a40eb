"""When two texts are copies of each other: shingles, their Jaccard similarity, and which pairs of a
corpus are worth comparing at all (MinHash bands; Broder 1997, Leskovec et al. ch. 3).

A text is its words: lower case, punctuation aside. A shingle is a run of `size` words, as 64 bits.
A MinHash signature agrees in one place with probability J, the Jaccard similarity of the two sets;
cut into bands of several places each, two texts that agree in some whole band are compared. Bands
only propose: what decides is the Jaccard similarity of the sets themselves.

Suffixes: N texts, P pairs, M places of a signature. Positions are those in the corpus' order.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radit_ray.core.errors import InputError

Hashes = NDArray[np.uint64]
Positions = NDArray[np.int64]

BLOCK = 1 << 20  # pairs at a time as Python's numbers

# kana and Han are written without spaces: each sign is a word, or a whole sentence would be one
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W\u3040-\u9fff]+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no power of it loses bits
_MIX = ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1))  # MurmurHash3's last steps


def words(text: str) -> list[str]:
    """The words of a text that count when texts are compared: NFKC, lower case, no punctuation.

    >>> words("The Beatles' 1st LP, in Ｈamburg.")
    ['the', 'beatles', '1st', 'lp', 'in', 'hamburg']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


def text_hash(found: Sequence[str]) -> bytes:
    """16 bytes that are equal where two texts have the same words in the same order."""
    return hashlib.blake2b("\n".join(found).encode(), digest_size=16).digest()


def runs(value_T: Hashes, size: int) -> Hashes:
    """The hash of each run of `size` values, in order: T - size + 1 of them, none where T < size.

    The run a b c is mix(a m^2 + b m + c) mod 2^64, so equal runs are equal wherever they stand.
    """
    count = max(0, len(value_T) - size + 1)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        total = total * np.uint64(_MULTIPLIER) + value_T[place : place + count]
    return mix(total)


def mix(value: Hashes) -> Hashes:
    """Every bit of the value moves every bit of the result: MurmurHash3's finaliser."""
    for shift, multiplier in _MIX:
        value = (value ^ (value >> np.uint64(shift))) * np.uint64(multiplier)
    return value


def word_hashes(found: Sequence[str], known: dict[str, int]) -> Hashes:
    """64 bits of each word; `known` remembers what was hashed before, for as long as it lives."""
    for word in found:
        if word not in known:
            digest = hashlib.blake2b(word.encode(), digest_size=8).digest()
            known[word] = int.from_bytes(digest, "little")
    return np.fromiter((known[word] for word in found), dtype=np.uint64, count=len(found))


def shingles(found: Sequence[str], size: int, known: dict[str, int] | None = None) -> Hashes:
    """The set of runs of `size` words, sorted; a shorter text is one shingle.

    >>> len(shingles("a b c d e f".split(), 5)), len(shingles("a b a b a b".split(), 2))
    (2, 2)
    """
    hash_T = word_hashes(found, {} if known is None else known)
    return np.unique(runs(hash_T, min(size, max(1, len(found)))))


def jaccard(a: Hashes, b: Hashes) -> float:
    """|a and b| / |a or b| of two sorted sets; 0 where both are empty.

    >>> jaccard(np.array([1, 2, 3], dtype=np.uint64), np.array([2, 3, 4], dtype=np.uint64))
    0.5
    """
    if not len(a) or not len(b):
        return 0.0
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def miss_probability(similarity: float, *, bands: int, rows: int) -> float:
    """(1 - s^rows)^bands: how probable it is that two texts of this similarity share no band.

    >>> round(miss_probability(0.8, bands=21, rows=6), 4)
    0.0017
    """
    return float((1 - similarity**rows) ** bands)


def bands_for(threshold: float, num_perm: int, max_miss: float) -> tuple[int, int]:
    """(bands, rows of one): the longest rows, so the fewest comparisons in vain, that miss a pair
    just at the threshold with probability `max_miss` at most. InputError where none do.

    >>> bands_for(0.8, 128, 0.01)
    (21, 6)
    """
    for rows in range(num_perm, 0, -1):
        bands = num_perm // rows
        if miss_probability(threshold, bands=bands, rows=rows) <= max_miss:
            return bands, rows
    raise InputError(
        f"threshold={threshold:g} with num_perm={num_perm} misses more than max_miss={max_miss:g} "
        "of the pairs at the threshold; raise num_perm or max_miss"
    )


def band_hashes(place_NM: NDArray[np.uint32], bands: int, rows: int) -> Hashes:
    """Signatures -> one hash for each band of `rows` places. Shape (N, bands)."""
    cut = place_NM[:, : bands * rows].astype(np.uint64).reshape(len(place_NM), bands, rows)
    total = np.zeros((len(place_NM), bands), dtype=np.uint64)
    for row in range(rows):
        total = mix(total * np.uint64(_MULTIPLIER) + cut[:, :, row])
    return total


def first_of_equal(hash_N: NDArray[np.generic]) -> Positions:
    """For every text the position of the first one with the same hash; its own where it is new.

    >>> first_of_equal(np.array([b"x", b"y", b"x"])).tolist()
    [0, 1, 0]
    """
    _, first, inverse = np.unique(hash_N, return_index=True, return_inverse=True)
    found: Positions = first.astype(np.int64)[inverse]
    return found


@dataclass(frozen=True)
class Buckets:
    """Texts ordered by hash: which follow which in a bucket, the texts of one hash. 40 bytes a
    text while they are made.
    """

    order_N: Positions  # texts by hash, within a bucket by position
    start_N: Positions  # where the bucket of each begins in order_N
    rank_N: Positions  # place of each within its bucket

    @classmethod
    def of(cls, hash_N: Hashes) -> Buckets:
        order_N = np.argsort(hash_N, kind="stable")
        ordered = hash_N[order_N]
        opens = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        start_N = np.repeat(opens, np.diff(np.append(opens, len(ordered))))
        return cls(order_N, start_N, np.arange(len(ordered)) - start_N)

    def pairs(self, cap: int) -> Iterator[tuple[Positions, Positions]]:
        """(left, right), left < right: each text with the first `cap` of its bucket, N pairs at a
        time at most.

        So n texts of boilerplate make n * cap pairs and not n^2 / 2. The first, because those are
        what `keep_first` keeps.
        """
        later = np.flatnonzero(self.rank_N)
        for rank in range(min(cap, int(self.rank_N.max(initial=0)))):
            later = later[self.rank_N[later] > rank]
            yield self.order_N[self.start_N[later] + rank], self.order_N[later]

    def num_cut(self, cap: int) -> int:
        """Pairs of one bucket that `pairs` leaves out."""
        return int(np.maximum(self.rank_N - cap, 0).sum())


def keep_first(
    left_P: Positions, right_P: Positions, similarity_P: NDArray[np.float64]
) -> dict[int, tuple[int, float]]:
    """{dropped: (kept, similarity)} of pairs of positions, left < right, at or above the threshold,
    in any order. Each shape (P,).

    In the corpus' order a text is dropped where one that was kept is similar to it, the first of
    those. So each dropped text has a kept one above the threshold: similarity is not handed on from
    text to text, as in connected components, where the ends of a chain may have nothing in common.

    >>> keep_first(np.array([0, 1, 2]), np.array([1, 2, 3]), np.array([0.9, 0.9, 0.8]))
    {1: (0, 0.9), 3: (2, 0.8)}
    """
    dropped: dict[int, tuple[int, float]] = {}
    order_P = np.lexsort((left_P, right_P))
    for start in range(0, len(order_P), BLOCK):  # Python's numbers take seven times the bytes
        here = order_P[start : start + BLOCK]
        columns = (column[here].tolist() for column in (left_P, right_P, similarity_P))
        for left, right, similarity in zip(*columns, strict=True):
            if left not in dropped and right not in dropped:
                dropped[right] = (left, similarity)
    return dropped


def joined_copies(
    first_N: Positions, near: Mapping[int, tuple[int, float]]
) -> dict[int, tuple[int, float, str]]:
    """{dropped: (kept, similarity, "exact" or "near")} of equal and of similar texts together,
    in the corpus' order: a copy of a text that is near another one belongs to that one.
    """
    found = {right: (left, similarity, "near") for right, (left, similarity) in near.items()}
    for copy in np.flatnonzero(first_N != np.arange(len(first_N))).tolist():
        first = int(first_N[copy])
        kept, similarity = near.get(first, (first, 1.0))
        found[copy] = (kept, similarity, "exact")
    return dict(sorted(found.items()))
