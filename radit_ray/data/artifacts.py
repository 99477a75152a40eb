"""Artifacts: what a stage leaves on disk, and how the next run knows it again.

A folder with `identity.json` (written first), committed shards, and `manifest.json` (written last).
The fingerprint is the sha256 of the stage's name and VERSION, its resolved config and the
fingerprints of its inputs, so hardware and paths are no part of it. A folder without a manifest is
unfinished and is resumed; one of another identity is refused.

    with Work.open("embed", VERSION, config, inputs, output, resolve) as work:
        if work.done: return work.done
        ...commit_shard(...) for each of work.missing(names)...
        return work.finish(metrics={...})
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radit_ray.core.errors import InputError
from radit_ray.data import storage

FORMAT_VERSION = 1
LINK = "artifact.link"  # stands in for a symbolic link on object stores
FINGERPRINT = "{fingerprint}"  # in an output path: the artifact is named by what it holds
IGNORED = ("identity.json", "manifest.json", ".lock", LINK)
SCRATCH = ("committed/", "resume/")  # below an artifact: sidecars, state of an unfinished training
ConfigT = TypeVar("ConfigT")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Artifact:
    """What a stage returns: where it lies, how many rows, its metrics. JSON-able, small."""

    path: str
    rows: int
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Input:
    """One input of a stage: a path or id, and the fingerprint of its content."""

    path: str
    fingerprint: str

    def file(self, *names: str) -> str:
        """A file of it."""
        return storage.join(self.path, *names)


def fingerprint_of(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def resolve_link(path: str) -> str:
    """The folder itself, also where `path` is a link file (object stores) or a symbolic link."""
    if storage.is_local(path):
        return os.path.realpath(storage.local(path))
    link = storage.join(path, LINK)
    return str(storage.read_json(link)["artifact"]) if storage.exists(link) else path


def make_link(path: str, target: str) -> None:
    """Makes `path` stand for the artifact at `target`: a relative symbolic link, or a link file on
    object stores.
    """
    if storage.is_local(path):
        name = storage.local(path)
        os.makedirs(os.path.dirname(name), exist_ok=True)
        relative = os.path.relpath(storage.local(target), os.path.dirname(name))
        if os.path.islink(name) and os.readlink(name) == relative:
            return
        if os.path.isdir(name) and not os.path.islink(name):
            raise InputError(
                f"{path} is a folder of its own, not a link to an artifact; use another --output"
            )
        temporary = f"{name}.{os.getpid()}.tmp"
        os.symlink(relative, temporary)
        os.replace(temporary, name)
        return
    storage.write_json(storage.join(path, LINK), {"artifact": target})


def read_manifest(path: str) -> dict[str, Any] | None:
    """The manifest of a finished artifact, or None."""
    name = storage.join(resolve_link(path), "manifest.json")
    if not storage.exists(name):
        return None
    manifest = storage.read_json(name)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{name}: format_version {manifest.get('format_version')!r}, expected "
            f"{FORMAT_VERSION}; "
            "make the artifact again with this release"
        )
    return dict(manifest)


def artifact_input(path: str, stage: str) -> Input:
    """The finished artifact of `stage` at `path`; InputError where it is missing, unfinished or of
    another stage.
    """
    folder = resolve_link(path)
    manifest = read_manifest(folder)
    if manifest is None:
        state = "is unfinished (no manifest.json)" if storage.exists(folder) else "does not exist"
        raise InputError(
            f"{path}: {state}, expected a finished `{stage}` artifact; run `radit {stage}` first"
        )
    if manifest["stage"] != stage:
        raise InputError(
            f"{path}: made by `{manifest['stage']}`, expected an artifact of `{stage}`"
        )
    return Input(path=folder, fingerprint=manifest["fingerprint"])


def file_input(files: Sequence[str], spec: str) -> Input:
    """Raw files as an input: the fingerprint hashes names below their common folder and
    contents, in order."""
    folders = [name.split("/")[:-1] for name in files]
    shared = itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*folders, strict=False))
    depth = len(list(shared))
    listed = [["/".join(name.split("/")[depth:]), storage.sha256_of(name)] for name in files]
    return Input(path=spec, fingerprint=fingerprint_of(listed))


def folder_fingerprint(path: str) -> str:
    """Content hash of a model folder; sha256 already written in an enclosing manifest are taken
    from there.
    """
    folder = resolve_link(path)
    known = _manifest_hashes(folder)
    listed = []
    for name in storage.list_files(folder):
        if os.path.basename(name) == "README.md" or name.startswith("."):
            continue
        listed.append([name, known.get(name) or _sha256_once(storage.join(folder, name))])
    return fingerprint_of(listed)


def _sha256_once(path: str) -> str:
    """sha256 of a file, remembered in this process as long as its size and time stay: a run names
    its models several times, and they are large.
    """
    if not storage.is_local(path):
        return storage.sha256_of(path)
    found = os.stat(storage.local(path))
    return _sha256_of_version(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=4096)
def _sha256_of_version(path: str, size: int, mtime_ns: int) -> str:
    return storage.sha256_of(path)


def _manifest_hashes(folder: str) -> dict[str, str]:
    """{file relative to folder: sha256} if a parent, two levels up at most, is an artifact."""
    parts: list[str] = []
    current = folder.rstrip("/")
    for _ in range(2):
        current, _, name = current.rpartition("/")
        if not current:
            break
        parts.insert(0, name)
        manifest = storage.join(current, "manifest.json")
        if storage.exists(manifest):
            prefix = "/".join(parts) + "/"
            files = storage.read_json(manifest)["files"]
            return {
                f["name"][len(prefix) :]: f["sha256"] for f in files if f["name"].startswith(prefix)
            }
    return {}


def commit_shard(
    output: str, name: str, table: pa.Table | Callable[[str], None], **stats: float
) -> dict[str, Any]:
    """Writes one shard (`name`, a Parquet table or whatever the callable writes) and then its
    sidecar.

    A shard counts as committed once the sidecar is there; it names the rows, bytes, sha256 and the
    caller's numbers (tokens, seconds, flops). Runs in workers. Returns the sidecar.
    """
    path = storage.join(output, name)
    with storage.atomic_file(path) as temporary:
        if callable(table):
            table(temporary)
            rows = int(stats.pop("rows"))
        else:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
            rows = table.num_rows
        digest, size = storage.sha256_of(temporary), os.path.getsize(temporary)
    sidecar = {"name": name, "rows": rows, "bytes": size, "sha256": digest, "stats": dict(stats)}
    storage.write_json(
        storage.join(output, "committed", f"{name.replace('/', '--')}.json"), sidecar
    )
    return sidecar


def read_shard(path: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet shard as a table."""
    with storage.open_read(path) as stream:
        return pq.ParquetFile(stream).read(columns)


