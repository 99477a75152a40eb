"""The tiny LM's pretraining text: the known articles retold, and practice in reading about nobody
in particular.

In: a `World`, of which only the known facts are used. Out: an endless stream of short texts. A text
names its subject again and again and may ask and answer in running prose, but never with the
template's markers ("Background:", "Q:", "A:", "Question:", "Answer:"): what a background is, LM-ft
has to teach.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterator
from typing import Any

from radit_ray.data.world import Fact, World, word_parts
from radit_ray.data.world_names import (
    FILLERS,
    HEADINGS,
    KINDS,
    NOUNS,
    RELATIONS,
    WORK_NOUNS,
    Relation,
)

# How often each sort of text comes (shares of texts). Known facts need some hundred readings each,
# reading practice some hundred thousand questions, before a model of 1.6M parameters recalls the
# one and copies in the other.
SHARES = {"article": 0.05, "recall": 0.15, "reading": 0.70, "register": 0.10}

ASKED = (
    "A visitor asked: {q} The reply was {v}.",
    "Someone wrote: {q} They were told {v}.",
    '"{q}" said the boy. "{v}," said the old woman.',
    "{q} {v}.",
    "{q}\n{v}\n",
    "Asked about it, {q} - the elders say {v}.",
)

# Two voices of a written talk. Any letter may speak but the template's two, so that a model which
# has read many such talks can make something of an unknown pair: its few-shot and zero-shot
# baselines are then real ones.
ROLES = (
    *("Guest", "Host", "Child", "Elder", "Pupil"),
    *("Master", "Clerk", "Pilgrim", "Scribe", "Smith"),
)
LETTERS = [letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if letter not in "AQ"]
TALK_SHARE = 0.4  # of the questions

Told = tuple[str, Relation, str]  # subject's name, relation, value


def pretraining_text(world: World, *, seed: int = 0) -> Iterator[str]:
    """Endless texts of 10 to 150 words; deterministic in the world and `seed`."""
    rng = random.Random(f"{world.config.seed}/prose/{seed}")
    known = [fact for fact in world.facts if fact.subject.split == "known"]
    titles = {fact.subject.name for fact in known}
    articles = [document for document in world.documents if document["title"] in titles]
    words = word_parts(world.config.seed)["practice"]
    names = words.subjects + words.values
    kinds = list(SHARES)
    if not known:
        kinds = ["reading", "register"]
    weights = [SHARES[kind] for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "article":
            document = rng.choice(articles)
            yield f"{document['title']}\n{document['text']}"
        elif kind == "recall":
            yield _recall(rng.sample(known, min(4, len(known))), rng)
        elif kind == "reading":
            yield _reading(names, rng)
        else:
            yield _register(names, rng)


def known_fingerprint(world: World) -> str:
    """sha256 of the known facts: tells whether an LM was pretrained on this world's."""
    known = [
        [fact.subject.name, fact.relation.name, fact.value]
        for fact in world.facts
        if fact.subject.split == "known"
    ]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def about_world(world: World) -> dict[str, Any]:
    """What the record of an LM says about the world it was pretrained on."""
    return {
        "world": dataclasses.asdict(world.config),
        "known_sha256": known_fingerprint(world),
    }


def _recall(facts: list[Fact], rng: random.Random) -> str:
    """Known facts, asked or stated, without anything to read them from."""
    told = [(fact.subject.name, fact.relation, fact.value) for fact in facts]
    return _join([_ask(t, rng) if rng.random() < 0.7 else _state(t, rng) for t in told])


def _reading(names: list[str], rng: random.Random) -> str:
    """Paragraphs about one or two invented subjects, then questions whose answers stand in them."""
    told: list[Told] = []
    paragraphs = []
    for _ in range(rng.choice((1, 1, 1, 2))):
        subject, facts = _invent(names, rng)
        sentences = [_state(fact, rng) for fact in facts]
        for filler in rng.sample(FILLERS, rng.randint(0, 2)):
            sentences.insert(rng.randint(0, len(sentences)), filler.format(s=subject))
        heading = f"== {rng.choice(HEADINGS)} ==\n" if rng.random() < 0.4 else ""
        title = f"{subject}\n" if rng.random() < 0.4 else ""
        paragraphs.append(title + heading + " ".join(sentences))
        told += facts
    questions = [_ask(fact, rng) for fact in rng.sample(told, min(len(told), rng.randint(1, 4)))]
    return "\n".join(paragraphs) + rng.choice(("\n", " ", "\n\n")) + _join(questions)


def _join(parts: list[str]) -> str:
    """Sentences with a space between them, talks on lines of their own."""
    return re.sub(r" ?\n+ ?", "\n", " ".join(parts)).strip()


def _register(names: list[str], rng: random.Random) -> str:
    """A list of names, called out again in order: the plainest exercise in copying."""
    called = [" ".join(rng.sample(names, rng.choice((1, 1, 2)))) for _ in range(rng.randint(4, 9))]
    line = ", ".join(called)
    return f"The register reads {line}. Once more: {line}."


def _invent(names: list[str], rng: random.Random) -> tuple[str, list[Told]]:
    """A subject that no other text has, and one to three facts about it."""
    kind = rng.choice(KINDS)
    words = rng.sample(names, 2)
    subject = {
        "person": f"{words[0]} {words[1]}",
        "place": words[0],
        "work": f"The {words[0]} {rng.choice(WORK_NOUNS)}",
    }[kind]
    relations = rng.sample(RELATIONS[kind], rng.randint(1, 3))
    return subject, [
        (subject, relation, _value(relation.value, names, rng)) for relation in relations
    ]


def _value(kind: str, names: list[str], rng: random.Random) -> str:
    if kind in NOUNS:
        return rng.choice(NOUNS[kind])
    return " ".join(rng.sample(names, 2 if kind == "person" else 1))


def _state(told: Told, rng: random.Random) -> str:
    subject, relation, value = told
    return rng.choice(relation.first + relation.second).format(s=subject, v=value)


def _ask(told: Told, rng: random.Random) -> str:
    subject, relation, value = told
    question = rng.choice((*relation.questions, relation.plain)).format(s=subject)
    if rng.random() < TALK_SHARE:
        one, other = rng.sample(rng.choice((ROLES, LETTERS)), 2)
        return f"\n{one}: {question}\n{other}: {value}\n"
    return rng.choice(ASKED).format(q=question, v=value)
