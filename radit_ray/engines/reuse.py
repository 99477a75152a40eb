"""Vectors of an older embed artifact for chunks that have not changed, so that a corpus that grew,
shrank or was edited costs the encoder only what is new.

A chunk is known by what the encoder reads of it: a 16-byte hash of its title and text, whatever
its id, date, source and place. In: the older artifact. Out: one Arrow file, sorted by hash, that
says in which shard and row each vector lies; workers map it into memory, so that it costs them
none. The driver, which sorts it, holds 56 bytes a chunk while it does, the file has 24.

Suffixes: N chunks of a shard, C chunks of the older artifact, D embedding width.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Input,
    artifact_input,
    commit_shard,
    read_manifest,
    read_shard,
    shard_names,
    vectors_of,
)
from radit_ray.data.integrity import arrow_damage_named
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import map_shards

TABLE = pa.schema(
    [("first", pa.uint64()), ("second", pa.uint64()), ("shard", pa.uint32()), ("row", pa.uint32())]
)
HELD_SHARDS = 4  # older shards whose vectors a worker keeps: neighbours in a corpus stay neighbours


def older_embeddings(path: str) -> tuple[Input, dict[str, Any]]:
    """The embed artifact at `path`, or that of the run whose folder it is, and its manifest;
    InputError where there is none.
    """
    place = storage.join(path, "embed")
    if not storage.exists(storage.join(path, "manifest.json")) and storage.exists(place):
        path = place
    source = artifact_input(path, "embed")
    manifest = read_manifest(source.path)
    assert manifest is not None
    return source, manifest


def check_same_encoder(
    source: Input, manifest: Mapping[str, Any], identity: Mapping[str, Any]
) -> None:
    """InputError that names in what the older vectors were made otherwise than those asked for."""
    parts = [
        f"{name} {manifest['config'].get(name)!r} there, {value!r} asked"
        for name, value in identity["config"].items()
        if manifest["config"].get(name) != value
    ]
    if manifest["inputs"]["retriever"]["fingerprint"] != identity["inputs"]["retriever"]:
        parts.append("the retriever is another one")
    if manifest["version"] != identity["version"]:
        parts.append(f"version {manifest['version']} there, {identity['version']} now")
    if parts:
        raise InputError(
            f"reuse {source.path}: its vectors were made otherwise ({'; '.join(parts)}); leave "
            "out --reuse, or ask for what it has"
        )


def content_hashes(titles: Sequence[str], texts: Sequence[str]) -> NDArray[np.uint64]:
    """(N, 2): two halves of a hash of what the chunk encoder reads. No text holds a NUL."""
    digests = (
        hashlib.blake2b(f"{title}\0{text}".encode(), digest_size=16).digest()
        for title, text in zip(titles, texts, strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2)


def write_table(source: Input, folder: str, resources: Resources) -> str:
    """Where each vector of `source` lies, as one file in `folder`; a second call takes up the
    first.
    """
    path = storage.join(folder, "table.arrow")
    if storage.exists(path):
        return path
    names = shard_names(source)
    done = set(storage.list_files(storage.join(folder, "committed")))
    map_shards(
        HashWorker,
        {"source": source.path, "output": folder},
        [{"name": name} for name in names if f"{name}.json" not in done],
        resources=resources,
        label="embed: known chunks",
        unit="shard",
        gpu=False,
    )
    tables = [read_shard(storage.join(folder, name)) for name in names]
    sizes = [table.num_rows for table in tables]
    first_C, second_C = (
        np.concatenate([table[half].to_numpy() for table in tables]) for half in ("first", "second")
    )
    shard_C = np.repeat(np.arange(len(sizes), dtype=np.uint32), sizes)
    row_C = np.concatenate([np.arange(size, dtype=np.uint32) for size in sizes])
    del tables
    order_C = np.argsort(first_C, kind="stable")
    sorted_ = [column[order_C] for column in (first_C, second_C, shard_C, row_C)]
    with (
        storage.atomic_file(path) as name,
        pa.OSFile(name, "wb") as sink,
        pa.ipc.new_file(sink, TABLE) as writer,
    ):
        writer.write_batch(pa.record_batch([pa.array(c) for c in sorted_], schema=TABLE))
    return path


class HashWorker:
    """The hashes of the chunks of one older shard a call; its vectors are not read."""

    def __init__(self, *, source: str, output: str) -> None:
        self.source, self.output = source, output

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.source, item["name"]), ["title", "text"])
        hashes_N2 = content_hashes(table["title"].to_pylist(), table["text"].to_pylist())
        halves = {"first": hashes_N2[:, 0], "second": hashes_N2[:, 1]}
        return commit_shard(self.output, item["name"], pa.table(halves))


class OlderVectors:
    """The vectors of an older artifact, asked for by content."""

    def __init__(self, source: str, table: str) -> None:
        self.source, self.names = source, shard_names(source)
        with arrow_damage_named(table):
            mapped = pa.ipc.open_file(pa.memory_map(storage.local_copy(table))).read_all()
        # one batch, hence views of the mapped file
        self.first_C, self.second_C, self.shard_C, self.row_C = (
            column.chunk(0).to_numpy() for column in mapped.columns
        )
        self._shard = functools.lru_cache(maxsize=HELD_SHARDS)(self._read)

    def find(self, titles: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
        """(places in these lists that are known, their vectors (known, D) float16)."""
        hashes_N2 = content_hashes(titles, texts)
        place_N = np.searchsorted(self.first_C, hashes_N2[:, 0])
        place_N = np.minimum(place_N, len(self.first_C) - 1)
        # two chunks that share the first half alone are as good as unknown: encoded again
        known = np.flatnonzero(
            (self.first_C[place_N] == hashes_N2[:, 0]) & (self.second_C[place_N] == hashes_N2[:, 1])
        )
        shard_K, row_K = self.shard_C[place_N[known]], self.row_C[place_N[known]]
        vectors_KD: NDArray[np.float16] | None = None
        for shard in np.unique(shard_K):
            here = shard_K == shard
            found = self._shard(int(shard))[row_K[here]]
            if vectors_KD is None:
                vectors_KD = np.empty((len(known), found.shape[1]), dtype=np.float16)
            vectors_KD[here] = found
        return known, vectors_KD

    def _read(self, shard: int) -> NDArray[np.float16]:
        name = storage.join(self.source, self.names[shard])
        return vectors_of(read_shard(name, ["embedding"]))