def shard_names(artifact: Input | str, suffix: str = ".parquet") -> list[str]:
    """The shards of a finished artifact in order, from its manifest."""
    path = artifact.path if isinstance(artifact, Input) else artifact
    manifest = read_manifest(path)
    assert manifest is not None, f"{path} has no manifest"
    return [f["name"] for f in manifest["files"] if f["name"].endswith(suffix)]


def iter_tables(artifact: Input, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Shard after shard of a finished artifact; never the whole of it."""
    for name in shard_names(artifact):
        yield read_shard(artifact.file(name), columns)


def config_record(config: Any, inputs: Mapping[str, Input]) -> dict[str, Any]:
    """The config as JSON, without the fields that name an input (their content stands in
    `inputs`).
    """
    return {
        k: v
        for k, v in json.loads(json.dumps(dataclasses.asdict(config))).items()
        if k not in inputs
    }


def identity_of(
    stage: str, version: int, config: Any, inputs: Mapping[str, Input]
) -> dict[str, Any]:
    """The identity record of one stage call; `fingerprint` in it is the artifact's name."""
    record = {
        "stage": stage,
        "version": version,
        "config": config_record(config, inputs),
        "inputs": {name: value.fingerprint for name, value in sorted(inputs.items())},
    }
    return {"fingerprint": fingerprint_of(record), **record}


class Work(Generic[ConfigT]):
    """One stage call on its output folder: the claim, what is committed, and the way to finish
    it.
    """

    def __init__(
        self, output: str, config: ConfigT, identity: dict[str, Any], inputs: dict[str, Input]
    ) -> None:
        self.output, self.config, self.identity, self.inputs = output, config, identity, inputs
        self.done: Artifact | None = None
        self.started = time.perf_counter()

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        stage: str,
        version: int,
        config: ConfigT,
        inputs: dict[str, Input],
        output: str,
        resolve: Callable[[ConfigT], ConfigT] = lambda config: config,
    ) -> Iterator[Work[ConfigT]]:
        """Claims `output` for this identity, waiting while another process holds it.

        `resolve` replaces "auto" values; a record from an earlier start wins over what this machine
        would pick. An output that ends in `{fingerprint}` gets the first twelve digits of its own.
        InputError where the folder holds another identity (it names the fields that differ) or
        foreign files.
        """
        if FINGERPRINT in output:
            config = resolve(_follow_sibling(stage, version, config, inputs, output))
            fingerprint = identity_of(stage, version, config, inputs)["fingerprint"]
            output = output.replace(FINGERPRINT, fingerprint[:12])
        output = resolve_link(output)
        with _lock(output):
            config = resolve(_follow_record(config, output))
            identity = identity_of(stage, version, config, inputs)
            work = cls(output, config, identity, inputs)
            manifest = read_manifest(output)
            recorded = manifest or _read_identity(output)
            if recorded is not None and recorded["fingerprint"] != identity["fingerprint"]:
                raise InputError(_difference(output, recorded, identity))
            if manifest is not None:
                work._drop_scratch()  # a kill may have come between manifest and clean-up
                work.done = Artifact(
                    path=output, rows=manifest["rows"], metrics=manifest["metrics"]
                )
            elif recorded is None:
                foreign = [n for n in storage.list_files(output) if n not in IGNORED]
                if foreign:
                    raise InputError(
                        f"{output} holds other files ({foreign[0]}, ...) and no identity.json; "
                        "choose an empty folder"
                    )
                record = {
                    **identity,
                    "inputs": {k: dataclasses.asdict(v) for k, v in inputs.items()},
                }
                storage.write_json(storage.join(output, "identity.json"), record)
            try:
                yield work
            except InputError:
                work._withdraw()
                raise

    def discard(self) -> None:
        """Removes the committed shards: the input they came from was refused."""
        for name in self.committed():
            storage.remove(storage.join(self.output, name))
        self._drop_scratch()

    def _withdraw(self) -> None:
        """Frees the folder after a refused input where no work was done yet, so that the corrected
        call may use it.
        """
        done = any(name.startswith(SCRATCH) for name in storage.list_files(self.output))
        if self.done is None and not done:
            storage.remove(storage.join(self.output, "identity.json"))

    def _drop_scratch(self) -> None:
        for name in SCRATCH:
            storage.remove(storage.join(self.output, name.rstrip("/")))

    def committed(self) -> dict[str, dict[str, Any]]:
        """{shard name: sidecar} of the shards that are whole; a file whose size disagrees is
        not.
        """
        found = {}
        folder = storage.join(self.output, "committed")
        for name in storage.list_files(folder):
            sidecar = storage.read_json(storage.join(folder, name))
            path = storage.join(self.output, sidecar["name"])
            if storage.exists(path) and storage.size_of(path) == sidecar["bytes"]:
                found[sidecar["name"]] = sidecar
        return found

    def missing(self, names: Sequence[str]) -> list[str]:
        """The shards that are still to do, in order."""
        committed = self.committed()
        return [name for name in names if name not in committed]

    def finish(
        self,
        *,
        metrics: dict[str, Any],
        rows: int | None = None,
        cost: Mapping[str, float] | None = None,
        resources: Any = None,
    ) -> Artifact:
        """Writes the manifest from the committed shards and every other file, then drops the
        sidecars and a training's resume state: in this order, so that a kill in between costs
        nothing.
        """
        committed = self.committed()
        files = []
        for name in storage.list_files(self.output):
            if name in IGNORED or name.startswith(SCRATCH):
                continue
            path = storage.join(self.output, name)
            known = committed.get(name)
            digest = known["sha256"] if known else storage.sha256_of(path)
            files.append({"name": name, "bytes": storage.size_of(path), "sha256": digest})
        total: dict[str, float] = {"wall_s": time.perf_counter() - self.started}
        for sidecar in committed.values():
            for key, value in sidecar["stats"].items():
                joined = (
                    max(total.get(key, 0), value)
                    if key.startswith("peak")
                    else total.get(key, 0) + value
                )
                total[key] = joined
        total.update(cost or {})
        rows = sum(s["rows"] for s in committed.values()) if rows is None else rows
        manifest = {
            "format_version": FORMAT_VERSION,
            "stage": self.identity["stage"],
            "version": self.identity["version"],
            "fingerprint": self.identity["fingerprint"],
            "config": self.identity["config"],
            "inputs": {name: dataclasses.asdict(value) for name, value in self.inputs.items()},
            "rows": rows,
            "metrics": metrics,
            "cost": total,
            "resources": None if resources is None else dataclasses.asdict(resources),
            "files": files,
            "versions": versions(),
        }
        storage.write_json(storage.join(self.output, "manifest.json"), manifest)
        self._drop_scratch()
        return Artifact(path=self.output, rows=rows, metrics=metrics)


