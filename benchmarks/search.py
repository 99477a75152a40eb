"""search: queries a second against fed-rag's in-memory store, N = 20,000, and resident bytes over
raw bytes (row 6); ids from several shards against one flat index (row 6b).

Vectors of length 1 and D = 384, so that fed-rag's cosine is our dot product. Both are asked one
query at a time, which is all fed-rag's store can do; all queries at once, as the stages ask, stand
in a row of their own. Ours holds float16, and that is what raw bytes count; ids are checked to be
the same where neighbours are not closer to each other than float32 tells apart.

    python -m benchmarks.search [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.peers import MissingPeerError, Peer
from benchmarks.side_by_side import (
    NAIVE,
    Results,
    alternate,
    missing_row,
    options_of,
    plain_row,
    speed_row,
    timed,
    with_bound,
)
from benchmarks.workers.loop import resident_bytes
from radit_ray.engines.sharded_index import merge_top_k
from radit_ray.models import faiss_shard
from radit_ray.models.tiles import TileSearch

FLOOR, RESIDENT_FLOOR = 30.0, 1.3
K, D = 10, 384
SHARDS = (2, 3, 7)


class IndexWorker:
    """Loads an index in a process of its own, for its resident bytes."""

    def resident(self, path: str, sha256: str, count: int) -> int:
        """Bytes that the process holds more, with the index loaded and searched once."""
        faiss_shard.search(faiss_shard.build("flat", unit_vectors(1_000)), unit_vectors(1), K)
        before = resident_bytes()
        self.index = faiss_shard.load(path, sha256=sha256, dimension=D, count=count)
        faiss_shard.search(self.index, unit_vectors(1), K)
        return resident_bytes() - before


def unit_vectors(num: int, seed: int = 0) -> np.ndarray:
    """(N, D) float32 of length 1, exactly what float16 holds of them."""
    vectors = np.random.default_rng(seed).normal(size=(num, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16).astype(np.float32)


def one_by_one(index: Any, queries: np.ndarray) -> list[list[int]]:
    """Rows of the K best of each query, a call each."""
    return [faiss_shard.search(index, query[None], K)[1][0].tolist() for query in queries]


def naive(vectors: np.ndarray, queries: np.ndarray) -> list[list[int]]:
    """All products in float64, sorted whole; equal scores by row."""
    scores = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :K].tolist()  # type: ignore[no-any-return]


def same(mine: list[list[int]], other: list[list[int]]) -> None:
    """At least 99 of 100 ids: fed-rag normalises again in float32, which may swap neighbours."""
    pairs = zip(mine, other, strict=True)
    share = np.mean([len(set(a) & set(b)) / K for a, b in pairs])
    assert share > 0.99, share


def speeds(options: argparse.Namespace, results: Results, scratch: str) -> None:
    num, asked = (5_000, 32) if options.quick else (20_000, 128)
    vectors, queries = unit_vectors(num), unit_vectors(asked, seed=1)
    index = faiss_shard.build("flat", vectors.astype(np.float16))
    assert one_by_one(index, queries) == naive(vectors, queries)
    facts = {"count": asked, "unit": "queries", "num_vectors": num}
    if options.peers == "none":
        compared = alternate(
            timed(lambda: one_by_one(index, queries)),
            timed(lambda: [naive(vectors, query[None])[0] for query in queries]),
            *(options, same),
        )
        results.add(speed_row(f"6 search vs {NAIVE}", compared, floor=None, **facts))
        return
    try:
        with Peer("fed-rag", "on_fed_rag", threads=options.threads) as peer:
            file = os.path.join(scratch, "vectors.npy")
            np.save(file, vectors)
            peer.call("load_store", file=file)
            theirs = peer.side("search", queries=queries.tolist(), k=K)
            at_once = timed(lambda: faiss_shard.search(index, queries, K)[1].tolist())
            compared = alternate(at_once, theirs, options, same)
            name = f"6 search vs fed-rag's store, our {asked} queries at once"
            results.add(speed_row(name, compared, floor=FLOOR, **facts))
            alone = timed(lambda: one_by_one(index, queries))
            compared = alternate(alone, theirs, options, same)
            name = "6 search vs fed-rag's store, one query at a time"
            row = speed_row(name, compared, floor=FLOOR, **facts)
            results.add(with_bound(row, scan_bound(index, queries, asked / row["ours"])))
    except MissingPeerError as missing:
        unit = "queries/CPU s"
        name = "6 search vs fed-rag's store"
        results.add(missing_row(name, floor=FLOOR, unit=unit, why=str(missing)))


def scan_bound(index: Any, queries: np.ndarray, taken_s: float) -> str:
    """What one query cannot go below: every vector is read once."""
    scan = timed(lambda: [index.search(query[None], K) for query in queries])
    scan()
    seconds = min(scan().cpu_s for _ in range(3))
    rate = index.ntotal * D * 2 * len(queries) / seconds
    return (
        f"FAISS' scan of all vectors takes {seconds / taken_s:.0%} of a query and reads "
        f"{rate / 1e9:.0f} GB/s, so it is bound by memory; many queries at once share it"
    )


def resident(options: argparse.Namespace, results: Results, scratch: str) -> None:
    """Resident bytes over raw bytes."""
    count = 50_000 if options.quick else 200_000
    path = os.path.join(scratch, "flat.faiss")
    vectors = unit_vectors(count).astype(np.float16)
    digest = faiss_shard.save(faiss_shard.build("flat", vectors), path)
    with Peer("", "on_radit", threads=options.threads, small_blocks=True) as worker:
        held = worker.call("resident", path=path, sha256=digest, count=count).result
    row = plain_row(
        "6 search: resident bytes of a loaded flat index over raw bytes (N x D x 2)",
        **{"ours": held / 2**20, "ratio": held / vectors.nbytes, "floor": RESIDENT_FLOOR},
        **{"better": "lower", "unit": "MiB"},
        num_vectors=count,
    )
    results.add(row)


def shards(options: argparse.Namespace, results: Results) -> None:
    """Row 6b: the share of queries whose ids from S shards are those of one flat index."""
    num, asked = (5_000, 64) if options.quick else (100_000, 512)
    vectors, queries = unit_vectors(num).astype(np.float16), unit_vectors(asked, seed=1)
    vectors[num // 2] = vectors[0]  # a tie across shards
    _, whole = faiss_shard.search(faiss_shard.build("flat", vectors), queries, K)
    equal = []
    for count in SHARDS:
        starts = np.linspace(0, num, count + 1).astype(int)
        scores, positions = [], []
        for start, end in itertools.pairwise(starts.tolist()):
            index = faiss_shard.build("flat", vectors[start:end])
            found, rows = faiss_shard.search(index, queries, K)
            scores.append(found)
            positions.append(rows + start)
        _, merged = merge_top_k(scores, positions, K)
        equal.append(float((merged == whole).all(axis=1).mean()))
    results.add(
        plain_row(
            f"6b ids from {', '.join(map(str, SHARDS))} shards = ids from one flat index",
            **{"ours": min(equal), "ratio": min(equal), "floor": 1.0},
            **{"better": "higher", "unit": "share of queries"},
            num_vectors=num,
        )
    )


def on_gpu(options: argparse.Namespace, results: Results) -> None:
    """Exact search on the GPU (float16) against FAISS (float32) on the host's threads."""
    num, asked, width = (50_000, 64, D) if options.quick else (1_000_000, 1_000, 768)
    generator = torch.Generator(options.device).manual_seed(0)
    made = torch.randn(num + asked, width, device=options.device, generator=generator)
    unit = torch.nn.functional.normalize(made).half().cpu().numpy()
    del made
    codes, queries = unit[:num], unit[num:].astype(np.float32)
    tiles = TileSearch(codes, device=options.device)
    index = faiss.IndexFlatIP(width)
    index.add(codes.astype(np.float32))
    faiss.omp_set_num_threads(options.threads)

    def ids(found: tuple[np.ndarray, np.ndarray]) -> list[list[int]]:
        """Rows, the best first."""
        return np.take_along_axis(found[1], np.argsort(-found[0], axis=1), axis=1)[:, :K].tolist()

    def same_rows(mine: list[list[int]], other: list[list[int]]) -> None:
        equal = np.mean([set(a) == set(b) for a, b in zip(mine, other, strict=True)])
        assert equal > 0.99, equal  # equal scores in float32

    compared = alternate(
        timed(lambda: ids(tiles.search(queries, K))),
        timed(lambda: ids(index.search(queries, K))),
        *(options, same_rows),
    )
    name = f"GPU search: exact, {num:,} x {width}, {asked:,} queries vs FAISS IndexFlatIP"
    facts = {"count": asked, "unit": "queries", "num_vectors": num}
    facts |= {"repeated_in_fp32": tiles.num_repeated}
    results.add(speed_row(name, compared, floor=None, **facts))


def main() -> None:
    options = options_of(__doc__)
    results = Results("search", options)
    if options.device != "cpu":
        on_gpu(options, results)
        return
    with tempfile.TemporaryDirectory(prefix="radit-bench-") as scratch:
        speeds(options, results, scratch)
        resident(options, results, scratch)
    shards(options, results)


if __name__ == "__main__":
    main()
