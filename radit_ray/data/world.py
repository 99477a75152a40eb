"""A generated world: invented people, places and works, told in short articles, and questions about
them.

In: a `WorldConfig`. Out: document rows, example rows and, for the tiny LM of `radit demo`, plain
text to pretrain on. Everything follows from the config and its seed, in any process.

Each subject is one article of `chunks_per_subject` sections, each of 20 to `CHUNK_WORDS` words, so
that chunking at `CHUNK_WORDS` words turns section n into chunk `<doc id>#<n>`. Each fact stands in
two sections in different words. The title and each section name the subject: which chunk answers a
question is decided by the relation. Subjects are split into `known` (their facts are in the
pretraining text), `train`, `dev` and `eval`; names, of subjects and in answers, are drawn from
disjoint words, and practice paragraphs of the pretraining text have their own.

    paths = write_world(WorldConfig(), "world")     # corpus.jsonl, train.jsonl, dev.jsonl,
    eval.jsonl
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radit_ray.core.errors import Bounds, InputError, check_bounds
from radit_ray.data.world_names import (
    FILLERS,
    FIRST_SYLLABLES,
    HEADINGS,
    KINDS,
    NOUNS,
    RELATIONS,
    SECOND_SYLLABLES,
    WORK_NOUNS,
    Relation,
)

CHUNK_WORDS = (
    36  # a section has at most this many words and more than half, so neighbours never merge
)
MIN_SECTION_WORDS = 20
SPLITS = ("known", "train", "dev", "eval")
# Which part of all words names the subjects and answers of a split. Fixed, so that a larger world
# never takes a word that an LM, pretrained on a smaller one, has met in another part.
WORD_SHARES = {
    "known": 0.15,
    "train": 0.17,
    "dev": 0.06,
    "eval": 0.24,
    "noise": 0.08,
    "practice": 0.30,
}
SUBJECT_SHARE = 0.7  # of a split's words: names of subjects; the rest: names in answers


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """What decides the world. The defaults are the world that the packaged LM was pretrained on."""

    num_known: int = 150  # subjects whose facts are in the base LM's text
    num_train: int = 150
    num_dev: int = 40
    num_eval: int = 150
    relations_per_subject: int = 4  # 1-5: questions per subject
    facts_per_chunk: int = 2  # 1 or 2: the most facts a section states
    chunks_per_subject: int = 6  # 4-1000; what is left after two statements per fact is filler
    vocabulary_gap: bool = True  # questions use relation words that no article has
    num_distractors: int = 60  # articles about namesakes of eval subjects, with facts of their own
    num_noise: int = 60  # articles that state no fact
    changed_share: float = 0.1  # 0-1: facts that differ in the second snapshot
    snapshot_dates: tuple[str, str] = ("2023-01-01", "2024-01-01")
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One invented person, place or work."""

    name: str
    kind: str  # one of KINDS
    split: str  # one of SPLITS, or "distractor" or "noise"

    @property
    def id(self) -> str:
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """(subject, relation, value) as one snapshot has it, and the sections that state it."""

    subject: Subject
    relation: Relation
    value: str
    changed: bool  # the snapshots differ in it
    sections: tuple[int, int]  # first in `relation.first`'s words, then in `relation.second`'s

    @property
    def chunk_ids(self) -> list[str]:
        return [f"{self.subject.id}#{number}" for number in sorted(self.sections)]


@dataclass(frozen=True, kw_only=True)
class World:
    """Rows for the stages (`documents`, `examples`) and the facts that they came from."""

    config: WorldConfig
    snapshot: int  # 1 or 2
    facts: tuple[Fact, ...]
    documents: tuple[dict[str, Any], ...]
    examples: tuple[dict[str, Any], ...]


# --- the config ---


def check_config(config: WorldConfig) -> None:
    """InputError for a world that cannot be."""
    bounds: Bounds = {
        "num_known": (0, None), "num_train": (1, None), "num_dev": (0, None), "num_eval": (1, None),
        "relations_per_subject": (1, 5), "facts_per_chunk": (1, 2), "chunks_per_subject": (4, 1000),
        "num_distractors": (0, None), "num_noise": (0, None), "changed_share": (0, 1),
    }  # fmt: skip
    check_bounds(config, bounds)
    statements, room = (
        2 * config.relations_per_subject,
        config.facts_per_chunk * config.chunks_per_subject,
    )
    if statements > room:
        raise InputError(
            f"chunks_per_subject={config.chunks_per_subject} x facts_per_chunk="
            f"{config.facts_per_chunk} has room for {room} statements; "
            f"expected at least {statements}, two per relation: raise chunks_per_subject"
        )
    asked = [
        r for relations in RELATIONS.values() for r in relations[: config.relations_per_subject]
    ]
    if config.vocabulary_gap and (without := [r.name for r in asked if not r.questions]):
        raise InputError(
            f"vocabulary_gap=True, but relation {without[0]!r} has no synonyms to ask with; "
            "expected Relation.questions: add some, or set vocabulary_gap=False"
        )


