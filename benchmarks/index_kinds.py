"""Every kind of index: seconds to build, bytes, Recall@10 and queries/s, and the same FAISS index
called directly, in one process, one call each in turn.

In: text (pages of Simple English Wikipedia below $RADIT_DATA, embedded once by the stages, asked
squad_open's questions) and synthetic clustered vectors. Out: benchmarks/results/index_kinds.json,
the part of docs/results/index_kinds.md below its marker, and what `radit plan index` reads,
radit_ray/assets/index_kinds.json. Vectors and finished measurements lie below --output; a second
call goes on.

    python -m benchmarks.index_kinds --output runs/index_kinds [--sizes 10k 100k 1M] [--docs 40000]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch

from benchmarks.publish import ROOT, measured_by, write_below
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, iter_tables, vectors_of
from radit_ray.data.tasks import data_folder
from radit_ray.engines.connect import connect
from radit_ray.index_plan import EF, FACTORS, HNSW_MOST, PQ_SHARES, TABLE, bytes_per_chunk
from radit_ray.models import faiss_shard
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.plan import number
from radit_ray.recipes import squad_open
from radit_ray.report.table import text_table
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed

FILE = ROOT / "benchmarks" / "results" / "index_kinds.json"
PAGE = ROOT / "docs" / "results" / "index_kinds.md"
FLOOR = 0.9  # queries/s over those of the same FAISS index called directly
DIMENSION = 384  # of the synthetic vectors, as MiniLM's
CLUSTER = 200  # synthetic vectors of one cluster: chunks about one subject
# Length of what sets a vector apart from its cluster's centre, which has length 1, and how fast its
# components fall off: text varies in tens of directions, not in all 384
SPREAD, DECAY = 1.5, 0.7
BLOCK = 100_000  # vectors made or added at once
TRAIN = 200_000  # drawn to train quantisers, as `radit index` does
K = 10
SHIPPED = ("vectors", "num_chunks", "dimension", "kind", "pq_bytes", "effort", "recall")
COLUMNS = (*SHIPPED, "queries_per_s", "bytes_per_chunk")  # of the asset


def synthetic(folder: Path, count: int, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, D) float16, memory-mapped, and (Q, D) float32 queries from the same clusters."""
    file = folder / f"synthetic-{count}.f16"
    num_clusters = max(1, count // CLUSTER)
    mixing_DD = _mixing()

    def drawn(rng: np.random.Generator, size: int) -> np.ndarray:
        numbers = rng.integers(0, num_clusters, size)
        # a centre is made from its number, so that 10M vectors need no table of centres
        unique, places = np.unique(numbers, return_inverse=True)
        centre_CD = np.stack([_unit(np.random.default_rng(int(n))) for n in unique])
        noise_ND = rng.standard_normal((size, DIMENSION), dtype=np.float32) @ mixing_DD
        found_ND = centre_CD[places] + noise_ND
        return found_ND / np.linalg.norm(found_ND, axis=1, keepdims=True)

    def write(stream: Any) -> None:
        for start in range(0, count, BLOCK):
            rng = np.random.default_rng([count, start])
            stream.write(drawn(rng, min(BLOCK, count - start)).astype(np.float16).tobytes())

    vectors_ND = _kept(file, write, DIMENSION)
    return vectors_ND, drawn(np.random.default_rng([count, count]), num_queries).astype(np.float32)


def _unit(rng: np.random.Generator) -> np.ndarray:
    vector = rng.standard_normal(DIMENSION, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def _mixing() -> np.ndarray:
    """(D, D): independent components become those of a vector's way off its centre."""
    turned_DD, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMENSION, DIMENSION)))
    size_D = np.arange(1, DIMENSION + 1) ** -DECAY
    size_D *= SPREAD / np.linalg.norm(size_D)
    return (size_D[:, None] * turned_DD).astype(np.float32)


