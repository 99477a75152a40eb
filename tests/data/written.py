"""Files as the authors of question sets publish them, written by tests, and what reading them
gives: rows, or the one line of an error.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from radit_ray.core.errors import InputError
from radit_ray.data.examples import read_examples

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def write(path: Path, data: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def zipped(members: dict[str, str], kind: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", kind) as packed:
        for name, text in members.items():
            packed.writestr(name, text)
    return stream.getvalue()


def tarred(members: dict[str, str]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, text in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


def table(delimiter: str, *rows: list[str]) -> str:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def fails(spec: str, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def outcome(spec: str) -> int | str:
    """How many rows, or the one line that says why none."""
    try:
        return len(read_examples(spec))
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    return message


def fields(rows: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]
