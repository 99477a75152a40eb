"""One stage call on its output folder: claim it, commit shards, finish or resume.

`identity.json` is written first, `manifest.json` last. The fingerprint is the sha256 of the stage's
name and VERSION, its resolved config and the fingerprints of its inputs, so hardware and paths are
no part of it. A folder without a manifest is unfinished and is resumed; one of another identity is
refused.

    with Work.open("embed", VERSION, config, inputs, output, resolve) as work:
        if work.done: return work.done
        ...commit_shard(...) for each of work.missing(names)...
        return work.finish(metrics={...})
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Generic, TypeVar

from radit_ray.core.errors import READ_ONLY, InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    FORMAT_VERSION,
    LINK,
    Artifact,
    Input,
    committed_shard,
    fingerprint_of,
    lineage_of,
    read_manifest,
    resolve_link,
)
from radit_ray.data.integrity import redo
from radit_ray.data.versions import versions

FINGERPRINT = "{fingerprint}"  # in an output path: the artifact is named by what it holds
ASKING = 16  # sidecars read at a time where each is a request of its own
IGNORED = ("identity.json", "manifest.json", ".lock", LINK)
SCRATCH = ("committed/", "resume/")  # below an artifact: sidecars, state of an unfinished training
# what a refused call leaves to be read, and the next one clears away: bad rows with the reasons
_QUARANTINE = re.compile(r"quarantine/\d{5}\.jsonl")
ConfigT = TypeVar("ConfigT")


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
        """Claims `output` for this identity, waiting while another process holds it for the same.

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

        def refuse_another(recorded: Mapping[str, Any] | None) -> tuple[ConfigT, dict[str, Any]]:
            followed = resolve(_follow_record(config, output))
            wanted = identity_of(stage, version, followed, inputs)
            if recorded is not None and recorded["fingerprint"] != wanted["fingerprint"]:
                raise InputError(_difference(output, recorded, wanted))
            return followed, wanted

        with _lock(output, lambda: refuse_another(_read_identity(output))):
            manifest = read_manifest(output)
            recorded = manifest or _read_identity(output)
            followed, identity = refuse_another(recorded)
            work = cls(output, followed, identity, inputs)
            if manifest is not None:
                work._drop_scratch()  # a kill may have come between manifest and clean-up
                work.done = Artifact(
                    path=output, rows=manifest["rows"], metrics=manifest["metrics"]
                )
            elif recorded is None:
                work._clear_quarantine()
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
                if not storage.create_json(storage.join(output, "identity.json"), record):
                    refuse_another(_read_identity(output))  # on an object store, just now
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

    def _clear_quarantine(self) -> None:
        """Removes the bad rows of an earlier call that was refused, and only those."""
        for name in filter(_QUARANTINE.fullmatch, storage.list_files(self.output)):
            storage.remove(storage.join(self.output, name))

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
        folder = storage.join(self.output, "committed")
        files = [storage.join(folder, name) for name in storage.list_files(folder)]
        with ThreadPoolExecutor(1 if storage.is_local(self.output) else ASKING) as pool:
            found = list(pool.map(partial(committed_shard, self.output), files))
        return {sidecar["name"]: sidecar for sidecar in found if sidecar is not None}

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
            known = committed.get(name)  # whose size was looked at a moment ago
            size = known["bytes"] if known else storage.size_of(path)
            digest = known["sha256"] if known else storage.sha256_of(path)
            files.append({"name": name, "bytes": size, "sha256": digest})
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
            "lineage": lineage_of(self.inputs),
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


@contextlib.contextmanager
def _lock(output: str, look: Callable[[], Any]) -> Iterator[None]:
    """Holds `<output>/.lock` (flock: the kernel frees it when the holder dies); `look` is called
    before waiting for another process. Object stores have no lock: there the creation of
    identity.json decides between two different runs, and two equal ones write the same files.
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
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        raise InputError(
            f"{output} cannot be written ({error.strerror}); choose another --output"
        ) from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            look()
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
    record = dict(storage.read_json(name, fix=redo(name)))
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
