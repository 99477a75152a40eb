"""Contract: a seeded choice of pages, nested in a larger choice; same-title pages all there,
marked.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.distractors import write_distractors


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    rows = [{"id": str(n), "title": f"Page {n}", "text": f"text {n}"} for n in range(50)]
    path = tmp_path / "wiki.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def chosen(corpus: str, output: Path, num: int, seed: int = 0) -> list[dict[str, str]]:
    count = write_distractors(
        corpus,
        str(output),
        num_documents=num,
        source="wiki",
        titles=["page_3", "PAGE 40", "Elsewhere"],
        seed=seed,
    )
    assert count == {"distractors": num, "same-title": 2}
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_same_titles_are_all_there_and_marked(corpus: str, tmp_path: Path) -> None:
    rows = chosen(corpus, tmp_path / "out.jsonl", 10)
    assert [row["id"] for row in rows if row["source"] == "wiki/same-title"] == ["3", "40"]
    others = [row for row in rows if row["source"] == "wiki"]
    assert len({row["id"] for row in others} - {"3", "40"}) == 10
    assert all(row["text"] == f"text {row['id']}" for row in rows)


def test_a_larger_choice_holds_a_smaller_one_and_seeds_differ(corpus: str, tmp_path: Path) -> None:
    ids = {
        (num, seed): [row["id"] for row in chosen(corpus, tmp_path / "out.jsonl", num, seed)]
        for num, seed in ((10, 0), (30, 0), (10, 1))
    }
    assert ids[30, 0][: len(ids[10, 0])] == ids[10, 0]
    assert set(ids[10, 0]) != set(ids[10, 1])


def test_more_than_there_are_is_refused(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has 48 pages"):
        chosen(corpus, tmp_path / "out.jsonl", 49)
