"""Contract of demonstrations: whole train examples of the question's own subject, else task; equal
for all variants, nested, and never more than there are.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import Input, commit_shard
from radit_ray.data.rows import RANKED, example_row
from radit_ray.engines.demonstrations import draw_shots, shots_of
from radit_ray.engines.variants import Variant

CHUNK = {
    "chunk_ids": ["d#0"],
    "doc_ids": ["d"],
    "titles": ["Title"],
    "texts": ["text"],
    "scores": [1.0],
    "index_version": "0123456789ab",
}
ASKED = [("exam", "law"), ("exam", "art"), ("quiz", "")]


def row_of(task: str, number: int, article: str = "", split: str = "train") -> dict[str, Any]:
    question = f"{task} {article} {number}?"
    partial = {"id": question, "task": task, "article": article, "split": split}
    return {**example_row({**partial, "question": question, "answers": [f"a{number}"]}), **CHUNK}


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Input:
    """Two shards: 8 train rows of a quiz, 4 of an exam in law, 1 in art, and corpus examples."""
    folder = str(tmp_path_factory.mktemp("ranked"))
    rows = [row_of("quiz", n) for n in range(8)] + [row_of("exam", n, "law") for n in range(4)]
    rows += [row_of("exam", 0, "art"), row_of("quiz", 99, split="eval"), row_of("corpus", 1)]
    files = []
    for number, part in enumerate((rows[::2], rows[1::2])):
        table = pa.Table.from_pylist(part, schema=RANKED)
        files.append(commit_shard(folder, f"part-{number}.parquet", table))
    made = {"format_version": 1, "stage": "retrieve", "fingerprint": "f", "files": files}
    storage.write_json(f"{folder}/manifest.json", made)
    return Input(path=folder, fingerprint="")


def questions_of(shots: list[str]) -> list[str]:
    return [text.partition("Q: ")[2].partition("\n")[0] for text in shots]


def test_shots_come_from_the_own_subject_else_the_own_task(ranked: Input) -> None:
    drawn = draw_shots(ranked, Variant(name="x", shots=3), ASKED, seed=0)
    law = questions_of(shots_of(drawn, row_of("exam", 50, "law")))
    assert len(law) == len(set(law)) == 3
    assert all(question.startswith("exam law") for question in law)
    # one example in art are too few: from the whole exam
    art = questions_of(shots_of(drawn, row_of("exam", 50, "art")))
    assert len(art) == 3
    assert all(question.startswith("exam") for question in art)
    quiz = questions_of(shots_of(drawn, row_of("quiz", 99)))
    assert all(question.startswith("quiz") for question in quiz)
    assert "quiz  99?" not in quiz
    # a task that train does not know gets what there is, but no corpus example
    other = questions_of(shots_of(drawn, row_of("new", 1)))
    assert len(other) == 3
    assert not any(question.startswith("corpus") for question in other)


def test_fewer_shots_are_the_first_of_more_and_depend_on_the_seed(ranked: Input) -> None:
    def quiz(shots: int, seed: int = 0, **fields: Any) -> list[str]:
        drawn = draw_shots(ranked, Variant(name="x", shots=shots, **fields), ASKED, seed=seed)
        return shots_of(drawn, row_of("quiz", 99))

    assert quiz(2) == quiz(6)[:2]
    assert quiz(6) != quiz(6, seed=1)
    assert questions_of(quiz(3, k=0)) == questions_of(quiz(3, k=2))
    assert draw_shots(ranked, Variant(name="x"), ASKED, seed=0) == {}


@pytest.mark.parametrize(("fields", "chunk"), [({"k": 2}, True), ({"k": 0}, False)])
def test_shots_are_whole_demonstrations(ranked: Input, fields: Any, chunk: bool) -> None:
    drawn = draw_shots(ranked, Variant(name="x", shots=2, **fields), ASKED, seed=0)
    for text in shots_of(drawn, row_of("quiz", 99)):
        number = text.partition("quiz  ")[2].partition("?")[0]
        background = "Background: Title text\n\n" if chunk else ""
        assert text == f"{background}Q: quiz  {number}?\nA: a{number}\n\n"
    bare = draw_shots(ranked, Variant(name="x", shots=2, shot_chunks=False), ASKED, seed=0)
    assert "Background" not in shots_of(bare, row_of("quiz", 99))[0]


def test_too_few_demonstrations_are_refused(ranked: Input) -> None:
    with pytest.raises(InputError, match="variant 'x' wants 14 shots, 13 train examples are there"):
        draw_shots(ranked, Variant(name="x", shots=14), ASKED, seed=0)
