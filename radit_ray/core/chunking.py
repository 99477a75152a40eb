"""A document's text in, its chunks out: at most `max_words` words each, sections kept together,
nothing lost.

Source: RA-DIT section 2.3 and appendix: Wikipedia is split by section, long sections into equal
pieces under 200 words; CommonCrawl into equal pieces under 100 words. A word is a run of characters
without white space (`str.split`).
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Sequence

from radit_ray.core.errors import InputError

# "== History ==" of wikitext or "## History" of markdown, alone on its line. The bounds keep a 5 MB
# line linear.
_HEADING = re.compile(
    r"^[ \t]{0,8}"
    r"(?:={1,6}[ \t]{0,8}[^=\s].{0,200}?={1,6}|#{1,6}[ \t]{1,8}\S.{0,200}?)"
    r"[ \t\r]{0,8}$",
    re.MULTILINE,
)
_WORD = re.compile(r"\S+")


def chunk_document(
    text: str,
    *,
    max_words: int = 200,
    sections: Sequence[tuple[str, str]] | None = None,
    merge_short: bool = True,
) -> list[str]:
    """The chunks of one document, in order; their words, joined, are exactly the document's words.

    `sections` are (heading, text) pairs that replace `text`; without them the heading lines in
    `text` are the borders, and a text without headings is one section. A section of more than
    `max_words` words becomes the fewest pieces that fit, equal to within one word. Neighbouring
    sections are joined while they fit together, unless `merge_short` is False; the pieces of a long
    section are never joined with anything. An empty text has no chunks.

    >>> chunk_document("one two three four five", max_words=2)
    ['one two', 'three four', 'five']
    >>> chunk_document("== A ==\\none two\\n== B ==\\nthree", max_words=6, merge_short=False)
    ['== A ==\\none two', '== B ==\\nthree']
    """
    if max_words < 1:
        raise InputError(f"max_words is {max_words}; expected at least 1: the paper's is 200")
    if sections:
        parts = [f"{heading}\n{body}".strip() if heading else body for heading, body in sections]
        text = "\n\n".join(parts)
    span_of_word = [match.span() for match in _WORD.finditer(text)]
    if sections:
        borders = _running_word_counts(parts)
    else:
        borders = _heading_borders(text, [start for start, _ in span_of_word])
    edges = sorted({0, *borders, len(span_of_word)})
    lengths = [end - start for start, end in itertools.pairwise(edges)]
    chunks, first = [], 0
    for num_words in _pieces(lengths, max_words, merge_short):
        last = first + num_words - 1
        chunks.append(text[span_of_word[first][0] : span_of_word[last][1]])
        first += num_words
    return chunks


def _pieces(lengths: Sequence[int], max_words: int, merge_short: bool) -> list[int]:
    """Section lengths in words -> chunk lengths in words."""
    pieces: list[int] = []
    open_words = 0  # words of the sections that are being joined
    for length in lengths:
        if merge_short and open_words and open_words + length <= max_words:
            open_words += length
            continue
        if open_words:
            pieces.append(open_words)
            open_words = 0
        if length <= max_words:
            open_words = length
        else:
            num_pieces = -(-length // max_words)
            short, num_long = divmod(length, num_pieces)
            pieces += [short + (number < num_long) for number in range(num_pieces)]
    return [*pieces, open_words] if open_words else pieces


def _running_word_counts(parts: Sequence[str]) -> list[int]:
    counts, total = [], 0
    for part in parts:
        total += len(part.split())
        counts.append(total)
    return counts


def _heading_borders(text: str, start_of_word: Sequence[int]) -> list[int]:
    """The word with which each section begins. A heading right below a heading belongs to the same
    section.
    """
    borders: list[int] = []
    end_of_last = -1
    for match in _HEADING.finditer(text):
        first_word = bisect.bisect_left(start_of_word, match.start())
        if end_of_last < 0 or first_word > bisect.bisect_left(start_of_word, end_of_last):
            borders.append(first_word)
        end_of_last = match.end()
    return borders
