"""Contract: flat search is exact for float16 vectors, kinds build alike twice, and nothing
unchecked is read.
"""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import psutil
import pytest

from radit_ray.core.errors import InputError
from radit_ray.models import faiss_shard

N, D = 600, 16


@pytest.fixture(scope="module")
def vectors_ND() -> np.ndarray:
    """Clustered, as text vectors are, with duplicates as near-identical chunks give them."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((12, D))
    rows = centers[rng.integers(0, 12, N)] + 0.3 * rng.standard_normal((N, D))
    rows[7] = rows[3]
    rows[300] = rows[3]
    return rows.astype(np.float16)


def slow_search(vectors_ND, queries_QD, k: int):
    """Every score in float64, sorted by (score down, row up)."""
    scores, rows = [], []
    for query in queries_QD.astype(np.float64):
        score_N = np.array([float(v.astype(np.float64) @ query) for v in vectors_ND], np.float32)
        order = sorted(range(len(score_N)), key=lambda row: (-score_N[row], row))[:k]
        scores.append(score_N[order])
        rows.append(order)
    return np.stack(scores), np.array(rows)


@pytest.mark.parametrize("num_queries", [3, 40])  # faiss' scan, and the matrix product
def test_flat_is_exact_with_ties_by_row(vectors_ND: np.ndarray, num_queries: int) -> None:
    index = faiss_shard.build("flat", vectors_ND)
    rng = np.random.default_rng(1)
    queries_QD = rng.standard_normal((num_queries, D)).astype(np.float32)
    queries_QD[0] = vectors_ND[3]
    scores_QK, rows_QK = faiss_shard.search(index, queries_QD, 10)
    expected_scores, expected_rows = slow_search(vectors_ND, queries_QD, 10)
    assert (scores_QK.dtype, rows_QK.dtype) == (np.float32, np.int64)
    assert np.array_equal(rows_QK, expected_rows)
    assert np.array_equal(scores_QK, expected_scores)  # float64 sums rounded once: no tolerance
    places = [rows_QK[0].tolist().index(row) for row in (3, 7, 300)]
    assert places == list(range(places[0], places[0] + 3))
    one = [faiss_shard.search(index, query[None], 10) for query in queries_QD]
    assert np.array_equal(np.concatenate([rows for _, rows in one]), rows_QK)
    assert np.array_equal(np.concatenate([scores for scores, _ in one]), scores_QK)


def test_flat_keeps_the_float16_vectors_and_no_more(vectors_ND: np.ndarray, tmp_path: Path) -> None:
    index = faiss_shard.build("flat", vectors_ND)
    assert np.array_equal(faiss_shard.vectors(index), vectors_ND)
    faiss_shard.save(index, tmp_path / "shard.faiss")
    assert (tmp_path / "shard.faiss").stat().st_size / vectors_ND.nbytes < 1.3
    sq = faiss_shard.build("sq", vectors_ND)
    with pytest.raises(InputError, match="expected kind 'flat'"):
        faiss_shard.vectors(sq)


# Shares of the true 10 best found with wide search settings: what each compression must keep.
@pytest.mark.parametrize(
    ("kind", "nprobe", "floor"),
    [("ivf", 15, 0.999), ("ivfpq", 15, 0.3), ("sq", 0, 0.9), ("hnsw", 200, 0.95)],
)
@pytest.mark.parametrize("memory_map", [False, True])
def test_approximate_kinds(
    vectors_ND: np.ndarray, tmp_path: Path, kind: str, nprobe: int, floor: float, memory_map: bool
) -> None:
    path = tmp_path / "shard.faiss"
    sha256 = faiss_shard.save(faiss_shard.build(kind, vectors_ND, seed=3), path)
    assert sha256 == faiss_shard.save(faiss_shard.build(kind, vectors_ND, seed=3), path)
    index = faiss_shard.load(path, sha256=sha256, dimension=D, count=N, memory_map=memory_map)
    queries_QD = np.random.default_rng(4).standard_normal((30, D)).astype(np.float32)
    scores_QK, rows_QK = faiss_shard.search(index, queries_QD, 10, nprobe=nprobe)
    truth = slow_search(vectors_ND, queries_QD, 10)[1]
    found = [
        len(set(a) & set(b)) / 10 for a, b in zip(rows_QK.tolist(), truth.tolist(), strict=True)
    ]
    assert np.mean(found) >= floor
    assert (np.diff(scores_QK, axis=1) <= 0).all()


def test_only_allowed_rows_are_found(vectors_ND: np.ndarray) -> None:
    allowed = np.flatnonzero(np.random.default_rng(3).random(len(vectors_ND)) < 0.3)
    queries_QD = vectors_ND[:40].astype(np.float32)
    expected_QK = allowed[np.argsort(-queries_QD @ vectors_ND[allowed].T.astype(np.float32))[:, :5]]
    for kind in faiss_shard.KINDS:
        index = faiss_shard.build(kind, vectors_ND)
        found = [
            faiss_shard.search(index, asked_QD, 5, allowed=allowed)[1]
            for asked_QD in (queries_QD, queries_QD[:2])
        ]
        assert np.isin(found[0], [-1, *allowed]).all(), kind
        if kind == "flat":
            np.testing.assert_array_equal(found[0], expected_QK)
            np.testing.assert_array_equal(found[1], expected_QK[:2])
    scores_QK, rows_QK = faiss_shard.search(
        faiss_shard.build("flat", vectors_ND), queries_QD, 5, allowed=allowed[:3]
    )
    assert (rows_QK[:, 3:] == -1).all()
    assert np.isneginf(scores_QK[:, 3:]).all()


@pytest.mark.parametrize("kind", faiss_shard.KINDS)
def test_vectors_on_disk_answer_alike_and_stay_there(tmp_path: Path, kind: str) -> None:
    vectors_ND = np.random.default_rng(5).standard_normal((8000, 64)).astype(np.float16)
    path = tmp_path / "shard.faiss"
    if kind == "hnsw":  # its graph takes long to build
        vectors_ND = vectors_ND[:1000]
    sha256 = faiss_shard.save(faiss_shard.build(kind, vectors_ND, nlist=20 * ("ivf" in kind)), path)
    known = {"sha256": sha256, "dimension": 64, "count": len(vectors_ND)}
    plain = faiss_shard.load(path, **known)
    before = _private_bytes()
    mapped = faiss_shard.load(path, **known, memory_map=True)
    if kind != "hnsw":
        assert _private_bytes() - before < 0.5 * path.stat().st_size
    queries_QD = vectors_ND[:40].astype(np.float32)
    for asked_QD in (queries_QD, queries_QD[:2]):
        expected, found = (faiss_shard.search(one, asked_QD, 5) for one in (plain, mapped))
        assert np.array_equal(found[1], expected[1])
        assert np.array_equal(found[0], expected[0])


def _private_bytes() -> int:
    """Memory of this process that is no file's."""
    found = psutil.Process().memory_info()
    return int(found.rss - found.shared)


