"""Files at a local path or any fsspec URI: read, write atomically, list, hash.

A write is seen whole or not at all: locally through a temporary name, fsync and `os.replace`; on
object stores a put is atomic by itself, and a request that fails is repeated (`data.remote`).
Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fsspec.core import url_to_fs

from radit_ray.core.errors import InputError
from radit_ray.data import remote


def is_local(path: str) -> bool:
    """True for plain paths and `file://` URIs: there links, locks and memory maps work."""
    return "://" not in path or path.startswith("file://")


def local(path: str) -> str:
    """A plain local path without the `file://` in front."""
    return path.removeprefix("file://")


def absolute(spec: str) -> str:
    """A path, a comma-separated list of paths, or an id: local paths become absolute, since workers
    run elsewhere.
    """
    if not spec or (is_local(spec) and os.path.exists(local(spec))):
        return os.path.abspath(local(spec)) if spec else spec
    parts = [part.strip() for part in spec.split(",")]
    return ",".join(
        os.path.abspath(part)
        if is_local(part) and (os.path.exists(part) or any(c in part for c in "*?["))
        else part
        for part in parts
    )


def join(path: str, *names: str) -> str:
    """`path/name/...` for paths and URIs alike."""
    return "/".join([path.rstrip("/"), *names])


def exists(path: str) -> bool:
    """Whether a file or folder is there."""
    if is_local(path):
        return os.path.exists(local(path))
    return remote.ask(path, remote.kind) != ""


def open_read(path: str) -> IO[bytes]:
    """A binary, seekable stream of one file."""
    if is_local(path):
        return open(local(path), "rb")
    return io.BufferedReader(remote.PatientFile(path), 1 << 18)


def read_bytes(path: str) -> bytes:
    """All bytes of one file."""
    with open_read(path) as stream:
        return stream.read()


def read_json(path: str, *, fix: str = "") -> Any:
    """The JSON value of one file; InputError where it breaks off or holds something else. `fix`:
    what to do about it, where that is more than writing this one file anew.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:  # not JSON, or not UTF-8
        fix = fix or "delete it and run what wrote it again, or copy it again"
        raise InputError(f"{path} is damaged or breaks off (not JSON: {error}); {fix}") from error


