"""Contract of `radit plan index`: bytes are those of the files, recall is what was measured, and a
wish that nothing fulfils is told with what comes nearest.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.index_kinds import kinds_of, publish_index_kinds, shipped
from radit_ray.cli import _dispatch
from radit_ray.core.errors import InputError
from radit_ray.index_plan import bytes_per_chunk, choices, measured, recommend
from radit_ray.models import faiss_shard

ROOT = Path(__file__).parents[1]


def row(kind: str, recall: float, speed: float, **changes: object) -> dict[str, object]:
    plain = {"vectors": "text", "num_chunks": 100_000, "dimension": 384, "pq_bytes": 0}
    plain |= {"kind": kind, "effort": 0, "recall": recall, "queries_per_s": speed}
    return {**plain, "bytes_per_chunk": 0.0, **changes}


ROWS = [
    row("flat", 1.0, 100),
    row("sq", 0.98, 90),
    row("ivf", 0.9, 2000, effort=1),
    row("ivf", 0.97, 900, effort=4),
    row("ivf", 0.95, 1000, effort=4, vectors="synthetic"),
    row("ivfpq", 0.6, 3000, effort=4, pq_bytes=48),
    row("hnsw", 0.99, 5000, effort=64),
]


@pytest.mark.parametrize("kind", faiss_shard.KINDS)
def test_bytes_are_those_of_the_file(kind: str, tmp_path: Path) -> None:
    """Within 3%: a file has a head, and hnsw draws the levels of its nodes."""
    count, width, pq_bytes = 4000, 32, 8 if kind == "ivfpq" else 0
    vectors_ND = np.random.default_rng(0).standard_normal((count, width)).astype(np.float16)
    faiss_shard.save(faiss_shard.build(kind, vectors_ND, m=pq_bytes), tmp_path / "shard.faiss")
    size = (tmp_path / "shard.faiss").stat().st_size
    predicted = bytes_per_chunk(kind, num_vectors=count, dimension=width, pq_bytes=pq_bytes)
    assert size / count == pytest.approx(predicted, rel=0.03)


def test_the_fastest_that_finds_enough_and_fits() -> None:
    made = choices(num_chunks=1e6, dimension=768, rows=ROWS)
    wish = {"num_chunks": 1e6, "memory_bytes": 3e9}
    assert recommend(made, recall=0.95, **wish).kind == "hnsw"
    assert recommend(made, recall=0.995, **wish).kind == "flat"
    tight = recommend(made, num_chunks=1e6, recall=0.9, memory_bytes=1e9)
    assert tight.kind == "sq"
    pq = recommend(made, num_chunks=1e6, recall=0.5, memory_bytes=2e8)
    assert (pq.kind, pq.pq_bytes) == ("ivfpq", 96)  # the same share of the width
    assert pq.total_bytes < 2e8


def test_of_two_sets_of_vectors_the_worse_recall_counts() -> None:
    made = choices(num_chunks=1e6, dimension=384, rows=ROWS)
    assert [one.recall for one in made if one.kind == "ivf"] == [0.9, 0.95]


def test_shards_stay_small_enough_to_be_built() -> None:
    made = choices(num_chunks=399e6, dimension=768, rows=ROWS)
    kinds = {one.kind: one for one in made}
    assert "hnsw" not in kinds
    flat = kinds["flat"]
    assert flat.total_bytes == pytest.approx(399e6 * 1536)
    assert flat.num_shards == 77
    assert flat.command == "radit index --kind flat --num-shards 77"
    assert "--nprobe" in kinds["ivf"].command


@pytest.mark.parametrize(
    ("recall", "memory", "message"),
    [
        (0.0, 1.0, "recall 0, expected above 0 and at most 1"),
        (1.5, 1.0, "recall 1.5, expected"),
        (0.9, 0.0, "memory 0 GB, expected above 0"),
        (0.9, 0.001, r"0.001 GB hold no index.*recall 0.9 takes 0.768 GB \(sq\); raise --memory"),
        (0.9, 0.2, "no measured index finds 0.9 within 0.2 GB.*within them ivfpq finds 0.600"),
    ],
)
def test_wishes_that_cannot_be(recall: float, memory: float, message: str) -> None:
    made = choices(num_chunks=1e6, dimension=768, rows=ROWS)
    with pytest.raises(InputError, match=message) as caught:
        recommend(made, num_chunks=1e6, recall=recall, memory_bytes=1e9 * memory)
    assert "\n" not in str(caught.value)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    _dispatch(["plan", "index", "--chunks", "399M", "--memory", "1000", "--recall", "0.99"])
    shown = capsys.readouterr().out
    assert "-> flat" in shown or "-> sq" in shown or "-> ivf" in shown
    assert "they are a guess" in shown
    assert "benchmarks.index_kinds" in shown
    _dispatch(["plan", "index", "--chunks", "20k", "--memory", "1", "--dimension", "384", "--json"])
    best = json.loads(capsys.readouterr().out)["best"]
    assert best["recall"] >= 0.95
    assert best["total_bytes"] < 1e9
    for words, message in (
        (["--chunks", "1M", "--memory", "1", "--dimension", "0"], "dimension=0"),
        (["--chunks", "many", "--memory", "1"], "'many', expected a number"),
    ):
        with pytest.raises(InputError, match=message):
            _dispatch(["plan", "index", *words])


def test_the_package_carries_what_the_page_shows(tmp_path: Path) -> None:
    table = measured()
    kinds = {one["kind"] for one in table["rows"]}
    assert kinds == set(faiss_shard.KINDS)
    for one in table["rows"]:
        assert one["kind"] != "flat" or one["recall"] == 1.0
        assert 0 < one["recall"] <= 1
    assert {kind for kind, _, _ in kinds_of(2_000_000, 384)} == kinds - {"hnsw"}
    rows = [{**one, "name": "n", "ours": 1.0, "peer": 1.0, "ratio": 1.0} for one in table["rows"]]
    more = {"floor": 0.9, "build_s": 1.0, "nprobe": 0, "num_queries": 4}
    found = {**table, "threads": 1, "repeat": 1, "rows": [{**one, **more} for one in rows]}
    page = tmp_path / "docs" / "results" / "index_kinds.md"
    page.parent.mkdir(parents=True)
    before = (ROOT / "docs" / "results" / "index_kinds.md").read_text()
    page.write_text(before)
    publish_index_kinds(found, root=tmp_path)
    assert page.read_text().partition("<!-- below")[0] == before.partition("<!-- below")[0]
    written = json.loads((tmp_path / "radit_ray" / "assets" / "index_kinds.json").read_text())
    assert written == shipped(found)
    assert written["rows"] == table["rows"]
