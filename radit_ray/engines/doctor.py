"""Where a result comes from: hardware, versions, command."""

from __future__ import annotations

import contextlib
import os
import platform
import shlex
import sys
from typing import Any

import torch

from radit_ray.core.errors import redacted
from radit_ray.data.versions import versions


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
        "cluster": _cluster(),
        "versions": versions(),
        "command": command or redacted(shlex.join([_program(), *sys.argv[1:]])),
    }


def _cluster() -> dict[str, float]:
    """CPUs and GPUs of the Ray cluster that this process is connected to; none where it is not."""
    ray = sys.modules.get("ray")  # importing it takes a second, and tells nothing that is unknown
    has = ray.cluster_resources() if ray is not None and ray.is_initialized() else {}
    return {kind: has.get(kind, 0.0) for kind in ("CPU", "GPU")}


def _program() -> str:
    """ "radit" however it was started, else the script's name."""
    name = os.path.basename(sys.argv[0])
    return "radit" if name == "cli.py" else name
