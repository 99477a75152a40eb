"""Our own side in a process of its own, where a peak of memory is measured."""

from __future__ import annotations

from benchmarks.lm_ft import MemoryWorker
from benchmarks.search import IndexWorker
from benchmarks.workers.loop import serve


class Radit(MemoryWorker, IndexWorker):
    """What is measured in a fresh process."""


if __name__ == "__main__":
    serve(Radit())
