"""Contract: whatever the number of shards and their sizes, the merged ids are those of one flat
index; they may differ only where scores tie within 1e-6 of the score.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radit_ray.engines.sharded_index import merge_top_k
from radit_ray.models import faiss_shard

D = 12
TIE = 1e-6  # relative to the score


def cut(vectors_ND: np.ndarray, num_shards: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Consecutive shards of random sizes, none empty."""
    inner = rng.choice(np.arange(1, len(vectors_ND)), size=num_shards - 1, replace=False)
    return np.split(vectors_ND, np.sort(inner))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    num_chunks=st.integers(8, 200),
    num_shards=st.integers(1, 8),
    num_queries=st.sampled_from([1, 40]),  # faiss' scan, and the matrix product
    k=st.integers(1, 30),
    copies=st.integers(0, 5),
    coarse=st.booleans(),
)
def test_any_number_of_shards_answers_as_one_flat_index(
    seed: int,
    num_chunks: int,
    num_shards: int,
    num_queries: int,
    k: int,
    copies: int,
    coarse: bool,
) -> None:
    rng = np.random.default_rng(seed)
    vectors_ND = rng.standard_normal((num_chunks, D)).astype(np.float16)
    if coarse:  # many equal scores
        vectors_ND = np.sign(vectors_ND)
    vectors_ND[rng.integers(0, num_chunks, copies)] = vectors_ND[0]
    queries_QD = rng.standard_normal((num_queries, D)).astype(np.float32)
    one = faiss_shard.search(faiss_shard.build("flat", vectors_ND), queries_QD, k)
    scores, positions, start = [], [], 0
    for part in cut(vectors_ND, num_shards, rng):
        found = faiss_shard.search(faiss_shard.build("flat", part), queries_QD, k)
        scores.append(found[0])
        positions.append(np.where(found[1] < 0, -1, found[1] + start))
        start += len(part)
    score_QK, position_QK = merge_top_k(scores, positions, k)
    score_QK = np.pad(score_QK, ((0, 0), (0, k - score_QK.shape[1])), constant_values=-np.inf)
    assert np.array_equal(score_QK, one[0])  # float64 rounded once: no tolerance
    exact_QN = queries_QD.astype(np.float64) @ vectors_ND.astype(np.float64).T
    for query, (found_K, flat_K) in enumerate(zip(position_QK, one[1], strict=True)):
        shown = min(k, num_chunks)
        assert len(set(found_K[:shown].tolist())) == shown
        for mine, theirs in zip(found_K[:shown], flat_K[:shown], strict=True):
            a, b = exact_QN[query, mine], exact_QN[query, theirs]
            assert abs(a - b) <= TIE * max(abs(a), 1.0)


def test_missing_places_come_last_and_equal_scores_by_position() -> None:
    scores = [np.array([[1.0, 0.5]]), np.array([[1.0, -np.inf]])]
    positions = [np.array([[5, 6]]), np.array([[2, -1]])]
    score_QK, position_QK = merge_top_k(scores, positions, 4)
    assert position_QK.tolist() == [[2, 5, 6, -1]]
    assert score_QK[0, :3].tolist() == [1.0, 1.0, 0.5]
    assert score_QK[0, 3] == pytest.approx(-np.inf)
