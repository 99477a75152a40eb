"""One data file in, its raw records out: lines, whole texts, Parquet rows (JSON: `json_records`).

Every record knows where it stands (`line`: the 1-based line of a text file, row of a Parquet file
or data set) and, if it could not be decoded, why (`fault`), so that the caller decides whether a
bad record stops the run or goes to quarantine. What makes the rest of a file unreadable (a
truncated archive, no such file) is an InputError here. Compression is told by the first bytes, not
by the name: gzip, xz, bzip2, Zstandard. Memory is bounded by the largest record.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.storage import exists, is_local, open_read

OnBadRow = Literal["fail", "quarantine"]
Quarantine = Callable[[dict[str, Any]], None]

RAW_CHARS = 2_000  # of a bad row, kept for the person who looks at the quarantine
PACKED = (".gz", ".xz", ".zst", ".bz2")
BLOCK = 1 << 20
_CONVERT = "{}; convert it with `iconv -f {} -t UTF-8 FILE > NEW`"
_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException)


@dataclass(frozen=True, kw_only=True)
class Record:
    """One raw record: place, decoded value, text, and why it could not be decoded ("" if not)."""

    line: int
    item: int = 0  # 1-based number in a JSON list, whose items may all stand on one line
    value: Any = None
    raw: str = ""
    fault: str = ""

    def place(self, path: str) -> str:
        """Where it stands, for people: `docs.jsonl:7`, in a list `docs.json:1 (item 7)`."""
        return f"{path}:{self.line}" + (f" (item {self.item})" if self.item else "")


@dataclass(frozen=True, kw_only=True)
class BadRows:
    """What happens to a bad row: an InputError that names file:line, or `quarantine` gets it."""

    mode: OnBadRow = "fail"
    quarantine: Quarantine | None = None

    def __post_init__(self) -> None:
        if self.mode not in ("fail", "quarantine"):
            allowed = nearest(self.mode, ("fail", "quarantine"))
            raise InputError(f"on_bad_row is {self.mode!r}{allowed}")
        if self.mode == "quarantine" and self.quarantine is None:
            raise InputError("on_bad_row='quarantine' needs a `quarantine` function for the rows")

    def report(self, file: str, record: Record, reason: str) -> None:
        """Raises, or hands over {file, line, reason, row (its first 2,000 characters)}."""
        reason = f"item {record.item}: {reason}" if record.item else reason
        if self.mode == "fail" or self.quarantine is None:
            raise InputError(f"{file}:{record.line}: {reason}")
        raw = record.raw or str(record.value)
        # A lone surrogate could not be written to any file of quarantined rows.
        raw = raw[:RAW_CHARS].encode("utf-8", "backslashreplace").decode()[:RAW_CHARS]
        self.quarantine({"file": file, "line": record.line, "reason": reason, "row": raw})


@contextlib.contextmanager
def open_stream(path: str) -> Iterator[IO[bytes]]:
    """A buffered stream of the decompressed bytes; InputError for a missing or empty file."""
    try:
        plain = open_read(path)
        magic = plain.read(6)
        plain.seek(0)
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a folder; a file was expected here") from error
    except (OSError, ValueError, ImportError) as error:
        raise InputError(_unreadable(path, error)) from error
    with plain:
        if name := _utf16(magic):
            raise InputError(f"{path}:1: {_CONVERT.format('not UTF-8 but UTF-16', name)}")
        if not magic:
            raise InputError(f"{path}:1: the file is empty; remove it or write it again")
        with _decompressed(plain, magic) as stream:
            yield stream


def peek(path: str, num_bytes: int = 1 << 16) -> str:
    """The first decompressed characters of a file, as far as they are UTF-8, to tell its format.

    Damage is left to whoever reads the file, who knows the line.
    """
    head = b""
    with open_stream(path) as stream, contextlib.suppress(*_DAMAGE):
        while len(head) < num_bytes and (block := stream.read1(num_bytes)):  # type: ignore[attr-defined]
            head += block
    return head.removeprefix(codecs.BOM_UTF8).decode("utf-8", "ignore")


def suffixes(path: str) -> list[str]:
    """The endings of a file name in lower case, `.jsonl` for `a.jsonl.gz` without the packer's.

    >>> suffixes("/data/psgs_w100.TSV.gz"), suffixes("AA/wiki_00")
    (['.tsv'], [])
    """
    name = path.rstrip("/").rpartition("/")[2].lower()
    return [end for end in PurePosixPath(name).suffixes if end not in PACKED]


def stem(path: str) -> str:
    """A file's name without folders and endings: `qa.train` for `x/qa.train.jsonl.gz`."""
    name = PurePosixPath(path.rstrip("/").rpartition("/")[2])
    while name.suffix.lower() in PACKED:
        name = name.with_suffix("")
    return name.stem


