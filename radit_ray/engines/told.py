"""What a process on the cluster says while it works, shown where the work was started.

In: a process that prints lines and progress bars on stderr, far from whoever waits. Out: its lines
that start with "radit", and now and then where its bar stands, in the order they were said.
"""

from __future__ import annotations

import contextlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

BAR_S = 30.0  # after a line, until it is told where a bar stands, and between two such words
TAKE_S = 1.0  # between two looks at what was said
WAIT_S = 10.0  # for a board that may be lost
_BAR = re.compile(r"^(?P<what>[^|]*?):?\s+(?P<share>\d+%)\|[^|]*\|\s*(?P<count>\S+)")


class Board:
    """Where lines wait until they are taken; an actor."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def tell(self, who: str, line: str) -> None:
        """One line of `who`."""
        self.lines.append((who, line))

    def take(self) -> list[tuple[str, str]]:
        """All that was told since the last time."""
        found, self.lines = self.lines, []
        return found


class Telling:
    """A stream that passes on what is written to it, and tells what is worth telling."""

    def __init__(self, inner: Any, tell: Callable[[str], object]) -> None:
        self.inner, self.tell = inner, tell
        self.rest, self.said = "", time.monotonic()
        self.lock = threading.Lock()  # bars are drawn by threads

    def write(self, text: str) -> int:
        """As of any stream."""
        with self.lock:
            *lines, self.rest = re.split(r"[\r\n]", self.rest + text)
            for line in map(str.strip, lines):
                if worth := self._worth(line):
                    self.tell(worth)
        self.inner.write(text)  # Ray's own stream does not say how much it took
        return len(text)

    def _worth(self, line: str) -> str:
        if line.startswith(("radit ", "radit: ")):
            self.said = time.monotonic()
            return line.removeprefix("radit").lstrip(": ")
        bar = _BAR.match(line)
        if bar is None or time.monotonic() - self.said < BAR_S:
            return ""
        self.said = time.monotonic()
        return f"{bar['what']}: {bar['share']}, {bar['count']}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@contextlib.contextmanager
def telling(board: Any, who: str) -> Iterator[None]:
    """Whatever this process writes on stderr meanwhile is told as of `who`; at the end it waits
    until the last line has arrived, a little while.
    """
    last: list[Any] = []

    def tell(line: str) -> None:
        last[:] = [board.tell.remote(who, line)]

    try:
        with contextlib.redirect_stderr(Telling(sys.stderr, tell)):  # type: ignore[type-var]
            yield
    finally:
        if last:
            ray.wait(last, timeout=WAIT_S)


@contextlib.contextmanager
def shown(show: Callable[[str, str], None]) -> Iterator[Any]:
    """A board whose lines are shown here, (who, line) each, as they come. It costs a process; one
    that is lost costs the lines alone.
    """
    board = ray.remote(num_cpus=0)(Board).remote()
    ended = threading.Event()

    def follow() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            last = False
            while not last:
                last = ended.wait(TAKE_S)
                for who, line in ray.get(board.take.remote()):
                    show(who, line)

    thread = threading.Thread(target=follow, name="radit-told", daemon=True)
    thread.start()
    try:
        yield board
    finally:
        ended.set()
        thread.join(timeout=WAIT_S)
        ray.kill(board)
