"""A driver in a process of its own, and its end by kill -9 together with everything it started."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = str(Path(__file__).parents[1])


def killed(code: str, when: Callable[[], bool], *, seconds: float = 500) -> None:
    """Runs Python code on a private cluster of one CPU and kills its whole family at once as soon
    as `when()`; fails where the code ends before.
    """
    start = "from radit_ray.engines.connect import connect\nconnect(num_cpus=1)\n"
    driver = subprocess.Popen(
        [sys.executable, "-c", start + code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    family = [psutil.Process(driver.pid)]
    end, look = time.monotonic() + seconds, 0.0
    try:
        while not when():
            assert driver.poll() is None, f"the driver ended with {driver.returncode} before that"
            assert time.monotonic() < end, f"nothing to kill after {seconds:g} s"
            # known before the moment comes: workers run on for a while after their driver is gone
            if time.monotonic() > look:
                with contextlib.suppress(psutil.Error):
                    family = [family[0], *family[0].children(recursive=True)]
                look = time.monotonic() + 0.3
            time.sleep(0.004)
    finally:
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        driver.wait()
        psutil.wait_procs(family, timeout=10)
