"""The rows that travel between stages, as Arrow schemas, and the one way to make an example row.

Goes in: a partial example (a dict with at least `id`, `question`, `answers`). Comes out: a row with
every field of `EXAMPLE`. An empty string or list stands for "none"; no field is ever null.
`template`, `metric` and `scoring` say how an example is asked and judged where its category does
not (the tables of `tasks`, or any user's file): a template of Table 12, a metric of `core.metrics`,
a scoring of choices. With metric "regex" the answers are patterns, the first one also a text that
may be shown. A ranked row is an example plus its K chunks, best first, and the version of the index
they come from; a scored row adds the log-probability (nats, summed over the answer's tokens) that
the LM gives the answer under each chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, get_args

import pyarrow as pa

from radit_ray.core.errors import InputError, nearest
from radit_ray.core.metrics import METRICS, Scoring, contains_answer, normalize
from radit_ray.core.templates import INSTRUCTIONS
from radit_ray.data.patterns import check_pattern, contains_pattern, matches

SPLITS = ("train", "dev", "eval")
CATEGORIES = (
    "open-domain-qa",
    "dialogue",
    "reading-comprehension",
    "summarization",
    "chain-of-thought",
    "multiple-choice",
    "corpus",
    "fact-checking",
    "slot-filling",
    "entity-linking",
    "plain",  # no retrieval: the question as it stands
)

_ALLOWED: dict[str, tuple[str, ...]] = {
    "split": SPLITS,
    "category": CATEGORIES,
    "template": tuple(INSTRUCTIONS),
    "metric": (*METRICS, "regex"),
    "scoring": get_args(Scoring),
}
WORD_METRICS = ("em", "f1", "ends")  # of normalised words
_OPTIONAL = {"template", "metric", "scoring"}  # "" = by the category; em; nll

_STRINGS = pa.list_(pa.string())
_FLOATS = pa.list_(pa.float32())


def _schema(fields: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in fields.items()])


DOCUMENT = _schema(dict.fromkeys(("id", "title", "text", "source", "date"), pa.string()))
CHUNK = _schema(dict.fromkeys(("id", "doc_id", "title", "text", "source", "date"), pa.string()))
DUPLICATE_IDS = "duplicate_ids"  # further column behind dedup: chunks that this one stands for

EXAMPLE_DEFAULTS: dict[str, Any] = {
    "id": "",
    "task": "",
    "split": "train",
    "category": "open-domain-qa",
    "question": "",
    "query": "",
    "answers": [],
    "choices": [],
    "context": "",
    "date": "",
    "group": "",
    "article": "",
    "gold_ids": [],
    "exclude_ids": [],
    "template": "",
    "metric": "",
    "scoring": "",
}
EXAMPLE = _schema(
    {
        name: _STRINGS if isinstance(value, list) else pa.string()
        for name, value in EXAMPLE_DEFAULTS.items()
    }
)
_RANKED = {
    "chunk_ids": _STRINGS,
    "doc_ids": _STRINGS,
    "titles": _STRINGS,
    "texts": _STRINGS,
    "scores": _FLOATS,
    "index_version": pa.string(),  # of the index that was searched; "" = without retrieval
}
RANKED = pa.schema([*EXAMPLE, *_schema(_RANKED)])
SCORED = pa.schema([*RANKED, *_schema({"logprobs": _FLOATS, "num_answer_tokens": pa.int32()})])


def best_chunks(row: dict[str, Any], k: int) -> dict[str, Any]:
    """A ranked row with its first k chunks alone; 0 = all."""
    cut = {name: row[name][:k] for name, kind in _RANKED.items() if pa.types.is_list(kind)}
    return {**row, **cut} if k else row


def seeded_order(seed: int, name: str) -> bytes:
    """What a seeded choice sorts ids by: the same in every process, and a smaller choice is part of
    a larger one.
    """
    return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=16).digest()


def text_fault(value: str) -> str:
    """Why a string cannot go into UTF-8 Arrow columns, tokenizers and prompts; `""` where it can.

    >>> text_fault("fine"), text_fault("a" + chr(0))
    ('', 'holds a NUL character')
    """
    if "\x00" in value:
        return "holds a NUL character"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return f"holds a lone surrogate (U+{ord(value[error.start]):04X})"
    return ""


def hits_of(row: dict[str, Any]) -> list[bool]:
    """Which of a ranked row's chunks count as right: by `gold_ids` where the example names them,
    else by answer string.
    """
    if len(row["gold_ids"]):
        gold = set(row["gold_ids"])
        return [
            c in gold or d in gold for c, d in zip(row["chunk_ids"], row["doc_ids"], strict=True)
        ]
    return answer_hits(row)


def answer_hits(row: dict[str, Any]) -> list[bool]:
    """Which of a ranked row's chunks contain an answer (DPR's criterion), string or pattern."""
    found = contains_pattern if row["metric"] == "regex" else contains_answer
    return [found(text, row["answers"]) for text in row["texts"]]


def own_score(row: Mapping[str, Any], prediction: str) -> float:
    """A prediction by the example's own metric; em where it names none."""
    if row["metric"] == "regex":
        return matches(prediction, row["answers"])
    return METRICS[row["metric"] or "em"](prediction, row["answers"])


