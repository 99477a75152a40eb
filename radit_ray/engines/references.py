"""Models as inputs of a stage: an id or folder becomes a path and the fingerprint of its
content.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import Input, fingerprint_of, folder_fingerprint
from radit_ray.models.precision import resolve_precision
from radit_ray.models.presets import resolve_preset

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
        raise InputError(f"{what} {name!r} does not exist; expected a Hugging Face id or a folder")
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
    """The two encoders of a retriever as one input; a preset's name stands for its hub ids."""
    if not retriever:
        raise InputError(
            "no retriever given; expected an id, a folder, a pair QUERY,CONTEXT or a preset; use "
            "--retriever"
        )
    retriever = storage.absolute(retriever)
    found = resolve_preset(retriever, preset)
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


def resolved_precision(device: str) -> Callable[[ConfigT], ConfigT]:
    """A `resolve` for `Work.open`: `precision = "auto"` becomes what this hardware does fast."""

    def resolve(config: ConfigT) -> ConfigT:
        values: Any = config
        return dataclasses.replace(values, precision=resolve_precision(values.precision, device))  # type: ignore[no-any-return]

    return resolve
