"""One process a sweep: a second one would take the first one's running trials for lost.

In: the sweep's output. Out: a context that only one process is in at a time; it ends with its
process, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import time
from collections.abc import Iterator

import ray

from radit_ray.core.errors import InputError
from radit_ray.data import storage

NAMESPACE = "radit"
GONE_S = 20.0  # until the cluster has noticed that a driver was killed


class Holder:
    """An actor that is there as long as its driver."""


def alone(output: str) -> contextlib.AbstractContextManager[None]:
    """Holds a lock on a file in `output`; object stores have none, there a named actor of the
    cluster, so that drivers on two clusters do not see one another. InputError where another
    process holds it.
    """
    return _file(storage.local(output)) if storage.is_local(output) else _actor(output)


def _refused(output: str) -> InputError:
    return InputError(
        f"another process runs the sweep in {output}; wait for it, or choose another --output"
    )


@contextlib.contextmanager
def _file(folder: str) -> Iterator[None]:
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _refused(folder) from None
        yield


@contextlib.contextmanager
def _actor(output: str) -> Iterator[None]:
    name = f"alone-{hashlib.sha256(output.rstrip('/').encode()).hexdigest()[:12]}"
    made = ray.remote(num_cpus=0)(Holder).options(name=name, namespace=NAMESPACE)
    until = time.monotonic() + GONE_S
    while True:
        try:
            holder = made.remote()
            break
        except ValueError:  # the name is taken
            if time.monotonic() > until:
                raise _refused(output) from None
            print(f"radit: {output} is held; waiting for a killed process to go", file=sys.stderr)
            time.sleep(GONE_S / 4)
    try:
        yield
    finally:
        ray.kill(holder)
