"""embed: chunks a second with one worker against sentence-transformers and FlashRAG (row 5), and
what Ray Data adds to the same encoder (row 5b).

Chunks of mixed lengths through one encoder of MiniLM's shape. Ours is what the stage does with a
shard: batches of similar length under a token budget, bf16 where the hardware has it fast. Peers as
users call them: sentence-transformers' `encode` (fp32, 32 texts a batch, sorted by length),
FlashRAG's `Encoder` (fp32, 32 a batch in the order given). Vectors are checked by their cosine.

Row 5b runs the stage itself with one worker on at least 20,000 chunks and compares the time from
the end of its first shard to the end of its last one with the encoder's own time on the same shards
in this process; actor and model start stand before that.

    python -m benchmarks.embed [--quick]
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray

from benchmarks import stand_ins
from benchmarks.hardware import matmul_rate
from benchmarks.peers import MissingPeerError, Peer
from benchmarks.side_by_side import (
    NAIVE,
    Results,
    Side,
    alternate,
    missing_row,
    options_of,
    plain_row,
    speed_row,
    timed,
    with_bound,
)
from radit_ray.data import storage
from radit_ray.data.artifacts import read_manifest, read_shard, shard_names
from radit_ray.engines.connect import connect
from radit_ray.engines.resources import Resources
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.precision import resolve_precision
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed

ST_FLOOR, FLASHRAG_FLOOR, OVERHEAD_FLOOR = 3.0, 6.0, 1.08
NO_FAST_BF16 = "this CPU has no fast bf16 (AVX512_BF16 or AMX), and fp32 does equal work"


def cosines(a: Any, b: Any) -> float:
    """The smallest cosine between vectors of the same texts."""
    a_ND, b_ND = (np.asarray(x, dtype=np.float64) for x in (a, b))
    norms_N = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    return float(((a_ND * b_ND).sum(1) / norms_N).min())


def check(mine: Any, other: Any) -> None:
    """bf16 turns a vector by less than 0.01 in cosine."""
    assert cosines(mine, other) > 0.99, cosines(mine, other)


@functools.cache
def bound_of(fast: str, device: str) -> str:
    """What the machine itself gives the faster precision."""
    if fast == "fp32":
        return NO_FAST_BF16
    slow, quick = (matmul_rate(name, device, quick=False) for name in ("fp32", fast))
    return (
        f"square products in {fast} are {quick / slow:.1f} times as fast as in fp32 here "
        f"({quick / 1e9:.0f} and {slow / 1e9:.0f} GFLOP/s), and attention at these lengths less"
    )


def naive(encoder: DualEncoder, texts: list[str]) -> np.ndarray:
    """One text at a time in fp32."""
    return np.concatenate([encoder.encode_chunks([""], [text]) for text in texts])


def speeds(options: argparse.Namespace, results: Results) -> None:
    texts = stand_ins.texts(32 if options.quick else 256)
    folder = stand_ins.encoder("tiny" if options.quick else "minilm")
    fast = resolve_precision("auto", options.device)
    encoders = {
        precision: DualEncoder.load(
            folder, precision=precision, device=options.device, separate=False
        )
        for precision in dict.fromkeys(("fp32", fast))
    }

    def ours(precision: str) -> Side:
        encoder = encoders[precision]
        return timed(lambda: encoder.encode_chunks([""] * len(texts), texts))

    facts = {"count": len(texts), "unit": "chunks"}
    if options.peers == "none":
        side = timed(lambda: naive(encoders["fp32"], texts))
        compared = alternate(ours("fp32"), side, options, check)
        results.add(speed_row(f"5 embed vs {NAIVE}", compared, floor=None, **facts))
        return
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device=options.device)
    theirs = timed(lambda: model.encode(texts, show_progress_bar=False))
    _rows(results, options, "sentence-transformers encode", ST_FLOOR, ours, theirs, fast, facts)
    try:
        with Peer("fed-rag", "on_flashrag", threads=options.threads) as peer:
            peer.call("load_encoder", folder=os.path.join(folder, "bert"))
            theirs = peer.side("encode", texts=texts)
            _rows(results, options, "FlashRAG Encoder", FLASHRAG_FLOOR, ours, theirs, fast, facts)
    except MissingPeerError as missing:
        unit = "chunks/CPU s"
        name = "5 embed vs FlashRAG Encoder"
        results.add(missing_row(name, floor=FLASHRAG_FLOOR, unit=unit, why=str(missing)))


def _rows(
    results: Results,
    options: argparse.Namespace,
    peer: str,
    floor: float,
    ours: Any,
    theirs: Side,
    fast: str,
    facts: dict[str, Any],
) -> None:
    """As users call it (ours in the precision the stage picks), and both in fp32."""
    compared = alternate(ours(fast), theirs, options, check)
    row = speed_row(f"5 embed vs {peer}, as called ({fast} / fp32)", compared, floor=floor, **facts)
    results.add(with_bound(row, bound_of(fast, options.device)))
    if fast != "fp32":
        compared = alternate(ours("fp32"), theirs, options, check)
        results.add(speed_row(f"5 embed vs {peer}, both fp32", compared, floor=None, **facts))


def overhead(options: argparse.Namespace, results: Results) -> None:
    """Row 5b."""
    # eleven shards, since the first one is not counted
    num, mean = (1_100, 20) if options.quick else (22_000, 25)
    folder = stand_ins.encoder("tiny" if options.quick else "minilm")
    per_shard = num // 11
    with tempfile.TemporaryDirectory(prefix="radit-bench-") as scratch:
        corpus = Path(scratch, "corpus.parquet")
        texts = stand_ins.texts(num, mean=mean, spread=0.4)
        names = [str(number) for number in range(num)]
        table = pa.table({"id": names, "title": names, "text": texts})
        pq.write_table(table, corpus)
        connect(num_cpus=2)
        one = Resources(num_workers=1)
        chunks = chunk(
            ChunkConfig(docs_per_shard=per_shard),
            **{"corpus": str(corpus), "output": f"{scratch}/chunks", "resources": one},
        )
        precision = resolve_precision("auto", "cpu")
        config = EmbedConfig(retriever=folder, precision=precision)
        made = embed(config, chunks=chunks.path, output=f"{scratch}/embed", resources=one)
        ray.shutdown()
        ends = sorted(
            (Path(made.path, name).stat().st_mtime, name) for name in shard_names(made.path)
        )
        span = ends[-1][0] - ends[0][0]  # all shards but the one that was finished first
        manifest = read_manifest(made.path)
        assert manifest is not None
        inside = manifest["cost"]["device_s"] * (1 - 1 / len(ends))
        encoder = DualEncoder.load(folder, precision=precision, separate=False)
        alone, rows = 0.0, 0
        for _, name in ends[1:]:
            table = read_shard(storage.join(chunks.path, name))
            titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
            start = time.perf_counter()
            encoder.encode_chunks(titles, texts, batch_tokens=one.batch_tokens)
            alone += time.perf_counter() - start
            rows += len(texts)
    results.add(
        plain_row(
            "5b embed: Ray Data with one worker over the same encoder in process",
            **{"ours": rows / span, "ratio": span / alone, "floor": OVERHEAD_FLOOR},
            **{"better": "lower", "unit": "chunks/s"},
            peer_chunks_per_s=rows / alone,
            num_chunks=rows,
            outside_encoder=span / inside,  # the same actor's time, whatever else the machine does
            precision=precision,
        )
    )


def main() -> None:
    options = options_of(__doc__)
    results = Results("embed", options)
    speeds(options, results)
    overhead(options, results)


if __name__ == "__main__":
    main()
