"""r-ft: scored rows + chunk vectors -> a query encoder that ranks as the LM prefers (RA-DIT section
2.3, Eq. 4-5).

In: scored rows (frozen LM scores of the top k) and the chunk vectors of the embedding artifact.
Only the query encoder is trained, so the chunk encoder never runs: candidates come straight off the
cached vectors. Out: `query_encoder/` (sentence-transformers), `retriever/` (a Router: tuned
queries, base documents) and `history.json`.

    radit r-ft --scored runs/x/score --embeddings runs/x/embed --retriever all-MiniLM-L6-v2 --output
    runs/x/r-ft
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from radit_ray.core.errors import SEED, Bounds, InputError, check_bounds, nearest
from radit_ray.core.losses import r_ft_loss
from radit_ray.core.metrics import recall_at_k, reciprocal_rank
from radit_ray.core.retrieval import TAU_DEFAULTS, lsr_target, mixture_nll
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    check_lineage,
    read_manifest,
    read_shard,
)
from radit_ray.data.work import Work
from radit_ray.engines.checkpoints import load_trained
from radit_ray.engines.references import (
    local_model,
    preset_name,
    resolved_precision,
    retriever_input,
)
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import call
from radit_ray.engines.trainer import Loop, check_training, fit, show_finished
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.stages.r_ft_rows import prepare, tensors

VERSION = 2
# "-": larger is better; "last": the weights of the last step, whatever dev says
SELECT_BY = ("-mrr", "-recall@1", "-recall@5", "kl", "nll", "last")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RFtConfig:
    """What decides the tuned query encoder; the paper's values where it gives one."""

    retriever: str = ""  # as in embed: its query encoder is tuned
    preset: str = "auto"
    # a(c) of Eq. 4: mean_logprob, sum_logprob, prob_per_token, prob (as printed)
    answer_score: str = "mean_logprob"
    tau: float = 0.0  # temperature of the target; 0 = the kind's own (0.1, 1.0, 0.01, 0.01)
    # KL(p_r || p_lsr), as printed, was measured to be better (docs/method.md, "Defaults,
    # measured"); "lsr_to_r" as in REPLUG's and Atlas' code
    direction: str = "r_to_lsr"
    t_r: float = 0.0  # temperature of p_R; 0 = the one fitted on dev when the rows were scored
    epochs: float = 1.0  # passes over the scored train rows (paper: 1)
    batch_size: int = 512  # queries of one step, over all workers (paper: 16 GPUs x 32)
    lr: float = 1e-5
    end_lr: float = 0.0
    warmup: int = 1237  # steps; at most half of all steps are used
    schedule: str = "linear"  # or "cosine"
    weight_decay: float = 0.0
    clip: float = 2.0  # largest gradient norm (DRAGON's config)
    eval_every: int = 500  # steps between two looks at dev
    # dev metric of the kept weights; others: kl, nll, -recall@1, -recall@5, last (no choice)
    select_by: str = "-mrr"
    precision: str = (
        "auto"  # of the forward pass: "bf16" (autocast), "fp32" or "auto"; master weights are fp32
    )
    seed: int = 0

    BOUNDS: ClassVar[Bounds] = {
        "tau": (0, None),
        "t_r": (0, None),
        "epochs": (0, None),
        "lr": (0, None),
        "end_lr": (0, None),
        "warmup": (0, None),
        "weight_decay": (0, None),
        "clip": (0, None),
        "eval_every": (0, None),
        "seed": SEED,
    }


