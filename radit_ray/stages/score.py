"""score: ranked rows + a frozen LM -> the log-probability of the gold answer under each chunk (the
a(c) of Eq. 4).

In: ranked rows and an LM. Out: SCORED rows for a seeded mix of corpus and task examples (paper:
95/5) and for dev, in shards named as the ranked ones. The scores are computed once and stay frozen
during R-ft, as in the paper.

    radit score --ranked runs/x/retrieve --lm PATH --output runs/x/score
"""

from __future__ import annotations

import collections
import dataclasses
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from radit_ray.core.errors import SEED, Bounds, InputError, check_bounds
from radit_ray.core.mixing import CAP, capped_weights, mix
from radit_ray.core.retrieval import TAU_DEFAULTS, fit_t_r, lsr_target
from radit_ray.data import rows, storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    commit_shard,
    read_manifest,
    read_shard,
    shard_names,
)
from radit_ray.data.work import Work
from radit_ray.engines.answering import gold_logprobs
from radit_ray.engines.references import local_model, model_bytes, model_input, resolved_precision
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, call, map_shards
from radit_ray.engines.variants import Variant, fit_prompts, gold_ids, truncation
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.precision import check_precision

VERSION = 1
SAFE_KL = 0.01  # nats: bf16 weights are used where the LSR target they give is this close to fp32's
SAMPLE = 16  # examples on which that is checked
T_R_FACTORS = (
    0.2,
    0.5,
    1.0,
    2.0,
    5.0,
)  # times the preset's T_R: where the fitted one is looked for


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """What decides the scored rows."""

    lm: str = ""  # Hugging Face id or folder; the paper scores with the base LM
    eos_token: str = ""
    # chunks scored of each example, the first ones; 0 = all that were retrieved. For a deeper
    # ranking that is meant for LM-ft alone
    k: int = 0
    corpus_share: float = 0.95  # of the R-ft examples, the rest are task examples (paper: 0.95)
    num_examples: int = (
        0  # R-ft examples to score; 0 = as many as the mix allows without repeating one
    )
    cap: int = CAP  # examples of a task that count for its weight
    dev_limit: int = 500  # dev examples scored as well
    # "fp32", "bf16", or "auto": bf16 where it is fast and the target differs by < 0.01 nat
    precision: str = "auto"
    seed: int = 0

    BOUNDS: ClassVar[Bounds] = {
        "k": (0, None),
        "num_examples": (0, None),
        "dev_limit": (0, None),
        "seed": SEED,
    }


