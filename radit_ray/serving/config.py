"""What an endpoint is started with: a run, its variants, how large each deployment is, and what one
request may ask for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import ipaddress
import os
from typing import Any, ClassVar

from radit_ray.core.errors import Bounds, InputError, check_bounds

MIN_TOKEN = 16  # characters: a token is a secret that nobody should be able to guess
NAME = "radit"  # of the Serve application
STRICT = {"extra": "forbid"}  # pydantic reads jobs/serve.yaml: an unknown field is an error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """How much at once and how long; more is refused. What a single request may ask for stands in
    `schemas.py`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    body_bytes: int = 1_000_000  # of a request; more: 413
    in_flight: int = 64  # requests accepted and unfinished, a gateway; more: 429
    body_s: float = 10.0  # for a request's body to arrive; more: 408
    request_s: float = 60.0  # for an answer, waiting included; more: 503
    evaluate_s: float = 1800.0  # for an evaluate request

    BOUNDS: ClassVar[Bounds] = {
        "body_bytes": (1, None),
        "in_flight": (1, None),
        **dict.fromkeys(("body_s", "request_s", "evaluate_s"), (0.001, None)),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """Size of one deployment; with max_replicas > replicas Serve scales it by its queue."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    replicas: int = 1
    max_replicas: int = 0
    cpus: float = 0.0  # of one replica
    gpus: float = 0.0  # of one replica; > 0 puts the model on CUDA

    BOUNDS: ClassVar[Bounds] = {
        "replicas": (1, None),
        **dict.fromkeys(("max_replicas", "cpus", "gpus"), (0, None)),
    }

    @property
    def device(self) -> str:
        """Where models live: "cuda" or "cpu"."""
        return "cuda" if self.gpus > 0 else "cpu"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """One endpoint. Fields are those of `radit serve` and of `args` in jobs/serve.yaml."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT
    run: str  # folder of a finished run
    # the first one answers where a request names none; () = radit beside replug, else the last
    variants: tuple[str, ...] = ()
    token_file: str = ""  # holds the bearer token; "" = only this machine may ask
    retriever: Scale = Scale(cpus=0.1)
    shards: Scale = Scale()  # of the index: they hold memory and no CPU share
    lm: Scale = Scale(cpus=0.5)
    threads: int = 0  # torch threads of a model on a CPU; 0 = its CPUs, below 1 the node's / LMs
    precision: str = "auto"  # of the LMs
    max_batch: int = 32  # requests that an LM or encoder takes at once
    batch_tokens: int = 16384  # tokens of one forward pass
    limits: Limits = Limits()
    log_contents: bool = False  # log lines also carry what was asked and answered

    BOUNDS: ClassVar[Bounds] = {
        "threads": (0, None),
        "max_batch": (1, None),
        "batch_tokens": (1, None),
    }


def check_config(config: ServeConfig) -> None:
    """InputError for a number out of range; the precision is known to whoever loads models."""
    for one in (config, config.limits, config.retriever, config.shards, config.lm):
        check_bounds(one, one.BOUNDS)
    for name in ("retriever", "shards", "lm"):
        scale: Scale = getattr(config, name)
        if 0 < scale.max_replicas < scale.replicas:
            raise InputError(
                f"{name}: max_replicas={scale.max_replicas} is below replicas={scale.replicas}; "
                "give more, or 0 for a fixed number"
            )


def read_token(path: str) -> str:
    """sha256 of the token in a file, "" without one: only the hash leaves this process, since Serve
    keeps what deployments are started with.
    """
    if not path:
        return ""
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            token = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"token file {path!r}: {error}; expected a readable text file") from None
    if len(token) < MIN_TOKEN or not token.isascii() or any(c.isspace() for c in token):
        raise InputError(
            f"token file {path!r}: expected one line of {MIN_TOKEN} or more ASCII characters "
            "without spaces; make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    return token_hash(token)


def token_hash(token: str) -> str:
    """What a token is compared by."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether an address or a host name means this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("a.org")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
