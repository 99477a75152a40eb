"""Contract of the retriever's batches: what a question finds does not depend on who else asks, also
where an index looks farther for more chunks.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np

from radit_ray.models import faiss_shard
from radit_ray.serving.deployments import Found, Retriever

ROWS, WIDTH = 4000, 24


class Encoder:
    """The number in a question is its row."""

    def __init__(self, queries_ND: np.ndarray) -> None:
        self.queries_ND = queries_ND

    def encode_queries(self, texts: list[str], **_: Any) -> np.ndarray:
        return self.queries_ND[[int(text) for text in texts]]


def test_a_neighbour_in_the_batch_changes_nothing() -> None:
    draw = np.random.default_rng(0)
    index = faiss_shard.build("hnsw", draw.normal(size=(ROWS, WIDTH)).astype(np.float32), m=4)
    queries_ND = draw.normal(size=(40, WIDTH)).astype(np.float32)

    async def search(queries_QD: np.ndarray, k: int) -> Any:
        score_QK, row_QK = faiss_shard.search(index, queries_QD, k)
        return score_QK, row_QK, {int(row): {"id": str(row)} for row in row_QK.flat}

    retriever = object.__new__(Retriever)  # no model is loaded
    retriever.shards = [SimpleNamespace(search=SimpleNamespace(remote=search))]
    retriever.starts, retriever.batch_tokens = (0,), 1024
    retriever.encoder = Encoder(queries_ND)  # type: ignore[assignment]

    async def both() -> tuple[list[Found], list[Found]]:
        alone = [found for i in range(39) for found in await retriever.found([(str(i), 2, False)])]
        pairs = [*((str(i), 2, False) for i in range(39)), ("39", 50, False)]
        return alone, await retriever.found(pairs)

    alone, beside = asyncio.run(both())
    assert beside[:39] == alone
    assert [len(found.chunks) for found in beside] == [2] * 39 + [50]
