"""Chunks as plain text + LMs -> nats per token: what tuning did to the LM as a language model.

In: a chunk artifact and LMs by name, of one tokenizer. Out: `<name>/part-*.parquet` with one row a
text (tokens, their summed log-probability), means with intervals in the manifest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from radit_ray.core.errors import InputError
from radit_ray.core.intervals import bootstrap_mean, minimum_detectable_effect, paired_bootstrap
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    commit_shard,
    read_shard,
    shard_names,
)
from radit_ray.data.work import Work
from radit_ray.engines.references import local_model, model_bytes, model_input, resolved_precision
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.models.causal_lm import CausalLM

VERSION = 1
NUM_SHARDS = 16  # of the corpus that texts are drawn from: reading every id of a large one is hours
TEXT = pa.schema(
    [
        ("id", pa.string()),
        ("doc_id", pa.string()),
        ("num_tokens", pa.int32()),
        ("logprob", pa.float64()),  # nats, summed over the tokens
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityConfig:
    """What decides the numbers."""

    names: tuple[str, ...]  # of the LMs; differences are taken from the first
    num_texts: int = 500  # chunks, a seeded choice; 0 = all of the shards looked at
    eos_token: str = ""  # as in evaluate
    bootstrap: int = 2000  # resamples of the 95% intervals, over documents
    precision: str = "auto"  # of the LMs: "bf16", "fp32" or "auto"
    seed: int = 0


def perplexity(
    config: PerplexityConfig,
    *,
    chunks: str,
    lms: Mapping[str, str],
    output: str,
    resources: Resources = Resources(),
) -> Artifact:
    """Every LM reads the same texts, each by itself behind BOS and cut to the context.

    Metrics: num_texts, num_documents, num_tokens, nats_per_token {name: {value, low, high}},
    contrasts {"a-minus-b": {diff, low, high, mde}}. InputError on LMs that cut texts differently.
    """
    source = artifact_input(chunks, ("chunk", "dedup"))
    found = {name: model_input(lms[name], what="lm") for name in config.names}
    inputs = {"chunks": source} | {f"lm/{name}": value for name, value in found.items()}
    resolve = resolved_precision(resources)
    with Work.open("perplexity", VERSION, config, inputs, output, resolve) as work:
        if work.done:
            return work.done
        chosen = sample_texts(source, config.num_texts, config.seed)
        items = [
            {"name": f"{name}/{shard}", "shard": shard, "rows": rows, "lm": found[name].path}
            for name in config.names
            for shard, rows in chosen.items()
        ]
        todo = set(work.missing([item["name"] for item in items]))
        arguments = {
            "config": work.config,
            "chunks": source.path,
            "output": work.output,
            "device": resources.device,
        }
        map_shards(
            PerplexityWorker,
            arguments,
            [item for item in items if item["name"] in todo],
            resources=resources,
            label="perplexity",
            unit="part",
            worker_bytes=2.0 * max(model_bytes(lm.path) for lm in found.values()) + 2**30,
        )
        tables = {
            name: [
                row
                for shard in chosen
                for row in read_shard(storage.join(work.output, name, shard)).to_pylist()
            ]
            for name in config.names
        }
        metrics = measure_texts(tables, num_samples=config.bootstrap, seed=config.seed)
        return work.finish(resources=resources, metrics=metrics, rows=metrics["num_texts"])


def sample_texts(source: Input, num_texts: int, seed: int) -> dict[str, list[int]]:
    """{shard: row numbers} of the chunks whose ids hash lowest, from at most NUM_SHARDS shards
    that are chosen likewise.
    """

    def order(name: str) -> tuple[str, str]:
        return hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).hexdigest(), name

    found = []
    for shard in sorted(shard_names(source), key=order)[:NUM_SHARDS]:
        for row, name in enumerate(read_shard(source.file(shard), ["id"])["id"].to_pylist()):
            found.append((order(name), shard, row))
    chosen: dict[str, list[int]] = {}
    for _, shard, row in sorted(sorted(found)[: num_texts or None], key=lambda place: place[1:]):
        chosen.setdefault(shard, []).append(row)
    return chosen


class PerplexityWorker:
    """Holds one LM at a time; reads one shard's texts a call."""

    def __init__(self, *, config: PerplexityConfig, chunks: str, output: str, device: str) -> None:
        self.config, self.chunks, self.output, self.device = config, chunks, output, device
        self.loaded, self.lm = "", None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        if self.lm is None or self.loaded != item["lm"]:
            self.lm = None  # the old weights go before the new ones come
            self.lm = CausalLM.load(
                local_model(item["lm"]),
                precision=self.config.precision,
                device=self.device,
                eos_token=self.config.eos_token,
            )
            self.loaded = item["lm"]
        lm = self.lm
        table = read_shard(storage.join(self.chunks, item["shard"]), ["id", "doc_id", "text"])
        texts = table.take(pa.array(item["rows"])).to_pylist()
        meter = Meter(flops_per_token=lm.flops_per_token)

        def work() -> tuple[list[dict[str, Any]], int]:
            read = [{**text, **read_text(lm, text["text"])} for text in texts]
            return read, sum(row["num_tokens"] for row in read)

        rows, cost = meter.measure(work)
        columns = [{name: row[name] for name in TEXT.names} for row in rows]
        table = pa.Table.from_pylist(columns, schema=TEXT)
        return commit_shard(self.output, item["name"], table, **cost)


