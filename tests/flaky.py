"""A remote file system that is a local folder behind a bad line: `flaky:///path`.

Requests fail now and then by a seed, reads break off in the middle of a file, listings are
remembered until they are dropped, as s3fs does. It fails as backends do: with OSErrors, with
timeouts, with exceptions of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


class SlowDown(Exception):  # noqa: N818 - S3's own word
    """An error that is no OSError."""


class Line:
    """How bad the line is, and what happened on it."""

    def __init__(self) -> None:
        self.share, self.delay_s, self.asked, self.failed = 0.0, 0.0, 0, 0
        self.chance = random.Random(0)
        self.before_create: Callable[[str], None] | None = None

    def request(self) -> None:
        """Waits, and fails by chance."""
        self.asked += 1
        time.sleep(self.delay_s)
        if self.chance.random() < self.share:
            self.failed += 1
            kinds: list[Exception] = [ConnectionResetError(104, "reset by peer")]
            kinds += [TimeoutError("timed out"), SlowDown("503 Slow Down")]
            raise self.chance.choice(kinds)


LINE = Line()


@contextmanager
def line(share: float = 0.0, delay_s: float = 0.0) -> Iterator[Line]:
    """A line of which this share of requests fails, each that late."""
    LINE.__init__()  # type: ignore[misc]
    LINE.share, LINE.delay_s = share, delay_s
    try:
        yield LINE
    finally:
        LINE.__init__()  # type: ignore[misc]


class FlakyFileSystem(LocalFileSystem):
    """What fsspec opens for flaky://."""

    protocol = "flaky"

    def __init__(self, **options: Any) -> None:
        super().__init__(auto_mkdir=False, **options)
        self.listings: dict[str, Any] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("flaky://").rstrip("/") or "/"

    def unstrip_protocol(self, name: str) -> str:
        return f"flaky://{self._strip_protocol(name)}"

    def invalidate_cache(self, path: str | None = None) -> None:
        self.listings.clear()

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        LINE.request()
        key = f"{path} {detail}"
        if key not in self.listings:
            self.listings[key] = super().ls(path, detail=detail, **options)
        return self.listings[key]

    def info(self, path: str, **options: Any) -> Any:
        LINE.request()
        return super().info(path, **options)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        LINE.request()
        super().put_file(lpath, rpath, **options)

    def get_file(self, rpath: str, lpath: Any, **options: Any) -> None:
        LINE.request()
        super().get_file(rpath, lpath, **options)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        LINE.request()
        hook, LINE.before_create = LINE.before_create, None
        if mode == "create" and hook is not None:
            hook(path)
        with open(path, "xb" if mode == "create" else "wb") as stream:
            stream.write(value)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        LINE.request()
        return FlakyFile(super()._open(path, mode=mode, **options))


class FlakyFile:
    """An opened file whose reads go over the line too."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def read(self, size: int = -1) -> bytes:
        LINE.request()
        return bytes(self.file.read(size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


fsspec.register_implementation("flaky", FlakyFileSystem, clobber=True)
