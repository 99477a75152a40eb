"""Models as inputs of a stage: an id or folder becomes a path and the fingerprint of its
content.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import Input, fingerprint_of, folder_fingerprint
from radit_ray.engines.resources import Resources
from radit_ray.models import lexical
from radit_ray.models.precision import resolve_precision
from radit_ray.models.presets import LEXICAL, PRESETS, resolve_preset
from radit_ray.models.weights import loading, neighbours

ConfigT = TypeVar("ConfigT")


def model_input(name: str, *, what: str) -> Input:
    """A folder or URI by content, a hub id by the commit that is (or will be) in the local cache.

    `what` is "lm" or "retriever", for the message. InputError where neither is there.
    """
    name = storage.absolute(name)
    if not name:
        raise InputError(f"no {what} given; expected a Hugging Face id or a folder, use --{what}")
    if storage.exists(name):
        if storage.is_local(name) and not Path(storage.local(name)).is_dir():
            raise InputError(
                f"{what} {name!r} is a file, expected a folder with config.json and safetensors"
            )
        return Input(path=name, fingerprint=folder_fingerprint(name))
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        hint = neighbours(Path(storage.local(name))) if storage.is_local(name) else ""
        raise InputError(
            f"{what} {name!r} does not exist{hint}; expected a Hugging Face id or a folder"
        )
    return Input(path=name, fingerprint=_hub_fingerprint(name, what))


def _hub_fingerprint(name: str, what: str) -> str:
    """`name@commit` of the hub snapshot."""
    from huggingface_hub import hf_hub_download

    try:
        file = hf_hub_download(name, "config.json")
    except Exception as error:  # the hub's client has a dozen: offline, missing, gated, ...
        raise InputError(
            f"{what} {name!r} is neither a folder here nor reachable on the Hugging Face hub "
            f"({type(error).__name__}); check the name, or give a local folder"
        ) from None
    return fingerprint_of([name, Path(file).parent.name])


def retriever_input(retriever: str, preset: str) -> Input:
    """The two encoders of a retriever as one input; a preset's name stands for its hub ids, bm25
    for its rules.
    """
    if not retriever:
        raise InputError(
            "no retriever given; expected an id, a folder, a pair QUERY,CONTEXT or a preset; use "
            "--retriever"
        )
    if retriever == LEXICAL:
        lexical.check_installed()
        resolve_preset(retriever, preset)
        return Input(path=LEXICAL, fingerprint=fingerprint_of([LEXICAL, lexical.RULES]))
    retriever = storage.absolute(retriever)
    found = resolve_preset(local_model(retriever), preset)
    if "," in retriever:
        parts = [part.strip() for part in retriever.split(",")]
    elif storage.exists(retriever) or not found.query_model or retriever not in (found.name,):
        parts = [retriever]
    else:
        parts = list(dict.fromkeys([found.query_model, found.chunk_model]))
    inputs = [model_input(part, what="retriever") for part in parts]
    fingerprint = (
        inputs[0].fingerprint
        if len(inputs) == 1
        else fingerprint_of([i.fingerprint for i in inputs])
    )
    return Input(path=retriever, fingerprint=fingerprint)


def local_model(name: str) -> str:
    """What a model loader can open: URIs of a model, or of a pair of encoders, copied here."""
    return ",".join(storage.local_copy(part) if "://" in part else part for part in name.split(","))


def preset_name(retriever: str, preset: str) -> str:
    """The preset that "auto" stands for, so that the identity of what it made does not depend on
    the name of a folder; "auto" where the folder itself says how it works.
    """
    found = resolve_preset(local_model(retriever), preset).name
    return found if found in PRESETS else "auto"


def resolved_precision(resources: Resources) -> Callable[[ConfigT], ConfigT]:
    """A `resolve` for `Work.open`: `precision = "auto"` becomes what the workers' hardware does
    fast; a driver on a head node without GPU asks one of theirs.
    """

    def resolve(config: ConfigT) -> ConfigT:
        values: Any = config
        precision = resolve_precision(values.precision, "cpu")
        if values.precision == "auto" and resources.gpus_per_worker:
            there = ray.remote(num_cpus=0, num_gpus=resources.gpus_per_worker)(resolve_precision)
            precision = ray.get(there.remote("auto", "cuda"))
        return dataclasses.replace(values, precision=precision)  # type: ignore[no-any-return]

    return resolve


def num_parameters(name: str) -> int:
    """Numbers in the safetensors files of a local model folder, told by their heads; 0 where they
    cannot be seen.
    """
    from safetensors import safe_open

    if not storage.is_local(name) or not Path(storage.local(name)).is_dir():
        return 0
    total = 0
    for file in Path(storage.local(name)).glob("*.safetensors"):
        with loading(name, what="model"), safe_open(file, framework="numpy") as tensors:
            shapes = [tensors.get_slice(key).get_shape() for key in list(tensors.keys())]
        total += sum(map(math.prod, shapes))
    return total


def model_bytes(name: str) -> int:
    """Bytes of the safetensors files of a local model folder; 0 where they cannot be seen."""
    if not storage.is_local(name) or not Path(storage.local(name)).is_dir():
        return 0
    return sum(file.stat().st_size for file in Path(storage.local(name)).glob("*.safetensors"))
