"""Some questions of a finished run, with what the variants saw and said before and after tuning.

In: the run's folder, its `run.json`, prediction rows below `<run>/evaluate/<variant>/`, and the
ranked rows they were made from (a prediction shard bears the name of its ranked shard). Out: cards,
drawn by cards.py for the page and by markdown.py for report.md.
The choice is by the hash of the question's id: the same in every run, and nobody's favourites.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from radit_ray.core.metrics import exact_match
from radit_ray.data import storage
from radit_ray.data.artifacts import inside_run, read_shard, resolve_link

Row = dict[str, Any]
Tables = dict[str, dict[str, Row]]  # {variant: {question id: prediction row}}
COLUMNS = ["id", "task", "em", "recall@1", "prediction"]
TEXTS = ["id", "answers", "metric", "gold_ids", "chunk_ids", "doc_ids", "titles", "texts"]
EXCERPT = 360  # characters of a chunk that are shown at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of question worth looking at: who is compared, and which questions qualify."""

    title: str
    before: str
    after: str
    wanted: Callable[[Mapping[str, Row]], bool]  # of {variant: prediction row} of one question
    count: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Side:
    """What one variant saw and said."""

    variant: str
    prediction: Row
    ranked: Row  # empty where the ranked rows are gone


@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
    """One question: what every variant said, and two of them with their chunks."""

    title: str
    said: Mapping[str, Row]
    sides: tuple[Side, Side]  # before, after


def cards_of(run: str, record: Mapping[str, Any]) -> list[Card]:
    """Up to six questions; none where the predictions are gone."""
    folder = resolve_link(storage.join(run, "evaluate"))
    tasks = record["recipe"]["evaluate"]["tasks"]
    tables = {name: _read(storage.join(folder, name), tasks) for name in record["variants"]}
    tables = {name: table for name, table in tables.items() if table}
    shown = [name for name in tables if record["variants"][name]["k"]]
    if len(shown) < 2:
        return []
    num_asked = len(common(tables, shown))
    cards = []
    for kind, question, count in choose(tables, shown):
        before, after = (
            _side(run, record, folder, name, tables[name][question]["shard"], question)
            for name in (kind.before, kind.after)
        )
        said = {name: table[question] for name, table in tables.items() if question in table}
        title = f"{kind.title} ({count:,} of {num_asked:,} questions)"
        cards.append(Card(title=title, said=said, sides=(before, after)))
    return cards


def _side(
    run: str, record: Mapping[str, Any], folder: str, name: str, shard: str, question: str
) -> Side:
    ranked = inside_run(run, record["variants"][name]["ranked"])
    return Side(
        variant=name,
        prediction=_whole(storage.join(folder, name, shard), question),
        ranked=_whole(storage.join(ranked, shard), question, TEXTS),
    )


def common(tables: Tables, shown: Sequence[str]) -> list[str]:
    """The ids that all of `shown` answered, in the order of their hashes."""
    ids = set.intersection(*(set(tables[name]) for name in shown))
    return sorted(ids, key=lambda text: hashlib.blake2b(text.encode()).digest())


def choose(tables: Tables, shown: Sequence[str]) -> list[tuple[Kind, str, int]]:
    """(kind, question id, how many questions are of that kind) of up to six questions, no question
    twice. `shown` are the variants with chunks.
    """
    found: list[tuple[Kind, str, int]] = []
    ids = common(tables, shown)
    for kind in _kinds(shown):
        if {kind.before, kind.after} <= set(shown):
            taken = {question for _, question, _ in found}
            fitting = [
                question
                for question in ids
                if kind.wanted({name: tables[name][question] for name in shown})
            ]
            fresh = (question for question in fitting if question not in taken)
            chosen = itertools.islice(fresh, kind.count)
            found += [(kind, question, len(fitting)) for question in chosen]
    return found


