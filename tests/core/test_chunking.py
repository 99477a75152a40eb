"""Chunks lose nothing, are short enough, keep sections together, and a huge line takes no time."""

from __future__ import annotations

import random
import time

import pytest

from radit_ray.core.chunking import chunk_document
from radit_ray.core.errors import InputError


def _words(num: int, name: str = "w") -> str:
    return " ".join(f"{name}{n}" for n in range(num))


def _lengths(chunks: list[str]) -> list[int]:
    return [len(chunk.split()) for chunk in chunks]


def _random_document(generator: random.Random) -> str:
    pieces = []
    for n in range(generator.randint(0, 12)):
        heading = generator.choice(
            [f"== H{n} ==", f"## H {n}", f"=== Sub {n} ===\r", "", "a = b", "#tag"]
        )
        body = _words(generator.choice([0, 1, 3, 19, 20, 21, 40, 95]), f"s{n}x")
        pieces.append(
            f"{heading}\n{body.replace(' ', generator.choice([' ', '  ', chr(10), chr(0xA0)]))}"
        )
    return generator.choice(["\n", "\n\n"]).join(pieces)


@pytest.mark.parametrize("merge_short", [True, False])
def test_the_words_of_all_chunks_are_the_words_of_the_text(merge_short: bool) -> None:
    generator = random.Random(0)
    for _ in range(200):
        text = _random_document(generator)
        chunks = chunk_document(text, max_words=20, merge_short=merge_short)
        assert " ".join(chunks).split() == text.split()
        assert all(0 < length <= 20 for length in _lengths(chunks))
        assert all(
            chunk in text for chunk in chunks
        )  # white space within a chunk is the document's


def test_a_long_section_becomes_the_fewest_equal_pieces() -> None:
    for num in (1, 200, 201, 399, 400, 401, 1999):
        lengths = _lengths(chunk_document(_words(num), max_words=200))
        assert sum(lengths) == num
        assert len(lengths) == -(-num // 200)
        assert max(lengths) - min(lengths) <= 1


def test_short_sections_are_joined_while_they_fit() -> None:
    text = "\n".join(
        f"== S{n} ==\n{_words(5, f's{n}x')}" for n in range(5)
    )  # 8 words each, headings counted
    assert _lengths(chunk_document(text, max_words=20)) == [16, 16, 8]
    assert _lengths(chunk_document(text, max_words=20, merge_short=False)) == [8] * 5
    assert len(chunk_document(text, max_words=200)) == 1


def test_chunks_begin_at_section_borders() -> None:
    text = f"{_words(15)}\n\n== Career ==\n{_words(12, 'c')}\n# Works\n{_words(12, 'm')}"
    chunks = chunk_document(text, max_words=20)
    assert [chunk.split("\n")[0] for chunk in chunks] == [_words(15), "== Career ==", "# Works"]


def test_pieces_of_a_long_section_are_not_joined_with_their_neighbours() -> None:
    text = f"{_words(3, 'a')}\n== L ==\n{_words(38)}\n== E ==\n{_words(2, 'z')}"
    assert _lengths(chunk_document(text, max_words=40)) == [3, 21, 20, 5]


def test_a_heading_stays_with_what_follows_it() -> None:
    text = "== Life ==\n\n=== Youth ===\nborn early\n== Death ==\nlate"
    chunks = chunk_document(text, max_words=50, merge_short=False)
    assert chunks == ["== Life ==\n\n=== Youth ===\nborn early", "== Death ==\nlate"]


@pytest.mark.parametrize("line", ["a == b", "x = 3", "#tag", "== open", "text == H =="])
def test_what_is_no_heading(line: str) -> None:
    text = f"{_words(4)}\n{line}\n{_words(4)}"
    assert chunk_document(text, max_words=50, merge_short=False) == [text]


def test_given_sections_are_the_borders() -> None:
    sections = [
        ("", _words(6)),
        ("History", _words(7, "h")),
        ("Empty", ""),
        ("Long", _words(24, "l")),
    ]
    chunks = chunk_document("ignored", max_words=10, sections=sections)
    assert _lengths(chunks) == [6, 9, 9, 8, 8]
    assert chunks[1].startswith("History\nh0")
    assert " ".join(chunks).split() == " ".join(f"{h} {t}" for h, t in sections).split()


def test_without_sections_or_words() -> None:
    assert chunk_document("one two", sections=[]) == ["one two"]
    assert chunk_document("") == chunk_document(" \n\t ") == []
    assert chunk_document("", sections=[("", ""), ("", " ")]) == []


@pytest.mark.parametrize(
    "text", ["word " * 1_000_000, "== " * 1_700_000, "# a" + " " * 5_000_000 + "b", "=" * 5_000_000]
)
def test_a_5_mb_line_takes_less_than_2_seconds(text: str) -> None:
    start = time.process_time()
    chunks = chunk_document(text)
    assert time.process_time() - start < 2.0
    assert sum(_lengths(chunks)) == len(text.split())


def test_max_words_must_be_positive() -> None:
    with pytest.raises(InputError, match="max_words is 0"):
        chunk_document("a", max_words=0)
