"""embed: chunks -> one vector each, float16, by the base retriever's chunk encoder.

In: a chunk or dedup artifact. Out: its shards with a column `embedding` (fixed-size list of
float16, width D), so that everything an index or R-ft needs of a chunk lies in one place. Only the
query encoder is ever tuned (paper, section 2.3), so this runs once.

    radit embed --chunks runs/x/chunk --retriever sentence-transformers/all-MiniLM-L6-v2 --output
    runs/x/embed
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, artifact_input, commit_shard, read_shard, shard_names
from radit_ray.data.work import Work
from radit_ray.engines.references import (
    local_model,
    preset_name,
    resolved_precision,
    retriever_input,
)
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models.dual_encoder import DualEncoder

VERSION = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """What decides the vectors."""

    retriever: str = (
        ""  # sentence-transformers id or folder, preset name, or "QUERY_PATH,CONTEXT_PATH"
    )
    preset: str = "auto"  # dragon-plus, dpr, contriever, e5, minilm; "auto" = from the name
    precision: str = "auto"  # "bf16", "fp32" or "auto" (bf16 where the hardware has it fast)


def embed(
    config: EmbedConfig, *, chunks: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Embeds every chunk; a shard of `chunks` becomes the shard of the same name.

    Metrics: num_chunks, dimension, chunks_per_s (per worker, start-up excluded). InputError on an
    unknown retriever or preset.
    """
    inputs = {
        "chunks": artifact_input(chunks, ("chunk", "dedup")),
        "retriever": retriever_input(config.retriever, config.preset),
    }
    config = dataclasses.replace(
        config,
        retriever=inputs["retriever"].path,
        preset=preset_name(config.retriever, config.preset),
    )
    resolve = resolved_precision(resources)
    with Work.open("embed", VERSION, config, inputs, output, resolve) as work:
        if work.done:
            return work.done
        names = shard_names(inputs["chunks"])
        items = [{"name": name} for name in work.missing(names)]
        arguments = {
            "config": work.config,
            "chunks": inputs["chunks"].path,
            "output": work.output,
            "device": resources.device,
            "batch_tokens": resources.batch_tokens,
        }
        map_shards(EmbedWorker, arguments, items, resources=resources, label="embed", unit="shard")
        sidecars = list(work.committed().values())
        num_chunks = sum(s["rows"] for s in sidecars)
        metrics = {
            "num_chunks": num_chunks,
            "dimension": int(sidecars[0]["stats"]["peak_dimension"]),
            "chunks_per_s": num_chunks / sum(s["stats"]["device_s"] for s in sidecars),
        }
        return work.finish(resources=resources, metrics=metrics)


class EmbedWorker:
    """Holds the chunk encoder; embeds and commits one shard a call."""

    def __init__(
        self, *, config: EmbedConfig, chunks: str, output: str, device: str, batch_tokens: int
    ) -> None:
        self.encoder = DualEncoder.load(
            local_model(config.retriever),
            preset=config.preset,
            precision=config.precision,
            device=device,
        )
        self.chunks, self.output, self.batch_tokens = chunks, output, batch_tokens
        self.meter = Meter(flops_per_token=self.encoder.flops_per_token)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.chunks, item["name"]))

        def work() -> tuple[np.ndarray, int]:
            titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
            vectors = self.encoder.encode_chunks(titles, texts, batch_tokens=self.batch_tokens)
            return vectors, self.encoder.last_num_tokens

        vectors_ND, cost = self.meter.measure(work)
        if not np.isfinite(vectors_ND).all() or np.abs(vectors_ND).max() > np.finfo(np.float16).max:
            raise InputError(
                f"{item['name']}: the retriever gives vectors that float16 cannot hold (largest "
                f"{np.abs(vectors_ND).max():.3g}); check the model, or use --precision fp32"
            )
        width = vectors_ND.shape[1]
        flat = pa.array(vectors_ND.astype(np.float16).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, width)
        table = table.append_column("embedding", column)
        return commit_shard(self.output, item["name"], table, **cost, peak_dimension=width)
