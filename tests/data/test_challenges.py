"""Contract of the challenges: each kind shows the chunk its name says, no wrong chunk holds the
answer, a swap leaves nothing of the old answer and touches whole words only, every kind holds the
same questions, and chance is a hash of the question's id.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from radit_ray.core.metrics import contains_answer
from radit_ray.data.challenges import (
    CHUNK_FIELDS,
    KINDS,
    Peers,
    challenges,
    gold_place,
    is_open,
    negative_place,
    random_chunk,
    replace_answers,
    swapped,
    with_chunk,
)
from radit_ray.data.rows import RANKED, example_row

Row = dict[str, Any]


def ranked(name: str, answers: list[str], chunks: list[tuple[str, str, str]], **fields: Any) -> Row:
    """A ranked row over (document, title, text), best first; chunk "d#2" is the third of its
    list.
    """
    example = {"id": name, "question": f"What of {name}?", "answers": answers, "task": "t"}
    documents, titles, texts = (list(part) for part in zip(*chunks, strict=True))
    return {
        **example_row({**example, "split": "eval", **fields}),
        "chunk_ids": [f"{document}#{rank}" for rank, document in enumerate(documents)],
        "doc_ids": documents,
        "titles": titles,
        "texts": texts,
        "scores": [1.0 - rank / 10 for rank in range(len(chunks))],
        "index_version": "0123456789ab",
    }


def towns(number: int = 8) -> list[Row]:
    """Questions whose list is: their own page twice (the second with the answer), a page without
    the answer, a page that holds it by chance, a page without.
    """
    rows = []
    for i in range(number):
        year = str(1200 + 11 * i)
        rows.append(
            ranked(
                f"q{i}",
                [year],
                [
                    (f"own{i}", f"Town {i}", "A quiet town."),
                    (f"own{i}", f"Town {i}", f"Founded in {year}, walled in {year}."),
                    (f"chance{i}", "Annals", f"A flood in {year}."),
                    (f"near{i}", f"Ville {i}", "A town on a hill."),
                    (f"far{i}", f"Burg {i}", "A town in a valley."),
                ],
            )
        )
    return rows


def test_each_kind_shows_the_chunk_its_name_says() -> None:
    rows = towns()
    found, counts = challenges(rows)
    expected = {"asked": 8, "with_answer": 8, "with_negative": 8, "num_questions": 8}
    assert counts == expected
    for row, challenge in zip(rows, found, strict=True):
        made = challenge.rows
        assert tuple(made) == KINDS
        assert made["top-k"] == row
        for kind in KINDS[1:]:
            assert set(made[kind]) == set(RANKED.names)
            assert all(len(made[kind][name]) == 1 for name in CHUNK_FIELDS)
            assert {n: v for n, v in made[kind].items() if n not in CHUNK_FIELDS} == {
                n: v for n, v in row.items() if n not in CHUNK_FIELDS
            }
        assert made["gold"]["texts"] == [row["texts"][1]]
        # not the own page's first chunk, though it lacks the answer, and not the page of chance
        assert made["hard-negative"]["doc_ids"] == [row["doc_ids"][3]]
        assert made["random"]["chunk_ids"][0] not in row["chunk_ids"]
        assert made["swapped"]["chunk_ids"] == made["gold"]["chunk_ids"]
        sub = challenge.substitute
        assert made["swapped"]["texts"] == [f"Founded in {sub}, walled in {sub}."]
        assert sub in {other["answers"][0] for other in rows} - {row["answers"][0]}


def test_no_wrong_chunk_holds_an_answer_in_text_or_title() -> None:
    rows = towns()
    rows[0]["titles"][3] = f"Year {rows[0]['answers'][0]}"
    found, _ = challenges(rows)
    assert found[0].rows["hard-negative"]["doc_ids"] == ["far0"]
    for challenge in found:
        for kind in ("hard-negative", "random", "swapped"):
            row = challenge.rows[kind]
            assert not contains_answer(f"{row['titles'][0]} {row['texts'][0]}", row["answers"])


def test_gold_ids_decide_what_is_right_and_a_title_what_is_one_page() -> None:
    chunks = [
        ("a", "Rome", "Nero lived here."),
        ("b", "Nero", "Nero was born in 37."),
        ("c", "Nero", "He played the lyre."),
        ("d", "Lyre", "It has strings."),
    ]
    row = ranked("q", ["Nero"], chunks, gold_ids=["b#1"])
    assert gold_place(row) == 1  # the first holds the string and is not the right chunk
    assert negative_place(row) == 3  # c is a document of its own, of the right page's title
    assert gold_place({**row, "gold_ids": []}) == 0
    assert gold_place({**row, "gold_ids": ["d"]}) is None  # right, but without the answer


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("Paris. PARIS, Paris's; Parisian", ["Paris"], "X. X, X's; Parisian"),
        ("in 1,000 and 11,000 of 1,000", ["1,000"], "in X and 11,000 of X"),
        ("New  York\nCity and New York", ["New York", "New York City"], "X and X"),
        ("the art of state-of-the-art art", ["state-of-the-art"], "the art of X art"),
        ("Zu\u0308rich or Zürich", ["Zürich"], "X or X"),
        ("cost (a+b) and a+b", ["a+b"], "cost (X) and X"),
        ("nothing here", ["Rome"], "nothing here"),
    ],
)
def test_every_answer_is_replaced_and_whole_words_only(
    text: str, answers: list[str], expected: str
) -> None:
    assert replace_answers(text, answers, "X") == expected
    assert replace_answers(text, answers, r"\1 \g<0>") == expected.replace("X", r"\1 \g<0>")


def test_a_substitute_has_the_shape_of_the_answer_and_is_new_to_the_chunk() -> None:
    def row(name: str, answer: str, text: str = "") -> Row:
        return ranked(name, [answer], [(name, "Page", text or f"It is {answer}.")])

    rows = [row("a", "1900"), row("b", "cooper"), row("c", "Anna Ley"), row("d", "Rome")]
    rows += [row("e", "Otto Kern"), row("f", "1950"), {**row("g", "1977"), "task": "other"}]
    peers = Peers.of(rows)

    def substitute(one: Row) -> str | None:
        swap = swapped(with_chunk(one, one, 0), peers, 0)
        return swap and swap[1]

    assert substitute(rows[0]) == "1950"
    assert substitute(rows[2]) == "Otto Kern"  # as many words, then any capital
    assert substitute(row("h", "Ulm")) == "Rome"
    assert substitute(rows[1]) in {"1900", "Anna Ley", "Rome", "Otto Kern", "1950"}  # no such shape
    assert substitute(rows[6]) is None  # no other question of its task
    both = row("a", "1900", "From 1900 to 1950.")
    assert substitute(both) not in ("1900", "1950")  # else it would be no news
    changed = swapped(with_chunk(rows[3], rows[3], 0), peers, 0)
    assert changed is not None
    assert changed[0]["answers"] == ["Rome"]
    assert rows[3]["texts"] == ["It is Rome."]  # the row itself stays


def test_an_answer_that_words_cannot_replace_gives_no_swap() -> None:
    rows = [*towns(3), ranked("q", ["a_b"], [("d", "Page", "It is a _b.")])]
    last = rows[-1]
    assert contains_answer(last["texts"][0], last["answers"])
    assert swapped(with_chunk(last, last, 0), Peers.of(rows), 0) is None


def test_what_cannot_be_challenged_is_left_out() -> None:
    rows = towns(4)
    pages = list(zip(rows[0]["doc_ids"], rows[0]["titles"], rows[0]["texts"], strict=True))
    choice = ranked("choice", ["1200"], pages, choices=["1200", "1201"])
    pattern = ranked("pattern", ["12.."], pages, metric="regex")
    reading = ranked("reading", ["1200"], pages, category="reading-comprehension")
    assert not any(is_open(row) for row in (choice, pattern, reading))
    alone = ranked("alone", ["1200"], pages[:2])  # no other page
    lost = ranked("lost", ["1999"], pages)  # no answer
    found, counts = challenges([*rows, choice, pattern, reading, alone, lost])
    assert counts == {"asked": 6, "with_answer": 5, "with_negative": 4, "num_questions": 4}
    assert [challenge.rows["gold"]["id"] for challenge in found] == ["q0", "q1", "q2", "q3"]
    # nobody to borrow from
    assert random_chunk(rows[0], Peers.of(rows[:1]), 0) is None
    assert challenges(rows[:1])[0] == []
    assert challenges([])[1]["asked"] == 0


def test_chance_depends_on_seed_and_id_alone() -> None:
    rows = towns(12)
    found, _ = challenges(rows, seed=3)
    by_id = {challenge.rows["gold"]["id"]: challenge for challenge in found}
    mixed = list(rows)
    random.Random(0).shuffle(mixed)
    again, _ = challenges(mixed, seed=3)
    assert {challenge.rows["gold"]["id"]: challenge for challenge in again} == by_id
    other, _ = challenges(rows, seed=4)
    assert [c.substitute for c in other] != [c.substitute for c in found]
    few, counts = challenges(rows, seed=3, limit=5)
    more, _ = challenges(rows, seed=3, limit=7)
    assert counts["num_questions"] == len(few) == 5
    assert all(challenge in more for challenge in few)
    assert all(by_id[challenge.rows["gold"]["id"]] == challenge for challenge in few)
