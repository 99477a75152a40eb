"""Files that are more than rows of JSON, as raw records: tables with a header, XML, archives.

| file | record |
|---|---|
| .csv .tsv with a header line | one dict a row, by the header |
| .csv .tsv .txt without | DPR's `question TAB ['answer', ...]`; CuratedTREC's four columns |
| .xml | QuAIL's questions |
| `ARCHIVE!PATTERN` | the members of a .zip or .tar (packed or not) whose name fits the pattern |

What belongs to a file but stands beside it is added to its records (`joined`): labels of PIQA and
SIQA, LegalBench's prompt, the ids of PubMedQA's test split, the relation in a T-REx file's name;
and OpenAssistant's messages become trees.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import fnmatch
import json
import os
import re
import tarfile
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any
from xml.parsers.expat import ErrorString

from radit_ray.core.errors import InputError
from radit_ray.data.documents import split_tsv
from radit_ray.data.json_records import iter_json
from radit_ray.data.records import (
    BLOCK,
    Record,
    damage_named,
    iter_lines,
    one_line,
    open_stream,
    read_text,
    stem,
)
from radit_ray.data.storage import exists, read_json

MAX_UNPACKED = 4 << 30  # bytes of an archive's members; more is no question set
FIELD_CHARS = 1 << 24  # of a table's field; the csv module's own limit is 131,072, a long contract
_HEADERS = {"question", "answer", "answers", "response", "object", "q_text"}


# --- tables ---------------------------------------------------------------------------------------


def iter_header_table(path: str) -> Iterator[Record] | None:
    """The rows of a CSV or TSV file by its header; None where the first line is no header."""
    first = next(iter_lines(path), None)
    if first is None or first.fault:
        return None
    delimiter = "\t" if "\t" in first.raw else ","
    names = [name.strip().strip('"').lower() for name in first.raw.split(delimiter)]
    return _table(path, delimiter) if _HEADERS & set(names) and len(names) > 1 else None


def _table(path: str, delimiter: str) -> Iterator[Record]:
    """By the csv module, since a quoted field may hold line breaks; the place is its last line."""
    read = [0]
    csv.field_size_limit(max(csv.field_size_limit(), FIELD_CHARS))
    rows = csv.reader(_lines(path, read), delimiter=delimiter, strict=True)
    start = 1
    try:
        header = [name.strip() for name in next(rows)]
        twice = [name for name, count in Counter(header).items() if name and count > 1]
        if twice:
            raise InputError(f"{path}:1: the header has column {twice[0]!r} twice; rename one")
        for fields in rows:
            start, raw = read[0], delimiter.join(fields)
            if len(fields) != len(header):
                fault = f"{len(fields)} fields, the header has {len(header)}: {', '.join(header)}"
                yield Record(line=start, raw=raw, fault=fault)
                continue
            yield Record(line=start, raw=raw, value=dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise InputError(
            f"{path}:{start}: broken table after this line ({error}); a quote may not be closed"
        ) from None


def _lines(path: str, read: list[int]) -> Iterator[str]:
    for record in iter_lines(path, keep_blank=True):
        if record.fault:
            raise InputError(f"{path}:{record.line}: {record.fault}")
        read[0] = record.line
        yield record.raw + "\n"


def iter_curated(path: str) -> Iterator[Record]:
    """CuratedTREC's lines: number, type, question, one pattern."""
    for record in iter_lines(path):
        fields = split_tsv(record.raw)
        if not record.fault and len(fields) != 4:
            fault = f"{len(fields)} fields, not 4: id, type, question, pattern"
            record = dataclasses.replace(record, fault=fault)
        elif not record.fault:
            value = {"id": fields[0], "question": fields[2], "answer": fields[3]}
            record = dataclasses.replace(record, value=value)
        yield record


def is_curated(path: str) -> bool:
    first = next(iter_lines(path), None)
    return first is not None and bool(re.match(r"\d+\t[a-z]+\t[^\t]+\t[^\t]+$", first.raw))


# --- XML, lists of lists --------------------------------------------------------------------------


