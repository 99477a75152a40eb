"""How an exact index grows: building, opening and searching it at 10k to 10M vectors, and what
that says of the paper's 399M chunks.

In: nothing; unit vectors of MiniLM's width are drawn into embedding artifacts, as `embed` leaves
them, below OUTPUT. Out: benchmarks/results/scale.json and the table of docs/scale.md between its
markers. A size that was measured before is not measured again; `--sizes` picks some.

    python -m benchmarks.scale runs/scale [--sizes 10k 100k 1M 10M]
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from benchmarks.memory import Watch
from benchmarks.publish import ROOT, between, measured_by
from radit_ray.data import storage
from radit_ray.data.artifacts import commit_shard
from radit_ray.data.rows import CHUNK
from radit_ray.data.work import Work
from radit_ray.engines.connect import connect
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.plan import DEVICES, Sizes, number, plan_run
from radit_ray.recipes import paper as recipe
from radit_ray.report.table import text_table
from radit_ray.stages import embed
from radit_ray.stages.index import IndexConfig, index

FILE = ROOT / "benchmarks" / "results" / "scale.json"
PAGE = ROOT / "docs" / "scale.md"
WIDTH, K, QUERIES, REPEATS = 384, 10, 64, 3
PART = 100_000  # chunks of an embedding shard
SHARD = 1_000_000  # chunks of an index shard
PAPER = {"num_chunks": 399_000_000, "width": 768}  # Appendix A
LM_PARAMETERS, GPUS = 7e9, 8
GIB = 2**30


def write_embeddings(output: str, num: int) -> str:
    """An embedding artifact of `num` drawn vectors; what lies there is kept."""
    width = min(PART, max(1, num // 4))
    starts = range(0, num, width)
    config = embed.EmbedConfig(retriever="drawn", precision="fp32")
    with Work.open("embed", embed.VERSION, config, {}, output) as work:
        if work.done:
            return output
        names = {f"part-{start // width:05d}.parquet": start for start in starts}
        for name in work.missing(list(names)):
            start = names[name]
            count = min(width, num - start)
            vectors_ND = np.random.default_rng(start).standard_normal((count, WIDTH), np.float32)
            vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
            flat = pa.array(vectors_ND.astype(np.float16).ravel())
            ids = [f"c{start + row}" for row in range(count)]
            texts = {key: [""] * count for key in CHUNK.names} | {"id": ids, "doc_id": ids}
            table = pa.table(texts, schema=CHUNK).append_column(
                "embedding", pa.FixedSizeListArray.from_arrays(flat, WIDTH)
            )
            commit_shard(output, name, table, device_s=0.0, tokens=0, peak_dimension=WIDTH)
        work.finish(metrics={"num_chunks": num, "dimension": WIDTH})
    return output


def measure(num: int, folder: Path) -> dict[str, Any]:
    """One size: seconds, bytes and peaks of memory."""
    embeddings = write_embeddings(str(folder / f"embed-{num}"), num)
    built = str(folder / f"index-{num}")
    storage.remove(built)  # what is there was measured by nobody
    config = IndexConfig(kind="flat", num_shards=max(1, num // SHARD))
    connect(num_cpus=2)
    try:
        with Watch() as building:
            started = time.perf_counter()
            made = index(
                config, embeddings=embeddings, output=built, resources=Resources(num_workers=1)
            )
            index_s = time.perf_counter() - started
        with Watch() as searching:
            started = time.perf_counter()
            opened = ShardedIndex.open(made.path)
            opened.ready()
            open_s = time.perf_counter() - started
            queries = np.random.default_rng(1).standard_normal((QUERIES, WIDTH), np.float32)
            seconds = []
            for _ in range(REPEATS + 1):  # the first one warms up
                started = time.perf_counter()
                found, _ = opened.search(queries, K)
                seconds.append(time.perf_counter() - started)
            assert np.isfinite(found).all()
    finally:
        ray.shutdown()
    size = sum(file.stat().st_size for file in Path(built).glob("*.faiss"))
    shutil.rmtree(built)
    row = {
        "name": f"flat, {num:,} x {WIDTH}",
        "num_chunks": num,
        "num_shards": config.num_shards,
        "index_s": index_s,
        "index_worker_bytes": building.largest,
        "file_bytes": size,
        "open_s": open_s,
        "search_s": float(np.median(seconds[1:])),
        "search_process_bytes": searching.largest,
        "search_bytes": searching.together,
    }
    per_query = row["search_s"] / QUERIES
    return row | {
        **{"ours": 1 / per_query, "peer": None, "ratio": None, "floor": None, "better": "higher"},
        **{"unit": "queries/s", "bound": ""},
    }


def exponents(rows: Sequence[Mapping[str, Any]], what: str) -> float:
    """The slope of log(what) over log(chunks) from 100k on: below that, starting is what costs."""
    large = [row for row in rows if row["num_chunks"] >= 100_000]
    if len(large) < 2:
        return float("nan")
    sizes = np.log([row["num_chunks"] for row in large])
    return float(np.polyfit(sizes, np.log([row[what] for row in large]), 1)[0])


def paper(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The paper's corpus by arithmetic: bytes from the shapes, CPU times linear in bytes from the
    largest size that was measured, device hours from `radit plan` (GPU rates are assumptions).
    """
    num, width = PAPER["num_chunks"], PAPER["width"]
    largest = max(rows, key=lambda row: row["num_chunks"])
    times = num * width / (largest["num_chunks"] * WIDTH)
    sizes = Sizes(num_chunks=num, lm_parameters=LM_PARAMETERS, dimension=width)
    plans = {
        name: {plan.name: plan for plan in plan_run(recipe(), sizes, rates, num_devices=GPUS)}
        for name, rates in DEVICES.items()
        if name != "h100"
    }

    def hours(stage: str) -> str:
        shown = (f"{plan[stage].device_s / 3600:,.1f} h of {n}" for n, plan in plans.items())
        return ", ".join(shown)

    def stored(*names: str) -> float:
        return sum(plans["h200"][name].storage_bytes for name in names)

    asked = sizes.num_train + sizes.num_eval + recipe().retrieve.corpus_examples
    step = 2.0 * 4 * LM_PARAMETERS  # a ring sends each gradient twice, fp32
    return [
        ["vectors", "N x D x 2 bytes", gb(2.0 * num * width)],
        ["index shards", f"{SHARD:,} chunks each", f"{num / SHARD:.0f}"],
        ["chunks, stored", "6 bytes a word, compressed to 0.45", gb(stored("chunk"))],
        ["embeddings, stored", "vectors, and texts compressed", gb(stored("embed"))],
        ["index, stored", "vectors, and texts as they are", gb(stored("index"))],
        ["chunk", "200,000 words/s a core", f"{plans['h200']['chunk'].device_s / 3600:.0f} core h"],
        ["embed", "2 x 110M x 135 FLOPs a chunk", hours("embed")],
        ["build the index", "as measured above", f"{largest['index_s'] * times / 3600:.1f} core h"],
        [
            "open the index",
            "as measured above, shards side by side on two cores",
            f"{largest['open_s'] * times / 60:.0f} min, divided by the nodes",
        ],
        [
            "exact search, CPU",
            "as measured above, two cores",
            f"{largest['search_s'] / QUERIES * times:.1f} s a query, divided by the nodes",
        ],
        [f"exact search, {asked:,.0f} queries", "vectors read per 512 queries", hours("retrieve")],
        [f"score, {LM_PARAMETERS / 1e9:.0f}B LM", "2 x parameters x tokens", hours("score")],
        [
            "network, once",
            "storage to workers and back: chunk, embed, index, open",
            gb(2 * stored("chunk", "embed") + 2 * stored("index")),
        ],
        [
            "network, search",
            "each query once to each node, k rows back from each shard",
            f"{gb(asked * 4 * width)} a node, {gb(asked * num / SHARD * K * 12)} back",
        ],
        [
            f"network, lm-ft of {LM_PARAMETERS / 1e9:.0f}B, DDP",
            "gradients, fp32, a step and worker",
            f"{gb(step)} of {recipe().lm_ft.steps} steps",
        ],
    ]


