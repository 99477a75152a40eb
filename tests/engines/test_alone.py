"""Contract of `alone`: one process at a time, on a disk and on an object store, and whoever is
killed holds nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from radit_ray.core.errors import InputError
from radit_ray.engines import alone as module
from radit_ray.engines.alone import alone

HOLDS = """
import sys, time
from radit_ray.engines.alone import alone
from radit_ray.engines.connect import connect
connect()
with alone(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


def holding(output: str, **environment: str) -> subprocess.Popen[bytes]:
    """A process that holds `output` until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, output],
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.mark.parametrize("output", ["{folder}/sweep", "memory://bucket/sweep"])
@pytest.mark.ray
def test_a_second_process_is_refused_and_a_killed_one_holds_nothing(
    output: str, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = output.format(folder=tmp_path)
    process = holding(output, RAY_ADDRESS=ray.get_runtime_context().gcs_address)
    with monkeypatch.context() as patch:
        patch.setattr(module, "GONE_S", 0.0)
        with pytest.raises(InputError, match="another process runs"):
            alone(output).__enter__()
    with alone(f"{output}-2"):  # another sweep is not in the way
        process.kill()
        process.wait()
    for _ in range(2):  # and whoever ends by itself holds nothing either
        with alone(output):
            pass