def _unreadable(path: str, error: Exception) -> str:
    if isinstance(error, ImportError) or (isinstance(error, ValueError) and "://" in path):
        scheme = path.partition("://")[0]
        return f"{path}: no file system for {scheme}:// ({error}); install its fsspec package"
    if isinstance(error, FileNotFoundError) or (is_local(path) and not exists(path)):
        return f"{path}: no such file; check the path"
    return f"{path}: cannot be read ({one_line(error)}); check its permissions"


def _decompressed(plain: IO[bytes], magic: bytes) -> IO[bytes]:
    # No second buffer around the standard library's: one that is being filled when a truncated
    # archive ends is lost, with up to all its lines.
    if magic[:2] == b"\x1f\x8b":
        return cast(IO[bytes], gzip.GzipFile(fileobj=plain))
    if magic == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(plain)
    if magic[:3] == b"BZh":
        return bz2.BZ2File(plain)
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        stream = pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd")
        return io.BufferedReader(stream)
    return plain


def iter_lines(path: str, *, keep_blank: bool = False) -> Iterator[Record]:
    """The (non-blank) lines of a text file as `raw`, without line ends; not UTF-8 is a fault."""
    number = 0
    with damage_named(path, lambda: number), open_stream(path) as stream:
        for line in stream:
            number += 1
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode().rstrip("\r\n")
            except UnicodeDecodeError as error:
                raw = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
                yield Record(line=number, raw=raw, fault=not_utf8(error))
                continue
            if keep_blank or text.strip():
                yield Record(line=number, raw=text)


def read_text(path: str) -> Record:
    """A whole text file as one record; not UTF-8 is a fault at the line where it stops being so."""
    with damage_named(path, lambda: 1), open_stream(path) as stream:
        content = stream.read().removeprefix(codecs.BOM_UTF8)
    try:
        return Record(line=1, raw=content.decode())
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raw = content[: 4 * RAW_CHARS].decode("utf-8", "backslashreplace")
        return Record(line=line, raw=raw, fault=not_utf8(error))


def iter_parquet(path: str) -> Iterator[Record]:
    """The rows of a Parquet file, from one decoded batch of 256 rows after the other."""
    row = 0
    try:
        with open_read(path) as stream:
            file = pq.ParquetFile(stream, pre_buffer=False)
            schema = file.schema_arrow
            names = [field.name for field in schema if not _is_vector(field.type)]
            for batch in file.iter_batches(batch_size=256, columns=names):
                for value in batch.to_pylist():
                    row += 1
                    yield Record(line=row, value=value)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{row + 1}: {not_utf8(error)}") from error
    except FileNotFoundError as error:
        raise InputError(_unreadable(path, error)) from error
    except (OSError, pa.ArrowException) as error:
        fault = f"not a readable Parquet file ({one_line(error)}); write it again"
        raise InputError(f"{path}:{row + 1}: {fault}") from error


def _is_vector(kind: pa.DataType) -> bool:
    """Embedding columns are left out: decoding them would cost more than all the text."""
    return bool(
        pa.types.is_nested(kind)
        and kind.num_fields
        and any(pa.types.is_floating(kind.field(index).type) for index in range(kind.num_fields))
    )


@contextlib.contextmanager
def damage_named(path: str, line: Callable[[], int]) -> Iterator[None]:
    """Turns a decompressor's error into an InputError with the line that was reached."""
    try:
        yield
    except _DAMAGE as error:
        raise InputError(
            f"{path}:{line()}: the file breaks off or is damaged after this line "
            f"({one_line(error)}); copy or download it again"
        ) from error


def not_utf8(error: UnicodeDecodeError) -> str:
    content = bytes(error.object)
    if error.start == 0 and (name := _utf16(content[:6])):  # in a packed file
        return _CONVERT.format("not UTF-8 but UTF-16", name)
    found = f"not UTF-8 (byte 0x{content[error.start]:02x})"
    return f"{_CONVERT.format(found, 'LATIN1')} (or its real encoding)"


def _utf16(head: bytes) -> str:
    """The name iconv has for the encoding of a file that begins so: "" where it is not UTF-16.

    By the mark, or by the zero in each of the first characters where they are ASCII.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    low, high = head[0:4:2], head[1:4:2]
    if len(head) < 4 or (any(low) and any(high)):
        return ""
    return "UTF-16LE" if all(low) else "UTF-16BE" if all(high) else ""


def one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:160]
