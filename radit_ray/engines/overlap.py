"""What evaluation questions share with training questions and with a corpus: exact questions and
answers, n-grams, whole questions and answers that stand in a text.

In: example rows and the files of a corpus. Out: one small dict. The corpus streams through Ray Data
actors, a group of files each; a worker holds the phrases of the evaluation and one block of
documents, whatever the corpus' size.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from radit_ray.core.duplicates import words
from radit_ray.core.errors import Bounds, InputError, check_bounds
from radit_ray.core.overlap import Phrases, ngrams
from radit_ray.data.readers import iter_file, list_corpus_files
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import map_shards

Row = dict[str, Any]
Hits = dict[tuple[str, int], dict[str, str]]  # (what, question): {with: what, place: where}
BLOCK = 500  # documents that are looked in at once
GROUPS = 64  # of the corpus' files: what comes back grows with them
FOUND = {  # what is counted, and how a table heads it
    "train.question": "same question in train",
    "train.ngram": "n-gram in train",
    "train.answer": "same answer in train",
    "corpus.question": "question in corpus",
    "corpus.ngram": "n-gram in corpus",
    "corpus.answer": "answer in corpus",
}


@dataclass(frozen=True, kw_only=True)
class OverlapConfig:
    """What counts as shared."""

    ngram: int = 13  # words (GPT-3: 13, of questions as long as that)
    short_ngram: int = 8  # of questions with fewer words; one shorter still must be there whole
    shown: int = 3  # examples of each finding

    BOUNDS: ClassVar[Bounds] = {"ngram": (1, 100), "short_ngram": (1, 100), "shown": (0, None)}


def check_overlap(config: OverlapConfig) -> None:
    """InputError on lengths outside their range, or in the wrong order."""
    check_bounds(config, config.BOUNDS)
    if config.short_ngram > config.ngram:
        raise InputError(
            f"short_ngram={config.short_ngram} is above ngram={config.ngram}; lower --short-ngram"
        )


def overlap(
    config: OverlapConfig,
    questions: Sequence[Row],
    *,
    training: Sequence[Row] = (),
    corpus: str = "",
    resources: Resources = Resources(),
) -> dict[str, Any]:
    """{config, tasks: {task: {num_questions, num_answered, finding: {count, share}}}, shown:
    {finding: rows}}; task "all" holds all. Answers that are patterns, or choices, are not looked
    for: shares of answers are of `num_answered`. InputError where there is nothing to compare with.
    """
    check_overlap(config)
    if not training and not corpus:
        raise InputError("nothing to compare the questions with; give --train or --corpus")
    found: Hits = {}
    if training:
        found |= _in_training(config, questions, training)
    if corpus:
        found |= _in_corpus(config, questions, corpus, resources)
    sides = [side for side, given in (("train", training), ("corpus", corpus)) if given]
    findings = [name for name in FOUND if name.partition(".")[0] in sides]
    tasks = {"all": list(range(len(questions)))}
    for number, row in enumerate(questions):
        tasks.setdefault(row["task"] or "examples", []).append(number)
    return {
        "config": vars(config) | {"num_training": len(training)},
        "tasks": {
            task: _counts(questions, numbers, found, findings) for task, numbers in tasks.items()
        },
        "shown": {name: _shown(questions, found, name, config.shown) for name in findings},
    }


def answer_words(row: Row) -> list[tuple[str, ...]]:
    """The answers of a question that may stand in a text, as words."""
    if row["choices"] or row["metric"] == "regex":
        return []
    return [found for answer in row["answers"] if (found := tuple(words(answer)))]


def _phrases(
    config: OverlapConfig, questions: Sequence[Row], kinds: Sequence[str]
) -> tuple[list[tuple[str, ...]], list[list[tuple[str, int]]]]:
    """(phrases, the (kind, question) that each stands for)."""
    owners: dict[tuple[str, ...], list[tuple[str, int]]] = collections.defaultdict(list)
    for number, row in enumerate(questions):
        asked = words(row["question"])
        made = {
            "ngram": ngrams(asked, config.ngram, config.short_ngram),
            "question": [tuple(asked)] if asked else [],
            "answer": answer_words(row),
        }
        for kind in kinds:
            for phrase in made[kind]:
                owners[phrase].append((kind, number))
    return list(owners), list(owners.values())


def _in_training(config: OverlapConfig, questions: Sequence[Row], training: Sequence[Row]) -> Hits:
    """What stands in the questions and answers of training. The same question or answer has the
    same words; an n-gram may stand anywhere in a question.
    """
    phrases, owners = _phrases(config, questions, ("ngram",))
    looked = Phrases(phrases)
    same: dict[tuple[str, ...], str] = {}
    answers: dict[tuple[str, ...], str] = {}
    for block in _blocks((row["id"], words(row["question"])) for row in training):
        looked.look_in(block)
        for name, asked in block:
            same.setdefault(tuple(asked), name)
    for row in training:
        for answer in answer_words(row):
            answers.setdefault(answer, row["id"])
    found = _hits("train", looked.found, phrases, owners)
    for number, row in enumerate(questions):
        asked = tuple(words(row["question"]))
        if asked in same:
            found["train.question", number] = {"with": row["question"], "place": same[asked]}
        for answer in answer_words(row):
            if answer in answers:
                hit = {"with": " ".join(answer), "place": answers[answer]}
                found.setdefault(("train.answer", number), hit)
    return found


def _in_corpus(
    config: OverlapConfig, questions: Sequence[Row], corpus: str, resources: Resources
) -> Hits:
    """What stands in a document, title and text, of the corpus."""
    files = list_corpus_files(corpus)
    phrases, owners = _phrases(config, questions, ("ngram", "question", "answer"))
    groups = np.array_split(np.array(files, dtype=object), min(len(files), GROUPS))
    items = [{"number": n, "files": group.tolist()} for n, group in enumerate(groups)]
    results = map_shards(
        OverlapWorker,
        {"phrases": phrases, "corpus": corpus},
        items,
        resources=resources,
        label="overlap",
        unit="group",
        gpu=False,
    )
    first: dict[int, str] = {}
    for result in sorted(results, key=lambda result: int(result["number"])):
        for number, place in result["found"]:
            first.setdefault(number, place)  # the first in the corpus' order, whoever found it
    return _hits("corpus", first, phrases, owners)


class OverlapWorker:
    """Looks for all phrases in the files of one group a call."""

    def __init__(self, *, phrases: Sequence[Sequence[str]], corpus: str) -> None:
        self.phrases, self.corpus = phrases, corpus

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        looked = Phrases(self.phrases)
        files = (iter_file(file, spec=self.corpus) for file in item["files"])
        documents = itertools.chain.from_iterable(files)
        for block in _blocks((d["id"], words(f"{d['title']} {d['text']}")) for d in documents):
            looked.look_in(block)
        return {"number": item["number"], "found": sorted(looked.found.items())}


def _blocks(
    texts: Iterable[tuple[str, list[str]]],
) -> Iterable[list[tuple[str, list[str]]]]:
    texts = iter(texts)
    return iter(lambda: list(itertools.islice(texts, BLOCK)), [])


def _hits(
    side: str,
    found: dict[int, str],
    phrases: Sequence[Sequence[str]],
    owners: Sequence[list[tuple[str, int]]],
) -> Hits:
    """One hit for each kind and question, of its first phrase that was found."""
    hits: Hits = {}
    for phrase in sorted(found):
        for kind, number in owners[phrase]:
            hit = {"with": " ".join(phrases[phrase]), "place": found[phrase]}
            hits.setdefault((f"{side}.{kind}", number), hit)
    return hits


def _counts(
    questions: Sequence[Row], numbers: list[int], found: Hits, findings: Sequence[str]
) -> dict[str, Any]:
    answered = sum(bool(answer_words(questions[number])) for number in numbers)
    made: dict[str, Any] = {"num_questions": len(numbers), "num_answered": answered}
    for name in findings:
        count = sum((name, number) in found for number in numbers)
        of = answered if name.endswith("answer") else len(numbers)
        made[name] = {"count": count, "share": count / of if of else None}
    return made


def _shown(questions: Sequence[Row], found: Hits, name: str, num: int) -> list[dict[str, Any]]:
    """The first few questions of a finding, with what is shared and where it stands."""
    numbers = [number for number in range(len(questions)) if (name, number) in found][:num]
    return [
        {
            **{field: questions[number][field] for field in ("id", "task", "question", "answers")},
            **found[name, number],
        }
        for number in numbers
    ]
