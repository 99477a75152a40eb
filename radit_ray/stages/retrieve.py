"""retrieve: examples + query encoder + index -> ranked rows, the k best chunks of each example with
their scores.

In: examples (a file, a folder named by split, "train=PATH,eval=PATH", or task:NAME), an index, a
retriever whose query encoder asks. Out: Parquet shards of RANKED rows; each carries the chunk
texts, so lm-ft, score and evaluate need nothing else. With `corpus_examples` the shards also hold
self-supervised examples cut from the index's own chunks (paper, section 2.3).

    radit retrieve --examples qa.jsonl --index runs/x/index --retriever all-MiniLM-L6-v2 --output
    runs/x/retrieve
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import random
import sys
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import ray

from radit_ray.core.errors import SEED, Bounds, InputError, check_bounds
from radit_ray.data import rows
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    commit_shard,
    fingerprint_of,
    read_manifest,
)
from radit_ray.data.copies import with_kept_chunks
from radit_ray.data.corpus_examples import corpus_example, sample_rows
from radit_ray.data.examples import read_examples
from radit_ray.data.rows import hits_of
from radit_ray.data.work import Work
from radit_ray.engines.ranking import query_encoder, rank
from radit_ray.engines.references import (
    local_model,
    preset_name,
    resolved_precision,
    retriever_input,
)
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import (
    Prefix,
    ShardedIndex,
    chunk_table,
    shard_arguments,
)
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models.faiss_shard import gpu_kinds
from radit_ray.models.presets import resolve_preset

VERSION = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetrieveConfig:
    """What decides the ranked rows."""

    retriever: str = (
        ""  # whose query encoder asks: id, folder, preset, "QUERY_PATH,CONTEXT_PATH", or "bm25"
    )
    preset: str = "auto"  # as in embed
    precision: str = "fp32"  # of the query encoder: "fp32", "bf16" or "auto"
    k: int = 10  # chunks of one example (paper: 10)
    nprobe: int = 0  # ivf, ivfpq: cells visited, 0 = the root of them
    corpus_examples: int = 0  # self-supervised examples from chunks (paper: 900,000)
    corpus_tokens: int = 50  # query-encoder tokens of a corpus example's query and of its answer
    dev_share: float = 0.1  # share of groups cut from train where the examples have no dev split
    eval_share: float = 0.0  # likewise for eval, where a single file has no splits at all
    limit: int = 0  # examples of each split, a seeded choice; 0 = all
    splits: tuple[str, ...] = ()  # only examples of these; empty = all
    # documents searched, the first in a seeded order (so smaller corpora lie in larger ones, on one
    # index); 0 = all. With keep_gold the gold chunks of all examples are searched whatever the size
    num_documents: int = 0
    keep_gold: bool = False
    examples_per_shard: int = 512  # the unit of resuming
    seed: int = 0

    BOUNDS: ClassVar[Bounds] = {
        "nprobe": (0, None),
        "corpus_examples": (0, None),
        "corpus_tokens": (1, None),
        "limit": (0, None),
        "num_documents": (0, None),
        "examples_per_shard": (1, None),
        "seed": SEED,
    }


def retrieve(
    config: RetrieveConfig,
    *,
    examples: str,
    index: str,
    output: str,
    resources: Resources = Resources(),
) -> Artifact:
    """Ranks chunks for every example; a shard's candidates never hold an example's own
    `exclude_ids`. Where the chunks were deduplicated, a kept chunk counts as gold, or is excluded,
    for those that were dropped for it.

    Metrics: num_examples by split, and over rows whose answers are known: recall@1, recall@5,
    recall@k by answer string. InputError on k larger than the index, a width that differs from it,
    bad example rows.
    """
    check_retrieve(config)
    check_bounds(resources, resources.BOUNDS)
    source = artifact_input(index, "index")
    found = (
        read_examples(
            examples,
            seed=config.seed,
            dev_share=config.dev_share,
            eval_share=config.eval_share,
            limit=config.limit or None,
        )
        if examples
        else []
    )
    found = [row for row in found if not config.splits or row["split"] in config.splits]
    inputs = {
        "examples": Input(path=examples, fingerprint=fingerprint_of(found)),
        "index": source,
        "retriever": retriever_input(config.retriever, config.preset),
    }
    config = dataclasses.replace(
        config,
        retriever=inputs["retriever"].path,
        preset=preset_name(config.retriever, config.preset),
    )
    resolve = resolved_precision(resources)
    with Work.open("retrieve", VERSION, config, inputs, output, resolve) as work:
        if work.done:
            return work.done
        if not found and not config.corpus_examples:
            raise InputError(
                "nothing to retrieve for: no examples given and corpus_examples is 0; give "
                "--examples"
            )
        parts = shard_arguments(source.path)
        found = with_kept_chunks(found, (chunk_table(source.path, p["shard"]) for p in parts))
        left, gpus = shard_gpus(resources, source)
        prefix = _prefix(config, found)
        replicas = tuple(
            ShardedIndex.open(
                source.path,
                nprobe=config.nprobe,
                prefix=prefix,
                memory_map=resources.memory_map,
                gpus=gpus,
            )
            for _ in range(resources.index_replicas)
        )
        shards = replicas[0]
        shards.check(config.retriever)
        needed = config.k + max((len(row["exclude_ids"]) for row in found), default=0)
        needed = max(needed, config.k + bool(config.corpus_examples))
        if config.k < 1 or needed > shards.num_allowed:
            raise InputError(
                f"k={config.k} (and excluded chunks: {needed}), expected 1 to "
                f"{shards.num_allowed}, the chunks searched; lower --k (in a run: retrieve.k, "
                "k_infer and lm_ft.k_train)"
            )
        items = _items(found, shards.num_chunks, config)
        todo = set(work.missing([item["name"] for item in items]))
        arguments = {
            "config": work.config,
            "replicas": replicas,
            "output": work.output,
            "device": resources.device,
            "batch_tokens": resources.batch_tokens,
        }
        map_shards(
            RetrieveWorker,
            arguments,
            [item for item in items if item["name"] in todo],
            resources=left,
            label="retrieve",
            unit="shard",
        )
        metrics = {"num_chunks": shards.num_allowed, **_metrics(work)}
        return work.finish(resources=resources, metrics=metrics)


def check_retrieve(config: RetrieveConfig) -> None:
    """InputError on values that cannot be, before any work."""
    check_bounds(config, config.BOUNDS)
    if config.keep_gold and not config.num_documents:
        raise InputError("keep_gold needs num_documents: a whole corpus keeps every chunk")
    if config.num_documents and config.corpus_examples:
        raise InputError(
            "num_documents and corpus_examples do not go together: examples are cut from the "
            "whole corpus; set corpus_examples=0"
        )


def shard_gpus(resources: Resources, index: Input) -> tuple[Resources, float]:
    """(what is left for the workers, share of a GPU for each shard's actor): shards that search
    vectors get as much as a worker, where the cluster has that much for all of them and a worker.
    """
    share = resources.gpus_per_worker
    manifest = read_manifest(index.path)
    assert manifest is not None
    if not share or manifest["metrics"]["kind"] not in gpu_kinds():
        return resources, 0.0
    held = share * len(manifest["metrics"]["shards"]) * resources.index_replicas
    fit = math.floor((ray.cluster_resources().get("GPU", 0) - held) / share + 1e-9)
    if fit < max(1, resources.num_workers):
        print(
            f"radit retrieve: {held:g} GPUs for the index shards do not fit beside the workers; "
            "they search on CPUs (lower --resources.gpus-per-worker, such as 0.25)",
            file=sys.stderr,
        )
        return resources, 0.0
    return dataclasses.replace(resources, num_workers=resources.num_workers or fit), share


def _prefix(config: RetrieveConfig, found: list[dict[str, Any]]) -> Prefix | None:
    """The part of the corpus that is searched; None for all of it."""
    if not config.num_documents:
        return None
    kept = frozenset(name for row in found for name in row["gold_ids"]) if config.keep_gold else ()
    if config.keep_gold and not kept:
        raise InputError("keep_gold needs examples with gold_ids; these have none")
    return Prefix(num_documents=config.num_documents, seed=config.seed, kept=frozenset(kept))


def _items(
    found: list[dict[str, Any]], num_chunks: int, config: RetrieveConfig
) -> list[dict[str, Any]]:
    """One item a shard: example rows as JSON, or chunk positions to make corpus examples of.

    Where there are no task examples, every so many-th corpus example is dev (`dev_share`).
    """
    size = config.examples_per_shard
    blocks: list[dict[str, Any]] = [
        {"examples": json.dumps(found[i : i + size]), "positions": [], "dev": []}
        for i in range(0, len(found), size)
    ]
    picked = sample_rows(num_chunks, config.corpus_examples, config.seed).tolist()
    dev = [] if found or not config.dev_share else picked[:: max(2, round(1 / config.dev_share))]
    blocks += [
        {"examples": "[]", "positions": part, "dev": sorted(set(part) & set(dev))}
        for part in (picked[i : i + size] for i in range(0, len(picked), size))
    ]
    return [{"name": f"part-{number:05d}.parquet", **block} for number, block in enumerate(blocks)]


class RetrieveWorker:
    """Holds the query encoder and the handles of the index's shards; ranks one shard of examples a
    call.
    """

    def __init__(
        self,
        *,
        config: RetrieveConfig,
        replicas: tuple[ShardedIndex, ...],
        output: str,
        device: str,
        batch_tokens: int,
    ) -> None:
        self.config, self.output, self.batch_tokens = config, output, batch_tokens
        # copies of the index answer alike; workers take turns, each from a place of its own
        self.turns = itertools.cycle(random.sample(replicas, len(replicas)))
        self.encoder = query_encoder(
            config.retriever, preset=config.preset, precision=config.precision, device=device
        )
        for replica in replicas:
            replica.ready()  # so that no question's seconds are those of a shard that loads
        self.meter = Meter(flops_per_token=self.encoder.flops_per_token)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        self.shards = next(self.turns)
        examples = json.loads(item["examples"]) or self._corpus_examples(
            item["positions"], item["dev"]
        )

        def work() -> tuple[list[dict[str, Any]], int]:
            ranked = rank(
                examples, self.encoder, self.shards, k=self.config.k, batch_tokens=self.batch_tokens
            )
            return ranked, self.encoder.last_num_tokens

        ranked, cost = self.meter.measure(work)
        counts: collections.Counter[str] = collections.Counter(
            f"num_{row['split']}" for row in ranked
        )
        judged = [row for row in ranked if row["task"] != "corpus" and row["chunk_ids"]]
        for row in judged:
            hits_K = hits_of(row)
            for k in {1, 5, self.config.k}:
                counts[f"hits@{k}"] += any(hits_K[:k])
        stats = {**cost, **counts, "judged": len(judged)}
        table = pa.Table.from_pylist(ranked, schema=rows.RANKED)
        return commit_shard(self.output, item["name"], table, **stats)

    def _corpus_examples(self, positions: list[int], dev: list[int]) -> list[dict[str, Any]]:
        chunks = self.shards.chunks(np.array(positions, dtype=np.int64))
        held_out = set(dev)
        made = [
            corpus_example(
                chunk,
                self.encoder.spans(chunk["text"]),
                split="dev" if position in held_out else "train",
                num_tokens=self.config.corpus_tokens,
            )
            for position, chunk in chunks.items()
        ]
        return [row for row in made if row is not None]


def _metrics(work: Work[RetrieveConfig]) -> dict[str, Any]:
    total: collections.Counter[str] = collections.Counter()
    for sidecar in work.committed().values():
        for name, value in sidecar["stats"].items():
            if name.startswith(("num_", "hits@", "judged")):
                total[name] += int(value)
    judged = total.pop("judged")
    metrics: dict[str, Any] = {
        "t_r": resolve_preset(local_model(work.config.retriever), work.config.preset).t_r
    }
    metrics |= {name: count for name, count in total.items() if name.startswith("num_")}
    if judged:
        for k in sorted({1, 5, work.config.k}):
            metrics[f"recall@{k}"] = total[f"hits@{k}"] / judged
    return metrics
