"""Peak memory of chunk, embed, index and retrieve when the corpus doubles (row 11).

Two corpora, one twice as large, in equally many files and in shards of the same size (so twice as
many shards of the index): what a process holds must not grow with the corpus. Each stage runs on a
Ray of its own with one worker; the resident set of every process below this one is read every 50
ms, and the peak is that of the largest.

    python -m benchmarks.memory [--quick]
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import threading
from collections.abc import Iterator

import psutil
import ray

from benchmarks import stand_ins
from benchmarks.side_by_side import Results, options_of, plain_row
from radit_ray.engines.connect import connect
from radit_ray.engines.resources import Resources
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

FLOOR = 1.1
EVERY_S = 0.05


class Watch:
    """The largest resident set of a process below this one, and the largest sum of all."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.largest = self.together = 0
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def _follow(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(self._every_s):
            held = []
            for process in me.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    info = process.memory_info()
                    held.append(info.rss - info.shared)  # the object store is no process' own
            self.see(max(held, default=0), sum(held))

    def see(self, largest: int, together: int) -> None:
        """One look: bytes of the largest process, and of all."""
        self.largest = max(self.largest, largest)
        self.together = max(self.together, together)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def watched(peaks: dict[str, Watch], stage: str) -> Iterator[None]:
    """A Ray of its own for one stage, so that no process of an earlier one is left."""
    connect(num_cpus=2)
    try:
        with Watch() as peaks[stage]:
            yield
    finally:
        ray.shutdown()


def stages(num: int, folder: str, options: argparse.Namespace) -> dict[str, Watch]:
    """The peak of each stage over a corpus of `num` documents."""
    found = stand_ins.world(folder, num, files=2)
    retriever = stand_ins.encoder("wide")
    per_shard = 200 if options.quick else 2_500
    one = Resources(num_workers=1)
    out = {name: f"{folder}/{name}" for name in ("chunk", "embed", "index", "retrieve")}
    peaks: dict[str, Watch] = {}
    with watched(peaks, "chunk"):
        config = ChunkConfig(docs_per_shard=per_shard)
        chunk(config, corpus=found["corpus"], output=out["chunk"], resources=one)
    with watched(peaks, "embed"):
        embedding = EmbedConfig(retriever=retriever)
        embed(embedding, chunks=out["chunk"], output=out["embed"], resources=one)
    with watched(peaks, "index"):
        building = IndexConfig(num_shards=max(1, num // (4 * per_shard)))
        index(building, embeddings=out["embed"], output=out["index"], resources=one)
    with watched(peaks, "retrieve"):
        ranking = RetrieveConfig(retriever=retriever, k=10, corpus_examples=per_shard)
        retrieve(
            ranking,
            **{"examples": found["examples"], "index": out["index"]},
            **{"output": out["retrieve"], "resources": one},
        )
    return peaks


def main() -> None:
    options = options_of(__doc__)
    results = Results("memory", options)
    num = 800 if options.quick else 20_000
    with tempfile.TemporaryDirectory(prefix="radit-bench-") as scratch:
        small = stages(num, f"{scratch}/1", options)
        large = stages(2 * num, f"{scratch}/2", options)
    for stage in small:
        peak = large[stage].largest
        results.add(
            plain_row(
                f"11 {stage}: peak memory of a process, corpus doubled to {2 * num} documents",
                **{"ours": peak / 2**20, "ratio": peak / small[stage].largest, "floor": FLOOR},
                **{"better": "lower", "unit": "MiB"},
                together_ratio=large[stage].together / small[stage].together,
            )
        )


if __name__ == "__main__":
    main()