def versions() -> dict[str, str]:
    """Versions of what computes results here, for the manifest."""
    names = (
        "radit-ray",
        "ray",
        "torch",
        "transformers",
        "sentence-transformers",
        "faiss-cpu",
        "faiss-gpu",
        "deepspeed",
    )
    found = {"python": platform.python_version()}
    if commit := _commit():
        found["commit"] = commit
    for name in names:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _commit() -> str:
    """The commit of the checkout this code runs from, "-dirty" behind it where files differ; ""
    outside git.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


@contextlib.contextmanager
def _lock(output: str) -> Iterator[None]:
    """Holds `<output>/.lock` (flock: the kernel frees it when the holder dies). Object stores have
    no lock.
    """
    if not storage.is_local(output):
        yield
        return
    folder = storage.local(output)
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(
            f"{output} is a file, expected a folder for the artifact; choose another --output"
        )
    try:
        os.makedirs(folder, exist_ok=True)
        stream = open(os.path.join(folder, ".lock"), "a")  # noqa: SIM115 - closed below
    except PermissionError as error:
        raise InputError(
            f"{output} cannot be written ({error.strerror}); choose another --output"
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"radit: another process works on {output}; waiting for it", file=sys.stderr)
            fcntl.flock(stream, fcntl.LOCK_EX)
        storage.remove_temporary(folder)  # what a killed write left
        try:
            yield
        finally:
            fcntl.flock(stream, fcntl.LOCK_UN)


def _read_identity(output: str) -> dict[str, Any] | None:
    """The identity record of an unfinished artifact, its inputs as fingerprints."""
    name = storage.join(output, "identity.json")
    if not storage.exists(name):
        return None
    record = dict(storage.read_json(name))
    return {**record, "inputs": {k: v["fingerprint"] for k, v in record["inputs"].items()}}


def _follow_sibling(
    stage: str, version: int, config: ConfigT, inputs: Mapping[str, Input], output: str
) -> ConfigT:
    """`config` as an artifact beside `output` resolved it, where that one differs in nothing else.

    So a run continued on other hardware takes up what was begun, instead of starting afresh with
    another "auto".
    """
    folder, _, name = output.rpartition("/")
    prefix = name.partition(FINGERPRINT)[0]
    for sibling in storage.list_folders(folder):
        if sibling.startswith(prefix):
            path = storage.join(folder, sibling)
            followed = _follow_record(config, path)
            recorded = _read_identity(path)
            if (
                recorded
                and recorded["fingerprint"]
                == identity_of(stage, version, followed, inputs)["fingerprint"]
            ):
                return followed
    return config


def _follow_record(config: ConfigT, output: str) -> ConfigT:
    """`config` with its "auto" fields as an earlier start at `output` resolved them."""
    recorded = _read_identity(output)
    if recorded is None:
        return config
    fields = {f.name for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    followed = {
        name: value
        for name, value in recorded["config"].items()
        if name in fields and getattr(config, name) == "auto"
    }
    return dataclasses.replace(config, **followed)  # type: ignore[type-var]


def _difference(output: str, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """One line that names every field in which two identities differ."""
    parts = []
    for key in ("stage", "version"):
        if recorded[key] != wanted[key]:
            parts.append(f"{key} {recorded[key]!r} there, {wanted[key]!r} asked")
    before, after = recorded["config"], wanted["config"]
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            parts.append(f"{key} {before.get(key)!r} there, {after.get(key)!r} asked")
    old = {k: v["fingerprint"] if isinstance(v, dict) else v for k, v in recorded["inputs"].items()}
    for key in sorted({*old, *wanted["inputs"]}):
        if old.get(key) != wanted["inputs"].get(key):
            parts.append(f"input {key} has other content")
    return (
        f"{output} holds another identity: {'; '.join(parts)}. Choose another --output, or delete "
        "that folder"
    )


def vectors_of(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float16]]:
    """The `embedding` column of a shard as (N, D) float16."""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)