def iter_quail_xml(path: str) -> Iterator[Record]:
    """QuAIL: texts with questions, each answer with correct="True" or not."""
    content = _text(path)
    if "<!ENTITY" in content:
        raise InputError(f"{path}:1: the XML declares entities, which are not read; remove them")
    try:
        root = ET.fromstring(content)
    except ET.ParseError as error:
        (line, column), reason = error.position, ErrorString(error.code)
        raise InputError(
            f"{path}:{line}: broken XML ({reason}, column {column + 1}); mend the file"
        ) from None
    lines = _lines_of(content, "q")
    for text in root.iter("text"):
        context = (text.findtext("text_body") or "").strip()
        for asked in text.iter("q"):
            line, raw = next(lines, 1), (asked.text or "").strip()
            marked = asked.findall("a")
            right = [n for n, item in enumerate(marked) if item.get("correct") == "True"]
            value = {
                "id": f"{text.get('id')}_{asked.get('id')}",
                "question": raw,
                "context": context,
                "context_id": text.get("id"),
                "answers": [(item.text or "").strip() for item in marked],
                "correct_answer_id": right[0] if len(right) == 1 else "none",
            }
            fault = "" if context else "its <text> has no <text_body> to read; mend or remove it"
            yield Record(line=line, raw=raw, value=value, fault=fault)


def _lines_of(content: str, tag: str) -> Iterator[int]:
    """The lines on which a tag opens, which ElementTree does not keep; for messages only, since a
    tag in a comment would count too.
    """
    line, place = 1, 0
    for found in re.finditer(rf"<{tag}[\s>]", content):
        line += content.count("\n", place, found.start())
        place = found.start()
        yield line


def _text(path: str) -> str:
    record = read_text(path)
    if record.fault:
        raise InputError(f"{path}:{record.line}: {record.fault}")
    return record.raw


def iter_json_rows(path: str) -> Iterator[Record]:
    """`json_records.iter_json`, and DREAM's lists [turns, questions, id] as {"dialogue": ...}."""
    for record in iter_json(path, lists=True):
        if isinstance(record.value, list):
            value = record.value
            if len(value) == 3 and isinstance(value[1], list):
                record = dataclasses.replace(record, value={"dialogue": value})
            else:
                fault = "a JSON list, not an object; one {...} a row was expected"
                record = dataclasses.replace(record, value=None, fault=fault)
        yield record


# --- archives -------------------------------------------------------------------------------------


def archive_parts(path: str) -> tuple[str, str]:
    """(archive, pattern) of `ARCHIVE!PATTERN`; pattern "" for anything else."""
    found = re.match(r"(.*\.(?:zip|tar|tgz|tar\.(?:gz|xz|bz2|zst)))!(.+)$", path)
    return (found[1], found[2]) if found else (path, "")


@contextlib.contextmanager
def unpacked(archive: str, pattern: str) -> Iterator[list[tuple[str, str]]]:
    """(member's name, path of a temporary copy) of the members that fit, by name.

    All members are unpacked, since some formats keep half of a row in a second file. Errors name
    `ARCHIVE!MEMBER` and not the copy.
    """
    if not exists(archive):
        raise InputError(f"{archive}: no such file; check the path")
    with tempfile.TemporaryDirectory(prefix="radit-") as folder:
        _unpack(archive, folder)
        names = sorted(
            os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
            for place, _, files in os.walk(folder)
            for name in files
            if os.path.getsize(os.path.join(place, name))
        )
        chosen = fnmatch.filter(names, pattern)
        if not chosen:
            inside = f"{', '.join(names[:5])}, ..." if names else "empty files only"
            raise InputError(f"{archive}: no member {pattern!r} (it holds {inside})")
        try:
            yield [(name, os.path.join(folder, *name.split("/"))) for name in chosen]
        except InputError as error:
            raise InputError(str(error).replace(f"{folder}/", f"{archive}!")) from None


def _unpack(archive: str, folder: str) -> None:
    try:
        with damage_named(archive, lambda: 1), open_stream(archive) as stream:
            if archive.endswith(".zip"):
                with zipfile.ZipFile(stream) as packed:
                    _check_size(archive, sum(item.file_size for item in packed.infolist()))
                    packed.extractall(folder)
                return
            size = 0
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
                for member in tar:
                    size += member.size
                    _check_size(archive, size)
                    tar.extract(member, folder, filter="data")
            while stream.read(BLOCK):  # to the packer's checksum, behind the end mark of the tar
                pass
    # RuntimeError: zipfile, of an encrypted archive or a compression it does not know
    except (zipfile.BadZipFile, tarfile.TarError, RuntimeError) as error:
        raise InputError(
            f"{archive}: the archive cannot be read ({one_line(error)}); copy or download it again"
        ) from None


