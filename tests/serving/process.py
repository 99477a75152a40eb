"""`radit serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from client import Client

SECONDS = 600  # to load, on a machine that does something else as well


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Endpoint:
    """The process and the address it answers at."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.client = Client(port)

    def parts(self) -> dict[str, psutil.Process]:
        """The processes of Serve's replicas and its proxy by name, such as "lm-0"."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(child.cmdline())
                if "ServeReplica:radit:" in title:
                    name = title.partition("ServeReplica:radit:")[2].split()[0]
                    found[name.partition(".")[0]] = child  # while it works: NAME.METHOD
                elif "ProxyActor" in title:
                    found["proxy"] = child
        return found

    def resident(self, *names: str) -> int:
        """Bytes of some parts together."""
        parts = self.parts()
        return sum(parts[name].memory_info().rss for name in names)

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=SECONDS)


@contextlib.contextmanager
def endpoint(run: str, port: int, folder: Path, *options: str) -> Iterator[Endpoint]:
    """`radit serve run` from the moment it answers; its log is in the folder."""
    log = folder / f"serve-{port}.log"
    words = [sys.executable, "-m", "radit_ray.cli", "serve", run, "--port", str(port), *options]
    # a Ray of its own: the tests' cluster is another one
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("w") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, text=True, env=env)
    try:
        until = time.monotonic() + SECONDS
        while "answers;" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.2)
        yield Endpoint(process, port, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=SECONDS)
