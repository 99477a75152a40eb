"""Contract: a phrase is found exactly where it stands word for word, whatever its length, the text
and the size of the blocks.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radit_ray.core.overlap import Phrases, ngrams

PLAIN = settings(deadline=None, database=None, derandomize=True)
WORDS = st.lists(st.sampled_from("abx"), min_size=1, max_size=20)


def holds(text: list[str], phrase: list[str]) -> bool:
    width = len(phrase)
    return any(text[start : start + width] == phrase for start in range(len(text) - width + 1))


@pytest.mark.parametrize(
    ("length", "number", "width"), [(14, 2, 13), (13, 1, 13), (12, 5, 8), (8, 1, 8), (3, 1, 3)]
)
def test_ngrams_by_length_of_the_question(length: int, number: int, width: int) -> None:
    words = [f"w{place}" for place in range(length)]
    found = ngrams(words, 13, 8)
    assert [len(gram) for gram in found] == [width] * number
    assert found == [tuple(words[start : start + width]) for start in range(number)]


def test_ngrams_are_named_once_and_no_words_have_none() -> None:
    assert ngrams(["a", "b", "a", "b", "a"], 2, 2) == [("a", "b"), ("b", "a")]
    assert ngrams([], 13, 8) == []


@PLAIN
@given(st.lists(WORDS, min_size=1, max_size=8), st.lists(WORDS, max_size=6), st.integers(1, 6))
def test_phrases_are_found_in_the_first_text_that_holds_them(
    phrases: list[list[str]], texts: list[list[str]], block: int
) -> None:
    # "y" is in texts alone: a word that no phrase has
    named = [
        (str(n), [w.replace("x", "y") if n % 2 else w for w in t]) for n, t in enumerate(texts)
    ]
    looked = Phrases(phrases)
    for start in range(0, len(named), block):
        looked.look_in(named[start : start + block])
    expected = {}
    for number, phrase in enumerate(phrases):
        places = [name for name, text in named if holds(text, phrase)]
        if places:
            expected[number] = places[0]
    assert looked.found == expected


def test_a_phrase_of_thirty_words_is_told_from_one_with_the_same_beginning() -> None:
    phrase = [f"w{place}" for place in range(30)]
    other = [*phrase[:29], "w0"]
    looked = Phrases([phrase, other])
    looked.look_in([("a", [*other, "w5"]), ("b", ["w0", *phrase])])
    assert looked.found == {1: "a", 0: "b"}
    assert not any(looked.waiting[13])