@contextlib.contextmanager
def atomic_file(path: str) -> Iterator[str]:
    """Yields a local name to write to; when the block ends well the file appears at `path` at once,
    else never.

    An OSError of the block (a full disk) passes through and leaves nothing at `path`.
    """
    if is_local(path):
        target = Path(local(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            yield str(temporary)
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        name = os.path.join(folder, "file")
        yield name
        remote.put(name, path)


def write_bytes(path: str, value: bytes) -> None:
    """Writes one file atomically, with its folders."""
    with atomic_file(path) as name, open(name, "wb") as stream:
        stream.write(value)


def write_json(path: str, value: Any) -> None:
    """Writes one JSON value atomically, indented for people."""
    write_bytes(path, _json_bytes(value))


def create_json(path: str, value: Any) -> bool:
    """`write_json` where no file is there yet, else False and nothing is written. Of several
    processes on an object store one succeeds; on a path the caller holds the folder's lock.
    """
    if exists(path):
        return False
    if is_local(path):
        write_json(path, value)
        return True

    def create(fs: Any, root: str) -> None:
        remote.make_parent(fs, root)
        fs.pipe_file(root, _json_bytes(value), mode="create")

    try:
        remote.ask(path, create)
    except FileExistsError:
        return False
    except (NotImplementedError, TypeError, ValueError):  # a store without conditional writes
        write_json(path, value)
    return True


def _json_bytes(value: Any) -> bytes:
    text = json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def list_files(path: str) -> list[str]:
    """Names of all files below a folder, relative to it, sorted; temporary files (`.*.tmp`) left
    out.
    """
    if is_local(path):
        root = local(path)
        names = [
            os.path.relpath(os.path.join(folder, name), root)
            for folder, _, files in os.walk(root)
            for name in files
        ]
    else:
        base = url_to_fs(path)[1]
        names = [name[len(base.rstrip("/")) + 1 :] for name in remote.ask(path, remote.find)]
    return sorted(name for name in names if not _is_temporary(name))


def remove_temporary(path: str) -> None:
    """Removes what killed writes left below a local folder; only for whoever holds its lock."""
    for folder, _, files in os.walk(local(path)):
        for name in filter(_is_temporary, files):
            # a worker that outlives its killed driver for a moment may have finished it
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


def _is_temporary(name: str) -> bool:
    """Whether any part of a name is one that `atomic_file` (or a writer inside it) made up."""
    return any(part.startswith(".") and ".tmp" in part for part in name.split("/"))


def is_folder(path: str) -> bool:
    """Whether a folder is there."""
    if is_local(path):
        return os.path.isdir(local(path))
    return remote.ask(path, remote.kind) == "directory"


def glob_files(pattern: str) -> list[str]:
    """The files of a URI with wildcards, sorted."""
    return remote.ask(pattern, remote.glob)


def list_folders(path: str) -> list[str]:
    """Names of the folders directly below a folder, sorted; none where it does not exist."""
    if is_local(path):
        root = Path(local(path))
        return (
            sorted(entry.name for entry in root.iterdir() if entry.is_dir())
            if root.is_dir()
            else []
        )
    return sorted({name.split("/")[0] for name in list_files(path) if "/" in name})


def size_of(path: str) -> int:
    """Bytes of one file."""
    if is_local(path):
        return os.path.getsize(local(path))
    return remote.ask(path, lambda fs, root: int(fs.size(root)))


def remove(path: str) -> None:
    """Removes a file or a whole folder if it is there."""
    if is_local(path):
        target = Path(local(path))
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        return

    def rm(fs: Any, root: str) -> None:
        if remote.kind(fs, root):
            fs.rm(root, recursive=True)

    remote.ask(path, rm)


def version_of(path: str) -> str:
    """What changes when a file is written anew, or what its store says of it. Locally not its time
    alone, which a clock that is behind, or a copy that keeps times, may give twice.
    """
    if is_local(path):
        found = os.stat(local(path))
        return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino}"
    return remote.ask(path, lambda fs, root: str(fs.ukey(root)))


def sha256_of(path: str) -> str:
    """Hex sha256 of one file, streamed."""
    digest = hashlib.sha256()
    with open_read(path) as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def put_folder(source: str, path: str) -> None:
    """Copies a local folder's files to `path`, each atomically; a plain rename where both are on
    one disk.

    Used by whoever can only write to a real folder (a checkpoint, a model export).
    """
    if is_local(path):
        target = Path(local(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        remove(path)
        with contextlib.suppress(OSError):
            os.rename(source, target)
            return
        shutil.copytree(source, target)
        return
    for name in list_files(source):
        remote.put(os.path.join(source, name), join(path, name))


def local_copy(path: str) -> str:
    """A local path with the same content: the path itself, or a cached download of a URI's file or
    folder.
    """
    if is_local(path):
        return local(path)

    base, names = remote.ask(path, remote.files)
    versions = [f"{name} {remote.version(path, name)}" for name in names]
    cache = Path(tempfile.gettempdir(), f"radit-ray-{os.getuid()}")
    cache.mkdir(exist_ok=True, mode=0o700)
    if cache.is_symlink() or cache.stat().st_uid != os.getuid():
        raise InputError(
            f"{cache} belongs to someone else; remove it, or set TMPDIR to a folder of yours"
        )
    target = cache / hashlib.sha256(f"{path} {versions}".encode()).hexdigest()[:16]
    if not target.exists():
        # the workers of a node ask together: one of them downloads, the others wait for it
        with target.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                # a name of its own: a shared folder may not know locks
                temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}")
                for name in names:
                    remote.get(path, name, temporary / name[len(base) :].lstrip("/"))
                with contextlib.suppress(OSError):  # nothing is there, or another one came first
                    os.rename(temporary, target)
    return str(target)
