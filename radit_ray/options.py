"""Options of a command: tyro's reading of them, with bad ones as the one line of an InputError."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any

from radit_ray.core.errors import InputError, check_bounds


def parse(kind: Any, arguments: Sequence[str], program: str, description: str = "") -> Any:
    """tyro, with its framed messages folded into the one line of an InputError."""
    import tyro

    for argument, value in zip(arguments, [*arguments[1:], "-"], strict=False):
        if argument == "--output=" or (argument == "--output" and not value.strip()):
            raise InputError('--output is ""; expected a folder or file to write to')
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            parsed = tyro.cli(
                kind, args=list(arguments), prog=program, description=description or None
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        words = re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", captured.getvalue())
        words = re.sub(r"\x1b\[[0-9;]*m", "", words)
        words = re.sub(r"For full helptext, .*", "", words, flags=re.DOTALL).replace(
            "Parsing error", ""
        )
        raise InputError(f"{one_line(words)} (see {program} --help)") from None
    for group in vars(parsed).values():  # before a cluster is started for nothing
        check_bounds(group, getattr(group, "BOUNDS", {}))
    return parsed


def word(text: str) -> Any:
    """A word of a command, by its place."""
    import tyro

    return Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=text)]


def option(kind: Any, text: str, name: str | None = None) -> Any:
    """An option with its help."""
    import tyro

    return Annotated[kind, tyro.conf.arg(help=text, name=name)]


def one_line(value: object) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", str(value))).strip()
