"""Artifacts: what a stage leaves on disk, and how the next one reads it.

A folder with shards, the stage's files and `manifest.json`, which names them with bytes and sha256.
Written by `radit_ray.data.work`, read from here; inputs that are no artifacts (raw files, models)
get a fingerprint of their content too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.integrity import arrow_damage_named, recorded_hashes, redo, sha256_once, verify

FORMAT_VERSION = 1
HASHING = 8  # raw files hashed at a time
SIDECAR = {"name", "rows", "bytes", "sha256", "stats"}  # what `commit_shard` writes
# what every reader of a manifest counts on
MANIFEST = ("stage", "fingerprint", "files")
# inputs that are artifacts themselves; the others are files and models
STAGE_INPUTS = ("chunks", "embeddings", "index", "ranked", "scored")
LINK = "artifact.link"  # stands in for a symbolic link on object stores

COSTS = ("wall_s", "device_s", "tokens", "flops")  # of a manifest, which add up


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

    @property
    def version(self) -> str:
        """The fingerprint as rows, folders and people name it."""
        return version_of(self.fingerprint)

    def file(self, *names: str) -> str:
        """A file of it."""
        return storage.join(self.path, *names)


def version_of(fingerprint: str) -> str:
    """The digits of a fingerprint that tell artifacts apart."""
    return fingerprint[:12]


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


def inside_run(run: str, path: str) -> str:
    """A path as run.json has it: those of artifacts are relative to the run, so that it can be
    moved.
    """
    if re.match(r"(\.\./)*artifacts/", path):
        while path.startswith("../"):
            run, path = run.rstrip("/").rpartition("/")[0] or ".", path[3:]
        return storage.join(run, path)
    return os.path.expanduser(path)


def run_record(run: str) -> dict[str, Any]:
    """run.json of a finished run; InputError where `run` is none."""
    file = storage.join(run, "run.json")
    if not storage.exists(file):
        raise InputError(
            f"{run}: no run.json, expected the folder of a finished `radit run`; run it to its "
            "end first"
        )
    return dict(storage.read_json(file))


def make_link(path: str, target: str) -> None:
    """Makes `path` stand for the artifact at `target`: a relative symbolic link, or a link file on
    object stores.
    """
    if storage.is_local(path):
        name = storage.local(path)
        os.makedirs(os.path.dirname(name), exist_ok=True)
        # resolved: ".." of a folder that is itself a link leads elsewhere
        place = os.path.realpath(os.path.dirname(name))
        relative = os.path.relpath(os.path.realpath(storage.local(target)), place)
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
    manifest = storage.read_json(name, fix=redo(name))
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{name}: format_version {version!r}, expected {FORMAT_VERSION}; make the artifact "
            "again with this release"
        )
    recorded_hashes(name, manifest)
    if missing := [field for field in MANIFEST if field not in manifest]:
        raise InputError(f"{name} is damaged: it lacks {', '.join(missing)}; {redo(name)}")
    return dict(manifest)


def finished_artifacts(store: str) -> Iterator[str]:
    """The folders of a store that hold a finished artifact."""
    for name in storage.list_folders(store):
        path = storage.join(store, name)
        if storage.exists(storage.join(path, "manifest.json")):
            yield path


def spent(artifacts: Iterable[str]) -> dict[str, dict[str, float]]:
    """{stage: how many artifacts, wall and device seconds, tokens and FLOPs of all}, each artifact
    once.
    """
    found: dict[str, dict[str, float]] = {}
    for manifest in map(read_manifest, artifacts):
        if manifest is not None:
            entry = found.setdefault(manifest["stage"], {"count": 0, **dict.fromkeys(COSTS, 0.0)})
            entry["count"] += 1
            for name in COSTS:
                entry[name] += manifest["cost"].get(name, 0.0)
    return dict(sorted(found.items()))


def artifact_input(path: str, stage: str | tuple[str, ...]) -> Input:
    """The finished artifact of `stage` at `path`; InputError where it is missing, unfinished or of
    another stage. Of several stages whose artifacts have one format the first is the usual one.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    folder = resolve_link(path)
    manifest = read_manifest(folder)
    if manifest is None:
        state = "is unfinished (no manifest.json)" if storage.exists(folder) else "does not exist"
        raise InputError(
            f"{path}: {state}, expected a finished `{stages[0]}` artifact; run "
            f"`radit {stages[0]}` first"
        )
    if manifest["stage"] not in stages:
        raise InputError(
            f"{path}: made by `{manifest['stage']}`, expected an artifact of "
            f"{' or '.join(f'`{name}`' for name in stages)}"
        )
    return Input(path=folder, fingerprint=manifest["fingerprint"])


def lineage_of(inputs: Mapping[str, Input]) -> dict[str, list[str]]:
    """{role: fingerprints} of all that an artifact with these inputs was made of, whatever lies
    between: the manifest carries it, so that it can be told when those artifacts are gone.
    """
    found: dict[str, set[str]] = {}
    for name, value in inputs.items():
        role = name.partition("/")[0]  # evaluate has one for each variant
        found.setdefault(role, set()).add(value.fingerprint)
        manifest = read_manifest(value.path) if role in STAGE_INPUTS else None
        for further, fingerprints in _lineage(manifest or {}).items():
            found.setdefault(further, set()).update(fingerprints)
    return {role: sorted(found[role]) for role in sorted(found)}