def text_vectors(folder: Path, num_docs: int, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of text: chunk and embed write artifacts, which a second call finds."""
    retriever = squad_open().retriever
    root = data_folder()
    connect()
    chunks = chunk(
        ChunkConfig(limit=num_docs),
        corpus=os.path.join(root, "corpus", "simplewiki_2021-11.jsonl.xz"),
        output=str(folder / f"chunk-{num_docs}"),
    )
    made = embed(
        EmbedConfig(retriever=retriever),
        chunks=chunks.path,
        output=str(folder / f"embed-{num_docs}"),
    )
    source = artifact_input(made.path, "embed")
    width = int(made.metrics["dimension"])

    def write(stream: Any) -> None:
        for table in iter_tables(source, ["embedding"]):
            stream.write(vectors_of(table).tobytes())

    vectors_ND = _kept(folder / f"text-{num_docs}.f16", write, width)
    file = folder / f"queries-{num_queries}.npy"
    if not file.exists():
        with gzip.open(os.path.join(root, "squad_open", "qa.dev.jsonl.gz"), "rt") as lines:
            asked = [json.loads(line)["question"] for line in lines]
        chosen = np.random.default_rng(0).permutation(len(asked))[:num_queries]
        encoder = DualEncoder.load(retriever, separate=False)
        np.save(file, encoder.encode_queries([asked[i] for i in chosen]))
    return vectors_ND, np.load(file)


def _kept(file: Path, write: Callable[[Any], None], width: int) -> np.ndarray:
    """A file of float16 vectors, written once, memory-mapped."""
    if not file.exists():
        with storage.atomic_file(str(file)) as name, open(name, "wb") as stream:
            write(stream)
    return np.memmap(file, dtype=np.float16, mode="r").reshape(-1, width)


def built(kind: str, vectors_ND: np.ndarray, pq_bytes: int) -> Any:
    """An index as the stage `index` builds it: trained on a sample, filled block by block."""
    count = len(vectors_ND)
    rows = np.sort(np.random.default_rng(0).permutation(count)[:TRAIN])
    index = faiss_shard.trained(kind, vectors_ND[rows], count, m=pq_bytes)
    for start in range(0, count, BLOCK):
        faiss_shard.add(index, vectors_ND[start : start + BLOCK])
    return index


def kinds_of(count: int, width: int) -> list[tuple[str, int, tuple[int, ...]]]:
    """(kind, pq_bytes, efforts): what is built, and how hard it is asked."""
    found: list[tuple[str, int, tuple[int, ...]]] = [("flat", 0, (0,)), ("sq", 0, (0,))]
    found.append(("ivf", 0, FACTORS))
    found += [("ivfpq", width // share, FACTORS) for share in PQ_SHARES if width % share == 0]
    if count <= HNSW_MOST:
        found.append(("hnsw", 0, EF))
    return found


def measure(
    name: str,
    vectors_ND: np.ndarray,
    queries_QD: np.ndarray,
    folder: Path,
    repeat: int,
    only: tuple[str, ...],
) -> list[dict[str, Any]]:
    """One row for each kind and effort on one set of vectors."""
    count, width = vectors_ND.shape
    flat = built("flat", vectors_ND, 0)
    truth_QK = faiss_shard.search(flat, queries_QD, K)[1]
    del flat  # two indexes at once are too much at 10M
    rows: list[dict[str, Any]] = []
    for kind, pq_bytes, efforts in kinds_of(count, width):
        if only and kind not in only:
            continue
        part = folder / "measured" / f"{name}-{count}-{kind}-{pq_bytes}.json"
        if part.exists():
            rows += storage.read_json(str(part))
            continue
        started = time.perf_counter()
        index = built(kind, vectors_ND, pq_bytes)
        build_s = time.perf_counter() - started
        file = folder / "shard.faiss"
        faiss_shard.save(index, file)
        facts = {
            "vectors": name,
            "num_chunks": count,
            "dimension": width,
            "kind": kind,
            "pq_bytes": pq_bytes,
            "build_s": build_s,
            "bytes_per_chunk": file.stat().st_size / count,
            "predicted_bytes_per_chunk": bytes_per_chunk(
                kind, num_vectors=count, dimension=width, pq_bytes=pq_bytes
            ),
        }
        file.unlink()
        found = [
            {**_row(index, queries_QD, truth_QK, effort, repeat, facts), **facts}
            for effort in efforts
        ]
        storage.write_json(str(part), found)
        rows += found
        print(
            f"{name} {count:,} {kind} {pq_bytes or ''}: built in {build_s:.1f} s", file=sys.stderr
        )
    return rows


def _row(
    index: Any,
    queries_QD: np.ndarray,
    truth_QK: np.ndarray,
    effort: int,
    repeat: int,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Ours and FAISS' own call in turn; the first of each is not counted."""
    nprobe = effort
    if facts["kind"] in ("ivf", "ivfpq"):
        nprobe = min(index.nlist, effort * max(1, round(index.nlist**0.5)))
    parameters = faiss_shard.search_parameters(index, nprobe, K)

    def ours() -> np.ndarray:
        return faiss_shard.search(index, queries_QD, K, nprobe=nprobe)[1]

    def direct() -> np.ndarray:
        return index.search(queries_QD, K, params=parameters)[1]

    row_QK = ours()
    direct()
    spent: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeat):
        for who, call in (("ours", ours), ("peer", direct)):
            started = time.perf_counter()
            call()
            spent[who].append(time.perf_counter() - started)
    hits = [len({*a} & {*b}) / K for a, b in zip(row_QK.tolist(), truth_QK.tolist(), strict=True)]
    mine, theirs = (len(queries_QD) / median(spent[who]) for who in ("ours", "peer"))
    shown = f", {facts['pq_bytes']} bytes" if facts["pq_bytes"] else ""
    probe = f", nprobe {nprobe}" if nprobe else ""
    return {
        "name": f"{facts['vectors']} {facts['num_chunks']:,}, {facts['kind']}{shown}{probe}",
        "ours": mine,
        "peer": theirs,
        "ratio": mine / theirs,
        "floor": FLOOR,
        "better": "higher",
        "unit": "queries/s",
        "recall": float(np.mean(hits)),
        "queries_per_s": mine,
        "effort": effort,
        "nprobe": nprobe,
        "nlist": getattr(index, "nlist", 0),
        "num_queries": len(queries_QD),
    }