def _kinds(shown: Sequence[str]) -> list[Kind]:
    pair = ("replug", "radit") if {"replug", "radit"} <= set(shown) else (shown[0], shown[-1])
    before, after = pair
    return [
        Kind(
            title=f"Wrong with {before}, right with {after}",
            before=before,
            after=after,
            wanted=lambda rows: right(rows[after]) and not right(rows[before]),
            count=2,
        ),
        Kind(
            title="R-ft moved a right chunk to the top",
            before="replug",
            after="r-ft",
            wanted=lambda rows: rows["r-ft"]["recall@1"] == 1 and rows["replug"]["recall@1"] == 0,
        ),
        Kind(
            title="LM-ft is right, instruction tuning wrong, from the same chunks",
            before="it-retrieval",
            after="lm-ft",
            wanted=lambda rows: right(rows["lm-ft"]) and not right(rows["it-retrieval"]),
        ),
        Kind(
            title=f"Still wrong with {after}",
            before=before,
            after=after,
            wanted=lambda rows: not right(rows[after]),
        ),
        Kind(
            title="Every variant with chunks is right",
            before=before,
            after=after,
            wanted=lambda rows: all(right(row) for row in rows.values()),
        ),
    ]


def right(row: Row) -> bool:
    return bool(row["em"] == 1)


def _read(place: str, tasks: Sequence[str]) -> dict[str, Row]:
    """{id: row} of a variant's predictions in the table's tasks (empty = all), with their shard."""
    found = {}
    for name in storage.list_files(place) if storage.exists(place) else []:
        if name.endswith(".parquet"):
            for row in read_shard(storage.join(place, name), COLUMNS).to_pylist():
                if not tasks or row["task"] in tasks:
                    found[row["id"]] = {**row, "shard": name}
    return found


def _whole(path: str, question: str, columns: list[str] | None = None) -> Row:
    """One row of a shard; empty where the shard is gone."""
    if not storage.exists(path):
        return {}
    table = read_shard(path, columns)
    return dict(table.filter(pc.equal(table["id"], question)).to_pylist()[0])


def wins(prediction: Row, place: int) -> bool:
    """Whether the answer of a chunk alone is the one that was given in the end."""
    alone = prediction["chunk_answers"]
    return bool(place < len(alone) and exact_match(alone[place], [prediction["prediction"]]))


def mixed(prediction: Row) -> list[tuple[str, float]]:
    """(answer, its probability under all chunks together) of the best few decoded answers, where
    there are several; options of a choice are compared by scores that are no probabilities.
    """
    pairs = list(zip(prediction["candidates"], prediction["candidate_logprobs"], strict=True))
    if len(pairs) < 2 or not set(prediction["candidates"]) <= set(prediction["chunk_answers"]):
        return []
    best = sorted(pairs, key=lambda pair: -pair[1])[:4]
    return [(text, math.exp(logprob)) for text, logprob in best]


def excerpt(text: str, answers: Sequence[str]) -> str:
    """The part of a long chunk around the first answer; a short one as it is."""
    if len(text) <= EXCERPT:
        return text
    marked = marks(text, answers)
    first = marked[0][0] if marked else 0
    start = text.rfind(" ", 0, max(0, first - EXCERPT // 2)) + 1
    end = text.find(" ", start + EXCERPT)
    end = len(text) if end < 0 else end
    return f"{' … ' if start else ''}{text[start:end]} …"


def marks(text: str, answers: Sequence[str]) -> list[tuple[int, int]]:
    """Where an answer stands in a text, in order and without overlap: whole words, ignoring case
    and the width of spaces.

    >>> marks("Oslo is not Osloer; oslo.", ["Oslo"])
    [(0, 4), (20, 24)]
    """
    words = [r"\s+".join(map(re.escape, answer.split())) for answer in answers if answer.split()]
    if not words:
        return []
    longest_first = "|".join(sorted(words, key=len, reverse=True))
    found = re.finditer(rf"(?<!\w)(?:{longest_first})(?!\w)", text, re.IGNORECASE)
    return [match.span() for match in found]