def example_row(partial: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """A full example row: absent or None fields get their default, `group` falls back to `id`.

    Empty and repeated answers are dropped. `where` (file:line) opens the message of the InputError
    that a wrong field raises.
    """
    place = f"{where}: " if where else ""
    for name in partial:
        if name not in EXAMPLE_DEFAULTS:
            raise InputError(f"{place}unknown example field {name!r}{nearest(name, EXAMPLE.names)}")
    row: dict[str, Any] = {}
    for name, default in EXAMPLE_DEFAULTS.items():
        value = partial.get(name)
        if value is None:
            value = default
        row[name] = (
            _strings(value, name, place)
            if isinstance(default, list)
            else _string(value, name, place)
        )
    row["answers"] = list(dict.fromkeys(text for text in row["answers"] if text.strip()))
    row["group"] = row["group"] or row["id"]
    _check_example(row, place)
    return row


def _check_example(row: Mapping[str, Any], place: str) -> None:
    if not row["id"].strip():
        raise InputError(f"{place}the example has no id; give it a unique string `id`")
    if not row["question"].strip():
        raise InputError(
            f"{place}example {row['id']!r} has no question; fill `question` or drop the row"
        )
    if not row["answers"]:
        raise InputError(
            f"{place}example {row['id']!r} has no answer; `answers` needs a non-empty string"
        )
    for name, allowed in _ALLOWED.items():
        if row[name] not in allowed and (row[name] or name not in _OPTIONAL):
            raise InputError(f"{place}unknown {name} {row[name]!r}{nearest(row[name], allowed)}")
    _check_answers(row, place)


def says_nothing(row: Mapping[str, Any]) -> bool:
    """Whether no answer keeps a word when it is normalised, so that an empty prediction would be
    right; choices are told apart by their number, and a corpus example is not judged.
    """
    if row.get("choices") or row.get("category") == "corpus":
        return False
    answers = [answer for answer in row.get("answers") or () if isinstance(answer, str)]
    return bool(answers) and not any(normalize(answer) for answer in answers)


def _check_answers(row: Mapping[str, Any], place: str) -> None:
    """InputError where an answer could never be found right, or nothing would be."""
    if row["metric"] == "regex":
        try:
            for answer in row["answers"]:
                check_pattern(answer)
        except InputError as error:
            raise InputError(f"{place}example {row['id']!r}: {error}") from None
    empty = [number for number, text in enumerate(row["choices"], start=1) if not text.strip()]
    if empty:
        raise InputError(
            f"{place}choice {empty[0]} of {len(row['choices'])} of example {row['id']!r} is empty; "
            "fill `choices` or drop the row"
        )
    if (row["metric"] or "em") in WORD_METRICS and says_nothing(row):
        raise InputError(
            f"{place}answer {row['answers'][0][:80]!r} of example {row['id']!r} normalises to "
            "nothing (no articles, no punctuation), so an empty prediction would be right; give "
            "one with a word in it, or set `metric` to accuracy"
        )
    if row["metric"] == "rouge-l" and not any(text.strip(". \n") for text in row["answers"]):
        raise InputError(
            f"{place}answer {row['answers'][0][:80]!r} of example {row['id']!r} has no word, so "
            "that no prediction could score; give one with a word in it"
        )
    if row["choices"] and not set(row["answers"]) & set(row["choices"]):
        raise InputError(
            f"{place}no answer of example {row['id']!r} ({row['answers'][0][:80]!r}) is one of its "
            f"{len(row['choices'])} choices; `answers` holds the text of the right choice"
        )


def _string(value: Any, name: str, place: str) -> str:
    if not isinstance(value, str):
        raise InputError(
            f"{place}`{name}` is {type(value).__name__} {str(value)[:40]!r}, not a string"
        )
    if fault := text_fault(value):
        raise InputError(f"{place}`{name}` {fault}; remove it from the text")
    return value


def _strings(value: Any, name: str, place: str) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InputError(
            f"{place}`{name}` is {type(value).__name__} {str(value)[:40]!r}, not a list of strings"
        )
    return [_string(item, f"{name}[{index}]", place) for index, item in enumerate(value)]
