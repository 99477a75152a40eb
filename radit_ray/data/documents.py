"""One raw row of any corpus format in, one document row out: `{id, title, text, source, date}`.

Formats whose rows are JSON objects or table rows share `document_row`:

| format | id | title | text |
|---|---|---|---|
| own files, Hugging Face | `id` or `_id` | `title` | `text` |
| Atlas text-list, infobox | `id` | `title: section`, as Atlas' own loader joins them | `text` |
| KILT knowledge source | `_id`, `wikipedia_id` | `wikipedia_title` | `text`: list of paragraphs |
| wikiextractor --json | `id` | `title` | `text`; pages without prose are left out |

Text stays as it is. KILT's marks are turned into plain text: `Section::::History.` becomes a
heading line `== History ==`, where chunks are cut, and `BULLET::::- ` becomes `- `.
"""

from __future__ import annotations

import csv
import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.records import RAW_CHARS, Record, iter_lines, read_text, stem
from radit_ray.data.rows import text_fault

_ID_FIELDS = ("id", "_id", "wikipedia_id", "kilt_id")
_DOC = re.compile(r'<doc id="(?P<id>[^"]*)"(?: url="(?P<url>[^"]*)")?.*? title="(?P<title>.*)"\s*>')
_HEADING = re.compile(r"^#{1,6}[ \t]+(?P<title>\S.{0,300}?)[ \t#]*\r?$", re.MULTILINE)


