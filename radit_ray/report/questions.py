"""Some questions of a finished run, with what the variants saw and said before and after tuning.

In: the run's folder, its `run.json`, prediction rows below `<run>/evaluate/<variant>/`, and the
ranked rows they were made from (a prediction shard bears the name of its ranked shard). Out: HTML.
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
from radit_ray.data.rows import hits_of
from radit_ray.report.markup import Html, details, join, tag
from radit_ray.report.plots import bar
from radit_ray.report.words import parts_of

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


def examples(run: str, record: Mapping[str, Any]) -> Html:
    """The cards of up to six questions; one line where the predictions are gone."""
    folder = resolve_link(storage.join(run, "evaluate"))
    tasks = record["recipe"]["evaluate"]["tasks"]
    tables = {name: _read(storage.join(folder, name), tasks) for name in record["variants"]}
    tables = {name: table for name, table in tables.items() if table}
    shown = [name for name in tables if record["variants"][name]["k"]]
    if len(shown) < 2:
        return tag("p", "This run's folder holds no predictions to compare.", class_="note")
    cards: list[Html] = []
    for kind, question in choose(tables, shown):
        sides = []
        for name in (kind.before, kind.after):
            shard = tables[name][question]["shard"]
            prediction = _whole(storage.join(folder, name, shard), question)
            ranked = inside_run(run, record["variants"][name]["ranked"])
            sides.append((name, prediction, _whole(storage.join(ranked, shard), question, TEXTS)))
        rows = {name: table[question] for name, table in tables.items() if question in table}
        cards.append(_card(kind, rows, sides, is_open=not cards))
    return join(cards)


def choose(tables: Tables, shown: Sequence[str]) -> list[tuple[Kind, str]]:
    """(kind, question id) of up to six questions, no question twice. `shown` are the variants with
    chunks.
    """
    found: list[tuple[Kind, str]] = []
    common = set.intersection(*(set(tables[name]) for name in shown))
    ids = sorted(common, key=lambda text: hashlib.blake2b(text.encode()).digest())
    for kind in _kinds(shown):
        if {kind.before, kind.after} <= set(shown):
            taken = {question for _, question in found}
            fitting = (
                (kind, question)
                for question in ids
                if question not in taken
                and kind.wanted({name: tables[name][question] for name in shown})
            )
            found += itertools.islice(fitting, kind.count)
    return found


def _kinds(shown: Sequence[str]) -> list[Kind]:
    pair = ("replug", "radit") if {"replug", "radit"} <= set(shown) else (shown[0], shown[-1])
    before, after = pair
    return [
        Kind(
            title=f"Wrong with {before}, right with {after}",
            before=before,
            after=after,
            wanted=lambda rows: _right(rows[after]) and not _right(rows[before]),
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
            wanted=lambda rows: _right(rows["lm-ft"]) and not _right(rows["it-retrieval"]),
        ),
        Kind(
            title=f"Still wrong with {after}",
            before=before,
            after=after,
            wanted=lambda rows: not _right(rows[after]),
        ),
        Kind(
            title="Every variant with chunks is right",
            before=before,
            after=after,
            wanted=lambda rows: all(_right(row) for row in rows.values()),
        ),
    ]


def _right(row: Row) -> bool:
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


def _card(
    kind: Kind,
    rows: Mapping[str, Row],
    sides: Sequence[tuple[str, Row, Row]],
    *,
    is_open: bool,
) -> Html:
    """One question: the right answer, what every variant said, two variants side by side. `sides`
    are (variant, prediction row, ranked row).
    """
    _, prediction, _ = sides[0]
    gold = [tag("strong", prediction["answers"][0])]
    if others := prediction["answers"][1:4]:
        gold.append(tag("span", f" (also: {', '.join(others)})", class_="note"))
    said = [
        tag("li", tag("span", name, class_="name"), " ", _answer(row["prediction"], _right(row)))
        for name, row in rows.items()
    ]
    return tag(
        "details",
        tag(
            "summary",
            tag("span", kind.title, class_="kind"),
            tag("h3", prediction["question"]),
        ),
        tag("p", "Right answer: ", *gold),
        tag("div", *(_side(*side) for side in sides), class_="sides"),
        tag("p", "What every variant answers:", class_="note"),
        tag("ul", *said, class_="said"),
        class_="card",
        **({"open": "open"} if is_open else {}),
    )


def _answer(text: str, right: bool) -> Html:
    mark = tag("span", "right" if right else "wrong", class_="right" if right else "wrong")
    return join([tag("q", text) if text else tag("i", "no answer"), " ", mark])


def _side(variant: str, prediction: Row, ranked: Row) -> Html:
    """What one variant saw and said."""
    lm, finder = parts_of(variant)
    answers, num = prediction["answers"], len(prediction["chunk_ids"])
    weights, alone = prediction["p_r"], prediction["chunk_answers"]
    each = len(weights) == num  # else all chunks stood in one prompt
    hits = hits_of(ranked) if ranked else []
    chunks = []
    for place, chunk in enumerate(prediction["chunk_ids"]):
        title, text = (ranked["titles"][place], ranked["texts"][place]) if ranked else (chunk, "")
        head = [tag("b", title or chunk)]
        if place < len(hits) and hits[place]:
            head.append(tag("span", "a right chunk", class_="right"))
        parts = [tag("div", *head, class_="head")]
        if each:
            shown = f"p_R {weights[place]:.2f}"
            parts.append(tag("div", bar(weights[place], shown), tag("span", shown), class_="p_r"))
        parts.append(_text(text, answers))
        if each and place < len(alone):
            own = _answer(alone[place], bool(exact_match(alone[place], answers)))
            parts.append(tag("p", "alone it gives ", own, class_="alone"))
        chunks.append(tag("li", *parts))
    heading = tag("h4", tag("span", variant, class_="name"), f" {lm} + {finder}" if lm else "")
    final = tag("p", "answers ", _answer(prediction["prediction"], _right(prediction)))
    return tag("section", heading, final, *_mixed(prediction), tag("ol", *chunks), class_="side")


def _mixed(prediction: Row) -> list[Html]:
    """The decoded answers with their probability under all chunks together, where there are
    several; options of a choice are compared by scores that are no probabilities.
    """
    pairs = list(zip(prediction["candidates"], prediction["candidate_logprobs"], strict=True))
    if len(pairs) < 2 or not set(prediction["candidates"]) <= set(prediction["chunk_answers"]):
        return []
    best = sorted(pairs, key=lambda pair: -pair[1])[:4]
    shown = ", ".join(f"{text} {math.exp(logprob):.2g}" for text, logprob in best)
    return [tag("p", f"Probability under all its chunks together: {shown}.", class_="note")]


def _text(text: str, answers: Sequence[str]) -> Html:
    """A chunk's text with the answers marked; a long one as the part around the first of them."""
    marked = marks(text, answers)
    if len(text) <= EXCERPT:
        return tag("p", highlighted(text, marked))
    first = marked[0][0] if marked else 0
    start = text.rfind(" ", 0, max(0, first - EXCERPT // 2)) + 1
    end = text.find(" ", start + EXCERPT)
    end = len(text) if end < 0 else end
    part = text[start:end]
    short = [" … " if start else "", highlighted(part, marks(part, answers)), " …"]
    whole = tag("p", highlighted(text, marked))
    return join([tag("p", *short), details("the whole chunk", whole)])


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


def highlighted(text: str, spans: Sequence[tuple[int, int]]) -> Html:
    """The text with <mark> around the spans."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], tag("mark", text[start:stop])]
        end = stop
    return join([*parts, text[end:]])