# --- names and values ---


@dataclass(frozen=True)
class Words:
    """The words of one part of the world: subjects take theirs off the list, values come back
    again.
    """

    part: str
    subjects: list[str]
    values: list[str]

    def subject(self, kind: str, split: str) -> Subject:
        """The next unused name. A person has two words, a place one, a work one and a noun."""
        if len(self.subjects) < 2:
            fields = "num_distractors or num_noise" if self.part == "noise" else f"num_{self.part}"
            raise InputError(
                f"the names of part {self.part!r} are used up; "
                f"expected fewer subjects there: lower {fields} of WorldConfig"
            )
        word = self.subjects.pop()
        if kind == "person":
            word = f"{word} {self.subjects.pop()}"
        elif kind == "work":
            word = f"The {word} {WORK_NOUNS[len(self.subjects) % len(WORK_NOUNS)]}"
        return Subject(name=word, kind=kind, split=split)

    def value(self, kind: str, rng: random.Random) -> str:
        if kind in NOUNS:
            return rng.choice(NOUNS[kind])
        return " ".join(rng.sample(self.values, 2 if kind == "person" else 1))


def word_parts(seed: int) -> dict[str, Words]:
    """All words, shuffled and dealt to the parts of WORD_SHARES."""
    every = [first + second for first in FIRST_SYLLABLES for second in SECOND_SYLLABLES]
    random.Random(f"{seed}/words").shuffle(every)
    parts, start = {}, 0
    for part, share in WORD_SHARES.items():
        words = every[start : start + int(share * len(every))]
        start += len(words)
        cut = int(SUBJECT_SHARE * len(words))
        parts[part] = Words(part, words[:cut], words[cut:])
    return parts


def _namesake(subject: Subject, words: Words) -> Subject:
    """Another subject that shares a word with `subject`."""
    if subject.kind == "person":
        name = f"{words.subject('place', 'distractor').name} {subject.name.split()[1]}"
    elif subject.kind == "place":
        name = f"{subject.name} Abbey"
    else:
        name = f"{subject.name} Copy"
    return Subject(name=name, kind=subject.kind, split="distractor")


def _facts(subject: Subject, config: WorldConfig, snapshot: int, words: Words) -> list[Fact]:
    """The subject's facts; their own generator, so that no other subject has a say in them."""
    rng = random.Random(f"{config.seed}/facts/{subject.id}")
    relations = RELATIONS[subject.kind][: config.relations_per_subject]
    places = _deal_sections(len(relations), config, rng)
    facts = []
    for relation, sections in zip(relations, places, strict=True):
        value, later = words.value(relation.value, rng), words.value(relation.value, rng)
        while later == value:
            later = words.value(relation.value, rng)
        changed = rng.random() < config.changed_share
        if changed and snapshot == 2:
            value = later
        facts.append(
            Fact(
                subject=subject, relation=relation, value=value, changed=changed, sections=sections
            )
        )
    return facts


def _deal_sections(num: int, config: WorldConfig, rng: random.Random) -> list[tuple[int, int]]:
    """Two different sections for each of `num` facts, none over `facts_per_chunk`, as even as can
    be.
    """
    load = [0] * config.chunks_per_subject
    dealt = []
    for _ in range(num):
        order = sorted(range(len(load)), key=lambda n: (load[n], rng.random()))[:2]
        for n in order:
            load[n] += 1
        dealt.append((order[0], order[1]))
    return dealt


# --- articles and questions ---


def _article(subject: Subject, facts: list[Fact], config: WorldConfig, date: str) -> dict[str, Any]:
    """One document row of `chunks_per_subject` headed sections."""
    rng = random.Random(f"{config.seed}/article/{subject.id}")
    headings = [HEADINGS[n % len(HEADINGS)] for n in range(config.chunks_per_subject)]
    rng.shuffle(headings)
    stated: list[list[str]] = [[] for _ in headings]
    for fact in facts:
        for section, wordings in zip(
            fact.sections, (fact.relation.first, fact.relation.second), strict=True
        ):
            stated[section].append(rng.choice(wordings).format(s=subject.name, v=fact.value))
    text = "\n\n".join(
        f"== {heading} ==\n{_section(subject.name, sentences, rng)}"
        for heading, sentences in zip(headings, stated, strict=True)
    )
    return {"id": subject.id, "title": subject.name, "text": text, "source": "world", "date": date}


