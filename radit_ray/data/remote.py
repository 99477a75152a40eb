"""Requests to storage behind a URI: repeated where they fail, never answered from a listing that
was remembered, and a failed one never taken for "there is nothing".

Stores throttle, time out and drop connections; a stage of hours must outlive that. Every request
made here is safe to repeat: a read, or a whole write of one file. What repeating cannot mend (no
such file, no permission, a full disk, a wrong argument) passes at once.
"""

from __future__ import annotations

import errno
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate

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

    def __init__(self, path: str) -> None:
        self.path, self.place = path, 0
        self.file: Any = ask(path, lambda fs, root: fs.open(root, "rb"))
        self.size = int(self.file.size)

    def _opened(self) -> Any:
        if self.file is None:
            fs, root = url_to_fs(self.path)
            self.file = fs.open(root, "rb")
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


def ask(path: str, request: Callable[[Any, str], T]) -> T:
    """`request(file system, name there)`, repeated where the store fails. Listings that the file
    system remembers are dropped: workers on other machines write beside us.
    """

    def once() -> T:
        fs, root = url_to_fs(path)
        fs.invalidate_cache()
        return request(fs, root)

    return patiently(once, path)


def kind(fs: Any, root: str) -> str:
    """ "file", "directory" or "". Not by the file system's `exists` and `isfile`: they take every
    failed request for "no".
    """
    try:
        return str(fs.info(root)["type"])
    except FileNotFoundError:
        return ""


def find(fs: Any, root: str) -> list[str]:
    """Names of all files below a folder; none where it does not exist."""
    if not _walks(fs):
        return list(fs.find(root))
    there = kind(fs, root)
    return list(_walk(fs, root)) if there == "directory" else [root] if there else []


def glob(fs: Any, root: str) -> list[str]:
    """The files of a pattern as URIs, sorted."""
    if _walks(fs):
        matches = re.compile(glob_translate(root)).match
        start = re.split(r"[*?\[]", root)[0].rpartition("/")[0]
        names = [name for name in find(fs, start) if matches(name)]
    else:
        found = fs.glob(root, detail=True)
        names = [name for name, info in found.items() if info["type"] == "file"]
    return sorted(fs.unstrip_protocol(name) for name in names)


def _walks(fs: Any) -> bool:
    """Whether a file system lists folder by folder with fsspec's own walk, which leaves out folders
    whose listing failed. Object stores have a listing of all names instead.
    """
    return type(fs).find is AbstractFileSystem.find


def _walk(fs: Any, folder: str) -> Iterator[str]:
    for info in fs.ls(folder, detail=True):
        if info["type"] != "directory":
            yield info["name"]
        elif info["name"].rstrip("/") != folder.rstrip("/"):
            yield from _walk(fs, info["name"])


def make_parent(fs: Any, root: str) -> None:
    """Makes the folder of a file on file systems that have folders (sftp, hdfs). Object stores, the
    asynchronous ones of fsspec, have none: s3fs would make the bucket of a mistyped path.
    """
    if not fs.async_impl:
        fs.makedirs(fs._parent(root), exist_ok=True)


def put(file: str, path: str) -> None:
    """Copies one local file to a URI."""

    def write(fs: Any, root: str) -> None:
        make_parent(fs, root)
        fs.put_file(file, root)

    ask(path, write)


def files(fs: Any, root: str) -> tuple[str, list[str]]:
    """(a file or folder as its file system names it, the files in it)."""
    return root, [root] if kind(fs, root) == "file" else sorted(find(fs, root))


def version(path: str, name: str) -> str:
    """What the store says of one file of `path`."""
    return ask(path, lambda fs, _: str(fs.ukey(name)))


def get(path: str, name: str, file: Path) -> None:
    """Copies one file of `path` to a local name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    ask(path, lambda fs, _: fs.get_file(name, str(file)))
