"""Checks a model folder before any library reads it, so that a wrong path or a pickle is one clear
line, and what was loaded, so that no weight is left random.

In: a local folder or a Hugging Face id. Out: nothing, or `InputError`. A hub id is left to the
libraries, which are called with `use_safetensors=True` and so never unpickle; `loading` turns their
failures into one line too.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from radit_ray.core.errors import InputError, nearest

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# Small pickles that trainers leave beside the weights and that no loader here opens.
_NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"})
_UNREADABLE = (OSError, ValueError, KeyError, ImportError, SafetensorError)
_OBJECTS = frozenset({"config.json", "tokenizer.json", "tokenizer_config.json"})
_POOLER = re.compile(r"(^|\.)pooler\.")
_HINT = {"LM": " (a causal LM with its head, no encoder)"}
_patching = threading.RLock()


def is_local(name: str) -> bool:
    """Whether the name means a folder on this machine rather than a hub id ("gpt2",
    "facebook/opt-125m").
    """
    path = Path(name).expanduser()
    return path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def neighbours(folder: Path) -> str:
    """A hint for a folder that does not exist: what lies beside it; "" for nothing."""
    beside = sorted(p.name for p in folder.parent.iterdir()) if folder.parent.is_dir() else []
    return nearest(folder.name, beside[:20]) if beside else ""


def require_weights(name: str, *, what: str) -> None:
    """Raises `InputError` unless `name` is a hub id or a folder with a config and safetensors only.

    what: "LM" or "retriever", for the message. Subfolders (sentence-transformers modules) are
    looked at too.
    """
    if not is_local(name):
        return
    folder = Path(name).expanduser()
    if not folder.exists():
        raise InputError(
            f"{what} {name!r}: there is no such folder{neighbours(folder)}; give a folder or a "
            "Hugging Face id"
        )
    if not folder.is_dir():
        raise InputError(
            f"{what} {name!r} is a file, expected a model folder; give the folder that holds it"
        )
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise InputError(
            f"{what} {name!r} is a LoRA adapter without its base model; merge it "
            "(merge_and_unload) and give that"
        )
    if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
        raise InputError(
            f"{what} {name!r} has no config.json (and no modules.json); expected a folder from "
            "save_pretrained"
        )
    _refuse_pickles(folder, name, what)


def _refuse_pickles(folder: Path, name: str, what: str) -> None:
    """Every folder with weights must hold them as safetensors: a pickle can run any code when it is
    read.
    """
    found = False
    for place in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        files = [p for p in place.iterdir() if p.is_file() and p.name not in _NOT_WEIGHTS]
        safe = any(p.suffix == ".safetensors" for p in files)
        pickled = [p for p in files if p.suffix in _PICKLE_SUFFIXES]
        if pickled and not safe:
            raise InputError(
                f"{what} {name!r} holds weights only as a pickle "
                f"({pickled[0].relative_to(folder)}), which is never "
                "read here; convert it to safetensors (transformers: model.save_pretrained) and "
                "give that folder"
            )
        found = found or safe
    if not found:
        raise InputError(
            f"{what} {name!r} holds no *.safetensors; expected a folder from save_pretrained"
        )


@contextmanager
def loading(name: str, *, what: str) -> Iterator[None]:
    """Turns a library's failure to find or read a model into one line that names the model and the
    fix.

    Libraries have an exception of their own for each kind of broken file, or trip over its content
    (a TypeError), so a damaged file is looked for; where none is found, an error of another kind
    (out of memory, a bug) passes through.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        damage = _damage(name)
        if damage:
            raise InputError(
                f"{what} {name!r}: {damage}; copy or download the model again"
            ) from error
        # what torch says where a module of sentence-transformers (Dense) lacks a tensor
        lacking = isinstance(error, RuntimeError) and "loading state_dict" in str(error)
        if not isinstance(error, _UNREADABLE) and not lacking:
            raise
        fix = (
            "check the folder"
            if is_local(name)
            else "give a local folder, or download it where there is network"
        )
        reason = _short(error)
        raise InputError(
            f"{what} {name!r} cannot be loaded ({type(error).__name__}: {reason}); {fix}"
        ) from error


def _damage(name: str) -> str:
    """Which file of a model folder breaks off or is no JSON, and how it shows; "" where all can be
    read. Of safetensors the head tells: it says how long the file should be.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return ""
    for file in sorted(folder.rglob("*")):
        place = file.relative_to(folder)
        try:
            if file.suffix == ".json":
                value = json.loads(file.read_bytes())
                if file.name in _OBJECTS and not isinstance(value, dict):
                    return f"{place} holds a {type(value).__name__}, expected an object"
            elif file.suffix == ".safetensors":
                with safe_open(file, framework="numpy"):
                    pass
        except (ValueError, SafetensorError) as error:
            kind = "JSON" if file.suffix == ".json" else "safetensors"
            return f"{place} is damaged or breaks off (not {kind}: {_short(error)})"
    return ""


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def whole(loaded: tuple[Any, Mapping[str, Any]], name: str, *, what: str) -> Any:
    """The model of `from_pretrained(..., output_loading_info=True, ignore_mismatched_sizes=True)`;
    InputError where its weights lack tensors, which transformers would leave random.

    Tied tensors (an LM head that is the embedding table) do not count, transformers itself leaves
    them out. A pooler does not either: no encoder here reads one, and a model saved for another
    task comes without.
    """
    model, info = loaded
    absent = sorted(key for key in info["missing_keys"] if not _POOLER.search(key))
    other = sorted(key for key, *_ in info["mismatched_keys"])
    for keys, fault in ((absent, "are not in"), (other, "have another shape in")):
        if keys:
            raise InputError(
                f"{what} {name!r}: {len(keys)} tensors of {type(model).__name__} {fault} its "
                f"weights (first: {keys[0]}) and would be random; give a folder that "
                f"save_pretrained of that very model wrote{_HINT.get(what, '')}"
            )
    return model


@contextmanager
def only_whole(name: str, *, what: str) -> Iterator[None]:
    """Inside, every transformers model that a library loads is checked by `whole`.

    sentence-transformers loads on its own and keeps what `output_loading_info` tells to itself;
    comparing names with the file's would have to repeat transformers' renaming of old checkpoints.
    """
    from transformers import PreTrainedModel

    plain = PreTrainedModel.__dict__["from_pretrained"]

    def from_pretrained(cls: type, *args: Any, **kwargs: Any) -> Any:
        asked = kwargs.pop("output_loading_info", False)
        settings = {**kwargs, "output_loading_info": True, "ignore_mismatched_sizes": True}
        loaded = plain.__func__(cls, *args, **settings)
        model = whole(loaded, name, what=what)
        return loaded if asked else model

    with _patching:  # two threads that load would restore each other's
        PreTrainedModel.from_pretrained = classmethod(from_pretrained)
        try:
            yield
        finally:
            PreTrainedModel.from_pretrained = plain


def dropout_off(model: nn.Module) -> None:
    """Sets every dropout probability inside the modules to 0, so that training mode computes what
    evaluation does.

    Attention layers keep theirs as a float attribute; configs stay as they are and so does what is
    exported.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
