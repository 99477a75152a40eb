"""Answers that are regular expressions (CuratedTREC): is a pattern in a text, and what fits it.

Matching is RE2's (through pyarrow): its time is linear in the text whatever the pattern, while a
pattern such as `(a+)+b` can keep Python's own matcher busy for ever. RE2 has no look-around and no
back-references; a pattern that needs them is refused when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from radit_ray.core.errors import InputError


def check_pattern(pattern: str) -> None:
    """InputError for a text that RE2 does not take as a pattern."""
    _found("", pattern)


def matches(prediction: str, answers: Sequence[str]) -> float:
    """The metric `regex`, DrQA's rule: a pattern fits from the prediction's start, ignoring case.

    >>> matches("february 9", ["Sept?(ember)?|Feb(ruary)?"]), matches("in May", ["May"])
    (1.0, 0.0)
    """
    text = prediction.strip()
    return float(any(_found(text, f"^(?:{answer})") for answer in answers))


def contains_pattern(text: str, answers: Sequence[str]) -> bool:
    """DPR's rule for chunks: a pattern fits somewhere in the text, ignoring case."""
    return any(_found(text, answer) for answer in answers)


def plain(pattern: str) -> str:
    """The pattern without the backslashes before other letters than ASCII, which mean nothing but
    which RE2 refuses: `Mench\\ú`.
    """
    return re.sub(r"\\([^\x00-\x7f])", r"\1", pattern)


def _found(text: str, pattern: str) -> bool:
    try:
        return bool(pc.match_substring_regex(text, plain(pattern), ignore_case=True).as_py())
    except pa.ArrowInvalid as error:
        reason = str(error).removeprefix("Invalid regular expression: ")
        raise InputError(
            f"answer {pattern[:80]!r} is no regular expression as RE2 reads them ({reason}); "
            "correct it, or use another metric than 'regex'"
        ) from None


def example_of(pattern: str) -> str:
    """A text that the pattern fits, to show or to train on; "" where none is found by leaving out
    what may be left out.

    >>> example_of(r"Sept?(ember)?|Feb"), example_of(r"New\\s?York"), example_of(r"\\d+")
    ('Feb', 'New York', '')
    """
    # the plainest alternative first, which says most as it stands
    for branch in sorted(_branches(pattern), key=lambda text: len(_SPECIAL.findall(text))):
        text = re.sub(r"\\b|\^|\$|\(\?:", lambda found: "(" if found[0] == "(?:" else "", branch)
        text = re.sub(r"\\s[*+?]?|\.[*+]", " ", text)
        while (shorter := _INNER.sub(_first_branch, text)) != text:
            text = shorter
        text = re.sub(r"(?:\\.|[^\\])\?", "", text)
        text = re.sub(r"\\(\W)", r"\1", text)
        text = " ".join(text.split())
        if text and _is_whole(text, pattern) and _is_whole(text, text):
            return text  # which may stand among the patterns: it fits itself
    return ""


def _is_whole(text: str, pattern: str) -> bool:
    try:
        return _found(text, f"^(?:{plain(pattern)})$")
    except InputError:
        return False


_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[()|]|[^\\]", re.DOTALL)
_SPECIAL = re.compile(r"\\[a-zA-Z]|(?<!\\)[()\[\]*+?.{]")
_INNER = re.compile(r"\(([^()]*)\)(\??)|\[([^\]^\\])[^\]\\]*\](\??)")


def _first_branch(group: re.Match[str]) -> str:
    if group[2] or group[4]:
        return ""
    return group[3] if group[3] else group[1].split("|")[0]


def _branches(pattern: str) -> list[str]:
    """The alternatives at the top of a pattern."""
    found, depth = [""], 0
    for token in _TOKEN.finditer(pattern):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if token[0] == "|" and depth == 0:
            found.append("")
        else:
            found[-1] += token[0]
    return found
