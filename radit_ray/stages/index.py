"""index: embeddings -> FAISS shards with the chunks beside them.

In: an embedding artifact. Out: for each shard `shard-00000.faiss` and `shard-00000.arrow` (the
chunk rows in the same order; the id map and the texts), so that retrieve and serve need nothing
else. Vectors are added shard after shard; all of them are never in memory at once outside FAISS.

    radit index --embeddings runs/x/embed --output runs/x/index --num-shards 4
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    artifact_input,
    commit_shard,
    read_shard,
    shard_names,
    vectors_of,
)
from radit_ray.data.rows import CHUNK
from radit_ray.data.work import Work
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models import faiss_shard

VERSION = 1
TRAINED = ("sq", "ivf", "ivfpq")  # kinds whose quantisers are fitted to a sample


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What decides the index."""

    kind: str = "flat"  # flat (exact), sq (8 bits), ivf, ivfpq, hnsw
    num_shards: int = 1  # FAISS files; each is searched by an actor of its own
    nlist: int = 0  # ivf, ivfpq: cells in a shard, 0 = 4 * sqrt(chunks of the shard)
    pq_bytes: int = 0  # ivfpq: bytes of one vector, 0 = an eighth of its width
    hnsw_links: int = 32  # hnsw: links of a node
    train_chunks: int = 200_000  # ivf, ivfpq, sq: chunks drawn from a shard to train its quantiser
    seed: int = 0


def index(
    config: IndexConfig, *, embeddings: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Builds `num_shards` FAISS indexes (inner product) over consecutive embedding shards.

    Metrics: num_chunks, dimension, kind, shards (files and rows of each). InputError on an unknown
    kind, or more index shards than embedding shards.
    """
    if config.kind not in faiss_shard.KINDS:
        raise InputError(
            f"unknown index kind {config.kind!r}{nearest(config.kind, faiss_shard.KINDS)}"
        )
    inputs = {"embeddings": artifact_input(embeddings, "embed")}
    with Work.open("index", VERSION, config, inputs, output) as work:
        if work.done:
            return work.done
        names = shard_names(inputs["embeddings"])
        if not 1 <= config.num_shards <= len(names):
            raise InputError(
                f"num_shards={config.num_shards}, expected 1 to {len(names)} (the embedding "
                "shards); "
                "lower it, or chunk with fewer --docs-per-shard"
            )
        groups = [part.tolist() for part in np.array_split(np.array(names), config.num_shards)]
        files = [f"shard-{number:05d}.faiss" for number in range(config.num_shards)]
        todo = set(work.missing(files))
        items = [{"name": f, "parts": g} for f, g in zip(files, groups, strict=True) if f in todo]
        arguments = {
            "config": config,
            "embeddings": inputs["embeddings"].path,
            "output": work.output,
        }
        map_shards(
            IndexWorker,
            arguments,
            items,
            resources=resources,
            label="index",
            unit="shard",
            gpu=False,
        )
        committed = work.committed()
        shards = [
            {"faiss": f, "arrow": f.replace(".faiss", ".arrow"), "rows": committed[f]["rows"]}
            for f in files
        ]
        metrics = {
            "num_chunks": sum(s["rows"] for s in shards),
            "dimension": int(committed[files[0]]["stats"]["peak_dimension"]),
            "kind": config.kind,
            "shards": shards,
        }
        return work.finish(resources=resources, metrics=metrics, rows=metrics["num_chunks"])


class IndexWorker:
    """Builds one FAISS shard a call."""

    def __init__(self, *, config: IndexConfig, embeddings: str, output: str) -> None:
        self.config, self.embeddings, self.output = config, embeddings, output

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        built, cost = Meter().measure(lambda: (self._build(item["parts"]), 0))
        arrow = item["name"].replace(".faiss", ".arrow")
        commit_shard(
            self.output, arrow, lambda path: self._write_chunks(path, item["parts"]), rows=0
        )
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
        sample_ND, count = self._sample(parts)
        links = config.hnsw_links if config.kind == "hnsw" else config.pq_bytes
        built = faiss_shard.trained(
            config.kind, sample_ND, count, nlist=config.nlist, m=links, seed=config.seed
        )
        for part in parts:
            faiss_shard.add(built, self._vectors(part))
        return built

    def _vectors(self, part: str) -> np.ndarray:
        return vectors_of(read_shard(storage.join(self.embeddings, part), ["embedding"]))

    def _sample(self, parts: list[str]) -> tuple[np.ndarray, int]:
        """Vectors drawn evenly from all parts, so that an ordered corpus trains no skewed cells;
        and the number of all.
        """
        generator = np.random.default_rng(self.config.seed)
        each = -(-self.config.train_chunks // len(parts))
        drawn, count = [], 0
        for part in parts:
            vectors_ND = self._vectors(part)
            count += len(vectors_ND)
            # a flat or hnsw index has nothing to train, it only needs the width
            rows = generator.permutation(len(vectors_ND))[
                : each if self.config.kind in TRAINED else 1
            ]
            drawn.append(vectors_ND[np.sort(rows)])
        return np.concatenate(drawn), count

    def _write_chunks(self, path: str, parts: list[str]) -> None:
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, CHUNK) as writer:
            for part in parts:
                table = read_shard(storage.join(self.embeddings, part), CHUNK.names)
                writer.write_table(table.cast(CHUNK))
