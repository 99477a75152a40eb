"""A Ray head of its own for a test: with ports, token and folder that no other Ray of this machine
shares, and ended without `ray stop`, which would end them all.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
START_S = 90.0  # a cluster on two busy cores; 15 s on idle ones


def clean_environment() -> dict[str, str]:
    """Ours without another Ray's variables; a job's `python` is the first one on PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for_port(port: int, head: subprocess.Popen[bytes], seconds: float = START_S) -> None:
    """Returns once something listens; fails when the head has ended or the time is up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and head.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    pytest.fail(f"ray start did not come up (exit code {head.poll()})")


def stop(head: subprocess.Popen[bytes]) -> None:
    """Ends the head and its descendants alone: `ray stop` would end every Ray of this machine."""
    family = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
    head.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        head.wait(2)
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)
    if head.poll() is None:
        head.kill()
        head.wait(300)


def ray(
    arguments: list[str], environment: dict[str, str], **options: object
) -> subprocess.CompletedProcess[str]:
    """The `ray` command of this environment."""
    return subprocess.run(
        [str(BIN / "ray"), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,  # type: ignore[call-overload]
    )
