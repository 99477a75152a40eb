"""index: embeddings -> FAISS shards with the chunks beside them.

In: an embedding artifact. Out: for each shard `shard-00000.faiss` and `shard-00000.arrow` (the
chunk rows in the same order; the id map and the texts), so that retrieve and serve need nothing
else. Vectors are added shard after shard; all of them are never in memory at once outside FAISS.

Kind bm25, the lexical reference, takes the chunk artifact itself and needs no vectors: words are
counted part by part, then each shard `shard-00000.safetensors` is scored with the counts of all.

    radit index --embeddings runs/x/embed --output runs/x/index --num-shards 4
    radit index --embeddings runs/x/chunk --kind bm25 --output runs/x/words
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from radit_ray.core.errors import Bounds, InputError, check_bounds, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    commit_shard,
    num_rows,
    read_manifest,
    read_shard,
    shard_names,
    sidecar_file,
    vectors_of,
)
from radit_ray.data.rows import CHUNK, DUPLICATE_IDS
from radit_ray.data.work import Work
from radit_ray.engines.references import retriever_input
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models import faiss_shard, lexical
from radit_ray.models.presets import LEXICAL

VERSION = 1
KINDS = (*faiss_shard.KINDS, LEXICAL)
WORD_BYTES = 100.0  # a word and its count in a worker's dict
TRAINED = ("sq", "ivf", "ivfpq")  # kinds whose quantisers are fitted to a sample
WORDS = pa.schema([("word", pa.string()), ("count", pa.int64())])  # chunks that hold a word


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What decides the index."""

    kind: str = "flat"  # flat (exact), sq (8 bits), ivf, ivfpq, hnsw; bm25 (words, of chunks)
    num_shards: int = 1  # files; each is searched by an actor of its own
    nlist: int = 0  # ivf, ivfpq: cells in a shard, 0 = 4 * sqrt(chunks of the shard)
    pq_bytes: int = 0  # ivfpq: bytes of one vector, 0 = an eighth of its width
    hnsw_links: int = 32  # hnsw: links of a node, 2-1024
    train_chunks: int = 200_000  # ivf, ivfpq, sq: chunks drawn from a shard to train its quantiser
    seed: int = 0

    BOUNDS: ClassVar[Bounds] = {
        "num_shards": (1, None),
        "nlist": (0, None),
        "pq_bytes": (0, None),
        "hnsw_links": (2, 1024),
        "train_chunks": (1, None),
        "seed": (0, 2**31 - 1),
    }


