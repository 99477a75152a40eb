"""The Serve application: which deployments a run's variants need, and the gateway in front of them.

`plan(config)` for `radit serve`; `deploy` is the import path of jobs/serve.yaml. Variants share
what is equal: an LM, a query encoder, an index is loaded once, whoever uses it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from typing import Any

from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.serve.config import BackpressureConfig
from ray.serve.deployment import Application

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import artifact_input, run_record
from radit_ray.data.storage import exists, is_local, local
from radit_ray.engines.asking import Parts, variant_parts
from radit_ray.engines.sharded_index import shard_arguments, shard_starts
from radit_ray.models.precision import resolve_precision
from radit_ray.serving.app import build_app
from radit_ray.serving.config import Scale, ServeConfig, check_config, read_token
from radit_ray.serving.deployments import LanguageModel, Retriever, Shard
from radit_ray.serving.service import Served, Service

HEALTH_S = 2.0  # between two looks at a replica: a dead one is replaced within so much
DRAIN_S = 0.05


@serve.ingress()
class Gateway:
    """Answers HTTP; the models are elsewhere."""

    def __init__(self, config: ServeConfig, token: str, served: dict[str, dict[str, Any]]) -> None:
        self.service = Service(config, {name: Served(**parts) for name, parts in served.items()})
        self.guard = build_app(self.service, token=token)

    def __serve_build_asgi_app__(self) -> Any:
        return self.guard

    async def drain(self) -> None:
        """Takes nothing new and returns when all is answered."""
        self.guard.draining = True
        while self.service.counters.in_flight:
            await asyncio.sleep(DRAIN_S)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be started."""

    application: Application
    variants: tuple[str, ...]
    sizes: dict[str, Scale]  # of each deployment behind the gateway


def plan(config: ServeConfig) -> Plan:
    """The deployments of a run, bound together. InputError where it cannot be served."""
    check_config(config)
    resolve_precision(config.precision)
    token = read_token(config.token_file)
    parts = {name: variant_parts(config.run, name) for name in variants_of(config)}
    made = _Made(config, num_lms=len({_lm_key(one) for one in parts.values()}))
    served = {name: made.served(one) for name, one in parts.items()}
    limits = config.limits
    gateway = serve.deployment(Gateway).options(
        name="gateway",
        ray_actor_options={"num_cpus": 0},
        # what is refused for being too much still has to come in; beyond it Serve's proxy refuses,
        # which is quicker
        max_ongoing_requests=2 * limits.in_flight,
        max_queued_requests=limits.in_flight,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
        graceful_shutdown_timeout_s=limits.request_s,
        health_check_period_s=HEALTH_S,
    )
    return Plan(
        application=gateway.bind(config, token, served), variants=tuple(parts), sizes=made.sizes
    )


def deploy(arguments: dict[str, Any]) -> Application:
    """`args` of jobs/serve.yaml: the fields of `ServeConfig`."""
    try:
        config = TypeAdapter(ServeConfig).validate_python(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"args of the application: {where}: {first['msg']}") from None
    return plan(config).application


def variants_of(config: ServeConfig) -> tuple[str, ...]:
    """The variants to be loaded: those named, else the tuned pair beside the base pair."""
    known = run_record(config.run)["variants"]
    chosen = config.variants or tuple(name for name in ("radit", "replug") if name in known)
    chosen = chosen or tuple(name for name in reversed(known) if not known[name]["shots"])[:1]
    if not chosen:
        raise InputError(
            f"run {config.run} has no variant to serve; it was made without questions, so there "
            "is nothing that answers"
        )
    if len(set(chosen)) != len(chosen):
        raise InputError(f"variants {', '.join(chosen)}: expected each once")
    return chosen


class _Made:
    """Deployments by what they hold, each made once."""

    def __init__(self, config: ServeConfig, *, num_lms: int) -> None:
        self.config, self.num_lms = config, num_lms
        self.made: dict[str, Any] = {}
        self.sizes: dict[str, Scale] = {}
        self.numbers: dict[str, dict[tuple[Any, ...], int]] = {}

    def served(self, parts: Parts) -> dict[str, Any]:
        """Fields of `Served` for a variant."""
        for what, path in (("LM", parts.variant.lm), ("query encoder", parts.query_encoder)):
            if path.startswith("/") and is_local(path) and not exists(local(path)):
                raise InputError(f"{what} {path!r} of variant {parts.variant.name!r} is not there")
        source = artifact_input(parts.index, "index")
        path = source.path
        arguments = shard_arguments(path, nprobe=parts.nprobe)
        index = self._name("index", path, parts.nprobe)
        shards = [
            self._once(f"{index}-shard-{number}", Shard, self.config.shards, (one,), {})
            for number, one in enumerate(arguments)
        ]
        encoder = self._name("retriever", parts.query_encoder, parts.preset, index)
        lm = self._name("lm", *_lm_key(parts))
        return {
            "variant": parts.variant,
            "retriever": self._retriever(encoder, parts, shards, shard_starts(arguments)),
            "lm": self._lm(lm, parts),
            "index": index,
            "encoder": encoder,
            "lm_name": lm,
            "num_chunks": sum(one["shard"]["rows"] for one in arguments),
            "ranked": parts.ranked,
            "index_version": source.version,
        }

    def _retriever(self, name: str, parts: Parts, shards: list[Any], starts: Any) -> Any:
        scale = self.config.retriever
        bound = (parts.query_encoder, parts.preset, shards, starts)
        return self._once(name, Retriever, scale, bound, self._model(scale))

    def _lm(self, name: str, parts: Parts) -> Any:
        scale = self.config.lm
        options = {**self._model(scale), "precision": self.config.precision}
        options["eos_token"] = parts.variant.eos_token
        return self._once(name, LanguageModel, scale, (parts.variant.lm,), options)

    def _model(self, scale: Scale) -> dict[str, Any]:
        """Options of a deployment that holds a model."""
        config = self.config
        return {
            "device": scale.device,
            "threads": config.threads or int(scale.cpus),
            "sharers": self.num_lms,
            "max_batch": config.max_batch,
            "batch_tokens": config.batch_tokens,
        }

    def _name(self, kind: str, *what: Any) -> str:
        """kind-0, kind-1, ...: the same one for the same thing."""
        own = self.numbers.setdefault(kind, {})
        return f"{kind}-{own.setdefault(what, len(own))}"

    def _once(
        self, name: str, kind: type, scale: Scale, bound: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        if name not in self.made:
            sized = serve.deployment(kind).options(name=name, **_size(scale, self.config.max_batch))
            self.made[name] = sized.bind(*bound, **options)
            self.sizes[name] = scale
        return self.made[name]


def _lm_key(parts: Parts) -> tuple[Any, ...]:
    return ("lm", os.path.realpath(parts.variant.lm), parts.variant.eos_token)


def _size(scale: Scale, max_batch: int) -> dict[str, Any]:
    """Serve's options for a size."""
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        # a batch that is computed and the next one that gathers
        "max_ongoing_requests": 2 * max_batch,
        "health_check_period_s": HEALTH_S,
        "graceful_shutdown_wait_loop_s": 0.5,
    }
    if scale.max_replicas > scale.replicas:
        options["autoscaling_config"] = {
            "min_replicas": scale.replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": max_batch,
        }
    else:
        options["num_replicas"] = scale.replicas
    return options