def score(
    config: ScoreConfig, *, ranked: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Scores every chunk of the chosen examples.

    Metrics: num_examples, num_pairs, t_r (the T_R that fits dev's answer NLL best, with the scores
    of this retriever), round_trip (share of answers that survive encode and decode).
    InputError on rows without chunks.
    """
    check_score(config)
    inputs = {"ranked": artifact_input(ranked, "retrieve"), "lm": model_input(config.lm, what="lm")}
    config = dataclasses.replace(config, lm=inputs["lm"].path)

    def resolve(config: ScoreConfig) -> ScoreConfig:
        if config.precision != "auto":
            return config
        resolved: ScoreConfig = resolved_precision(resources)(config)
        precision = resolved.precision
        if precision == "bf16":
            kl = call(bf16_kl, config, inputs["ranked"], resources.device, resources=resources)
            precision = "bf16" if kl < SAFE_KL else "fp32"
        return dataclasses.replace(config, precision=precision)

    with Work.open("score", VERSION, config, inputs, output, resolve) as work:
        if work.done:
            return work.done
        chosen = choose_rows(inputs["ranked"], config)
        names = [name for name in shard_names(inputs["ranked"]) if chosen.get(name)]
        items = [{"name": name, "rows": chosen[name]} for name in work.missing(names)]
        arguments = {
            "config": work.config,
            "ranked": inputs["ranked"].path,
            "output": work.output,
            "device": resources.device,
            "batch_tokens": resources.batch_tokens,
        }
        map_shards(
            ScoreWorker,
            arguments,
            items,
            resources=resources,
            label="score",
            unit="shard",
            worker_bytes=2.0 * model_bytes(work.config.lm) + 2**30,
        )
        return work.finish(resources=resources, metrics=_metrics(work))


def check_score(config: ScoreConfig) -> None:
    """InputError on values that cannot be, before any work."""
    check_bounds(config, config.BOUNDS)
    check_precision(config.precision)
    if config.k == 1:
        raise InputError("score.k=1: of one chunk the LM prefers none; expected 2 or more, or 0")
    if not 0 <= config.corpus_share <= 1:
        raise InputError(f"corpus_share={config.corpus_share}, expected 0 to 1 (paper: 0.95)")


def choose_rows(ranked: Input, config: ScoreConfig) -> dict[str, list[int]]:
    """{shard: row numbers}: the R-ft mix without repeats, and a seeded choice of dev."""
    places: dict[str, list[tuple[str, int]]] = collections.defaultdict(list)
    dev: list[tuple[str, int]] = []
    corpus_dev: list[tuple[str, int]] = []
    for name in shard_names(ranked):
        table = read_shard(ranked.file(name), ["task", "split", "chunk_ids"])
        for row, example in enumerate(table.to_pylist()):
            if len(example["chunk_ids"]) < 2:
                continue  # nothing to prefer
            if example["split"] == "train":
                places[example["task"]].append((name, row))
            elif example["split"] == "dev":
                (corpus_dev if example["task"] == "corpus" else dev).append((name, row))
    dev = dev or corpus_dev
    sizes = {task: len(found) for task, found in places.items()}
    if not sizes:
        raise InputError(
            f"{ranked.path}: no row of split 'train' with two chunks or more; retrieve with k >= 2"
        )
    share = config.corpus_share if "corpus" in sizes and len(sizes) > 1 else None
    if share in (0.0, 1.0):  # one side only
        sizes = {task: n for task, n in sizes.items() if (task == "corpus") == (share == 1.0)}
        share = None
    weights = capped_weights(
        sizes, cap=config.cap, shares={} if share is None else {"corpus": share}
    )
    room = min(sizes[task] / weight for task, weight in weights.items() if weight > 0)
    # a task smaller than its part of `num_examples` is taken whole, none twice
    num = config.num_examples or int(room)
    picked = {places[task][i] for task, i in mix(sizes, num=num, weights=weights, seed=config.seed)}
    order = np.random.default_rng(config.seed).permutation(len(dev))[: config.dev_limit]
    picked |= {dev[i] for i in order.tolist()}
    chosen: dict[str, list[int]] = collections.defaultdict(list)
    for name, row in sorted(picked):
        chosen[name].append(row)
    return chosen


class ScoreWorker:
    """Holds the LM; scores and commits one shard a call."""

    def __init__(
        self, *, config: ScoreConfig, ranked: str, output: str, device: str, batch_tokens: int
    ) -> None:
        self.ranked, self.output, self.batch_tokens = ranked, output, batch_tokens
        self.k = config.k
        self.lm = CausalLM.load(
            local_model(config.lm),
            precision=config.precision,
            device=device,
            eos_token=config.eos_token,
        )
        self.meter = Meter(flops_per_token=self.lm.flops_per_token)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.ranked, item["name"])).take(pa.array(item["rows"]))
        examples = [rows.best_chunks(row, self.k) for row in table.to_pylist()]
        (scored, truncated), cost = self.meter.measure(lambda: self._score(examples))
        table = pa.Table.from_pylist(scored, schema=rows.SCORED)
        answers = [row["answers"][0] for row in examples]
        kept = self.lm.round_trip_share(answers) * len(answers)
        pairs = sum(len(row["chunk_ids"]) for row in examples)
        return commit_shard(
            self.output,
            item["name"],
            table,
            **cost,
            pairs=pairs,
            truncated=truncated,
            round_trip=kept,
        )

    def _score(
        self, examples: list[dict[str, Any]]
    ) -> tuple[tuple[list[dict[str, Any]], int], int]:
        scored, truncated = score_rows(self.lm, examples, self.batch_tokens)
        return (scored, truncated), self.lm.last_num_tokens


def score_rows(
    lm: CausalLM, examples: list[dict[str, Any]], batch_tokens: int
) -> tuple[list[dict[str, Any]], int]:
    """Scored rows, and the prompts whose chunk was cut to fit the context."""
    variant = Variant(k=max(len(row["chunk_ids"]) for row in examples), max_new_tokens=1)
    golds = [gold_ids(lm, row, variant.template) for row in examples]
    fitted = [
        fit_prompts(lm, row, variant, gold) for row, gold in zip(examples, golds, strict=True)
    ]
    prompts = [[f.ids for f in row_fitted] for row_fitted in fitted]
    logprobs, _ = gold_logprobs(lm, golds, prompts, batch_tokens)
    scored = [
        {**row, "logprobs": logprob_K.tolist(), "num_answer_tokens": len(gold)}
        for row, logprob_K, gold in zip(examples, logprobs, golds, strict=True)
    ]
    return scored, sum(truncation(row_fitted)["num_truncated"] for row_fitted in fitted)


def bf16_kl(config: ScoreConfig, ranked: Input, device: str) -> float:
    """Mean KL(target from fp32 weights || target from bf16 weights) on a few rows, in nats."""
    chosen = choose_rows(ranked, config)
    name = next(iter(chosen))
    table = read_shard(ranked.file(name)).take(pa.array(chosen[name][:SAMPLE]))
    targets = []
    for precision in ("fp32", "bf16"):
        lm = CausalLM.load(
            local_model(config.lm), precision=precision, device=device, eos_token=config.eos_token
        )
        examples = [rows.best_chunks(row, config.k) for row in table.to_pylist()]
        scored, _ = score_rows(lm, examples, 8192)
        targets.append([_target(row) for row in scored])
    divergences = [
        (p * (p.clamp_min(1e-30) / q.clamp_min(1e-30)).log()).sum()
        for p, q in zip(*targets, strict=True)
    ]
    return float(torch.stack(divergences).mean())


def _target(row: dict[str, Any]) -> torch.Tensor:
    count_B = torch.tensor([row["num_answer_tokens"]])
    kind = "mean_logprob"
    return lsr_target(torch.tensor([row["logprobs"]]), count_B, kind=kind, tau=TAU_DEFAULTS[kind])[
        0
    ]


def _metrics(work: Work[ScoreConfig]) -> dict[str, Any]:
    sidecars = work.committed()
    stats = [sidecar["stats"] for sidecar in sidecars.values()]
    num = sum(sidecar["rows"] for sidecar in sidecars.values())
    fitting: dict[str, list[tuple[list[float], list[float]]]] = {"dev": [], "train": []}
    columns = ["split", "scores", "logprobs"]
    for name in sorted(sidecars):
        for row in read_shard(storage.join(work.output, name), columns).to_pylist():
            if len(fitting[row["split"]]) < 5000:
                fitting[row["split"]].append((row["scores"], row["logprobs"]))
    metrics: dict[str, Any] = {
        "num_examples": num,
        "num_pairs": int(sum(s["pairs"] for s in stats)),
        "num_truncated": int(sum(s["truncated"] for s in stats)),
        "round_trip": sum(s["round_trip"] for s in stats) / num,
        "precision": work.config.precision,
    }
    source = read_manifest(work.inputs["ranked"].path)
    assert source is not None
    preset_t_r = source["metrics"]["t_r"]
    split = "dev" if fitting["dev"] else "train"
    width = max(len(scores) for scores, _ in fitting[split])
    full = [pair for pair in fitting[split] if len(pair[0]) == width]
    scores, logprobs = (torch.tensor([pair[i] for pair in full]) for i in (0, 1))
    # around the preset's own value: an LM that cannot use chunks yet would ask for a uniform p_R,
    # which R-ft cannot train
    grid = [preset_t_r * factor for factor in T_R_FACTORS]
    metrics["t_r"] = fit_t_r(scores, logprobs, grid=grid)
    metrics["t_r_fitted_on"] = split
    return metrics
