"""Answers that are regular expressions (CuratedTREC): a pattern in, compiled and safe to use.

Python's matcher has no time limit, and a pattern such as `(a+)+b` takes exponential time on a text
that almost matches. `compiled` therefore refuses a repeat without an end around something that can
itself vary in length. What is left is polynomial, and the metrics look at 2,000 characters.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

from radit_ray.core.errors import InputError

_QUANTIFIER = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|[*+?]\??|\{\d*,?\d*\}\??|[()|]|[^\\]", re.DOTALL
)
_ANYTHING_TWICE = re.compile(r"(?<!\\)\.[*+]\??\.[*+]")
MAX_REPEATS = 10  # of a group that varies in length: ((Bardeen|Shockley).*){3} is real


@functools.lru_cache(maxsize=4096)
def compiled(pattern: str) -> re.Pattern[str]:
    """The pattern, ignoring case. InputError for one that is broken or may never come back.

    >>> bool(compiled("Oct(\\\\.|ober)?\\\\s* 10").match("oct. 10"))
    True
    """
    try:
        found = re.compile(pattern, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(
            f"answer {pattern[:80]!r} is no regular expression ({error}); correct it, or use "
            "another metric than 'regex'"
        ) from None
    twice = _ANYTHING_TWICE.search(pattern)
    group = twice[0] if twice else next(_runaway_groups(pattern), "")
    if group:
        raise InputError(
            f"answer {pattern[:80]!r} repeats {group[:40]!r}, whose parts vary in length; such "
            "a pattern can take for ever: bound the repeat, as in {0,3}"
        )
    return found


def _runaway_groups(pattern: str) -> Iterator[str]:
    """Groups that hold a quantifier or an alternative and are repeated without a small end."""
    starts: list[tuple[int, bool]] = []  # (where the group opens, does what is around it vary)
    varies, closed, inner = False, -1, False  # of the open group; start and kind of the last closed
    previous = ""
    for token in _TOKEN.finditer(pattern):
        text = token[0]
        quantifies = text[0] in "*+?" or bool(_QUANTIFIER.match(text))
        if text == "(":
            starts.append((token.start(), varies))
            varies = False
        elif text == ")" and starts:
            inner = varies
            closed, outer = starts.pop()
            varies = inner or outer
        elif quantifies and previous not in ("", "("):  # "(?:" opens a group
            if previous == ")" and inner and _repeats(text) > MAX_REPEATS:
                yield pattern[closed : token.end()]
            varies = True
        elif text == "|":
            varies = True
        previous = text


def _repeats(quantifier: str) -> float:
    """How often at most: 1 for `?`, n for {n} and {m,n}, else without end."""
    bounds = _QUANTIFIER.match(quantifier)
    if bounds is None or quantifier[0] in "*+":
        return float("inf")
    if quantifier[0] == "?":
        return 1
    low, comma, high = bounds.groups()
    return float(high or (low if not comma else "inf") or 0)


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
        if text and compiled(pattern).fullmatch(text) and _fits_itself(text):
            return text
    return ""


def _fits_itself(text: str) -> bool:
    """Whether a text may stand among the patterns."""
    try:
        return compiled(text).fullmatch(text) is not None
    except InputError:
        return False


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
