"""A JSON file in, its objects out as raw records: JSON lines, a `[...]` list, an indented object.

Lists are streamed: the buffer is as large as the largest value, not as the file.
"""

from __future__ import annotations

import codecs
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.records import (
    BLOCK,
    RAW_CHARS,
    Record,
    damage_named,
    iter_lines,
    not_utf8,
    one_line,
    open_stream,
    peek,
    suffixes,
)

_SPACE = re.compile(r"[\s,]*")


def iter_json(path: str, *, lists: bool = False) -> Iterator[Record]:
    """The objects of a JSON-lines file, of a `[...]` list, or of one indented object; with `lists`
    also the lists in it.

    The content decides. Only for a first line that is no JSON does the name: `.json` may be
    indented, while in `.jsonl` that one line is bad.
    """
    head = peek(path).lstrip()
    first, newline, _ = head.partition("\n")
    indented = (
        newline != "" and ".json" in suffixes(path) and parse_json(Record(line=1, raw=first)).fault
    )
    if head.startswith("[") or indented:
        yield from _iter_json_values(path, in_list=head.startswith("["), lists=lists)
        return
    for record in iter_lines(path):
        yield record if record.fault else parse_json(record)


def parse_json(record: Record) -> Record:
    """The record with the JSON object in its `raw` text as `value`, or with the fault."""
    try:
        value = json.loads(record.raw)
    except (ValueError, RecursionError) as error:
        return Record(line=record.line, raw=record.raw, fault=_broken_json(error))
    return _object(record.line, value, record.raw)


def _object(line: int, value: Any, raw: str, *, lists: bool = False) -> Record:
    if not isinstance(value, dict) and not (lists and isinstance(value, list)):
        fault = f"a JSON {type(value).__name__}, not an object; one {{...}} a row was expected"
        return Record(line=line, raw=raw, fault=fault)
    return Record(line=line, value=value, raw=raw)


def _iter_json_values(path: str, *, in_list: bool, lists: bool) -> Iterator[Record]:
    """Streams the values of `[...]`, or values one after the other; the buffer holds the largest.

    Commas are not checked; a value that cannot be parsed ends the file, since nothing says where
    the next one begins.
    """
    decoder = json.JSONDecoder()
    blocks = _iter_text(path)
    buffer, line, item = next(blocks, ""), 1, 0
    position = buffer.index("[") + 1 if in_list else 0
    line += buffer.count("\n", 0, position)
    while True:
        start = _SPACE.match(buffer, position).end()  # type: ignore[union-attr]
        line += buffer.count("\n", position, start)
        position = start
        if in_list and buffer[position : position + 1] == "]":
            return
        fault = "the list is not closed; the file seems cut off, write it again"
        if position < len(buffer):
            try:
                value, end = decoder.raw_decode(buffer, position)
            except (ValueError, RecursionError) as error:
                fault = _broken_json(error)
            else:
                item += 1
                raw = buffer[position : min(end, position + RAW_CHARS)]
                record = _object(line, value, raw, lists=lists)
                yield dataclasses.replace(record, item=item if in_list else 0)
                line += buffer.count("\n", position, end)
                position = end
                continue
        more = list(_take(blocks, max(BLOCK, len(buffer) - position)))
        if not more:
            if in_list or position < len(buffer):
                after = f" (after item {item})" if item else ""
                raise InputError(f"{path}:{line}: {fault}{after}")
            return
        buffer, position = buffer[position:] + "".join(more), 0


def _take(blocks: Iterator[str], num_chars: int) -> Iterator[str]:
    """Blocks of at least `num_chars` in all, so that a retry on a growing buffer stays linear."""
    while num_chars > 0 and (block := next(blocks, "")):
        num_chars -= len(block)
        yield block


def _iter_text(path: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    lines = 1
    with damage_named(path, lambda: lines), open_stream(path) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                line = lines + bytes(error.object).count(b"\n", 0, error.start)
                raise InputError(f"{path}:{line}: {not_utf8(error)}") from error
            lines += text.count("\n")
            if text:
                yield text
            if not block:
                return


def _broken_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg}, column {error.colno}); mend or remove the row"
    return f"broken JSON ({one_line(error)}); mend or remove the row"
