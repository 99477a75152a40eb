"""A corpus in, its documents out: `{id, title, text, source, date}`, one after the other.

A spec is a file, a folder, a glob, a URI, a comma-separated list of them, or a Hugging Face data
set `hf:NAME[:CONFIG][:SPLIT]`. `list_corpus_files` names the files in a fixed order, so that a
caller can give each worker one of them with `iter_file`; `iter_documents` reads all of them. Files
may be packed (gzip, xz, bzip2, Zstandard). In a folder, names that start with `.` or `_` and
unknown endings are passed over, and .txt/.md files are documents only where there are no data
files.

    documents = iter_documents("wiki/*.jsonl.gz,notes/", limit=1000)
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterator
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.documents import document_row, iter_tsv, iter_wiki, text_document
from radit_ray.data.hub import PREFIX, iter_hub, saved_splits
from radit_ray.data.json_records import iter_json
from radit_ray.data.records import (
    BadRows,
    OnBadRow,
    Quarantine,
    Record,
    iter_parquet,
    peek,
    suffixes,
)
from radit_ray.data.storage import (
    exists,
    glob_files,
    is_folder,
    is_local,
    join,
    list_files,
    local,
    size_of,
)

FORMATS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".jsonlines": "json",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
}
ACCEPTED = "JSONL, JSON list, Parquet, psgs .tsv, wikiextractor output, .txt or .md"
_WIKI_NAME = re.compile(r"wiki_\d+(\.(gz|xz|zst|bz2))?")
_NOT_DATA = {
    "manifest.json",
    "identity.json",
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
}


def iter_documents(
    spec: str,
    *,
    on_bad_row: OnBadRow = "fail",
    quarantine: Quarantine | None = None,
    limit: int | None = None,
) -> Iterator[dict[str, Any]]:
    """The documents of a corpus in a fixed order, at most `limit` of them, streamed.

    A bad row (broken JSON, no id, empty or non-string text, NUL or lone surrogates, not UTF-8) is
    an InputError that names file:line, or with `on_bad_row="quarantine"` goes to `quarantine` as
    {file, line, reason, row} and is skipped. A truncated archive and a missing file always are
    InputErrors, and so is a corpus without a single usable document.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; expected at least 1, or None for all documents")
    files = list_corpus_files(spec)
    rows = itertools.chain.from_iterable(
        iter_file(path, spec=spec, on_bad_row=on_bad_row, quarantine=quarantine) for path in files
    )
    number = 0
    for number, row in enumerate(itertools.islice(rows, limit), start=1):  # noqa: B007
        yield row
    if number == 0:
        raise InputError(f"{spec}: no usable document in {len(files)} file(s); see the quarantine")


def list_corpus_files(spec: str) -> list[str]:
    """The files behind a spec: parts in the given order, those of a folder or glob sorted, once.

    A Hugging Face data set is one "file": its spec.
    """
    files = [file for part in _parts(spec) for file in _part_files(part)]
    return list(dict.fromkeys(files))


def iter_file(
    path: str,
    *,
    spec: str = "",
    on_bad_row: OnBadRow = "fail",
    quarantine: Quarantine | None = None,
) -> Iterator[dict[str, Any]]:
    """The documents of one file of `list_corpus_files(spec)`.

    With its spec a text file gets the id it has in the whole corpus, the path below the folder that
    all parts share; without it, its bare name.
    """
    for _, row in iter_placed(path, spec=spec, on_bad_row=on_bad_row, quarantine=quarantine):
        yield row


