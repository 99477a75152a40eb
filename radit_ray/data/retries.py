"""Remote storage that fails now and then: the same request again after a pause, then one line.

Stores throttle, time out and drop connections; a stage of hours must outlive that. Every request
made here is safe to repeat: a read, or a whole write of one file. What repeating cannot mend (no
such file, no permission, a full disk, a wrong argument) passes at once.
"""

from __future__ import annotations

import errno
import io
import time
from collections.abc import Callable
from typing import Any, TypeVar

from radit_ray.core.errors import FULL, READ_ONLY, InputError, redacted

ATTEMPTS = 5
FIRST_WAIT_S = 0.5  # doubled each time: 7.5 s in all, beside what a backend waits by itself
# OSErrors among these say something about the request, not about the moment
LASTING = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
    NotImplementedError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    InputError,
)
T = TypeVar("T")


def patiently(request: Callable[[], T], path: str) -> T:
    """The request's result, after at most ATTEMPTS tries; an OSError that names `path` and the last
    failure where none succeeds.
    """
    wait = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except LASTING:
            raise
        except Exception as error:  # backends have exceptions of their own, few are OSErrors
            if isinstance(error, OSError) and error.errno in (*FULL, *READ_ONLY):
                raise
            if attempt == ATTEMPTS:
                last = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                raise OSError(
                    errno.EIO,
                    f"storage failed {ATTEMPTS} times, at last with {last}",
                    redacted(path),
                ) from error
            time.sleep(wait)
            wait *= 2
    raise AssertionError("unreachable")


class PatientFile(io.RawIOBase):
    """A remote file that is opened again where a read fails; to be read through a buffer."""

    def __init__(self, reopen: Callable[[], Any], path: str) -> None:
        self.reopen, self.path, self.place = reopen, path, 0
        self.file: Any = None
        self.size = int(patiently(self._opened, path).size)

    def _opened(self) -> Any:
        if self.file is None:
            self.file = self.reopen()
        return self.file

    def readinto(self, buffer: Any) -> int:
        def read() -> bytes:
            try:
                file = self._opened()
                file.seek(self.place)
                return bytes(file.read(len(buffer)))
            except Exception:
                self.file = None  # what it has buffered is not to be trusted
                raise

        found = patiently(read, self.path)
        buffer[: len(found)] = found
        self.place += len(found)
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        self.place = max(0, start + offset)
        return self.place

    def tell(self) -> int:
        return self.place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
        super().close()
