"""Where the shared artifacts of a test session lie; the fixture `chain` makes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Chain:
    """Paths: the tiny world, its models, and a finished artifact of each stage before tuning."""

    root: Path
    corpus: str
    examples: str
    lm: str
    retriever: str
    chunks: str  # 40 chunks in 4 shards
    embeddings: str
    index: str  # 3 shards
    flat: str  # 1 shard, same vectors
    ranked: str  # k = 4, 60 questions and 20 corpus examples
    scored: str