def page(found: Mapping[str, Any]) -> str:
    """The rows as Markdown, and how they were made."""
    head = ["vectors", "kind", "nprobe", "build s", "bytes a chunk", "recall@10", "queries/s"]
    head += ["FAISS directly", "ratio (floor)"]
    rows = [
        [
            f"{row['vectors']} {row['num_chunks']:,} x {row['dimension']}",
            row["kind"] + (f", {row['pq_bytes']} bytes" if row["pq_bytes"] else ""),
            str(row["nprobe"] or "-"),
            f"{row['build_s']:.1f}",
            f"{row['bytes_per_chunk']:.0f}",
            f"{row['recall']:.3f}",
            f"{row['ours']:.0f}",
            f"{row['peer']:.0f}",
            f"{row['ratio']:.2f} ({row['floor']:g})",
        ]
        for row in found["rows"]
    ]
    made = (
        f"`{found['command']}`, commit {found['commit']}, {found['hardware']}, "
        f"{found['threads']} thread(s), {found['rows'][0]['num_queries']} queries a call, medians "
        f"of {found['repeat']}."
    )
    return f"{made}\n\n{text_table(head, rows, True)}"


def shipped(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the package carries of it."""
    about = {name: found[name] for name in ("command", "commit", "hardware")}
    return {**about, "rows": [{name: row[name] for name in COLUMNS} for row in found["rows"]]}


def publish_index_kinds(found: Mapping[str, Any], root: Path = ROOT) -> None:
    """The page's part below its marker, and the package's table."""
    write_below(root / PAGE.relative_to(ROOT), page(found))
    storage.write_json(str(root / TABLE.relative_to(ROOT)), shipped(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", default="runs/index_kinds", help="vectors, what was measured")
    parser.add_argument("--sizes", nargs="*", default=["10k", "100k", "1M"], help="synthetic")
    parser.add_argument("--docs", type=int, default=40_000, help="pages of text, 0 = none")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--kinds", nargs="*", default=[], help="only these")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--file", default=str(FILE), help="JSON file to write")
    parser.add_argument("--no-publish", action="store_true", help="leave page and package alone")
    args = parser.parse_args()
    faiss.omp_set_num_threads(args.threads)
    torch.set_num_threads(args.threads)
    folder = Path(args.output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    if args.docs:
        found = text_vectors(folder, args.docs, args.queries)
        rows += measure("text", *found, folder, args.repeat, tuple(args.kinds))
    for size in args.sizes:
        found = synthetic(folder, int(number(size)), args.queries)
        rows += measure("synthetic", *found, folder, args.repeat, tuple(args.kinds))
    results = {
        **measured_by("index_kinds"),
        "threads": args.threads,
        "repeat": args.repeat,
        "rows": rows,
    }
    storage.write_json(args.file, results)
    if not args.no_publish:
        publish_index_kinds(results)
    print(page(results))


if __name__ == "__main__":
    main()
