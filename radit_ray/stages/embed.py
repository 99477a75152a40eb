"""embed: chunks -> one vector each, float16, by the base retriever's chunk encoder.

In: a chunk or dedup artifact. Out: its shards with a column `embedding` (fixed-size list of
float16, width D), so that everything an index or R-ft needs of a chunk lies in one place. Only the
query encoder is ever tuned (paper, section 2.3), so this runs once. When the corpus changes,
`reuse` names the vectors made before: chunks that are in both are not encoded again.

    radit embed --chunks runs/x/chunk --retriever sentence-transformers/all-MiniLM-L6-v2 --output
    runs/x/embed
    radit embed --chunks runs/y/chunk --reuse runs/x/embed --retriever ... --output runs/y/embed
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
from radit_ray.engines.reuse import (
    OlderVectors,
    check_same_encoder,
    older_embeddings,
    write_table,
)
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
    config: EmbedConfig,
    *,
    chunks: str,
    output: str,
    reuse: str = "",
    resources: Resources = Resources(),
) -> Artifact:
    """Embeds every chunk; a shard of `chunks` becomes the shard of the same name.

    reuse: an older embed artifact of the same encoder, or the folder of a run that has one; chunks
    whose title and text it holds take their vectors from there. That is no part of the identity:
    which texts share a batch decides a vector's last bits, with `reuse` as with `batch_tokens`
    (docs/scale.md has the bound), and a vector that is taken over again and again is still the one
    that was computed once. With `precision="auto"` the older artifact's is followed.

    Metrics: num_chunks, dimension, num_encoded, num_reused, chunks_per_s (encoded ones, per worker,
    start-up excluded). InputError on an unknown retriever or preset, or an older artifact that was
    made otherwise.
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
    older, made = older_embeddings(reuse) if reuse else (None, {})
    from_hardware = resolved_precision(resources)

    def resolve(config: EmbedConfig) -> EmbedConfig:
        if older and config.precision == "auto":
            config = dataclasses.replace(config, precision=made["config"]["precision"])
        return from_hardware(config)

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
        if older and items:
            check_same_encoder(older, made, work.identity)
            folder = storage.join(work.output, "resume", "reuse")
            arguments |= {"older": older.path, "table": write_table(older, folder, resources)}
        map_shards(EmbedWorker, arguments, items, resources=resources, label="embed", unit="shard")
        sidecars = list(work.committed().values())
        num_chunks = sum(s["rows"] for s in sidecars)
        num_reused = int(sum(s["stats"].get("num_reused", 0) for s in sidecars))
        num_encoded = num_chunks - num_reused
        device_s = sum(s["stats"]["device_s"] for s in sidecars)
        metrics = {
            "num_chunks": num_chunks,
            "dimension": int(sidecars[0]["stats"]["peak_dimension"]),
            "num_encoded": num_encoded,
            "num_reused": num_reused,
            "chunks_per_s": num_encoded / device_s if num_encoded else 0.0,
        }
        return work.finish(resources=resources, metrics=metrics)


class EmbedWorker:
    """Holds the chunk encoder; embeds and commits one shard a call."""

    def __init__(
        self,
        *,
        config: EmbedConfig,
        chunks: str,
        output: str,
        device: str,
        batch_tokens: int,
        older: str = "",
        table: str = "",
    ) -> None:
        self.config, self.device = config, device
        self.encoder: DualEncoder | None = None
        self.chunks, self.output, self.batch_tokens = chunks, output, batch_tokens
        self.older = OlderVectors(older, table) if older else None
        self.meter = Meter()
        if self.older is None:
            self.load()

    def load(self) -> DualEncoder:
        """The retriever, loaded once: with the worker, or, where vectors are taken over, with the
        first chunk that is new.
        """
        if self.encoder is None:
            self.encoder = DualEncoder.load(
                local_model(self.config.retriever),
                preset=self.config.preset,
                precision=self.config.precision,
                device=self.device,
            )
            self.meter.flops_per_token = self.encoder.flops_per_token
        return self.encoder

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.chunks, item["name"]))
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        known, known_KD = self.older.find(titles, texts) if self.older else (np.empty(0, int), None)
        new = np.setdiff1d(np.arange(len(texts)), known)
        encoder = self.load() if len(new) or known_KD is None else None

        def work() -> tuple[np.ndarray, int]:
            if encoder is None:
                return np.empty((0, known_KD.shape[1]), dtype=np.float32), 0
            vectors = encoder.encode_chunks(
                [titles[i] for i in new], [texts[i] for i in new], batch_tokens=self.batch_tokens
            )
            return vectors, encoder.last_num_tokens

        new_ND, cost = self.meter.measure(work)
        vectors_ND = np.empty((len(texts), new_ND.shape[1]), dtype=np.float32)
        vectors_ND[new] = new_ND
        if known_KD is not None:
            vectors_ND[known] = known_KD
        largest = np.abs(vectors_ND).max(initial=0.0)
        if not largest <= np.finfo(np.float16).max:  # nan is neither
            raise InputError(
                f"{item['name']}: the retriever gives vectors that float16 cannot hold (largest "
                f"{largest:.3g}); check the model, or use --precision fp32"
            )
        width = vectors_ND.shape[1]
        flat = pa.array(vectors_ND.astype(np.float16).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, width)
        table = table.append_column("embedding", column)
        cost |= {"peak_dimension": width, "num_reused": len(known)}
        return commit_shard(self.output, item["name"], table, **cost)
