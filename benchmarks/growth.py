"""How the cost of each hot path grows: three sizes of what it depends on, and the fitted exponent.

An exponent is the slope of log seconds over log size, so 1 is linear. Everything here can be linear
or better but attention, which is quadratic in the length; at these lengths its share is small.
Texts are of one length where their number is varied: twice as many are twice as many words.

    python -m benchmarks.growth [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks import stand_ins
from benchmarks.lm_ft import Ours as LmFt
from benchmarks.r_ft import Ours as RFt
from benchmarks.r_ft import scored_rows
from benchmarks.search import unit_vectors
from benchmarks.side_by_side import Results, options_of, plain_row, timed
from benchmarks.tokens import ours as decode_tokens
from radit_ray.models import faiss_shard
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.stages.score import score_rows

FLOOR = 1.1  # an exponent of measured seconds is never exactly 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """A hot path and what is varied; `make(size)` prepares and gives the work."""

    name: str
    sizes: tuple[int, ...]
    make: Callable[[int], Callable[[], Any]]


def paths(options: argparse.Namespace) -> Iterator[Path]:
    """Each hot path over chunks, length, k, answer length and vocabulary."""
    small = options.quick
    encoder = DualEncoder.load(stand_ins.encoder("tiny" if small else "minilm"), separate=False)
    shape = "tiny" if small else "small"
    lm = CausalLM.load(stand_ins.lm(shape))

    def embedding(texts: list[str]) -> Callable[[], Any]:
        return lambda: encoder.encode_chunks([""] * len(texts), texts)

    def scoring(rows: list[dict[str, Any]], lm: CausalLM = lm) -> Callable[[], Any]:
        return lambda: score_rows(lm, rows, 16384)

    def searching(num: int) -> Callable[[], Any]:
        index = faiss_shard.build("flat", unit_vectors(num).astype(np.float16))
        queries = unit_vectors(64, seed=1)
        return lambda: faiss_shard.search(index, queries, 10)

    def decoding(k: int) -> Callable[[], Any]:
        prompts = [lm.encode(text) for text in stand_ins.texts(k, mean=60, spread=0.0)]
        return lambda: decode_tokens(lm, [prompts])

    def training(num: int) -> Callable[[], Any]:
        return LmFt(stand_ins.lm(shape), stand_ins.ranked_rows(num, k=3, spread=0.0), "fp32").train

    def tuning(num: int) -> Callable[[], Any]:
        folder = stand_ins.encoder("tiny" if small else "minilm")
        return RFt(folder, scored_rows(num), 16, "fp32", "cpu").train

    def vocabulary(size: int) -> Callable[[], Any]:
        other = CausalLM.load(stand_ins.lm("tiny", vocabulary=size))
        return scoring(stand_ins.ranked_rows(2, k=4, spread=0.0), other)

    few = (8, 16, 32) if small else (32, 64, 128)
    yield Path(
        name="embed, chunks",
        sizes=few,
        make=lambda n: embedding(stand_ins.texts(n, mean=60, spread=0.0)),
    )
    yield Path(
        name="embed, words of a chunk",
        sizes=(25, 50, 100),
        make=lambda n: embedding(stand_ins.texts(few[0], mean=n, spread=0.0)),
    )
    yield Path(
        name="score, k",
        sizes=(2, 4, 8),
        make=lambda k: scoring(stand_ins.ranked_rows(2, k=k, mean=60, spread=0.0)),
    )
    yield Path(
        name="score, answer words",
        sizes=(4, 16, 64),
        make=lambda n: scoring(stand_ins.ranked_rows(2, k=4, mean=60, spread=0.0, answer_words=n)),
    )
    yield Path(name="score, vocabulary", sizes=(8_000, 32_000, 128_000), make=vocabulary)
    yield Path(name="lm-ft, examples", sizes=(2, 4, 8), make=training)
    yield Path(name="r-ft, queries", sizes=(32, 64, 128), make=tuning)
    yield Path(name="search, chunks", sizes=(20_000, 40_000, 80_000), make=searching)
    yield Path(name="tokens, k", sizes=(2, 4, 8), make=decoding)


def main() -> None:
    options = options_of(__doc__)
    results = Results("growth", options)
    for path in paths(options):
        seconds = []
        for size in path.sizes:
            side = timed(path.make(size))
            side()
            found = [side() for _ in range(options.repeats)]
            seconds.append(median(getattr(done, f"{options.clock}_s") for done in found))
        exponent = float(np.polyfit(np.log(path.sizes), np.log(seconds), 1)[0])
        results.add(
            plain_row(
                f"growth of {path.name} ({', '.join(map(str, path.sizes))}): exponent",
                **{"ours": seconds[-1], "ratio": exponent, "floor": FLOOR, "better": "lower"},
                **{"unit": "CPU s" if options.clock == "cpu" else "s"},
                **{"sizes": path.sizes, "seconds": seconds},
            )
        )


if __name__ == "__main__":
    main()
