"""Open question 2, controlled: with a corpus of today, does the tuned LM follow the corpus, its
memory, or neither?

The world has two dated snapshots. The base LM has read the first one's facts about `known`
subjects, so what it remembers is known; nobody has read those of `eval` subjects. In the second
snapshot CHANGED of the facts have another value, and nothing else differs: the first snapshot is
the same, byte for byte, whatever that share is, so the pairs are those of the demo.

In: a job with the demo's recipe. Out: by category of the fact, corpus and LM, the shares of answers
that are the corpus' value, the memory's, or neither.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.core.intervals import bootstrap_mean
from radit_ray.core.metrics import exact_match
from radit_ray.curves import Curve, views
from radit_ray.data import storage
from radit_ray.data.world import World, WorldConfig, make_world, write_world
from radit_ray.engines.faithfulness import read_answers
from radit_ray.open_questions.base import (
    Job,
    Lines,
    Question,
    answered,
    asking,
    tokens_of,
    trained,
    unit_costs,
)
from radit_ray.open_questions.contrasts import SHARED, foreseen, power
from radit_ray.runs import Run

CHANGED = 0.5  # share of facts that the second snapshot changes: as many changed as unchanged
CATEGORIES = ("known-changed", "known-unchanged", "new")
OUTCOMES = ("corpus", "memory", "neither")
CORPORA = ("none", "old", "new")
LMS = ("replug", "lm-ft", "radit")  # as shown chunks; closed book: the base LM, and that of LM-ft
CLOSED = {"replug": "closed-book", "lm-ft": "lm-ft-closed-book", "radit": "lm-ft-closed-book"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """A question and what each source says."""

    group: str  # its subject
    category: str
    old: str
    new: str
    old_chunks: frozenset[str] = frozenset()  # ids of the chunks that hold the value
    new_chunks: frozenset[str] = frozenset()

    def chunks(self, name: str) -> frozenset[str]:
        """The right chunks of a corpus; none without one."""
        return {"old": self.old_chunks, "new": self.new_chunks}.get(name, frozenset())

    def corpus(self, name: str) -> str | None:
        """The value in a corpus; None without one."""
        return {"none": None, "old": self.old, "new": self.new}[name]

    @property
    def memory(self) -> str | None:
        """The value that the base LM has read; None of what it has not read."""
        return None if self.category == "new" else self.old


def questions_of(first: World, second: World) -> dict[str, Asked]:
    """{id: question} of the evaluated facts of both snapshots."""
    found = {}
    examples = zip(first.examples, second.examples, strict=True)
    for old, new, (example, later) in zip(first.facts, second.facts, examples, strict=True):
        assert (old.subject, old.relation) == (new.subject, new.relation)
        split = old.subject.split
        if split in ("known", "eval"):
            changed = "known-changed" if old.value != new.value else "known-unchanged"
            found[example["id"]] = Asked(
                group=old.subject.id,
                category=changed if split == "known" else "new",
                old=old.value,
                new=new.value,
                old_chunks=frozenset(example["gold_ids"]),
                new_chunks=frozenset(later["gold_ids"]),
            )
    return found


def outcome(prediction: str, *, corpus: str | None, memory: str | None) -> str:
    """Which of OUTCOMES a prediction is. Where both say the same it counts for the corpus; without
    a corpus only the memory can be followed.

    >>> outcome("The Oslo", corpus="Oslo", memory="Rome"), outcome("Rome", corpus=None,
    ...         memory="Rome"), outcome("", corpus="Oslo", memory=None)
    ('corpus', 'memory', 'neither')
    """
    if corpus is not None and exact_match(prediction, [corpus]):
        return "corpus"
    if memory is not None and exact_match(prediction, [memory]):
        return "memory"
    return "neither"


Answers = Mapping[str, str]  # {question id: prediction}
Seen = Mapping[str, bool]  # {question id: whether a right chunk was among those shown}
Found = Mapping[tuple[str, str], Sequence[Answers]]  # {(LM, corpus): one table a seed}
Shown = Mapping[tuple[str, str], Sequence[Seen]]


def shares(
    found: Sequence[Answers],
    questions: Mapping[str, Asked],
    corpus: str,
    draws: Mapping[str, int],
    seen: Sequence[Seen] = (),
) -> dict[str, Any]:
    """num_questions, num_groups and {outcome: {value, low, high}} of one LM, corpus and category;
    `found` holds one table a seed, whose mean is taken question by question: with `seen` only over
    those seeds where a right chunk was shown, and questions without one are left out.
    """
    kept = [
        [seed for seed in range(len(found)) if not seen or seen[seed][key]] for key in questions
    ]
    groups = [q.group for q, seeds in zip(questions.values(), kept, strict=True) if seeds]
    result: dict[str, Any] = {"num_questions": len(groups), "num_groups": len(set(groups))}
    for name in OUTCOMES:
        rows = share_rows(found, questions, corpus, name)
        mean_B = [
            sum(rows[seed][number]["share"] for seed in seeds) / len(seeds)
            for number, seeds in enumerate(kept)
            if seeds
        ]
        value, low, high = bootstrap_mean(mean_B, groups, **draws)
        result[name] = {"value": value, "low": low, "high": high}
    return result


def share_rows(
    found: Sequence[Answers], questions: Mapping[str, Asked], corpus: str, name: str
) -> list[list[dict[str, Any]]]:
    """One table a seed: whether each answer is the outcome `name`, as rows for `power`."""
    return [
        [
            {
                "id": key,
                "group": question.group,
                "share": float(
                    outcome(answers[key], corpus=question.corpus(corpus), memory=question.memory)
                    == name
                ),
            }
            for key, question in questions.items()
        ]
        for answers in found
    ]


def check(job: Job) -> None:
    """What can be told before any work; InputError."""
    recipe = job.recipe
    if recipe.name != "demo" or recipe.snapshot != 1:
        raise InputError(
            f"recipe {recipe.name!r}, snapshot {recipe.snapshot}: the controlled part of question "
            "2 needs the demo's world with a pair trained on snapshot 1"
        )
    missing = {*LMS, *CLOSED.values()} - {*recipe.variants, *recipe.probes}
    if missing:
        raise InputError(
            f"variant {sorted(missing)[0]!r} is not in the recipe; question 2 needs it"
        )


def corpus_of_today(job: Job) -> dict[str, Any]:
    """What the LMs of every seed answer with either corpus and without one, as `tabulated`."""
    recipe = job.recipe
    questions, runs = _questions(job), trained(job)
    found, seen = _all_answers(job, runs, questions)
    draws = {"num_samples": recipe.evaluate.bootstrap, "seed": recipe.evaluate.seed}
    return {"changed_share": CHANGED, **tabulated(found, questions, draws, seen)}


def tabulated(
    found: Found,
    questions: Mapping[str, Asked],
    draws: Mapping[str, int],
    seen: Shown,
) -> dict[str, Any]:
    """`cells` by category, corpus given and LM, with the share of questions that were `shown` a
    right chunk; the same of those questions alone, with the new corpus (`where_shown`), and of
    changed facts that this LM remembers without a chunk (`remembered`); contrasts of the shares
    that follow the new corpus.

    found: {(LM, corpus): one table of answers a seed}; a question that one of them lacks is left
    out of all. seen: the same of what was shown, for both corpora.
    """
    kept = set.intersection(*(set(a) for tables in found.values() for a in tables))
    questions = {key: question for key, question in questions.items() if key in kept}
    by_category = {
        name: {key: q for key, q in questions.items() if q.category == name} for name in CATEGORIES
    }
    return {
        "num_questions": len(questions),
        "cells": _cells(found, by_category, draws, seen),
        "where_shown": _where_shown(found, by_category, draws, seen),
        "remembered": _remembered(found, by_category["known-changed"], draws),
        "contrasts": _contrasts(found, by_category),
    }


def told(
    folder: str, variant: str, questions: Mapping[str, Asked], corpus: str
) -> tuple[Answers, Seen]:
    """A variant's answers, and of `questions` whether a right chunk of the corpus was shown."""
    rows = read_answers(folder, variant)
    shown = {
        row["id"]: not questions[row["id"]].chunks(corpus).isdisjoint(row["chunk_ids"])
        for row in rows
        if row["id"] in questions
    }
    return {row["id"]: row["prediction"] for row in rows}, shown


