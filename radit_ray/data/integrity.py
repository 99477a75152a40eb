"""sha256 of files, once per file and process, and whether a file is still what its manifest says.

In: a path or URI. A file counts as the same as long as `storage.version_of` stays: models, shards
and their manifests are read many times in a run, and are large.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from radit_ray.core.errors import InputError
from radit_ray.data import storage

_LEVELS = 2  # an artifact's files lie in its folder or one below (a variant, a model)


def redo(path: str) -> str:
    """What to do about a damaged file of an artifact."""
    return redo_folder(path.rpartition("/")[0] or ".")


def redo_folder(folder: str) -> str:
    """What to do about an artifact that cannot be used."""
    return f"delete the folder {folder} and run the same command again, or copy it again"


def sha256_once(path: str) -> str:
    """sha256 of a file, remembered in this process."""
    return _sha256_of_version(path, storage.version_of(path))


@functools.lru_cache(maxsize=4096)
def _sha256_of_version(path: str, version: str) -> str:
    return storage.sha256_of(path)


def verify(path: str, copy: str = "") -> None:
    """InputError where a file is not the one that its artifact's manifest names; a file of which no
    manifest knows passes. copy: a download of it, which is hashed in its place.
    """
    artifact, recorded = _recorded(path)
    if not recorded:
        return
    fix = redo(storage.join(artifact, "manifest.json"))
    if not storage.exists(path):
        raise InputError(f"{path} is in the manifest and is missing; {fix}")
    found = sha256_once(copy or path)
    if found != recorded:
        raise InputError(
            f"{path} has sha256 {found[:12]}..., its manifest says {recorded[:12]}..., so it was "
            f"damaged or replaced; {fix}"
        )


@contextlib.contextmanager
def arrow_damage_named(path: str) -> Iterator[None]:
    """Turns Arrow's error at a file that breaks off into an InputError that names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        # Arrow's own OSErrors (a page's checksum) are of no subclass and carry no number; others
        # are the disk's or the network's, and the file may be well
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise
        reason = " ".join(str(error).split())[:160]
        raise InputError(f"{path} is damaged or breaks off ({reason}); {redo(path)}") from error


def _recorded(path: str) -> tuple[str, str]:
    """(the artifact that a file lies in, its sha256 by the manifest there); "" where none knows."""
    folder, _, name = path.rpartition("/")
    if storage.is_local(path):
        # a run reaches a variant by a link of its own, beside which no manifest lies
        folder = os.path.realpath(storage.local(folder) or ".")
    for _ in range(_LEVELS):
        manifest = storage.join(folder, "manifest.json")
        if storage.exists(manifest):
            known = _hashes_of_version(manifest, storage.version_of(manifest))
            return folder, known.get(name, "")
        folder, _, above = folder.rpartition("/")
        if not folder:
            break
        name = f"{above}/{name}"
    return "", ""


@functools.lru_cache(maxsize=256)
def _hashes_of_version(manifest: str, version: str) -> dict[str, str]:
    return recorded_hashes(manifest, storage.read_json(manifest, fix=redo(manifest)))


def recorded_hashes(manifest: str, found: Any) -> dict[str, str]:
    """{file: sha256} of what stands in a manifest.json; {} of one that no artifact wrote, since
    other programs have files of that name too. InputError where an artifact's has lost its shape.
    """
    if not isinstance(found, dict) or "format_version" not in found:
        return {}
    try:
        return {file["name"]: str(file["sha256"]) for file in found["files"]}
    except (KeyError, TypeError):
        raise InputError(
            f"{manifest} is damaged: expected a list `files` of name and sha256; {redo(manifest)}"
        ) from None