def iter_placed(
    path: str,
    *,
    spec: str = "",
    on_bad_row: OnBadRow = "fail",
    quarantine: Quarantine | None = None,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """`iter_file`, each document behind its place, file:line (Parquet and data sets: the row)."""
    bad = BadRows(mode=on_bad_row, quarantine=quarantine)
    if _is_empty(path):
        bad.report(path, Record(line=1), "the file is empty; remove it or write it again")
        return
    kind = file_format(path)
    if kind == "text":
        rows: Iterator[Record] = iter([text_document(path, _below(path, spec))])
    else:
        readers = {"json": iter_json, "parquet": iter_parquet, "tsv": iter_tsv, "wiki": iter_wiki}
        rows = (iter_hub if kind == "hub" else readers[kind])(path)
    record = None
    for record in rows:
        row = None
        try:
            if record.fault:
                raise InputError(record.fault)
            row = document_row(record.value)
        except InputError as error:
            bad.report(path, record, str(error))
        if row is not None:
            yield record.place(path), row
    if record is None:
        raise InputError(f"{path}:1: the file holds no rows; remove it or write it again")


def known_by(path: str, spec: str) -> str:
    """The name that a file's rows depend on, wherever the corpus lies: of a text file the id it
    has in the whole corpus, of others their bare name, whose ending decides the format.
    """
    return _below(path, spec) if file_format(path) == "text" else path.rpartition("/")[2]


def file_format(path: str) -> str:
    """ "json", "parquet", "tsv", "wiki", "text" or "hub": by the ending, else by the content."""
    if path.startswith(PREFIX) or (is_local(path) and saved_splits(local(path))):
        return "hub"
    endings = suffixes(path)
    kind = FORMATS.get(endings[-1], "") if endings else ""
    if kind in ("json", "parquet", "tsv"):
        return kind
    head = peek(path).lstrip()
    if head.startswith("<doc "):
        return "wiki"
    if kind:
        return kind
    if head.startswith(("{", "[")):
        return "json"
    if head.startswith("PAR1"):
        return "parquet"
    if {"id", "text"} <= set(head.partition("\n")[0].rstrip("\r").split("\t")):
        return "tsv"
    raise InputError(f"{path}:1: unknown format; expected {ACCEPTED}")


def _parts(spec: str) -> list[str]:
    if spec.strip() and not spec.startswith(PREFIX) and is_local(spec) and exists(spec):
        return [spec]  # a file name may hold a comma
    parts = [part.strip() for part in spec.split(",") if part.strip()]
    if not parts:
        raise InputError("the corpus is an empty string; give a file, a folder or hf:NAME")
    return parts


def _part_files(part: str) -> list[str]:
    if part.startswith(PREFIX):
        return [part]
    try:
        if _is_folder(part):
            return _folder_files(part)
        if exists(part) or not _is_glob(part):
            if not exists(part):
                raise InputError(f"{part}: no such file or folder; check the path")
            return [part]
        files = _glob(part)
    except (OSError, ImportError) as error:
        raise InputError(f"{part}: cannot be read ({error}); check path and permissions") from error
    if not files:
        raise InputError(f"{part}: no file matches; check the pattern (quote it in a shell)")
    return files


def _folder_files(folder: str) -> list[str]:
    if is_local(folder) and (splits := saved_splits(local(folder))):
        return [local(folder) if splits == [""] else f"{PREFIX}{local(folder)}"]
    data, texts = [], []
    for name in list_files(folder):
        base = name.rpartition("/")[2]
        if any(step.startswith((".", "_")) for step in name.split("/")) or base in _NOT_DATA:
            continue
        endings = suffixes(name)
        kind = FORMATS.get(endings[-1], "") if endings else ""
        if kind == "text":
            texts.append(join(folder, name))
        elif kind or _WIKI_NAME.fullmatch(base):
            data.append(join(folder, name))
    if not data and not texts:
        raise InputError(f"{folder}: no readable file in this folder; expected {ACCEPTED}")
    return data or texts


def _is_glob(part: str) -> bool:
    return any(mark in part for mark in "*?[")


def _glob(pattern: str) -> list[str]:
    if is_local(pattern):
        names = glob.glob(local(pattern), recursive=True)
        return sorted(name for name in names if os.path.isfile(name))
    return glob_files(pattern)


def _is_folder(path: str) -> bool:
    try:
        return is_folder(path)
    except ValueError as error:
        raise InputError(f"{path}: unknown file system ({error}); check the URI") from error


def _is_empty(path: str) -> bool:
    return is_local(path) and os.path.isfile(local(path)) and size_of(path) == 0


def _below(path: str, spec: str) -> str:
    """The path below the deepest folder that all parts of the spec share."""
    path = local(path)
    folders = []
    for part in _parts(spec or path):
        if part.startswith(PREFIX):
            continue
        steps = local(part).rstrip("/").split("/")
        if _is_glob(part) and not exists(part):
            steps = list(itertools.takewhile(lambda step: not _is_glob(step), steps))
        elif not _is_folder(part):
            steps = steps[:-1]
        folders.append(steps)
    shared = [
        steps[0]
        for steps in itertools.takewhile(
            lambda steps: len(set(steps)) == 1, zip(*folders, strict=False)
        )
    ]
    return "/".join(path.split("/")[len(shared) :])