def _world(job: Job) -> WorldConfig:
    return dataclasses.replace(job.recipe.world, changed_share=CHANGED)


def _questions(job: Job) -> dict[str, Asked]:
    world = _world(job)
    return questions_of(make_world(world), make_world(world, snapshot=2))


def _all_answers(
    job: Job, runs: Sequence[Run], questions: Mapping[str, Asked]
) -> tuple[dict[tuple[str, str], list[Answers]], dict[tuple[str, str], list[Seen]]]:
    """{(LM, corpus): one table a seed}, of answers and of what was shown. The old corpus and the
    closed book were answered by the ablation itself; the new corpus is chunked, embedded and
    indexed once.
    """
    paths = write_world(_world(job), storage.join(job.folder, "snapshot-2"), snapshot=2)
    found: dict[tuple[str, str], list[Answers]] = {}
    seen: dict[tuple[str, str], list[Seen]] = {}

    def add(lm: str, corpus: str, folder: str, variant: str) -> None:
        answers, shown = told(folder, variant, questions, corpus)
        found.setdefault((lm, corpus), []).append(answers)
        if corpus != "none":
            seen.setdefault((lm, corpus), []).append(shown)

    for number, run in enumerate(runs):
        lms = [lm for lm in LMS if number == 0 or lm not in SHARED]
        for lm in lms:
            add(lm, "none", run.evaluated, CLOSED[lm])
            add(lm, "old", run.evaluated, lm)
        other = asking(run, str(paths["eval"]))
        view = views(other, Curve(kind="snapshot", values=(str(paths["corpus"]),)))[0]
        variants = {v.name: v for v in run.evaluation().variants}
        for lm in lms:  # a call each: what no seed decides is then found again under any seed
            ranked = view.tuned if lm == "radit" else view.base
            asked = dataclasses.replace(variants[lm], name=f"{lm}.new", ranked=ranked)
            add(lm, "new", answered(run, [asked]).path, asked.name)
    return found, seen


