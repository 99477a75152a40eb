"""Where the shared artifacts of a test session lie; the fixture `chain` makes them, `write_run`
makes them a run that can be opened.
"""

from __future__ import annotations

import dataclasses
import json
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


VARIANTS = {  # of `write_run`: what each changes
    "closed-book": {"k": 0},
    "replug": {},
    "tokens": {"ensemble": "tokens"},
    "concat": {"ensemble": "concat"},
    "replug-5shot": {"shots": 5},
}


def write_run(chain: Chain, folder: Path) -> str:
    """A folder with the run.json of a finished run, made of the base models and the chain's index;
    returns the path.
    """
    plain = {
        "lm": chain.lm,
        "query_encoder": chain.retriever,
        "preset": "auto",
        "index": chain.index,
        "nprobe": 1,
        "ranked": chain.ranked,
        "t_r": 0.05,
        "template": "auto",
        "k": 3,
        "ensemble": "answers",
        "shots": 0,
        "scoring": "auto",
        "max_new_tokens": 6,
        "max_answers": 0,
        "eos_token": "",
    }
    variants = {name: {**plain, **changed} for name, changed in VARIANTS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"variants": variants}), encoding="utf-8")
    return str(folder)