@pytest.mark.parametrize("kind", faiss_shard.KINDS)
def test_fewer_vectors_than_k(vectors_ND: np.ndarray, kind: str) -> None:
    index = faiss_shard.build(kind, vectors_ND[:5].astype(np.float32))
    scores_QK, rows_QK = faiss_shard.search(index, vectors_ND[:2].astype(np.float32), 8, nprobe=9)
    assert scores_QK.shape == rows_QK.shape == (2, 8)
    assert sorted(rows_QK[0, :5].tolist()) == [0, 1, 2, 3, 4]
    assert (rows_QK[:, 5:] == -1).all()
    assert np.isneginf(scores_QK[:, 5:]).all()


def test_loading_checks_before_it_trusts(vectors_ND: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "shard.faiss"
    sha256 = faiss_shard.save(faiss_shard.build("flat", vectors_ND), path)
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()

    def refused(message: str, **changed) -> None:
        known = {"sha256": sha256, "dimension": D, "count": N, **changed}
        with pytest.raises(InputError, match=message) as caught:
            faiss_shard.load(path, **known)
        assert "\n" not in str(caught.value)

    refused("its width is 16, expected 8", dimension=8)
    refused("number of vectors is 600, expected 601", count=601)
    refused("the manifest says 0000", sha256="0" * 64)
    l2 = faiss.IndexFlatL2(D)
    l2.add(vectors_ND.astype(np.float32))
    refused("its type is IndexFlatL2", sha256=faiss_shard.save(l2, path))
    wrong = faiss.IndexScalarQuantizer(D, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_L2)
    wrong.add(vectors_ND.astype(np.float32))
    refused("its metric is 1, expected 0", sha256=faiss_shard.save(wrong, path))
    # A file that claims an array larger than itself is refused by the limits, not by the allocator.
    whole = bytearray(path.read_bytes())
    place = whole.rindex((N * D * 2).to_bytes(8, "little"))
    whole[place : place + 8] = (1 << 35).to_bytes(8, "little")
    path.write_bytes(whole)
    refused("is no FAISS file within its limits", sha256=faiss_shard.file_sha256(path))
    path.unlink()
    refused("does not exist")
    assert limits == (
        faiss.get_deserialization_vector_byte_limit(),
        faiss.get_deserialization_loop_limit(),
    )


def test_bad_input_is_one_line(vectors_ND: np.ndarray) -> None:
    with pytest.raises(InputError, match="did you mean 'ivfpq'"):
        faiss_shard.build("ivf_pq", vectors_ND)
    with pytest.raises(InputError, match="expected a non-empty"):
        faiss_shard.build("flat", vectors_ND[:0])
    with pytest.raises(InputError, match="nlist is 601, expected 1 to 600"):
        faiss_shard.build("ivf", vectors_ND, nlist=601)
    with pytest.raises(InputError, match="m is 5, which does not divide the width 16"):
        faiss_shard.build("ivfpq", vectors_ND, m=5)
    index = faiss_shard.build("flat", vectors_ND)
    with pytest.raises(InputError, match=r"expected \(Q, 16\)"):
        faiss_shard.search(index, np.zeros((1, 8), np.float32), 3)
    with pytest.raises(InputError, match="k is 0"):
        faiss_shard.search(index, np.zeros((1, D), np.float32), 0)
