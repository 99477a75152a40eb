"""From questions to ranked rows: encode, search, drop what is excluded. Serves retrieve, ask and
the endpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.templates import retrieval_query
from radit_ray.engines.references import local_model
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.lexical import Words
from radit_ray.models.presets import LEXICAL


def query_encoder(retriever: str, **options: Any) -> DualEncoder | Words:
    """What turns queries into what an index is searched with; options of `DualEncoder.load`."""
    if retriever == LEXICAL:
        return Words()
    return DualEncoder.load(local_model(retriever), **options)


def rank(
    examples: list[dict[str, Any]],
    encoder: DualEncoder | Words,
    shards: ShardedIndex,
    *,
    k: int,
    batch_tokens: int = 16384,
) -> list[dict[str, Any]]:
    """Ranked rows of some examples: encode their queries, search, drop excluded chunks, keep k.

    Examples of a category without retrieval (a gold context instead) keep empty candidate lists.
    """
    queries = [retrieval_query(row) for row in examples]
    asking = [number for number, query in enumerate(queries) if query]
    ranked = [
        {**row, "query": query, **chunk_columns([]), "index_version": ""}
        for row, query in zip(examples, queries, strict=True)
    ]
    if not asking:
        return ranked
    spare = max(len(examples[number]["exclude_ids"]) for number in asking)
    encoded = encoder.encode_queries(
        [queries[number] for number in asking], batch_tokens=batch_tokens
    )
    score_QK, position_QK = shards.search(encoded, k + spare)
    chunks = shards.chunks(position_QK)
    for number, scores_K, positions_K in zip(asking, score_QK, position_QK, strict=True):
        excluded = set(examples[number]["exclude_ids"])
        kept = [
            (chunks[int(position)], float(score))
            for position, score in zip(positions_K, scores_K, strict=True)
            if position >= 0 and chunks[int(position)]["id"] not in excluded
        ][:k]
        ranked[number] |= {**chunk_columns(kept), "index_version": shards.version}
    return ranked


def chunk_columns(found: Sequence[tuple[Mapping[str, Any], float]]) -> dict[str, list[Any]]:
    """What (chunk, score) pairs, best first, add to an example row."""
    return {
        "chunk_ids": [chunk["id"] for chunk, _ in found],
        "doc_ids": [chunk["doc_id"] for chunk, _ in found],
        "titles": [chunk["title"] for chunk, _ in found],
        "texts": [chunk["text"] for chunk, _ in found],
        "scores": [score for _, score in found],
    }
