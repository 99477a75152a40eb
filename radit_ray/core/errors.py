"""The one error that is meant for the person at the keyboard.

Every floor raises `InputError` for a bad value: one line that says what it was, where, what was
expected and the fix. The command line prints that line and leaves with exit code 2; everything else
propagates. It takes one string, so it survives pickling between Ray processes.
"""

from __future__ import annotations

import difflib
import errno
import math
import re
from collections.abc import Iterable, Mapping

Bounds = Mapping[str, tuple[float, float | None]]  # field: lowest, highest (None: none)
# numbers of OSErrors that the person at the keyboard can mend
FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
SEED = (0, 2**32 - 1)  # what numpy, torch and random all take


class IncompleteError(Exception):
    """Parts of a run failed, each with a line of its own: the command line adds this one and leaves
    with exit code 1.
    """


class InputError(ValueError):
    """A value the user gave cannot be used; the message is one line and names the fix."""


def nearest(value: str, allowed: Iterable[str]) -> str:
    """`"; did you mean 'x'? (a, b, x)"` for an unknown name: the closest allowed one, then all of
    them.

    >>> nearest("dragn-plus", ["dpr", "dragon-plus"])
    "; did you mean 'dragon-plus'? (one of: dpr, dragon-plus)"
    >>> nearest("zzz", ["dpr"])
    ' (one of: dpr)'
    """
    names = sorted(allowed)
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (one of: {', '.join(names)})"


def check_bounds(config: object, bounds: Bounds) -> None:
    """InputError for the first field that lies outside its bounds; nan and inf always do."""
    for field, (low, high) in bounds.items():
        value = getattr(config, field)
        if not math.isfinite(value) or value < low or (high is not None and value > high):
            expected = f"at least {low}" if high is None else f"{low} to {high}"
            raise InputError(
                f"{field}={value} of {type(config).__name__}; expected {expected}: change {field}"
            )


def redacted(text: str) -> str:
    """A text without the passwords of the URLs in it.

    >>> redacted("--storage postgresql://me:secret@host/db")
    '--storage postgresql://me:***@host/db'
    """
    text = re.sub(r"(://[^/:@\s]*):[^/\s]*@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|token)=)[^&\s'\"]+", r"\1***", text)
