"""Contract: patterns as answers are judged in bounded time, and each has a text that fits it."""

from __future__ import annotations

import re
import time

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.patterns import check_pattern, contains_pattern, example_of, matches


def test_a_prediction_is_matched_from_its_start_and_a_chunk_anywhere() -> None:
    answers = [r"Sept?(ember)?|Feb(ruary)?"]
    assert matches(" february 9", answers) == 1.0
    assert matches("in February", answers) == 0.0
    assert matches("a feb", ["x", *answers]) == 0.0  # the alternatives are one group
    assert matches("", answers) == 0.0
    assert contains_pattern("It is held in FEBRUARY.", answers)
    assert not contains_pattern("It is held in March.", answers)


@pytest.mark.parametrize(
    "pattern", ["(a+)+[?]$", "(a|aa)*[?]$", "((Io|Europa).*){4}x", "x*.*.*.*y"]
)
def test_patterns_that_keep_pythons_matcher_busy_come_back(pattern: str) -> None:
    text = "a" * 50_000 + "Io Europa " * 5_000 + "!"
    start = time.perf_counter()
    assert not contains_pattern(text, [pattern])
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("pattern", ["(", "a**", "[z-a]", "(?=x)", r"(a)\1", "a{9999}"])
def test_broken_patterns_are_one_line(pattern: str) -> None:
    with pytest.raises(InputError, match="is no regular expression as RE2 reads them") as caught:
        check_pattern(pattern)
    assert "\n" not in str(caught.value)
    assert pattern in str(caught.value).replace("\\\\", "\\")


def test_a_backslash_before_a_letter_that_needs_none_is_read_over() -> None:
    check_pattern("Mench\\ú|Luj\\án")
    assert matches("menchú tum", ["Mench\\ú|Luj\\án"]) == 1.0


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("Saudi Arabia", "Saudi Arabia"),
        ("Sept?(ember)?|February", "February"),
        (r"Long Island|New\s?York", "Long Island"),
        (r"29,?029\s*('|f(ee|oo)?t)|8,?848\s*m", "8848 m"),
        (r"\b5\b", "5"),
        ("Mench[uú]", "Menchu"),
        (r"4.(5[0-9]*|6) billion", ""),
        (r"C\+\+", ""),  # as a pattern it would not fit itself
    ],
)
def test_an_example_fits_its_pattern(pattern: str, text: str) -> None:
    assert example_of(pattern) == text
    if text:
        assert re.fullmatch(pattern, text)
        assert matches(text, [pattern]) == 1.0
