"""The peers' environments, and the processes in them that are asked by turns with us.

In: a name of ENVIRONMENTS. Out: a virtual environment below `.bench/` (made once, pip's output in
its log) and a `Peer`, a process there that holds its models and answers JSON lines. A peer that
cannot be installed is a `MissingPeerError`, which a script turns into a row that says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.side_by_side import CACHE, Done, Side

WORKERS = Path(__file__).parent / "workers"
INSTALL_S = 3600
# steps of pip in order; torch is the version that runs our side, so both call the same kernels
ENVIRONMENTS: dict[str, Sequence[Sequence[str]]] = {
    "fed-rag": (  # and FlashRAG, which imports on the same transformers
        (
            *("install", "fed-rag[huggingface]==0.0.27", "sentence-transformers==4.1.0"),
            *("transformers==4.52.4", "mcp<2", "torch=={torch}"),
        ),
        ("uninstall", "--yes", "torchvision"),
        ("install", "--no-deps", "--pre", "flashrag-dev==0.3.0.dev20260919"),
        (
            *("install", "faiss-cpu", "langid", "tiktoken", "openai", "PyYAML", "base58", "nltk"),
            *("rank_bm25", "rouge", "rouge-chinese", "jieba", "termcolor"),
        ),
    ),
    "trl": (("install", "trl==1.16.0", "torch=={torch}"),),
    "lm-eval": (("install", "lm-eval[hf]==0.4.13", "torch=={torch}"),),
}


class MissingPeerError(RuntimeError):
    """Why a peer cannot be measured here."""


class Peer:
    """A process in a peer's environment; use it as a context manager.

    environment: a name of ENVIRONMENTS, or "" for this very Python, where our own side needs a
    process of its own. small_blocks: freed memory goes back at once, so that peaks are true.
    """

    def __init__(
        self, environment: str, worker: str, *, threads: int = 1, small_blocks: bool = False
    ) -> None:
        python = installed(environment) if environment else Path(sys.executable)
        variables = {
            **os.environ,
            **{"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
            **{
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(WORKERS.parents[1]) if not environment else "",
            },
        }
        if small_blocks:
            variables |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        self.log = CACHE / f"{worker}.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [str(python), str(WORKERS / f"{worker}.py")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=variables,
            )

    def call(self, method: str, **arguments: Any) -> Done:
        """Asks once. `MissingPeerError` where the worker ends or its library raises."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise MissingPeerError(f"the worker ended, see {self.log.name}") from None
        line = self.process.stdout.readline()
        if not line:
            raise MissingPeerError(f"the worker ended, see {self.log.name}")
        told = json.loads(line)
        if "error" in told:
            raise MissingPeerError(" ".join(told["error"].split())[:300])
        return Done(**told)

    def side(self, method: str, **arguments: Any) -> Side:
        """The call as one side of a comparison; the worker itself takes the time."""
        return lambda: self.call(method, **arguments)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def installed(name: str) -> Path:
    """The Python of an environment, made where it does not stand yet."""
    folder = CACHE / name
    python, done = folder / "bin" / "python", folder / "installed.json"
    torch = metadata.version("torch").partition("+")[0]
    steps = [[word.format(torch=torch) for word in step] for step in ENVIRONMENTS[name]]
    if done.exists() and json.loads(done.read_text()) == steps:
        return python
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    log = CACHE / f"{name}.install.log"
    with open(log, "w") as file:
        commands = [[sys.executable, "-m", "venv", str(folder)]]
        commands += [[str(python), "-m", "pip", *step] for step in steps]
        for command in commands:
            try:
                subprocess.run(command, stdout=file, stderr=file, check=True, timeout=INSTALL_S)
            except (OSError, subprocess.SubprocessError):
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise MissingPeerError(
                    f"the environment {name!r} cannot be installed ({' '.join(last)[:200]})"
                ) from None
    done.write_text(json.dumps(steps))
    return python
