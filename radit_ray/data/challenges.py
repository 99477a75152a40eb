"""Questions under changed evidence: a ranked row in, the same question with one chosen chunk out.

    top-k          the row as it was ranked
    gold           the best-ranked chunk that is right and holds the answer
    hard-negative  the best-ranked chunk of another page than any right one, without the answer
    random         a chunk of another question's list, without the answer
    swapped        the gold chunk, its answer replaced by another question's answer

A question is asked under all of them or under none, so that every kind holds the same questions.
What chance decides is read off a hash of (seed, question id): the same in every process and order.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from radit_ray.core.metrics import contains_answer, normalize
from radit_ray.core.templates import GOLD_CONTEXT
from radit_ray.data.rows import answer_hits, hits_of

KINDS = ("top-k", "gold", "hard-negative", "random", "swapped")
CHUNK_FIELDS = ("chunk_ids", "doc_ids", "titles", "texts", "scores")
Row = dict[str, Any]
ItemT = TypeVar("ItemT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Challenge:
    """One question under every kind."""

    rows: dict[str, Row]  # kind -> ranked row
    substitute: str  # what stands in the swapped chunk instead of the answer


def challenges(
    rows: Sequence[Row], *, seed: int = 0, limit: int = 0
) -> tuple[list[Challenge], dict[str, int]]:
    """The questions that all kinds can be made of, in the order given, at most `limit` of them (0 =
    all): those whose ids hash lowest. And how many were left after each condition: asked (open
    questions), with_answer, with_negative, num_questions.
    """
    asked = [row for row in rows if is_open(row)]
    peers = Peers.of(asked)
    counts = {"asked": len(asked), "with_answer": 0, "with_negative": 0}
    found = []
    for row in asked:
        gold, negative = gold_place(row), negative_place(row)
        counts["with_answer"] += gold is not None
        if gold is None or negative is None:
            continue
        counts["with_negative"] += 1
        right = with_chunk(row, row, gold)
        random, swap = random_chunk(row, peers, seed), swapped(right, peers, seed)
        if random is None or swap is None:
            continue
        changed, substitute = swap
        wrong = with_chunk(row, row, negative)
        made = dict(zip(KINDS, (row, right, wrong, random, changed), strict=True))
        found.append(Challenge(rows=made, substitute=substitute))
    ids = [challenge.rows["gold"]["id"] for challenge in found]
    kept = set(sorted(ids, key=lambda name: (_number(seed, name), name))[: limit or None])
    found = [challenge for challenge, name in zip(found, ids, strict=True) if name in kept]
    return found, {**counts, "num_questions": len(found)}


def is_open(row: Row) -> bool:
    """Whether the answer is a text that a chunk can hold: no choices, no pattern, no context of its
    own, no corpus example.
    """
    kinds = {row["category"], row["template"]}
    return not len(row["choices"]) and row["metric"] != "regex" and kinds.isdisjoint(_CLOSED)


_CLOSED = {*GOLD_CONTEXT, "corpus"}


def gold_place(row: Row) -> int | None:
    """The rank, from 0, of the best chunk that counts as right and holds an answer string."""
    both = zip(hits_of(row), answer_hits(row), strict=True)
    return next((place for place, (hit, holds) in enumerate(both) if hit and holds), None)


def negative_place(row: Row) -> int | None:
    """The rank, from 0, of the best chunk that could be taken for right and is not."""
    right = _right_pages(row)
    return next(
        (place for place in range(len(row["texts"])) if _is_wrong(row, row, place, right)), None
    )


def random_chunk(row: Row, peers: Peers, seed: int) -> Row | None:
    """The row with a chunk that another question was given; None where all of them would help."""
    right, own = _right_pages(row), set(row["chunk_ids"])
    number = _number(seed, row["id"], "random")
    for other in _from(peers.rows, number):
        if other["id"] == row["id"]:
            continue
        # the quotient: independent of which question it was
        for place in _from(range(len(other["texts"])), number // max(1, len(peers.rows))):
            if other["chunk_ids"][place] not in own and _is_wrong(row, other, place, right):
                return with_chunk(row, other, place)
    return None


def swapped(right: Row, peers: Peers, seed: int) -> tuple[Row, str] | None:
    """(the gold row with another answer in its chunk, that answer); None where no substitute fits
    or an answer would be left.

    The substitute answers another question of the same task, begins as the answer does (digits,
    capital, other) and has as many words where there is such a one, and stood nowhere in the chunk.
    """
    title, text = right["titles"][0], right["texts"][0]
    answers = right["answers"]
    blank = [replace_answers(part, answers, "") for part in (title, text)]
    if contains_answer(" ".join(blank), answers):
        return None  # written in a way that words cannot be replaced, whatever the substitute
    own = {"", *(normalize(answer) for answer in answers)}
    for substitute in peers.substitutes(right, seed):
        if normalize(substitute) in own or contains_answer(f"{title} {text}", [substitute]):
            continue
        new = [replace_answers(part, answers, substitute) for part in (title, text)]
        if not contains_answer(" ".join(new), answers):
            return {**right, "titles": new[:1], "texts": new[1:]}, substitute
    return None


def replace_answers(text: str, answers: Sequence[str], substitute: str) -> str:
    """The text (NFC) with the substitute in the place of every answer: whole words, any case, the
    longest answer first.

    >>> replace_answers("Paris, or PARIS; not Parisian. Ile-de-France", ["Paris"], "Rome")
    'Rome, or Rome; not Parisian. Ile-de-France'
    """
    patterns = [_pattern(answer) for answer in sorted(answers, key=len, reverse=True)]
    joined = "|".join(pattern for pattern in patterns if pattern)
    text = unicodedata.normalize("NFC", text)
    # a function, since a substitute may hold what `re` reads as a group
    return re.sub(joined, lambda _: substitute, text, flags=re.IGNORECASE) if joined else text


def with_chunk(row: Row, source: Row, place: int) -> Row:
    """The row with one chunk alone, that of `source` at a rank."""
    return {**row, **{name: [source[name][place]] for name in CHUNK_FIELDS}}


def shape(answer: str) -> tuple[str, int]:
    """(how it begins: "0" digit, "A" capital, "a" anything else; number of words).

    >>> shape("1990"), shape("New York"), shape("cooper")
    (('0', 1), ('A', 2), ('a', 1))
    """
    first = answer.strip()[:1]
    return "0" if first.isdigit() else "A" if first.isupper() else "a", len(answer.split())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peers:
    """All questions of one split, and their answers by task and shape: what the others lend."""

    rows: list[Row]  # by id
    answers: Mapping[tuple[Any, ...], list[str]]  # (task[, how it begins[, words]]) -> distinct

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Peers:
        ordered = sorted(rows, key=lambda row: str(row["id"]))
        answers: dict[tuple[Any, ...], dict[str, None]] = collections.defaultdict(dict)
        for row in ordered:
            answer = row["answers"][0]
            for key in _keys(row["task"], answer):
                answers[key][answer] = None
        return cls(rows=ordered, answers={key: list(found) for key, found in answers.items()})

    def substitutes(self, row: Row, seed: int) -> Iterator[str]:
        """Answers of the same task, those of the same shape first."""
        number = _number(seed, row["id"], "substitute")
        for key in _keys(row["task"], row["answers"][0]):
            yield from _from(self.answers.get(key, []), number)


def _keys(task: str, answer: str) -> tuple[tuple[Any, ...], ...]:
    start, words = shape(answer)
    return (task, start, words), (task, start), (task,)


def _right_pages(row: Row) -> set[str]:
    """Ids and titles of the documents that hold an answer or count as right."""
    right = set(row["gold_ids"])
    for place, (hit, holds) in enumerate(zip(hits_of(row), answer_hits(row), strict=True)):
        if hit or holds:
            # passages of one page may be documents of their own (psgs_w100.tsv), of one title
            right |= {row["doc_ids"][place], f"title {row['titles'][place]}"}
    return right - {"title "}


def _is_wrong(row: Row, source: Row, place: int, right: set[str]) -> bool:
    """Whether a chunk is of another page than the right ones, and neither its title nor its text
    holds an answer.
    """
    title, text = source["titles"][place], source["texts"][place]
    page = {source["chunk_ids"][place], source["doc_ids"][place], f"title {title}"}
    return page.isdisjoint(right) and not contains_answer(f"{title} {text}", row["answers"])


def _pattern(answer: str) -> str:
    """The answer's words as `contains_answer` cuts them, with any white space between them."""
    words = re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFC", answer))
    pattern = "".join(
        (r"\s+" if words[number - 1][-1:].isalnum() and word[:1].isalnum() else r"\s*")
        * bool(number)
        + re.escape(word)
        for number, word in enumerate(words)
    )
    left, right = words[:1], words[-1:]
    before = r"(?<!\w)" if left and left[0][0].isalnum() else ""
    after = r"(?!\w)" if right and right[0][-1].isalnum() else ""
    return f"{before}{pattern}{after}"


def _number(seed: int, *words: str) -> int:
    text = ":".join([str(seed), *words])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _from(items: Sequence[ItemT], number: int) -> Iterator[ItemT]:
    """All items once around, from a place that the number decides."""
    for step in range(len(items)):
        yield items[(number + step) % len(items)]
