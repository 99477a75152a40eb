"""Contract: products of 16-bit tiles propose and float64 decides, so that a device finds what the
plain search finds, whatever the tiles, the type and the scale of the vectors.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from radit_ray.models import faiss_shard
from radit_ray.models.tiles import TileSearch, best_rows

N, D, Q, K = 3000, 48, 60, 10
GPU = pytest.param("cuda", marks=pytest.mark.gpu)


@pytest.fixture(scope="module")
def vectors_ND() -> np.ndarray:
    """Clustered unit vectors with a row three times, as text vectors are."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((30, D))
    rows = centers[rng.integers(0, 30, N)] + 0.6 * rng.standard_normal((N, D))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[[7, 1500]] = rows[3]
    return rows.astype(np.float16)


@pytest.fixture(scope="module")
def queries_QD(vectors_ND: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(1)
    found = vectors_ND[rng.integers(0, N, Q)] + 0.1 * rng.standard_normal((Q, D))
    found[0] = vectors_ND[3]
    return found.astype(np.float32)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tile_rows", [256, 10_000])
@pytest.mark.parametrize(
    "scale", [1.0, 300.0]
)  # contriever's and dpr's vectors have no unit length
def test_a_device_finds_what_the_plain_search_finds(
    vectors_ND: np.ndarray,
    queries_QD: np.ndarray,
    device: str,
    dtype: torch.dtype,
    tile_rows: int,
    scale: float,
) -> None:
    codes_ND = (vectors_ND.astype(np.float32) * scale).astype(np.float16)
    index = faiss_shard.build("flat", codes_ND)
    tiles = TileSearch(faiss_shard.vectors(index), device=device, dtype=dtype, tile_rows=tile_rows)
    allowed = np.flatnonzero(np.random.default_rng(3).random(N) < 0.5)
    for queries, chosen in ((queries_QD, None), (queries_QD * 500, None), (queries_QD, allowed)):
        expected = faiss_shard.search(index, queries, K, allowed=chosen)
        found = faiss_shard.search(index, queries, K, allowed=chosen, tiles=tiles)
        assert np.array_equal(found[1], expected[1])
        assert np.array_equal(found[0], expected[0])  # float64 rounded once: no tolerance
        one = faiss_shard.search(index, queries[4:5], K, allowed=chosen, tiles=tiles)
        assert np.array_equal(one[1], expected[1][4:5])


def test_what_16_bits_cannot_tell_apart_is_asked_again() -> None:
    """Rows that differ by less than a float16 product shows: the best of them is still the best."""
    rng = np.random.default_rng(2)
    base = rng.standard_normal(D)
    rows = (base + 2e-3 * rng.standard_normal((2000, D))).astype(np.float16)
    index = faiss_shard.build("flat", rows)
    queries_QD = base[None].astype(np.float32)
    tiles = TileSearch(rows, device="cpu")
    found = faiss_shard.search(index, queries_QD, K, tiles=tiles)
    exact_N = rows.astype(np.float64) @ base.astype(np.float32).astype(np.float64)
    assert found[1][0].tolist() == np.argsort(-exact_N, kind="stable")[:K].tolist()
    assert tiles.num_repeated == 1


def test_clear_questions_are_asked_once(vectors_ND: np.ndarray, queries_QD: np.ndarray) -> None:
    tiles = TileSearch(vectors_ND, device="cpu")
    tiles.search(queries_QD[1:], 3)
    assert tiles.num_repeated < Q / 4


def test_fewer_rows_than_asked(vectors_ND: np.ndarray, queries_QD: np.ndarray) -> None:
    index = faiss_shard.build("flat", vectors_ND[:6])
    tiles = TileSearch(faiss_shard.vectors(index), device="cpu")
    expected = faiss_shard.search(index, queries_QD, K)
    found = faiss_shard.search(index, queries_QD, K, tiles=tiles)
    assert np.array_equal(found[1], expected[1])
    assert (found[1][:, 6:] == -1).all()
    none = faiss_shard.search(index, queries_QD, K, allowed=np.array([2]), tiles=tiles)
    assert (none[1][:, 0] == 2).all()


def test_tiles_do_not_matter(vectors_ND: np.ndarray, queries_QD: np.ndarray) -> None:
    codes_ND = torch.from_numpy(vectors_ND)
    expected = best_rows(codes_ND, queries_QD, K)
    found = best_rows(codes_ND, queries_QD, K, tile_rows=64)
    np.testing.assert_allclose(np.sort(found[0]), np.sort(expected[0]), rtol=1e-6)
    assert np.array_equal(np.sort(found[1][1:]), np.sort(expected[1][1:]))  # 0 has equal rows


def test_kinds_without_the_vectors_stay_where_they_are(vectors_ND: np.ndarray) -> None:
    index = faiss_shard.build("ivf", vectors_ND)
    assert faiss_shard.on_device(index, "cpu") == (index, None)
    if "ivf" not in faiss_shard.gpu_kinds():
        assert faiss_shard.on_device(index, "cuda") == (index, None)