class _Member(tarfile.TarInfo):
    """tarfile takes a damaged header, or none, behind the first member for the end of the archive.
    Here only its end mark is: zeros.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        if len(buf) == tarfile.BLOCKSIZE and not any(buf):
            return super().frombuf(buf, encoding, errors)
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no end mark: {error}") from None


def _check_size(archive: str, size: int) -> None:
    if size > MAX_UNPACKED:
        raise InputError(f"{archive}: unpacks to more than {MAX_UNPACKED >> 30} GiB; unpack it")


# --- what stands beside a file --------------------------------------------------------------------


def joined(path: str, records: Iterable[Record]) -> Iterator[Record]:
    """The records with what belongs to them but stands elsewhere."""
    folder, slash, name = path.rpartition("/")
    beside = f"{folder}{slash}"  # "" for a bare name, which lies in the current folder
    labels = f"{beside}{stem(path)}-labels.lst"
    prompt, truth = f"{beside}base_prompt.txt", f"{beside}test_ground_truth.json"
    relation = re.match(r"P\d+", name)
    if exists(labels):
        yield from _with_labels(path, records, labels)
    elif name == "train.tsv" and exists(prompt):
        added = {"base_prompt": _text(prompt), "subtask": PurePosixPath(folder).name}
        yield from (_with(record, added) for record in records)
    elif relation:
        yield from (_with(record, {"predicate_id": relation[0]}) for record in records)
    elif exists(truth):
        tests = _test_ids(truth)
        yield from (_with_split(record, tests) for record in records)
    else:
        yield from _trees(records)


def _with(record: Record, added: Mapping[str, Any]) -> Record:
    if not isinstance(record.value, dict):
        return record
    return dataclasses.replace(record, value={**added, **record.value})


def _with_labels(path: str, records: Iterable[Record], labels: str) -> Iterator[Record]:
    found, number = _text(labels).split(), 0
    for number, record in enumerate(records, start=1):
        if number <= len(found):
            yield _with(record, {"label": found[number - 1]})
    if number != len(found):
        raise InputError(f"{path}: {number} rows, but {labels} has {len(found)} labels; mend one")


def _test_ids(truth: str) -> set[str]:
    found = read_json(truth, fix="copy it again")
    if not isinstance(found, dict):
        raise InputError(f"{truth}: a JSON {type(found).__name__}, expected {{id: answer}}")
    return set(found)


def _with_split(record: Record, tests: set[str]) -> Record:
    """PubMedQA's object by id; other rows in the same folder stay as they are."""
    rows = record.value if isinstance(record.value, dict) else {}
    if not any(isinstance(item, dict) and "QUESTION" in item for item in rows.values()):
        return record
    value = dict(rows)
    for name, item in rows.items():
        if isinstance(item, dict):
            value[name] = {**item, "split": "eval" if name in tests else "train"}
    return dataclasses.replace(record, value=value)


def _trees(records: Iterable[Record]) -> Iterator[Record]:
    """Messages of one tree, which stand in a row (OpenAssistant on the hub), as a tree; all other
    records as they are.
    """

    def tree_of(record: Record) -> Any:
        value = record.value if isinstance(record.value, dict) else {}
        return value.get("message_tree_id") if "parent_id" in value else None

    for tree, group in groupby(records, key=tree_of):
        if tree is None:
            yield from group
            continue
        members = list(group)
        raw, line = json.dumps(members[0].value, default=str), members[0].line
        try:
            value = {"message_tree_id": tree, "prompt": _root([item.value for item in members])}
        except (KeyError, TypeError, IndexError) as error:
            fault = f"messages of one tree with another shape than OpenAssistant's ({error!r})"
            yield Record(line=line, raw=raw, fault=f"{fault}; mend `message_id` and `parent_id`")
            continue
        yield Record(line=line, raw=raw, value=value)


def _root(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first message of a tree, with its `replies`, and these with theirs."""
    messages = {row["message_id"]: {**row, "replies": []} for row in rows}
    roots: list[dict[str, Any]] = []
    for message in messages.values():
        parent = messages.get(message["parent_id"])
        (parent["replies"] if parent else roots).append(message)
    return roots[0]
