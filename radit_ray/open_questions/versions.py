"""Open question 2, a case study on real text: the same pages at two dates, and what a tuned pair
answers from each.

In: a job with a trained pair, and the page dumps and question sets below $RADIT_DATA. For every
pair of versions two corpora are written that hold the same titles, the same distractors and as many
chunks; a question is taken where it names one of the titles, and before anything is answered it is
said which of the corpora contains its answer in the pages it names. Out: metrics by pair, by where
the answer stands, corpus and LM, with the number of questions and what so few could show.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radit_ray.core.chunking import chunk_document
from radit_ray.core.errors import InputError
from radit_ray.core.metrics import contains_answer, normalize
from radit_ray.curves import Curve, View, views
from radit_ray.data import storage
from radit_ray.data.distractors import SAME_TITLE, write_distractors
from radit_ray.data.examples import read_examples
from radit_ray.data.readers import iter_documents
from radit_ray.data.rows import seeded_order
from radit_ray.data.tasks import data_folder
from radit_ray.engines.measuring import Rows
from radit_ray.open_questions.base import (
    Job,
    Lines,
    Question,
    answered,
    asking,
    first_seed,
    looking,
    power_text,
    predictions,
    seeds_of,
    tokens_of,
    trained,
    unit_costs,
)
from radit_ray.open_questions.contrasts import compared, gain_rows
from radit_ray.runs import Run

KINDS = ("both", "new only", "old only")  # which corpus contains the answer
LMS = ("replug", "lm-ft", "radit")
PAGE_CHUNKS = 20  # the first of each page
DISTRACTORS = 1000  # chunks of other pages, the same in both corpora
TITLE = 4  # letters at least, for a title that a question can be said to name
POOL = "corpus/simplewiki_2021-11.jsonl.xz"
QUESTIONS = (
    "task:freshqa:dev",
    "task:freshqa:eval",
    "task:situatedqa-temp:dev",
    "task:situatedqa-temp:eval",
    "task:pat-2021-12",
    "task:pat-2023-12",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """Two versions of pages."""

    name: str
    old: str  # file below the data folder
    new: str
    note: str  # what else differs, and whether the pages were collected for the questions


PAIRS = (
    Pair(
        name="enwiki 2016 and 2019",
        old="corpus/enwiki_2016_slice.jsonl.xz",
        new="corpus/enwiki_2019_slice.jsonl.xz",
        note="the same pages of English Wikipedia, core topics by page number; not collected for "
        "any question",
    ),
    Pair(
        name="simplewiki 2021 and enwiki 2023",
        old="corpus/simplewiki_2021-11.jsonl.xz",
        new="corpus/enwiki_2023-12_freshqa_pages.jsonl.xz",
        note="the same titles, but the older side is Simple English Wikipedia, so length and style "
        "differ too; the newer pages were collected for FreshQA's questions",
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VersionsConfig:
    """What is looked at; files lie below the data folder."""

    pairs: tuple[Pair, ...] = PAIRS
    questions: tuple[str, ...] = QUESTIONS  # example specs; those that name a page are asked
    pool: str = POOL  # pages that neither version has
    num_distractors: int = DISTRACTORS


def check(config: VersionsConfig = VersionsConfig()) -> None:
    """InputError where a page dump or a question set is missing; reads them all, once."""
    files = (name for pair in config.pairs for name in (pair.old, pair.new, config.pool))
    missing = next((name for name in files if not storage.exists(_data(name))), None)
    if missing:
        raise InputError(f"{_data(missing)} does not exist; set RADIT_DATA to its folder")
    for pair in config.pairs:
        read_pair(pair, config)


def page_versions(job: Job, config: VersionsConfig = VersionsConfig()) -> dict[str, Any]:
    """{"pairs": [...]}: of each its counts, metrics, contrasts new - old and of these gains, tuned
    pair against untuned; of the first seed.
    """
    first = first_seed(job.recipe)
    run = trained(dataclasses.replace(job, recipe=first))[0]
    every = dataclasses.replace(run.recipe.evaluate, tasks=())
    run = looking(run, evaluate=every)
    looked = [_look(job, run, pair, config) for pair in config.pairs]
    return {"seeds": seeds_of(first), "pairs": looked}


def _data(name: str) -> str:
    return storage.join(data_folder(), name)


def _look(job: Job, run: Run, pair: Pair, config: VersionsConfig) -> dict[str, Any]:
    folder = storage.join(job.folder, re.sub(r"\W+", "-", pair.name))
    pages, asked = read_pair(pair, config)
    counts = write_corpora(pages, folder, pool=config.pool, num_distractors=config.num_distractors)
    kinds = {row["id"]: kind for row, kind in asked if kind in KINDS}
    rows = [row for row, kind in asked if kind in KINDS]
    rows.sort(key=lambda row: seeded_order(run.recipe.evaluate.seed, row["id"]))
    rows = rows[: job.num_questions or None]
    result = {
        "pair": dataclasses.asdict(pair),
        "pages": len(pages),
        "chunks": counts,
        "named": len(asked),
        "kinds": {kind: sum(kinds[row["id"]] == kind for row in rows) for kind in KINDS},
        "tasks": sorted({row["task"] for row in rows}),
        "answers": [],
    }
    if not rows:
        return result
    file = storage.join(folder, "asked.jsonl")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(file, text.encode())
    other = asking(run, file)
    corpora = tuple(storage.join(folder, f"{side}.jsonl") for side in ("old", "new"))
    tables = _tables(run, dict(zip(("old", "new"), _views(other, corpora), strict=True)))
    for lm in LMS:  # what the newer corpus brings each of them
        tables[f"{lm}.gain"] = gain_rows(tables[f"{lm}.new"], tables[f"{lm}.old"])
    for kind in ("all", *KINDS):
        part = {
            name: [[row for row in table if kind in ("all", kinds[row["id"]])]]
            for name, table in tables.items()
        }
        if len(part["closed-book"][0]) > 1:
            contrasts = [f"{lm}.new-minus-{lm}.old" for lm in LMS]
            contrasts += [f"radit.{side}-minus-replug.{side}" for side in ("old", "new", "gain")]
            measured = compared(part, contrasts, run.recipe)
            result["answers"].append({"kind": kind, **measured})
    return result


def _views(run: Run, corpora: tuple[str, ...]) -> list[View]:
    return views(run, Curve(kind="snapshot", values=corpora))


def _tables(run: Run, found: Mapping[str, View]) -> dict[str, Rows]:
    """{"radit.new": predictions, ...} and the base LM without a chunk."""
    variants = {v.name: v for v in run.evaluation().variants}
    asked = [
        dataclasses.replace(
            variants[lm],
            name=f"{lm}.{side}",
            ranked=view.tuned if lm == "radit" else view.base,
        )
        for side, view in found.items()
        for lm in LMS
    ]
    closed = dataclasses.replace(asked[0], name="closed-book", k=0)
    asked.append(dataclasses.replace(closed, lm=variants["replug"].lm))
    return predictions(answered(run, asked), [v.name for v in asked])


# --- corpora of equal size ---


Row = dict[str, Any]
Pages = dict[str, dict[str, list[str]]]  # title -> {"old": chunks, "new": chunks}


def common_pages(pair: Pair) -> Pages:
    """The pages that both versions have, cut into chunks, the first PAGE_CHUNKS of each."""
    old = {d["title"]: d["text"] for d in iter_documents(_data(pair.old))}
    found: Pages = {}
    for document in iter_documents(_data(pair.new)):
        title = document["title"]
        if title in old:
            texts = {"old": old[title], "new": document["text"]}
            found[title] = {n: chunk_document(text)[:PAGE_CHUNKS] for n, text in texts.items()}
    return {title: sides for title, sides in found.items() if all(sides.values())}


def write_corpora(
    pages: Pages, folder: str, *, pool: str = POOL, num_distractors: int = DISTRACTORS
) -> dict[str, int]:
    """old.jsonl and new.jsonl: a document a chunk. Both have the same distractors of the pool; the
    smaller side is filled with further ones. Returns the chunks of the pages, and of a corpus.
    """
    own = {side: _page_rows(pages, side) for side in ("old", "new")}
    short = abs(len(own["old"]) - len(own["new"]))
    file = storage.join(folder, "others.jsonl")
    if not storage.exists(file):
        write_distractors(
            _data(pool),
            file,
            num_documents=num_distractors + short,
            source="other",
            titles=set(pages),
        )
    others = [
        {**document, "id": f"{document['id']}#{number}", "text": text}
        for document in iter_documents(file)
        if not document["source"].endswith(SAME_TITLE)
        for number, text in enumerate(chunk_document(document["text"]))
    ]
    size = max(map(len, own.values())) + num_distractors
    for side, rows in own.items():
        whole = [*rows, *others[: size - len(rows)]]
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in whole)
        storage.write_bytes(storage.join(folder, f"{side}.jsonl"), text.encode())
    return {**{side: len(rows) for side, rows in own.items()}, "corpus": size}


def _page_rows(pages: Pages, side: str) -> list[dict[str, str]]:
    return [
        {"id": f"{title}#{number}", "title": title, "text": text, "source": side}
        for title, sides in pages.items()
        for number, text in enumerate(sides[side])
    ]


# --- questions about them ---


def _questions(specs: Sequence[str]) -> Iterator[Row]:
    for spec in specs:
        yield from ({**row, "split": "eval"} for row in read_examples(spec))


def read_pair(pair: Pair, config: VersionsConfig) -> tuple[Pages, list[tuple[Row, str]]]:
    """The pages of both versions, and the questions that name one with the kind of each. Kept:
    estimate, power and work read the same dumps, which takes most of a minute each time.
    """
    return _read_pair(pair, config, data_folder())


@functools.lru_cache(maxsize=8)
def _read_pair(
    pair: Pair, config: VersionsConfig, folder: str
) -> tuple[Pages, list[tuple[Row, str]]]:
    pages = common_pages(pair)
    return pages, list(named_questions(_questions(config.questions), pages))


def named_questions(questions: Iterator[Row], pages: Pages) -> Iterator[tuple[Row, str]]:
    """(question, which corpus contains its answer: KINDS or "neither") of those that name a page.

    Only the pages that a question names are looked into: a year stands on any page. What is an
    answer is decided as in recall: its normalised words in a row.
    """
    titles = {normalize(title): title for title in pages}
    named = {words: title for words, title in titles.items() if len(words) >= TITLE}
    if not named:
        return
    longest = sorted(map(re.escape, named), key=len, reverse=True)
    pattern = re.compile(rf"\b({'|'.join(longest)})\b")
    for row in questions:
        found = [named[words] for words in pattern.findall(normalize(row["question"]))]
        if found and row["answers"] and not row["choices"]:
            holds = {
                side: any(
                    contains_answer(text, row["answers"])
                    for title in found
                    for text in pages[title][side]
                )
                for side in ("old", "new")
            }
            kind = {(True, True): "both", (True, False): "old only", (False, True): "new only"}
            yield row, kind.get((holds["old"], holds["new"]), "neither")


def estimate(job: Job, run: Run, config: VersionsConfig = VersionsConfig()) -> Lines:
    """Two corpora a pair, embedded in proportion to their chunks, and the answers of each LM."""
    unit = unit_costs(run)
    stages = storage.read_json(storage.join(run.folder, "results.json"))["stages"]
    lines: Lines = []
    for pair in config.pairs:
        pages, asked = read_pair(pair, config)
        chunks = max(sum(len(p[side]) for p in pages.values()) for side in ("old", "new"))
        num = sum(kind in KINDS for _, kind in asked)
        num = min(num, job.num_questions or num)
        share = (chunks + config.num_distractors) / stages["embed"]["rows"]
        lines.append((f"{pair.name}: corpora", 2.0, share * unit["embed"]))
        lines.append(
            (f"{pair.name}: searches", 4.0, unit["retrieve"] * num / stages["retrieve"]["rows"])
        )
        answers = num * sum(tokens_of(run, lm) for lm in LMS) * unit["evaluate_token"]
        lines.append((f"{pair.name}: answers", 2.0, answers))
    return lines


def num_asked(job: Job, config: VersionsConfig = VersionsConfig()) -> int:
    """Questions of the largest kind of any pair: comparisons are told within one."""
    found = []
    for pair in config.pairs:
        kinds = [kind for _, kind in read_pair(pair, config)[1] if kind in KINDS]
        found += [kinds.count(kind) for kind in KINDS]
    return min(max(found), job.num_questions or max(found))


def question(config: VersionsConfig = VersionsConfig()) -> Question:
    """Its power is told from the first seed's answers to the recipe's own questions."""
    return Question(
        estimate=lambda job, run: estimate(job, run, config),
        power=lambda job, run: power_text(job, run, num_asked(job, config)),
        work=lambda job: page_versions(job, config),
    )
