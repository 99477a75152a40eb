"""Which code made a result: Python, the packages that matter, the commit."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from importlib import metadata


def versions() -> dict[str, str]:
    """Versions of what computes results here, for the manifest."""
    names = (
        "radit-ray",
        "ray",
        "torch",
        "transformers",
        "sentence-transformers",
        "faiss-cpu",
        "faiss-gpu",
        "deepspeed",
    )
    found = {"python": platform.python_version()}
    if commit := _commit():
        found["commit"] = commit
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str:
    """The commit of the checkout this code runs from, "-dirty" behind it where files differ; ""
    outside git.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
