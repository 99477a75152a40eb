"""A whole corpus through chunk, embed, index and retrieve on two cores: chunks a second, and what
each process and the object store hold while it goes by.

In: corpus files (all of those below $RADIT_DATA/corpus), an encoder (MiniLM's first layers: what
streams and what is held does not depend on how many there are). Out:
benchmarks/results/streaming.json and the table of docs/scale.md between its markers. Memory is
looked at every half second, beside the number of committed shards: the peak over the whole
corpus must be that over its first half. Stages that are finished are not run again, and keep what
was measured.

    python -m benchmarks.streaming runs/streaming [--corpus FILES] [--layers 6] [--limit 1000]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from sentence_transformers import SentenceTransformer

from benchmarks.memory import Watch
from benchmarks.publish import ROOT, between, measured_by
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, read_manifest
from radit_ray.data.readers import list_corpus_files
from radit_ray.data.tasks import data_folder
from radit_ray.engines.connect import connect
from radit_ray.engines.resources import Resources
from radit_ray.recipes import squad_open
from radit_ray.report.table import text_table
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

FILE = ROOT / "benchmarks" / "results" / "streaming.json"
PAGE = ROOT / "docs" / "scale.md"
EVERY_S = 0.5
FLOOR = 1.1  # peak of the whole over that of its first half
SHARD = 130_000  # chunks of an index shard
MIB = 2**20


class Timeline(Watch):
    """Each look beside what was committed by then; the object store's pages, too."""

    def __init__(self, output: str) -> None:
        super().__init__(EVERY_S)
        self.output = output
        self.before = psutil.disk_usage("/dev/shm").used
        self.looks: list[tuple[int, int, int, int]] = []

    def see(self, largest: int, together: int) -> None:
        super().see(largest, together)
        store = psutil.disk_usage("/dev/shm").used - self.before
        committed = len(storage.list_files(f"{self.output}/committed"))
        before = self.looks[-1][0] if self.looks else 0  # a finished stage drops its sidecars
        self.looks.append((max(committed, before), largest, together, store))

    def peaks(self) -> dict[str, dict[str, int]]:
        """Bytes until half of the shards were committed, and over all."""
        shards = max(look[0] for look in self.looks)
        half = [look for look in self.looks if 2 * look[0] <= shards]
        return {
            name: {
                "half": max((look[place] for look in half), default=0),
                "whole": max(look[place] for look in self.looks),
            }
            for place, name in enumerate(("process", "together", "store"), start=1)
        }


def first_layers(layers: int, folder: Path) -> str:
    """MiniLM cut after so many layers, as sentence-transformers store it."""
    made = folder / f"minilm-{layers}"
    if not made.exists():
        model = SentenceTransformer(squad_open().retriever, device="cpu")
        inner = model[0].auto_model
        inner.encoder.layer = torch.nn.ModuleList(list(inner.encoder.layer)[:layers])
        inner.config.num_hidden_layers = layers
        model.save(str(made))
    return str(made)


def measured(
    stage: str, folder: Path, call: Callable[[str, Resources], Artifact]
) -> dict[str, Any]:
    """One stage on a Ray of its own."""
    kept, output = folder / f"measured-{stage}.json", str(folder / stage)
    if kept.exists():
        return storage.read_json(str(kept))
    storage.remove(output)  # what is there was measured by nobody
    connect(num_cpus=2)
    try:
        with Timeline(output) as seen:
            started = time.perf_counter()
            made = call(output, Resources(num_workers=2))
            wall_s = time.perf_counter() - started
    finally:
        ray.shutdown()
    manifest = read_manifest(made.path)
    assert manifest is not None
    shards = [file for file in manifest["files"] if file["name"].endswith((".parquet", ".faiss"))]
    found = {"stage": stage, "wall_s": wall_s, "shards": len(shards)}
    found |= {"metrics": made.metrics, "cost": manifest["cost"], "peaks": seen.peaks()}
    found["load_average"] = os.getloadavg()[1]  # of the last 5 minutes: who else was at work
    storage.write_json(str(kept), found)
    print(found, file=sys.stderr, flush=True)
    return found