def index(
    config: IndexConfig, *, embeddings: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Builds `num_shards` FAISS indexes (inner product) over consecutive embedding shards; of kind
    bm25 lexical ones over chunk shards, which `embeddings` then names.

    Metrics: num_chunks, dimension (bm25: 0), kind, shards (files and rows of each). InputError on
    an unknown kind, or more index shards than embedding shards.
    """
    check_index(config)
    words = config.kind == LEXICAL
    if words:
        source = artifact_input(embeddings, ("chunk", "dedup", "embed"))
        inputs = {"chunks": source, "retriever": retriever_input(LEXICAL, "auto")}
    else:
        source = artifact_input(embeddings, "embed")
        inputs = {"embeddings": source}
    with Work.open("index", VERSION, config, inputs, output) as work:
        if work.done:
            return work.done
        names = shard_names(source)
        if not 1 <= config.num_shards <= len(names):
            raise InputError(
                f"num_shards={config.num_shards}, expected 1 to {len(names)} (the "
                f"{'chunk' if words else 'embedding'} shards); lower it, or chunk with fewer "
                "--docs-per-shard"
            )
        groups = [part.tolist() for part in np.array_split(np.array(names), config.num_shards)]
        ending = "safetensors" if words else "faiss"
        files = [f"shard-{number:05d}.{ending}" for number in range(config.num_shards)]
        todo = set(work.missing(files))
        items = [{"name": f, "parts": g} for f, g in zip(files, groups, strict=True) if f in todo]
        arguments = {"config": config, "source": source.path, "output": work.output}
        if words and items:
            arguments["counted"] = count_words(work, source, names, resources)
        map_shards(
            LexicalWorker if words else IndexWorker,
            arguments,
            items,
            resources=resources,
            label="index",
            unit="shard",
            gpu=False,
            worker_bytes=_builder_bytes(config, source, arguments),
        )
        committed = work.committed()
        shards = [
            {
                LEXICAL if words else "faiss": file,
                "arrow": _arrow(file),
                "rows": committed[file]["rows"],
            }
            for file in files
        ]
        widths = [int(committed[file]["stats"]["peak_dimension"]) for file in files]
        if len(set(widths)) > 1:
            raise InputError(
                f"{source.path}: its shards have vectors of width {', '.join(map(str, widths))}; "
                "embed them again with one retriever"
            )
        metrics = {
            "num_chunks": sum(s["rows"] for s in shards),
            "dimension": widths[0],
            "kind": config.kind,
            "shards": shards,
        }
        return work.finish(resources=resources, metrics=metrics, rows=metrics["num_chunks"])


def check_index(config: IndexConfig) -> None:
    """InputError on values that cannot be, before any work."""
    check_bounds(config, config.BOUNDS)
    if config.kind not in KINDS:
        raise InputError(f"unknown index kind {config.kind!r}{nearest(config.kind, KINDS)}")


def _builder_bytes(config: IndexConfig, source: Input, arguments: Mapping[str, Any]) -> float:
    """What a worker holds: its shard of vectors (hnsw: and links) and some parts, or all words."""
    if "counted" in arguments:
        return WORD_BYTES * num_rows(arguments["counted"])
    if config.kind == LEXICAL:
        return 0.0  # nothing is left to build
    manifest = read_manifest(source.path)
    assert manifest is not None
    chunks, width = (float(manifest["metrics"][name]) for name in ("num_chunks", "dimension"))
    links = 8.0 * config.hnsw_links if config.kind == "hnsw" else 0.0
    return chunks / config.num_shards * (2 * width + links) + 2**30


def count_words(
    work: Work[IndexConfig], source: Input, names: list[str], resources: Resources
) -> str:
    """Counts the words of each chunk shard, adds the counts, and returns the file with the sum."""
    folder = storage.join(work.output, "resume", "words")
    total = storage.join(folder, "all.parquet")
    if storage.exists(sidecar_file(folder, "all.parquet")):
        return total
    items = [{"name": n} for n in names if not storage.exists(sidecar_file(folder, n))]
    map_shards(
        CountWorker,
        {"source": source.path, "output": folder},
        items,
        resources=resources,
        label="index: words",
        unit="shard",
        gpu=False,
    )
    counts: collections.Counter[str] = collections.Counter()
    stats: collections.Counter[str] = collections.Counter()
    for name in names:
        table = read_shard(storage.join(folder, name))
        counts.update(dict(zip(*table.to_pydict().values(), strict=True)))
        stats.update(storage.read_json(sidecar_file(folder, name))["stats"])
    commit_shard(folder, "all.parquet", _word_table(counts), **stats)
    return total


def _word_table(counts: dict[str, int]) -> pa.Table:
    return pa.table([list(counts), list(counts.values())], schema=WORDS)


class CountWorker:
    """How many chunks of a chunk shard hold each word."""

    def __init__(self, *, source: str, output: str) -> None:
        self.source, self.output = source, output

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        found = lexical.count_words(_words(storage.join(self.source, item["name"])))
        return commit_shard(
            self.output,
            item["name"],
            _word_table(found.counts),
            num_chunks=found.num_chunks,
            num_words=found.num_words,
        )


def _words(file: str) -> list[list[str]]:
    """The words of each chunk of a shard."""
    table = read_shard(file, ["title", "text"])
    return lexical.chunk_words(table["title"].to_pylist(), table["text"].to_pylist())


class LexicalWorker:
    """Builds one shard of BM25 scores a call."""

    def __init__(self, *, config: IndexConfig, source: str, output: str, counted: str) -> None:
        self.source, self.output = source, output
        folder, _, name = counted.rpartition("/")
        stats = storage.read_json(sidecar_file(folder, name))["stats"]
        table = read_shard(counted).to_pydict()
        counts = dict(zip(table["word"], table["count"], strict=True))
        self.corpus = lexical.Corpus(
            num_chunks=int(stats["num_chunks"]), num_words=int(stats["num_words"]), counts=counts
        )

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        files = [storage.join(self.source, part) for part in item["parts"]]

        def build() -> tuple[lexical.LexicalShard, int]:
            chunks = (words for file in files for words in _words(file))
            return lexical.build(chunks, self.corpus), 0

        built, cost = Meter().measure(build)
        _commit_chunks(self.output, item["name"], files)
        return commit_shard(
            self.output, item["name"], built.save, rows=built.count, peak_dimension=0, **cost
        )


class IndexWorker:
    """Builds one FAISS shard a call."""

    def __init__(self, *, config: IndexConfig, source: str, output: str) -> None:
        self.config, self.source, self.output = config, source, output
        self.width = 0  # of the vectors, once it is known

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        built, cost = Meter().measure(lambda: (self._build(item["parts"]), 0))
        files = [storage.join(self.source, part) for part in item["parts"]]
        _commit_chunks(self.output, item["name"], files)
        return commit_shard(
            self.output,
            item["name"],
            lambda path: faiss_shard.save(built, path),
            rows=built.ntotal,
            peak_dimension=built.d,
            **cost,
        )

    def _build(self, parts: list[str]) -> Any:
        config = self.config
        vectors = map(self._vectors, parts)
        first_ND = next(vectors)
        width_1D = first_ND[:1].copy()
        count = sum(num_rows(storage.join(self.source, part)) for part in parts)
        # a flat or hnsw index has nothing to train, it only needs the width
        sample_ND = self._sample(parts) if config.kind in TRAINED else width_1D
        links = config.hnsw_links if config.kind == "hnsw" else config.pq_bytes
        built = faiss_shard.trained(
            config.kind, sample_ND, count, nlist=config.nlist, m=links, seed=config.seed
        )
        faiss_shard.add(built, first_ND)
        del first_ND
        for vectors_ND in vectors:
            faiss_shard.add(built, vectors_ND)
        return built

    def _vectors(self, part: str) -> np.ndarray:
        """The vectors of an embedding shard; InputError on what no search could make sense of."""
        file = storage.join(self.source, part)
        vectors_ND = vectors_of(read_shard(file, ["embedding"]))
        width = vectors_ND.shape[1]
        if width != (self.width or width):
            raise InputError(
                f"{file}: vectors of width {width}, those before it have {self.width}; embed them "
                "again with one retriever"
            )
        self.width = width
        bad = np.flatnonzero(~np.isfinite(vectors_ND).all(axis=1))
        if len(bad):
            raise InputError(
                f"{file}: the vector of row {bad[0]} holds nan or inf ({len(bad)} such rows); "
                "embed them again"
            )
        return vectors_ND

    def _sample(self, parts: list[str]) -> np.ndarray:
        """Vectors drawn evenly from all parts, so that an ordered corpus trains no skewed cells."""
        generator = np.random.default_rng(self.config.seed)
        each = -(-self.config.train_chunks // len(parts))
        drawn = []
        for vectors_ND in map(self._vectors, parts):
            rows = generator.permutation(len(vectors_ND))[:each]
            drawn.append(vectors_ND[np.sort(rows)])
        return np.concatenate(drawn)


def _arrow(name: str) -> str:
    """The file with the chunks of an index file."""
    return f"{name.rpartition('.')[0]}.arrow"


def _commit_chunks(output: str, name: str, files: list[str]) -> None:
    """The chunk rows beside an index file, in its order."""

    def write(path: str) -> None:
        tables = (read_shard(file, [*CHUNK.names, DUPLICATE_IDS]) for file in files)
        first = next(tables)  # all shards have the same columns
        schema = CHUNK
        if DUPLICATE_IDS in first.column_names:
            schema = CHUNK.append(pa.field(DUPLICATE_IDS, pa.list_(pa.string())))
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table.select(schema.names).cast(schema))

    commit_shard(output, _arrow(name), write, rows=0)
