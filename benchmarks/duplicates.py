"""Copies among the chunks of a real corpus, and what questions share with training and a corpus:
counts, seconds, memory.

In: Simple English Wikipedia, squad_open and Natural Questions below $RADIT_DATA. Out:
benchmarks/results/duplicates.json and the part of docs/results/dedup.md below its marker. What is
finished below the folder is not run again, and keeps what was measured.

    python -m benchmarks.duplicates runs/duplicates [--docs 25000 70000]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from benchmarks.memory import Watch
from benchmarks.publish import ROOT, measured_by, write_below
from radit_ray.data import storage
from radit_ray.data.tasks import data_folder
from radit_ray.engines.connect import connect
from radit_ray.engines.overlap import FOUND, OverlapConfig, overlap
from radit_ray.engines.resources import Resources
from radit_ray.overlap_command import OverlapArgs, chosen, share
from radit_ray.report.table import text_table
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.dedup import DedupConfig, dedup

FILE = ROOT / "benchmarks" / "results" / "duplicates.json"
PAGE = ROOT / "docs" / "results" / "dedup.md"
WORKERS = Resources(num_workers=2)
MIB = 2**20


def copies(root: str, folder: Path, num_docs: int) -> dict[str, Any]:
    """Chunk and dedup of so many pages, on a Ray of their own."""
    kept = folder / f"measured-{num_docs}.json"
    if kept.exists():
        return storage.read_json(str(kept))
    storage.remove(str(folder / f"dedup-{num_docs}"))  # what is there was measured by nobody
    corpus = os.path.join(root, "corpus", "simplewiki_2021-11.jsonl.xz")
    connect(num_cpus=2)
    try:
        source = chunk(
            ChunkConfig(limit=num_docs), corpus=corpus, output=str(folder / f"chunk-{num_docs}")
        )
        with Watch() as seen:
            started = time.perf_counter()
            made = dedup(
                DedupConfig(),
                chunks=source.path,
                output=str(folder / f"dedup-{num_docs}"),
                resources=WORKERS,
            )
            wall_s = time.perf_counter() - started
    finally:
        ray.shutdown()
    found = {"num_docs": num_docs, "wall_s": wall_s, **made.metrics, "largest": seen.largest}
    found["load_average"] = os.getloadavg()[0]
    storage.write_json(str(kept), found)
    print(found, file=sys.stderr, flush=True)
    return found


def shared(root: str, folder: Path, name: str, args: OverlapArgs) -> dict[str, Any]:
    """One comparison of questions with training and a corpus."""
    kept = folder / f"measured-{name}.json"
    if kept.exists():
        return storage.read_json(str(kept))
    questions, training = chosen(args)
    connect(num_cpus=2)
    try:
        started = time.perf_counter()
        found = overlap(
            OverlapConfig(), questions, training=training, corpus=args.corpus, resources=WORKERS
        )
        wall_s = time.perf_counter() - started
    finally:
        ray.shutdown()
    given = {
        field: getattr(args, field).replace(root, "$RADIT_DATA").replace(str(folder), "OUTPUT")
        for field in ("examples", "train", "corpus")
    }
    counts = found["tasks"]["all"]
    made = {"name": name, **given, "num_training": len(training), "wall_s": wall_s, **counts}
    storage.write_json(str(kept), made)
    print(made, file=sys.stderr, flush=True)
    return made


def page(found: Mapping[str, Any]) -> str:
    """What stands below the marker."""
    head = ["pages", "chunks", "exact", "near", "kept", "pairs compared", "not compared"]
    head += ["wall, s", "chunks/s", "largest process"]
    rows = [
        [
            *(f"{one[name]:,}" for name in ("num_docs", "num_chunks", "num_exact", "num_near")),
            *(f"{one[name]:,}" for name in ("num_kept", "num_compared", "num_cut")),
            f"{one['wall_s']:,.0f}",
            f"{one['num_chunks'] / one['wall_s']:,.0f}",
            f"{one['largest'] / MIB:,.0f} MiB",
        ]
        for one in found["copies"]
    ]
    titles = ["questions", "train", "corpus", *FOUND.values(), "wall, s"]
    lines = [
        [
            f"{one['name']}: {one['num_questions']:,}",
            f"{one['num_training']:,}",
            os.path.basename(one["corpus"]),
            *(share(one[name]) for name in FOUND),
            f"{one['wall_s']:,.0f}",
        ]
        for one in found["overlap"]
    ]
    made = (
        f"`{found['command']}`, commit {found['commit']}, {found['hardware']}, two workers, load "
        f"average {max(one['load_average'] for one in found['copies']):.1f} or less:"
    )
    return "\n\n".join([made, text_table(head, rows, True), text_table(titles, lines, True)])


def main() -> None:
    parser = argparse.ArgumentParser(description="copies among chunks, overlap of questions")
    parser.add_argument("output", help="folder of the artifacts, kept between calls")
    parser.add_argument("--docs", type=int, nargs="+", default=[25_000, 70_000], help="pages")
    args = parser.parse_args()
    folder, root = Path(args.output).absolute(), data_folder()
    folder.mkdir(parents=True, exist_ok=True)
    found = [copies(root, folder, num_docs) for num_docs in args.docs]
    squad, largest = f"{root}/squad_open", str(folder / f"chunk-{args.docs[-1]}")
    asked = {
        "squad_open dev": OverlapArgs(
            examples=f"{squad}/qa.dev.jsonl.gz",
            train=f"{squad}/qa.train.jsonl.gz",
            corpus=f"{squad}/corpus.jsonl.gz",
        ),
        "nq dev": OverlapArgs(
            examples="task:nq", train=f"{root}/qa/nq_open/topics.dpr.nq.dev.txt.xz", corpus=largest
        ),
    }
    results = {
        **measured_by("duplicates"),
        "copies": found,
        "overlap": [shared(root, folder, name, one) for name, one in asked.items()],
    }
    storage.write_json(str(FILE), results)
    write_below(PAGE, page(results))
    print(page(results))


if __name__ == "__main__":
    main()