def _cells(
    found: Found,
    by_category: Mapping[str, Mapping[str, Asked]],
    draws: Mapping[str, int],
    seen: Shown,
) -> list[dict[str, Any]]:
    """The shares of every category, LM and corpus that it was `given`."""
    made = []
    for category, asked in by_category.items():
        for corpus, lm in itertools.product(CORPORA, LMS):
            tables, shown = found.get((lm, corpus)), seen.get((lm, corpus), ())
            if asked and tables:
                flags = [table[key] for table in shown for key in asked]
                cell = {"shown": sum(flags) / len(flags) if flags else None}
                named = {"category": category, "given": corpus, "lm": lm}
                made.append({**named, **shares(tables, asked, corpus, draws), **cell})
    return made


def _where_shown(
    found: Found,
    by_category: Mapping[str, Mapping[str, Asked]],
    draws: Mapping[str, int],
    seen: Shown,
) -> list[dict[str, Any]]:
    """The shares with the new corpus where a right chunk was shown: what the LM does with it."""
    made = []
    for category, asked in by_category.items():
        for lm in LMS:
            tables, shown = found.get((lm, "new")), seen.get((lm, "new"), ())
            if tables and any(table[key] for table in shown for key in asked):
                cells = shares(tables, asked, "new", draws, shown)
                made.append({"category": category, "lm": lm, **cells})
    return made


