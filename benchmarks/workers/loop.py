"""The loop of a worker: JSON lines in, JSON lines out. Standard library only, since every peer's
environment runs it.

In: a line `{"call": method, "arguments": {...}}`. Out: a line `{"result", "cpu_s", "wall_s"}`, or
`{"error"}`. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from typing import Any


def serve(worker: Any) -> None:
    """Answers until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            result = getattr(worker, asked["call"])(**asked["arguments"])
            told = {
                "result": result,
                "cpu_s": time.process_time() - cpu,
                "wall_s": time.perf_counter() - wall,
            }
        except Exception as error:  # whatever a peer raises becomes a line of the report
            traceback.print_exc()
            told = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(told) + "\n")
        answers.flush()


def resident_bytes() -> int:
    """What this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    """Lets the kernel count the peak afresh."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_bytes() -> int:
    """Most that this process held since `reset_peak`."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
