"""A small disk of its own for a test: a tmpfs of some kilobytes that can be full, grow, and become
read-only. Skips where this process may not mount.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        """Changes its size (`size=64k`) or whether it can be written (`ro`, `rw`)."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.path)], check=True)

    def free_bytes(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize


@contextmanager
def disk(path: Path, size: str) -> Iterator[Disk]:
    """Mounts a tmpfs of this size at a new folder."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    mounted = (
        os.path.exists("/bin/mount")
        and not subprocess.run(["mount", *options], capture_output=True, check=False).returncode
    )
    if not mounted:
        pytest.skip("mounting a small disk needs root")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)