def chain(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All four stages, those that are finished from their records."""
    retriever = first_layers(args.layers, folder)

    def chunked(output: str, resources: Resources) -> Artifact:
        config = ChunkConfig(limit=args.limit)
        return chunk(config, corpus=args.corpus, output=output, resources=resources)

    def embedded(output: str, resources: Resources) -> Artifact:
        config = EmbedConfig(retriever=retriever)
        return embed(config, chunks=str(folder / "chunk"), output=output, resources=resources)

    def indexed(output: str, resources: Resources) -> Artifact:
        manifest = read_manifest(str(folder / "chunk"))
        assert manifest is not None
        config = IndexConfig(num_shards=-(-manifest["metrics"]["num_chunks"] // SHARD))
        source = str(folder / "embed")
        return index(config, embeddings=source, output=output, resources=resources)

    def retrieved(output: str, resources: Resources) -> Artifact:
        config = RetrieveConfig(retriever=retriever, k=10)
        source = {"examples": args.examples, "index": str(folder / "index")}
        return retrieve(config, **source, output=output, resources=resources)

    stages = {"chunk": chunked, "embed": embedded, "index": indexed, "retrieve": retrieved}
    return [measured(name, folder, call) for name, call in stages.items()]


def rows_of(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What grows and what must not: per stage the peak of a process and of the object store."""
    rows = []
    for one in found:
        for name, shown in (("process", "largest process"), ("store", "object store")):
            peak = one["peaks"][name]
            ratio = peak["whole"] / peak["half"] if peak["half"] else None
            row = {"name": f"{one['stage']}: {shown}, whole corpus over its first half"}
            row |= {"ours": peak["whole"] / MIB, "peer": peak["half"] / MIB, "ratio": ratio}
            rows.append(row | {"floor": FLOOR, "better": "lower", "unit": "MiB", "bound": ""})
    return rows


def page(found: Mapping[str, Any]) -> str:
    """What stands between the markers of docs/scale.md."""
    num = found["stages"][0]["metrics"]["num_chunks"]
    head = ["stage", "shards", "wall, s", "load", "chunks/s", "largest process: half, whole"]
    head += ["all processes: half, whole", "object store: half, whole"]
    table = []
    for one in found["stages"]:
        pairs = [
            f"{peak['half'] / MIB:,.0f}, {peak['whole'] / MIB:,.0f} MiB"
            for peak in one["peaks"].values()
        ]
        speed = "-" if one["stage"] == "retrieve" else f"{num / one['wall_s']:,.0f}"
        wall, load = f"{one['wall_s']:,.0f}", f"{one['load_average']:.1f}"
        table.append([one["stage"], str(one["shards"]), wall, load, speed, *pairs])
    return "\n\n".join(
        [
            f"`{found['command']}`, commit {found['commit']}, {found['hardware']}: "
            f"{found['num_files']} files, {found['stages'][0]['metrics']['num_documents']:,} "
            f"documents, {num:,} chunks, two workers, {found['layers']} of MiniLM's 6 layers.",
            text_table(head, table, True),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="a whole corpus, and what it holds in memory")
    parser.add_argument("output", help="folder of the artifacts, kept between calls")
    parser.add_argument("--corpus", default="", help="default: all of $RADIT_DATA/corpus")
    parser.add_argument("--examples", default="", help="default: squad_open's dev questions")
    parser.add_argument("--layers", type=int, default=2, help="of MiniLM's 6")
    parser.add_argument("--limit", type=int, default=0, help="documents of each file, 0 = all")
    args = parser.parse_args()
    folder = Path(args.output).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    root = data_folder() if not (args.corpus and args.examples) else ""
    args.corpus = args.corpus or os.path.join(root, "corpus", "*.jsonl.xz")
    args.examples = args.examples or os.path.join(root, "squad_open", "qa.dev.jsonl.gz")
    found = chain(args, folder)
    results = {**measured_by("streaming"), "layers": args.layers, "stages": found}
    results |= {"num_files": len(list_corpus_files(args.corpus)), "rows": rows_of(found)}
    storage.write_json(str(FILE), results)
    PAGE.write_text(between(PAGE.read_text("utf-8"), "streaming", page(results)), encoding="utf-8")
    print(page(results))


if __name__ == "__main__":
    main()
