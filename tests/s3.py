"""A local server of the S3 protocol (moto, extra `s3`), and the variables of its clients."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterator

from tests.head import free_ports, wait_for_port

SECONDS = 600.0  # for the server to come up on a machine with other work to do


def have_s3() -> bool:
    """Whether the extra `s3` is installed."""
    return all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask"))


@contextlib.contextmanager
def s3_server() -> Iterator[dict[str, str]]:
    """Starts the server; yields what its clients need in their environment."""
    (port,) = free_ports(1)
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_port(port, server, SECONDS)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "of-this-test",
            "AWS_SECRET_ACCESS_KEY": "of-this-test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.kill()
        server.wait()