def r_ft(
    config: RFtConfig,
    *,
    scored: str,
    embeddings: str,
    output: str,
    resources: Resources = Resources(),
) -> Artifact:
    """Fine-tunes the query encoder and keeps the best weights of dev.

    Metrics: best_step, dev and dev_before (mrr, recall@1, recall@5 over the given candidates, kl
    and nll in nats), t_r, tau, entropy_lsr and entropy_r (nats), uniform_share, auc_lsr (how well
    the target ranks chunks with the answer), num_examples. InputError on an unknown kind or
    direction, vectors of another version than the rows were ranked with or of another width than
    the encoder's, missing dev rows.
    """
    inputs = {
        "scored": artifact_input(scored, "score"),
        "embeddings": artifact_input(embeddings, "embed"),
        "retriever": retriever_input(config.retriever, config.preset),
    }
    # chunks are joined by id, and a replaced document keeps its id
    check_lineage(inputs["scored"], "embeddings", inputs["embeddings"])
    check_r_ft(config)
    config = dataclasses.replace(
        config,
        retriever=inputs["retriever"].path,
        preset=preset_name(config.retriever, config.preset),
    )
    # the temperatures are part of what was done: resolved here, so that the record holds them
    config = dataclasses.replace(
        config,
        t_r=config.t_r or _fitted_t_r(inputs["scored"]),
        tau=config.tau or TAU_DEFAULTS[config.answer_score],
    )
    resolve = resolved_precision(resources)
    with Work.open("r-ft", VERSION, config, inputs, output, resolve) as work:
        if work.done:
            show_finished(resources, "r-ft", work.output)
            return work.done
        folder = storage.join(work.output, "resume", "data")
        scored_rows, vectors = inputs["scored"], inputs["embeddings"]
        facts = call(prepare, work.config, scored_rows, vectors, folder, resources=resources)
        steps = max(1, round(config.epochs * facts["num_train"] / config.batch_size))
        fields = {f.name for f in dataclasses.fields(Loop)} - {"steps", "warmup"}
        loop = Loop(
            steps=steps,
            warmup=min(config.warmup, steps // 2),
            **{name: getattr(work.config, name) for name in fields},
        )
        arguments = {
            "config": work.config,
            "folder": folder,
            "facts": facts,
            "resources": resources,
        }
        export = partial(export_encoder, work.config, output=work.output)
        result = fit(RFtTask, arguments, loop, work, resources, "r-ft", export)
        storage.write_json(storage.join(work.output, "history.json"), result["history"])
        dev = [entry["dev"] for entry in result["history"] if "dev" in entry]
        metrics = {
            "best_step": result["best"]["step"],
            "dev": result["best"]["dev"],
            "dev_before": dev[0],
            "steps": steps,
            "t_r": config.t_r,
            "tau": config.tau,
            **{
                k: facts[k]
                for k in ("entropy_lsr", "entropy_r", "uniform_share", "auc_lsr", "num_train")
            },
        }
        return work.finish(
            resources=resources, metrics=metrics, rows=facts["num_train"], cost=result["cost"]
        )


class QueryEncoder(nn.Module):
    """The query encoder as one module from token lists to vectors, so that DDP and DeepSpeed see
    its forward pass.
    """

    def __init__(self, encoder: DualEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.query = encoder.query_module

    def forward(self, token_lists: list[list[int]]) -> Tensor:
        """(B, D) fp32."""
        return self.encoder.query_forward(token_lists)


class RFtTask:
    """The query encoder, the frozen targets and Eq. 5 for the training loop."""

    def __init__(
        self,
        *,
        config: RFtConfig,
        folder: str,
        facts: dict[str, Any],
        resources: Resources,
        device: str,
    ) -> None:
        self.config, self.resources, self.device = config, resources, torch.device(device)
        encoder = DualEncoder.load(
            local_model(config.retriever), preset=config.preset, precision="fp32", device=device
        )
        if encoder.dimension != facts["width"]:
            raise InputError(
                f"the query encoder gives vectors of width {encoder.dimension}, the embeddings "
                f"have {facts['width']}; "
                "use the retriever that embedded the chunks"
            )
        self.module: nn.Module = QueryEncoder(encoder)
        self.num_tokens = 0  # of this worker's training passes, without padding
        self.flops_per_token = 3 * encoder.flops_per_token  # forward, and twice that backward
        rows = read_shard(storage.join(folder, "rows.parquet")).to_pylist()
        self.rows = [row for row in rows if row["split"] == "train"]
        self.dev = [row for row in rows if row["split"] == "dev"]
        shape = (facts["num_vectors"], facts["width"])
        name = storage.local_copy(storage.join(folder, "vectors.f16"))
        self.vectors_ND = np.memmap(name, dtype=np.float16, mode="r", shape=shape)
        for part in (self.rows, self.dev):
            for row, tokens in zip(
                part, encoder.query_tokens([row["query"] for row in part]), strict=True
            ):
                row["tokens"] = tokens
        epochs = int(np.ceil(config.epochs)) + 1
        generator = np.random.default_rng(config.seed)
        self.order = np.concatenate([generator.permutation(len(self.rows)) for _ in range(epochs)])

    def batches(self, step: int, rank: int, world: int) -> list[list[int]]:
        """This worker's queries of the step, in blocks of `micro_batch`."""
        size = self.config.batch_size
        start = step * size
        mine = np.resize(self.order[start : start + size], size)[rank::world].tolist()
        block = self.resources.micro_batch or len(mine)
        return [mine[i : i + block] for i in range(0, len(mine), block)]

    def loss(self, module: nn.Module, batch: list[int]) -> Tensor:
        """Eq. 5 over these queries, weighted by their share of the step."""
        rows = [self.rows[i] for i in batch]
        score_BK, p_lsr_BK, mask_BK, _ = self._scores(module, rows)
        self.num_tokens += sum(len(row["tokens"]) for row in rows)
        loss = r_ft_loss(
            score_BK,
            p_lsr_BK,
            t_r=self.config.t_r,
            direction=self.config.direction,  # type: ignore[arg-type]
            mask_BK=mask_BK,
        )
        return loss * (len(rows) / self.config.batch_size)

    def dev_sums(self, rank: int, world: int) -> dict[str, float]:
        """Sums of mrr, recall@1, recall@5, kl and nll over dev, with the candidates re-ranked by
        the tuned encoder.
        """
        mine = self.dev[rank::world]
        sums = dict.fromkeys(("mrr", "recall@1", "recall@5", "kl", "nll"), 0.0) | {
            "count": float(len(mine))
        }
        with torch.no_grad():  # ZeRO-3 trains on the tensors it gathers here: no inference mode
            for start in range(0, len(mine), 64):
                rows = mine[start : start + 64]
                score_BK, p_lsr_BK, mask_BK, logprob_BK = self._scores(self.module, rows)
                t_r = self.config.t_r
                # KL(p_lsr || p_r) whatever is trained, so that both directions can be compared
                kl = r_ft_loss(score_BK, p_lsr_BK, t_r=t_r, direction="lsr_to_r", mask_BK=mask_BK)
                sums["kl"] += float(kl) * len(rows)
                sums["nll"] += float(
                    mixture_nll(score_BK, logprob_BK, t_r=t_r, mask_BK=mask_BK).sum()
                )
                ranking_BK = score_BK.masked_fill(~mask_BK, -torch.inf).argsort(
                    dim=1, descending=True, stable=True
                )
                for row, ranking_K in zip(rows, ranking_BK.tolist(), strict=True):
                    hits_K = [row["hits"][i] for i in ranking_K[: len(row["hits"])]]
                    sums["mrr"] += reciprocal_rank(hits_K)
                    sums["recall@1"] += recall_at_k(hits_K, 1)
                    sums["recall@5"] += recall_at_k(hits_K, min(5, len(hits_K)))
        return sums

    def dev_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Means over dev."""
        return {name: value / sums["count"] for name, value in sums.items() if name != "count"}

    def _scores(
        self, module: nn.Module, rows: list[dict[str, Any]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(s(x, c) with gradient, p_lsr, mask, logprobs), each (B, K): Eq. 1 on cached chunk
        vectors.
        """
        _, logprob_BK, count_B, mask_BK, _ = tensors(rows)
        width = mask_BK.shape[1]
        position_BK = np.array(
            [[*row["positions"], *[0] * (width - len(row["positions"]))] for row in rows]
        )
        chunk_BKD = torch.from_numpy(self.vectors_ND[position_BK].astype(np.float32)).to(
            self.device
        )
        query_BD = module([row["tokens"] for row in rows])
        with torch.autocast(self.device.type, enabled=False):
            score_BK = torch.einsum("bd,bkd->bk", query_BD, chunk_BKD)
        p_lsr_BK = lsr_target(
            logprob_BK,
            count_B,
            kind=self.config.answer_score,  # type: ignore[arg-type]
            tau=self.config.tau,
            mask_BK=mask_BK,
        )
        return (
            score_BK,
            p_lsr_BK.to(self.device),
            mask_BK.to(self.device),
            logprob_BK.to(self.device),
        )


def export_encoder(config: RFtConfig, weights: str, output: str) -> None:
    """Base retriever + trained parameters -> `<output>/query_encoder/` and
    `<output>/retriever/`.
    """
    encoder = DualEncoder.load(
        local_model(config.retriever), preset=config.preset, precision="fp32"
    )
    if weights:
        load_trained(storage.local_copy(weights), dict(QueryEncoder(encoder).named_parameters()))
    scratch = os.path.join(storage.local(output), "resume") if storage.is_local(output) else None
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for name, save in (
            ("query_encoder", encoder.save_query_encoder),
            ("retriever", encoder.save_retriever),
        ):
            path = os.path.join(folder, name)
            save(path)
            storage.put_folder(path, storage.join(output, name))


def _fitted_t_r(scored: Input) -> float:
    manifest = read_manifest(scored.path)
    assert manifest is not None
    return float(manifest["metrics"]["t_r"])


def check_r_ft(config: RFtConfig) -> None:
    """InputError on values that cannot be, before any work."""
    check_bounds(config, config.BOUNDS)
    check_training("r_ft", schedule=config.schedule, lr=config.lr, precision=config.precision)
    if config.answer_score not in TAU_DEFAULTS:
        raise InputError(
            f"answer_score={config.answer_score!r}{nearest(config.answer_score, TAU_DEFAULTS)}"
        )
    if config.direction not in ("lsr_to_r", "r_to_lsr"):
        raise InputError(
            f"direction={config.direction!r}{nearest(config.direction, ['lsr_to_r', 'r_to_lsr'])}"
        )
    if config.select_by not in SELECT_BY:
        raise InputError(f"select_by={config.select_by!r}{nearest(config.select_by, SELECT_BY)}")
    if config.epochs <= 0 or config.batch_size < 1:
        raise InputError(
            f"epochs={config.epochs}, batch_size={config.batch_size}; expected above 0 and at "
            "least 1"
        )
