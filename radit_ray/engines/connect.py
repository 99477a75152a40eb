"""Joining a Ray cluster, once, from a command or a job; stages themselves never do."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

import ray

from radit_ray.core.errors import InputError


def connect(*, num_cpus: int | None = None) -> None:
    """Joins the cluster of this job or of RAY_ADDRESS ("auto": the one on this machine), else
    starts a private one here, quietly.

    Inside `ray job submit` the address is in the environment. `num_cpus` only counts for a private
    cluster.
    """
    if num_cpus is not None and num_cpus < 1:
        raise InputError(f"num_cpus={num_cpus}; expected at least 1, or 0 for all")
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    joined = bool(os.environ.get("RAY_ADDRESS"))
    with no_chatter():
        _init(joined, num_cpus)
    quiet()


def _init(joined: bool, num_cpus: int | None) -> None:
    ray.init(
        address=None if joined else "local",
        num_cpus=None if joined else num_cpus,
        include_dashboard=None if joined else False,
        logging_level=logging.WARNING,
        log_to_driver=os.environ.get("RADIT_VERBOSE") == "1",
        configure_logging=True,
    )


@contextlib.contextmanager
def no_chatter() -> Iterator[None]:
    """Nothing on file descriptor 2: there Ray's C++ core announces its log level, whatever the
    level, and what ends tells of calls that it had not answered. Errors come as exceptions.
    """
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def quiet() -> None:
    """One progress bar a stage instead of the libraries' own, and errors only."""
    from ray.data import DataContext
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