def gb(count: float) -> str:
    return f"{count / 1e9:,.0f} GB" if count >= 1e10 else f"{count / 1e9:,.1f} GB"


def page(found: Mapping[str, Any]) -> str:
    """What stands between the markers of docs/scale.md."""
    rows = found["rows"]
    head = ["chunks", "shards", "index, s", "largest builder", "files", "open, s"]
    head += ["queries/s", "largest searcher", "all processes"]
    table = [
        [
            f"{row['num_chunks']:,}",
            str(row["num_shards"]),
            f"{row['index_s']:.1f}",
            f"{row['index_worker_bytes'] / GIB:.2f} GiB",
            f"{row['file_bytes'] / GIB:.2f} GiB",
            f"{row['open_s']:.1f}",
            f"{row['ours']:.1f}",
            f"{row['search_process_bytes'] / GIB:.2f} GiB",
            f"{row['search_bytes'] / GIB:.2f} GiB",
        ]
        for row in rows
    ]
    slopes = ", ".join(
        f"{label} {exponents(rows, what):.2f}"
        for label, what in (("index", "index_s"), ("open", "open_s"), ("search", "search_s"))
    )
    return "\n\n".join(
        [
            f"`{found['command']}`, commit {found['commit']}, {found['hardware']}: flat, {WIDTH} "
            f"dimensions, shards of {SHARD:,}, one worker builds, {QUERIES} queries a call, "
            f"k = {K}, median of {REPEATS}.",
            text_table(head, table, True),
            f"Exponents from 100,000 chunks on (1 is linear): {slopes}.",
            f"The paper's {PAPER['num_chunks']:,} chunks x {PAPER['width']}, by arithmetic:",
            text_table(["what", "how it is counted", "so much"], paper(rows), True),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="how an exact index grows")
    parser.add_argument("output", help="folder of the vectors")
    parser.add_argument("--sizes", nargs="*", default=["10k", "100k", "1M", "10M"])
    args = parser.parse_args()
    folder, rows = Path(args.output).absolute(), []
    for size in args.sizes:
        num = int(number(size))
        kept = folder / f"measured-{num}.json"
        if not kept.exists():
            storage.write_json(str(kept), measure(num, folder))
        rows.append(storage.read_json(str(kept)))
        print(rows[-1], flush=True)
    found = {**measured_by("scale"), "rows": rows}
    storage.write_json(str(FILE), found)
    PAGE.write_text(between(PAGE.read_text("utf-8"), "scale", page(found)), encoding="utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