def read_text(lm: CausalLM, text: str) -> dict[str, Any]:
    """num_tokens and their summed log-probability (nats) in their own left context; where the
    tokenizer has no BOS the first token is given and not counted.
    """
    ids = [*lm.bos_ids, *lm.encode(text)][: lm.context_length]
    given = max(1, len(lm.bos_ids))
    prompt, scored = ids[:given], ids[given:]
    if not scored:
        return {"num_tokens": 0, "logprob": 0.0}
    # one text a call: texts behind one BOS would be packed into a row as long as the context
    logprob = float(lm.answer_logprobs([prompt], [scored])[0])
    return {"num_tokens": len(scored), "logprob": logprob}


def measure_texts(
    tables: Mapping[str, list[dict[str, Any]]], *, num_samples: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """What `perplexity` reports, of TEXT rows in one order. The mean is over tokens, the interval
    over documents drawn again with all of their tokens.
    """
    draws = {"num_samples": num_samples, "seed": seed}
    base, rows = next(iter(tables.items()))
    counts = [row["num_tokens"] for row in rows]
    if not sum(counts):
        raise InputError("no text of the corpus sample has a token to score; raise num_texts")
    for name, other in tables.items():
        if [row["num_tokens"] for row in other] != counts:
            raise InputError(
                f"{name!r} and {base!r} cut texts into other tokens, so nats per token cannot be "
                "compared; name LMs of one tokenizer"
            )
    # each token carries its text's mean, so that a mean over values is one over tokens
    groups = np.repeat([row["doc_id"] for row in rows], counts).tolist()
    nats = {
        name: np.repeat([-r["logprob"] / max(1, r["num_tokens"]) for r in table], counts)
        for name, table in tables.items()
    }
    means, contrasts = {}, {}
    for name, values in nats.items():
        value, low, high = bootstrap_mean(values, groups, **draws)
        means[name] = {"value": value, "low": low, "high": high}
        if name != base:
            diff, low, high = paired_bootstrap(values, nats[base], groups, **draws)
            mde = minimum_detectable_effect(low, high)
            cell = {"diff": diff, "low": low, "high": high, "mde": mde}
            contrasts[f"{name}-minus-{base}"] = cell
    return {
        "num_texts": len(rows),
        "num_documents": len(set(groups)),
        "num_tokens": sum(counts),
        "nats_per_token": means,
        "perplexity": {name: math.exp(cell["value"]) for name, cell in means.items()},
        "contrasts": contrasts,
    }