def _remembered(
    found: Found,
    changed: Mapping[str, Asked],
    draws: Mapping[str, int],
) -> list[dict[str, Any]]:
    """Changed facts that an LM of the first seed says right closed book, asked with the new corpus:
    where corpus and memory can pull against each other at all.
    """
    made = []
    for lm in LMS:
        closed, new = (found.get((lm, corpus), [None])[0] for corpus in ("none", "new"))
        known = {
            key: q for key, q in changed.items() if closed and exact_match(closed[key], [q.old])
        }
        if known and new:
            made.append({"lm": lm, **shares([new], known, "new", draws)})
    return made


def _contrasts(
    found: Found,
    by_category: Mapping[str, Mapping[str, Asked]],
) -> list[dict[str, Any]]:
    """With the new corpus, by category: does tuning change the share that follows it, and does an
    LM say the corpus' value more often than the memory's?
    """
    made = []
    for category, questions in by_category.items():
        if not questions:
            continue
        rows = {
            (lm, name): share_rows(tables, questions, "new", name)
            for lm in LMS
            for name in OUTCOMES
            if (tables := found.get((lm, "new")))
        }
        # of what did not change corpus and memory say the same
        names = {"corpus": "right" if category == "known-unchanged" else "corpus"}
        names["memory"] = "memory"
        pairs = [((lm, "corpus"), ("replug", "corpus")) for lm in LMS if lm != "replug"]
        pairs.append((("radit", "corpus"), ("lm-ft", "corpus")))
        if category == "known-changed":
            pairs += [((lm, "corpus"), (lm, "memory")) for lm in LMS]
        for a, b in pairs:
            if a in rows and b in rows:
                trained = not (a[0] in SHARED and b[0] in SHARED)
                measured = power(rows[a], rows[b], "share", trained=trained)
                label = f"{a[0]} {names[a[1]]} - {b[0]} {names[b[1]]}"
                made.append({"category": category, "contrast": label, **measured})
    return made


def foreseen_shares(tuned: Answers, untuned: Answers, questions: Mapping[str, Asked]) -> str:
    """What the questions of the smallest category would find, from how a trained pair and the
    untuned one follow the old corpus on what nobody has read.
    """
    kept = {key: q for key, q in questions.items() if key in tuned and key in untuned}
    new = {key: q for key, q in kept.items() if q.category == "new"}
    rows = [share_rows([answers], new, "old", "corpus")[0] for answers in (tuned, untuned)]
    fewest = min(sum(q.category == name for q in kept.values()) for name in CATEGORIES)
    return foreseen(*rows, fewest, ("share",))


def power_told(job: Job, run: Run) -> str:
    """`foreseen_shares` of the first seed's pair: told before the new corpus is there."""
    questions = _questions(job)
    found = [told(run.evaluated, lm, questions, "old")[0] for lm in ("radit", "replug")]
    told_of = "if all differ as radit from replug on new facts"
    return f"{foreseen_shares(*found, questions)}, {told_of}"


def estimate(job: Job, run: Run) -> Lines:
    """The new corpus once, a search and the answers of each LM for every seed."""
    unit, seeds = unit_costs(run), max(1, len(job.recipe.seeds))
    corpus = unit["chunk"] + unit["embed"] + unit["index"]
    questions = len(read_answers(run.evaluated, "replug"))
    lines: Lines = [("new corpus", 1.0, corpus), ("search", float(1 + seeds), unit["retrieve"])]
    for lm in LMS:
        seconds = questions * tokens_of(run, lm) * unit["evaluate_token"]
        lines.append((f"{lm}, new corpus", 1.0 if lm in SHARED else float(seeds), seconds))
    return lines


def question() -> Question:
    """Of a recipe that `check` accepts."""
    return Question(estimate=estimate, power=power_told, work=corpus_of_today)
