"""Which of many phrases (questions, their n-grams, answers) stand in a stream of texts, word for
word.

Only the phrases are kept, a hash and their words; the texts pass by and may have any size. A hash
says where to look and the words decide, so nothing is reported that does not stand there.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from radit_ray.core.duplicates import Hashes, runs

_KEY = 13  # words that a longer phrase is looked up by; a text is hashed once for each length


def ngrams(words: Sequence[str], size: int, short: int) -> list[tuple[str, ...]]:
    """The runs of `size` words of a question; of one with fewer words those of `short` words; of
    one that is shorter still, all of it.

    >>> ngrams("who wrote the score of jaws".split(), 13, 4)[0]
    ('who', 'wrote', 'the', 'score')
    >>> ngrams("who wrote jaws".split(), 13, 8)
    [('who', 'wrote', 'jaws')]
    """
    width = next((n for n in (size, short) if n <= len(words)), len(words))
    found = [tuple(words[start : start + width]) for start in range(len(words) - width + 1)]
    return list(dict.fromkeys(found)) if words else []


class Phrases:
    """Phrases that are looked for, and of each the first text that holds it."""

    def __init__(self, phrases: Sequence[Sequence[str]]) -> None:
        self.found: dict[int, str] = {}  # number of a phrase: name of the text
        self.number_of = {word: n for n, word in enumerate({w for p in phrases for w in p}, 1)}
        self.phrases = [[self.number_of[word] for word in phrase] for phrase in phrases]
        by_key: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for number, phrase in enumerate(self.phrases):
            assert phrase, "an empty phrase is in every text"
            size = min(len(phrase), _KEY)
            by_key[size][int(runs(_values(phrase[:size]), size)[0])].append(number)
        self.keys: dict[int, Hashes] = {}  # by their length: hashes of first words, rising
        self.waiting: dict[int, list[list[int]]] = {}  # the phrases of each, not found yet
        for size, numbers in by_key.items():
            self.keys[size] = np.array(sorted(numbers), dtype=np.uint64)
            self.waiting[size] = [numbers[key] for key in sorted(numbers)]

    def look_in(self, texts: Iterable[tuple[str, Sequence[str]]]) -> None:
        """Looks in some texts, (name, words) each; a few hundred at a time are quickest."""
        names: list[str] = []
        starts: list[int] = []
        stream = [0]  # between texts stands a word that no phrase holds
        for name, words in texts:
            names.append(name)
            starts.append(len(stream))
            stream += [self.number_of.get(word, 0) for word in words]
            stream.append(0)
        value_T = _values(stream)
        unknown_T = np.cumsum(np.append(0, value_T == 0))  # before each place
        for size in self.keys:
            for place, key in self._hits(value_T, unknown_T, size):
                for number in list(self.waiting[size][key]):
                    phrase = self.phrases[number]
                    if stream[place : place + len(phrase)] == phrase:
                        self.found[number] = names[bisect.bisect_right(starts, place) - 1]
                        self.waiting[size][key].remove(number)

    def _hits(
        self, value_T: Hashes, unknown_T: NDArray[np.int64], size: int
    ) -> Iterator[tuple[int, int]]:
        """(place, key) where the first words of a phrase may stand that is still looked for."""
        keys = self.keys[size]
        place_R = np.flatnonzero(unknown_T[size:] == unknown_T[:-size])
        hash_R = runs(value_T, size)[place_R]
        key_R = np.minimum(np.searchsorted(keys, hash_R), len(keys) - 1)
        waiting = np.array([bool(numbers) for numbers in self.waiting[size]])
        hit_R = (keys[key_R] == hash_R) & waiting[key_R]
        return zip(place_R[hit_R].tolist(), key_R[hit_R].tolist(), strict=True)


def _values(numbers: Sequence[int]) -> Hashes:
    return np.array(numbers, dtype=np.uint64)