def document_row(value: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document of one raw row; None for a wikiextractor page without prose.

    InputError with the reason (no place: the caller knows it) for a row that cannot be used.
    """
    if "wikipedia_title" in value and not isinstance(value.get("text"), str):
        value = _plain_kilt(value)
    text = _text(value)
    if not text.strip():
        # Redirects and list pages come out of wikiextractor like this, the first of enwiki too.
        if "url" in value and "title" in value:
            return None
        raise InputError("`text` is empty; fill it or drop the row")
    title = _string(value, "title")
    section = value.get("section")
    if title and isinstance(section, str) and section:
        title = f"{title}: {section}"
    row = {
        "id": _id(value),
        "title": title,
        "text": text,
        "source": _string(value, "source") or _string(value, "url"),
        "date": _date(value.get("date")),
    }
    for name, item in row.items():
        if fault := text_fault(item):
            raise InputError(f"`{name}` {fault}; remove it from the text")
    return row


def _text(value: Mapping[str, Any]) -> str:
    text = value.get("text")
    if text is None:
        raise InputError(f"no `text` (the row's fields: {_fields(value)}); name the column `text`")
    if not isinstance(text, str):
        raise InputError(f"`text` is {type(text).__name__}, not a string")
    return text


def _id(value: Mapping[str, Any]) -> str:
    for name in _ID_FIELDS:
        found = value.get(name)
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
        if found is None or found == "":
            continue
        if not isinstance(found, str):
            raise InputError(f"`{name}` is {type(found).__name__}, not a string")
        return found
    raise InputError(f"no `id` (the row's fields: {_fields(value)}); give each row a unique one")


def _string(value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        raise InputError(f"`{name}` is {type(found).__name__}, not a string")
    return found


def _date(found: Any) -> str:
    if found is None:
        return ""
    if isinstance(found, datetime.date):  # Parquet dates and timestamps
        return found.isoformat()
    if isinstance(found, int) and not isinstance(found, bool):
        return str(found)
    if not isinstance(found, str):
        raise InputError(f"`date` is {type(found).__name__}, not a string")
    return found


def _fields(value: Mapping[str, Any]) -> str:
    return ", ".join(repr(name)[:40] for name in list(value)[:12]) or "none"


def _plain_kilt(value: Mapping[str, Any]) -> dict[str, Any]:
    paragraphs = value.get("text")
    if isinstance(paragraphs, Mapping):  # as the Hugging Face copy of KILT nests it
        paragraphs = paragraphs.get("paragraph")
    if not isinstance(paragraphs, list) or not all(isinstance(item, str) for item in paragraphs):
        raise InputError("`text` of a KILT page is not a list of strings (its paragraphs)")
    title = value["wikipedia_title"]
    if paragraphs and paragraphs[0].strip() == str(title).strip():
        paragraphs = paragraphs[1:]  # KILT's first paragraph repeats the title
    history = value.get("history")
    date = history.get("timestamp") if isinstance(history, Mapping) else None
    url = history.get("url") if isinstance(history, Mapping) else None
    return {
        **{name: value.get(name) for name in _ID_FIELDS},
        "title": title,
        "text": "\n".join(_plain_paragraph(item) for item in paragraphs),
        "source": value.get("source") or url,
        "date": value.get("date") or date,
    }


def _plain_paragraph(text: str) -> str:
    text = text.strip("\n")
    if text.startswith("Section::::"):
        heading = text.removeprefix("Section::::").rstrip(".:").replace(".:", ": ")
        return f"== {heading} =="
    return re.sub(r"^BULLET::::\s*", "", text, flags=re.MULTILINE)


def iter_tsv(path: str) -> Iterator[Record]:
    """The rows of DPR's psgs_w100.tsv: a header with `id`, `text`, `title`, then one row a line."""
    header: list[str] = []
    for record in iter_lines(path):
        if not header:
            header = split_tsv(record.raw)
            if not {"id", "text"} <= set(header):
                raise InputError(
                    f"{path}:{record.line}: no header line `id<TAB>text<TAB>title`; add it on top"
                )
            continue
        if not record.fault:
            fields = split_tsv(record.raw)
            if len(fields) != len(header):
                fault = f"{len(fields)} tab-separated fields, not {len(header)} as in the header"
                record = Record(line=record.line, raw=record.raw, fault=fault)
            else:
                value = dict(zip(header, fields, strict=True))
                record = Record(line=record.line, raw=record.raw, value=value)
        yield record


def split_tsv(line: str) -> list[str]:
    """The fields of one tab-separated line, unquoted as the csv module does.

    By hand, because an unbalanced quote must not swallow the lines after it, and a field may be
    longer than the csv module's limit; that module only sees lines with a tab inside quotes.

    >>> split_tsv('1\\t"say ""hi"" twice"\\t"A" and B')
    ['1', 'say "hi" twice', '"A" and B']
    """
    fields = line.split("\t")
    if '"' in line and any(field[:1] == '"' and unquote(field) == field for field in fields):
        parsed = next(csv.reader([line], delimiter="\t")) if len(line) < 100_000 else fields
        if len(parsed) < len(fields):
            return parsed
    return [unquote(field) for field in fields]


def unquote(field: str) -> str:
    """A CSV field without its quotes; a field that is not properly quoted stays as it is."""
    if len(field) < 2 or field[0] != '"' or field[-1] != '"':
        return field
    inner = field[1:-1]
    return field if '"' in inner.replace('""', "") else inner.replace('""', '"')


def iter_wiki(path: str) -> Iterator[Record]:
    """The pages of wikiextractor's `<doc id= url= title=> ... </doc>` form."""
    page: dict[str, str] = {}
    body: list[str] = []
    start, fault = 0, ""
    for record in iter_lines(path, keep_blank=True):
        if not page:
            match = _DOC.fullmatch(record.raw)
            if match:
                page, body, start, fault = match.groupdict(default=""), [], record.line, ""
            elif record.raw.strip():
                reason = record.fault or "text outside of <doc ...> and </doc>"
                yield Record(line=record.line, raw=record.raw, fault=reason)
        elif record.raw.strip() == "</doc>":
            yield _wiki_page(start, page, body, fault)
            page = {}
        elif record.raw.startswith("<doc ") and _DOC.fullmatch(record.raw):
            fault = f"<doc ...> without </doc> before the next one on line {record.line}"
            yield _wiki_page(start, page, body, fault)
            page = _DOC.fullmatch(record.raw).groupdict(default="")  # type: ignore[union-attr]
            body, start, fault = [], record.line, ""
        else:
            body.append(record.raw)
            fault = fault or record.fault
    if page:
        yield _wiki_page(start, page, body, "<doc ...> without </doc>; the file seems cut off")


def _wiki_page(line: int, page: Mapping[str, str], body: list[str], fault: str) -> Record:
    if body and body[0].strip() == page["title"].strip():
        body = body[1:]  # the first line repeats the title
    text = "\n".join(body).strip("\n")
    value = {**page, "text": text}
    return Record(line=line, value=value, raw=str(value)[:RAW_CHARS], fault=fault)


def text_document(path: str, name: str) -> Record:
    """A .txt or .md file as one raw row: id = `name`, title = its first `# heading` or stem."""
    record = read_text(path)
    heading = _HEADING.search(record.raw)
    title = heading["title"] if heading else stem(name)
    return Record(
        line=record.line,
        raw=record.raw[:RAW_CHARS],
        fault=record.fault,
        value={"id": name, "title": title, "text": record.raw},
    )