def _lineage(manifest: Mapping[str, Any]) -> dict[str, list[str]]:
    """What a manifest says of it; one of an earlier release names its own inputs alone."""
    direct = {role: [value["fingerprint"]] for role, value in manifest.get("inputs", {}).items()}
    return dict(manifest.get("lineage", direct))


def versions_in(made: Input, role: str) -> list[str]:
    """Versions of what an artifact was made of in a role; none where its manifest does not say."""
    known = _lineage(read_manifest(made.path) or {}).get(role, [])
    return [version_of(fingerprint) for fingerprint in known]


def check_lineage(made: Input, role: str, given: Input) -> None:
    """InputError where `made` comes from another artifact in this role than the one given, such as
    scored rows of an older index than the vectors beside them.
    """
    known = versions_in(made, role)
    if known and given.version not in known:
        raise InputError(
            f"{made.path} was made from {role} {', '.join(known)}, and "
            f"{given.path} is version {given.version}; give the {role} it was made from, or make "
            "it again from these"
        )


def run_index(run: str, made: Mapping[str, Any]) -> str:
    """Where the index of a variant of run.json lies; InputError where another version lies there
    than the one that the variant was made and measured with.
    """
    path = inside_run(run, made["index"])
    recorded = made.get("index_version", "")
    manifest = read_manifest(path)
    if recorded and manifest and version_of(manifest["fingerprint"]) != recorded:
        raise InputError(
            f"{path} is version {version_of(manifest['fingerprint'])} of the index, run {run} was "
            f"made with {recorded}; run it again, or, to go on with the new documents, write the "
            "new version over index_version in its run.json"
        )
    return path


def file_input(files: Sequence[str], names: Sequence[str], spec: str) -> Input:
    """Raw files as an input: the fingerprint hashes their contents in order, and of each the name
    that its rows depend on.
    """
    with ThreadPoolExecutor(HASHING) as pool:  # hashing and reading leave the lock of Python
        digests = list(pool.map(storage.sha256_of, files))
    listed = [list(pair) for pair in zip(names, digests, strict=True)]
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
        listed.append([name, known.get(name) or sha256_once(storage.join(folder, name))])
    return fingerprint_of(listed)


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
            known = recorded_hashes(manifest, storage.read_json(manifest, fix=redo(manifest)))
            return {
                file.removeprefix(prefix): digest
                for file, digest in known.items()
                if file.startswith(prefix)
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
            write_parquet(table, temporary)
            rows = table.num_rows
        digest, size = storage.sha256_of(temporary), os.path.getsize(temporary)
    sidecar = {"name": name, "rows": rows, "bytes": size, "sha256": digest, "stats": dict(stats)}
    storage.write_json(sidecar_file(output, name), sidecar)
    return sidecar


def write_parquet(table: pa.Table, file: str) -> None:
    """Vectors are written plain: nothing in them repeats, and a dictionary of all their numbers
    makes reading them four times as slow.
    """
    lists = {
        field.name: pa.types.is_fixed_size_list(field.type)
        for field in table.schema
        if pa.types.is_nested(field.type)
    }
    dictionary: bool | list[str] = True
    if any(lists.values()):  # by the paths of the leaves
        nested = [f"{name}.list.element" for name, vectors in lists.items() if not vectors]
        dictionary = [*(name for name in table.column_names if name not in lists), *nested]
    pq.write_table(
        table, file, compression="zstd", use_dictionary=dictionary, write_page_checksum=True
    )


def num_rows(path: str) -> int:
    """The rows of a Parquet shard, from its footer; InputError as of `read_shard`."""
    verify(path)
    with arrow_damage_named(path), storage.open_read(path) as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def sidecar_file(output: str, name: str) -> str:
    """Where `commit_shard` says that a shard is whole."""
    return storage.join(output, "committed", f"{name.replace('/', '--')}.json")


def committed_shard(output: str, file: str) -> dict[str, Any] | None:
    """The sidecar at `file` of a shard of `output`; None of one that is not there or breaks off,
    and where the shard's size disagrees: then it is done again.
    """
    if not storage.exists(file):
        return None
    try:
        sidecar = storage.read_json(file)
    except InputError:
        return None
    if not isinstance(sidecar, dict) or not sidecar.keys() >= SIDECAR:
        return None
    path = storage.join(output, sidecar["name"])
    whole = storage.exists(path) and storage.size_of(path) == sidecar["bytes"]
    return sidecar if whole else None


def read_shard(path: str, columns: list[str] | None = None) -> pa.Table:
    """One Parquet shard as a table, once its sha256 is the one in its artifact's manifest;
    InputError where it is not, or cannot be read. An unfinished artifact has no manifest yet: its
    own stage reads there what it has just written.
    """
    verify(path)
    with arrow_damage_named(path), storage.open_read(path) as stream:
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


def vectors_of(table: pa.Table) -> np.ndarray[Any, np.dtype[np.float16]]:
    """The `embedding` column of a shard as (N, D) float16."""
    column = table["embedding"].combine_chunks()
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)
