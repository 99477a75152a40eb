"""Checks a model folder before any library reads it, so that a wrong path or a pickle is one clear
line.

In: a local folder or a Hugging Face id. Out: nothing, or `InputError`. A hub id is left to the
libraries, which are called with `use_safetensors=True` and so never unpickle; `loading` turns their
failures into one line too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from radit_ray.core.errors import InputError, nearest

_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
# Small pickles that trainers leave beside the weights and that no loader here opens.
_NOT_WEIGHTS = frozenset({"training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth"})


def is_local(name: str) -> bool:
    """Whether the name means a folder on this machine rather than a hub id ("gpt2",
    "facebook/opt-125m").
    """
    path = Path(name).expanduser()
    return path.exists() or name.startswith(("/", ".", "~")) or name.count("/") > 1


def require_weights(name: str, *, what: str) -> None:
    """Raises `InputError` unless `name` is a hub id or a folder with a config and safetensors only.

    what: "LM" or "retriever", for the message. Subfolders (sentence-transformers modules) are
    looked at too.
    """
    if not is_local(name):
        return
    folder = Path(name).expanduser()
    if not folder.exists():
        siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        hint = nearest(folder.name, siblings[:20]) if siblings else ""
        raise InputError(
            f"{what} {name!r}: there is no such folder{hint}; give a folder or a Hugging Face id"
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
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:300]
        fix = (
            "check the folder"
            if is_local(name)
            else "give a local folder, or download it where there is network"
        )
        raise InputError(
            f"{what} {name!r} cannot be loaded ({type(error).__name__}: {reason}); {fix}"
        ) from error


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