def _section(name: str, sentences: list[str], rng: random.Random) -> str:
    """The statements among as many fillers as bring the section, heading included, to
    MIN_SECTION_WORDS.
    """
    sentences, fillers = list(sentences), rng.sample(FILLERS, len(FILLERS))
    while 3 + sum(len(sentence.split()) for sentence in sentences) < MIN_SECTION_WORDS:
        sentences.insert(rng.randint(0, len(sentences)), fillers.pop().format(s=name))
    return " ".join(sentences)


def _example(fact: Fact, config: WorldConfig, date: str) -> dict[str, Any]:
    """One example row; `known` subjects are evaluated too, as a task of their own."""
    subject, relation = fact.subject, fact.relation
    rng = random.Random(f"{config.seed}/question/{subject.id}/{relation.name}")
    wording = rng.choice(relation.questions) if config.vocabulary_gap else relation.plain
    question = wording.format(s=subject.name)
    task = "world-known" if subject.split == "known" else "world"
    return {
        "id": f"{task}:{subject.id}:{relation.name}",
        "task": task,
        "split": "eval" if subject.split == "known" else subject.split,
        "category": "open-domain-qa",
        "question": question,
        "query": question,
        "answers": [fact.value],
        "choices": [],
        "context": "",
        "date": date,
        "group": subject.id,
        "gold_ids": fact.chunk_ids,
        "exclude_ids": [],
    }


def make_world(config: WorldConfig, *, snapshot: int = 1) -> World:
    """Articles, questions and facts of one of the two snapshots; ids are the same in both.

    Raises: InputError on a world that cannot be (check_config, more subjects than names) or another
    snapshot.
    """
    check_config(config)
    if snapshot not in (1, 2):
        raise InputError(f"snapshot={snapshot}; expected 1 or 2: the world has two dated snapshots")
    words, date = word_parts(config.seed), config.snapshot_dates[snapshot - 1]
    facts: list[Fact] = []
    documents: list[dict[str, Any]] = []
    examples: list[dict[str, Any]] = []
    by_split: dict[str, list[Subject]] = {}
    for split in SPLITS:
        num = getattr(config, f"num_{split}")
        by_split[split] = [words[split].subject(KINDS[n % len(KINDS)], split) for n in range(num)]
        for subject in by_split[split]:
            own = _facts(subject, config, snapshot, words[split])
            facts += own
            documents.append(_article(subject, own, config, date))
            examples += [_example(fact, config, date) for fact in own]
    for subject in _others(config, by_split["eval"], words["noise"]):
        own = (
            _facts(subject, config, snapshot, words["noise"])
            if subject.split == "distractor"
            else []
        )
        documents.append(_article(subject, own, config, date))
    random.Random(f"{config.seed}/order").shuffle(documents)
    return World(
        config=config,
        snapshot=snapshot,
        facts=tuple(facts),
        documents=tuple(documents),
        examples=tuple(examples),
    )


def _others(config: WorldConfig, subjects: list[Subject], words: Words) -> Iterator[Subject]:
    """The subjects that nobody asks about: namesakes, then noise."""
    if config.num_distractors > len(subjects):
        raise InputError(
            f"num_distractors={config.num_distractors}; expected at most num_eval={len(subjects)}, "
            "one namesake each: lower num_distractors"
        )
    for subject in subjects[: config.num_distractors]:
        yield _namesake(subject, words)
    for number in range(config.num_noise):
        yield words.subject(KINDS[number % len(KINDS)], "noise")


def write_world(config: WorldConfig, folder: str | Path, *, snapshot: int = 1) -> dict[str, Path]:
    """Writes corpus.jsonl, train.jsonl, dev.jsonl and eval.jsonl; returns their paths by those
    stems.
    """
    world = make_world(config, snapshot=snapshot)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows = {"corpus": world.documents}
    rows |= {
        split: tuple(e for e in world.examples if e["split"] == split)
        for split in ("train", "dev", "eval")
    }
    paths = {name: folder / f"{name}.jsonl" for name in rows}
    for name, path in paths.items():
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[name]),
            encoding="utf-8",
        )
    return paths
