"""lm-ft: ranked rows -> an LM that answers with a retrieved background (RA-DIT section 2.2, Eq. 3).

In: ranked rows (splits train and dev) and any causal LM. Each example becomes k_train independent
instances with one chunk each; the loss is on the answer's tokens and EOS only. Out: `model/`, a
Hugging Face folder that plain `AutoModelForCausalLM` loads, with `radit.json` beside the weights,
and `history.json`. `background = False` takes the same steps on the same instances without their
chunks: the instruction-tuning control.

    radit lm-ft --ranked runs/x/retrieve --lm PATH --output runs/x/lm-ft --resources.num-workers 2
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from radit_ray.core.errors import SEED, Bounds, InputError, check_bounds, nearest
from radit_ray.core.losses import answer_nll
from radit_ray.core.mixing import CAP, SHARES
from radit_ray.core.templates import (
    ANSWER_S,
    INST_E,
    INST_S,
    INSTRUCTIONS,
    background,
)
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    read_manifest,
)
from radit_ray.data.work import Work
from radit_ray.engines.checkpoints import load_trained
from radit_ray.engines.references import local_model, model_bytes, model_input, resolved_precision
from radit_ray.engines.resources import Resources
from radit_ray.engines.trainer import Loop, check_training, fit, show_finished
from radit_ray.models.batches import (
    answer_logits,
    length_buckets,
    on_device,
    packed_batch,
    padded_batch,
    supports_packing,
)
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.lora import add_lora, export_lm
from radit_ray.stages.lm_ft_instances import choose_instances, load_plan, tokenise

VERSION = 2
SELECT_BY = ("nll", "nll_token", "-em", "last")  # "-": larger is better
# memory of a worker, in units of bf16 weights: fp32 weights, gradients, two moments, activations
TRAINING_BYTES = 9.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LmFtConfig:
    """What decides the tuned LM; defaults are the paper's for 7B (Table 8) where it gives one."""

    lm: str = ""  # Hugging Face id or folder
    eos_token: str = ""  # only for a tokenizer without EOS and SEP
    k_train: int = 3  # chunks, hence instances, of one example (paper: 3)
    background: bool = (
        True  # False: no chunk is shown, steps and answer tokens stay the same (the control "it")
    )
    steps: int = 500  # optimiser steps
    batch_size: int = 64  # packed sequences of one step, over all workers
    seq_len: int = 2048  # tokens of a packed sequence; the LM's context bounds it
    lr: float = 1e-5
    end_lr: float = 1e-7
    warmup: int = 200  # steps
    schedule: str = "cosine"  # or "linear"
    weight_decay: float = 0.0
    clip: float = 1.0  # largest gradient norm, 0 = none
    cap: int = CAP  # examples of a task that count for its weight
    shares: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict(SHARES)
    )  # fixed share of a task, where it is present
    max_answer_tokens: int = 512  # longer answers are cut, without EOS
    eval_every: int = 100  # steps between two looks at dev
    dev_limit: int = 500  # dev examples looked at
    select_by: str = "nll"  # dev metric of the kept weights: "nll", "-em" or "last"
    lora_rank: int = 0  # 0 = all weights (paper)
    lora_alpha: float = 16.0
    lora_export: str = "merged"  # or "adapter"
    precision: str = (
        "auto"  # of the forward pass: "bf16" (autocast), "fp32" or "auto"; master weights are fp32
    )
    seed: int = 0

    BOUNDS: ClassVar[Bounds] = {
        "k_train": (1, None),  # background=False trains without chunks
        "steps": (1, None),
        "batch_size": (1, None),
        "seq_len": (8, None),
        "lr": (0, None),
        "end_lr": (0, None),
        "warmup": (0, None),
        "weight_decay": (0, None),
        "clip": (0, None),
        "max_answer_tokens": (1, None),
        "eval_every": (0, None),
        "dev_limit": (0, None),
        "lora_rank": (0, None),
        "lora_alpha": (0, None),
        "seed": SEED,
    }


def lm_ft(
    config: LmFtConfig, *, ranked: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Fine-tunes the LM and keeps the best weights of dev.

    Metrics: best_step, dev (nll in nats an answer, nll_token, em by teacher forcing), dev_before,
    loss_last, num_examples, num_truncated (chunks cut to fit). InputError on rows without train
    examples, k_train above the ranked chunks, an LM without EOS, workers that do not fit.
    """
    inputs = {"ranked": artifact_input(ranked, "retrieve"), "lm": model_input(config.lm, what="lm")}
    check_lm_ft(config)
    config = dataclasses.replace(config, lm=inputs["lm"].path)
    resolve = resolved_precision(resources)
    label = "lm-ft" if config.background else "it"
    with Work.open("lm-ft", VERSION, config, inputs, output, resolve) as work:
        if work.done:
            show_finished(resources, label, work.output)
            return work.done
        chosen = choose_instances(inputs["ranked"], work.config)
        tokens = tokenise(work, inputs["ranked"], chosen, resources)
        loop_fields = {f.name for f in dataclasses.fields(Loop)}
        values = {k: getattr(work.config, k) for k in loop_fields}
        arguments = {"config": work.config, "tokens": tokens, "resources": resources}
        record = _record(config, inputs["ranked"])
        result = fit(
            LmFtTask,
            arguments,
            Loop(**values),
            work,
            resources,
            label,
            partial(export_model, work.config, output=work.output, record=record),
            worker_bytes=TRAINING_BYTES * model_bytes(config.lm) + 2**30,
        )
        storage.write_json(storage.join(work.output, "history.json"), result["history"])
        dev = [entry["dev"] for entry in result["history"] if "dev" in entry]
        losses = [entry["loss"] for entry in result["history"] if "loss" in entry]
        metrics = {
            "best_step": result["best"]["step"],
            "dev": result["best"]["dev"],
            "dev_before": dev[0],
            "loss_last": losses[-1],
            "num_examples": len(chosen.order),
            "num_truncated": tokens["num_truncated"],
        }
        return work.finish(
            resources=resources, metrics=metrics, rows=len(chosen.order), cost=result["cost"]
        )


def _record(config: LmFtConfig, ranked: Input) -> dict[str, Any]:
    """What `radit.json` says beside the weights: how this LM was trained to be prompted. k and t_r
    are those of the ranked rows it saw; what a whole run answers with is in its run.json.
    """
    manifest = read_manifest(ranked.path)
    assert manifest is not None
    return {
        "lm": config.lm,
        "template": {
            "background": background("{title} {text}"),
            "evaluation": INSTRUCTIONS["qa"]({"question": "{question}"}),
            "answer": " {answer}",
        },
        "markers": {"inst_s": INST_S, "inst_e": INST_E, "answer_s": ANSWER_S},
        "k": manifest["config"]["k"],
        "k_train": config.k_train if config.background else 0,
        "t_r": manifest["metrics"]["t_r"],
        "ensemble": "answers",
    }


class LmFtTask:
    """The LM, the step plan and Eq. 3 for the training loop."""

    def __init__(
        self, *, config: LmFtConfig, tokens: dict[str, Any], resources: Resources, device: str
    ) -> None:
        self.config, self.resources = config, resources
        # fp32 master weights; the loop's autocast decides the precision of the forward pass
        self.lm = CausalLM.load(
            local_model(config.lm), precision="fp32", device=device, eos_token=config.eos_token
        )
        if resources.gradient_checkpointing:
            self.lm.model.gradient_checkpointing_enable()
        if config.lora_rank:
            self.lm.model = add_lora(self.lm.model, rank=config.lora_rank, alpha=config.lora_alpha)
        self.module: nn.Module = self.lm.model.train()
        self.batch_tokens = on_device(resources.batch_tokens, self.lm.device)
        self.packing = resources.packing and supports_packing(self.lm)
        self.num_tokens = 0  # of this worker's training passes, without padding
        self.flops_per_token = 3 * self.lm.flops_per_token  # forward, and twice that backward
        self.pairs, self.steps, self.dev = load_plan(config, tokens, self.lm.context_length)

    def batches(self, step: int, rank: int, world: int) -> list[Any]:
        """This worker's sequences of the step as forward-sized lists of instances, with the step's
        answer tokens.
        """
        sequences = self.steps[step]
        count = sum(len(self.pairs[i][1]) for sequence in sequences for i in sequence)
        size = self.resources.micro_batch or len(sequences)
        mine = sequences[rank::world]
        found = []
        for start in range(0, len(mine), size):
            block = mine[start : start + size]
            if self.packing:
                found += [(sequence, count) for sequence in block]
                continue
            flat = [i for sequence in block for i in sequence]
            buckets = length_buckets([self._length(i) for i in flat], self.batch_tokens)
            found += [([flat[i] for i in bucket], count) for bucket in buckets]
        return found

    def loss(self, module: nn.Module, batch: tuple[list[int], int]) -> Tensor:
        """Eq. 3 over these instances, divided by the answer tokens of the whole step."""
        numbers, count = batch
        pairs = [self.pairs[i] for i in numbers]
        logits_NV, targets_N, _ = self._logits(module, pairs, packed=self.packing)
        self.num_tokens += sum(self._length(i) for i in numbers)
        return answer_nll(logits_NV, targets_N) / count

    def dev_sums(self, rank: int, world: int) -> dict[str, float]:
        """NLL, answer tokens, and answers whose every token is the argmax (what greedy decoding
        would give).
        """
        mine = self.dev[rank::world]
        sums = {"nll": 0.0, "tokens": 0.0, "right": 0.0, "count": float(len(mine))}
        with torch.no_grad():  # ZeRO-3 trains on the tensors it gathers here: no inference mode
            for bucket in length_buckets([self._length(i) for i in mine], self.batch_tokens):
                pairs = [self.pairs[mine[i]] for i in bucket]
                logits_NV, targets_N, owner_N = self._logits(self.module, pairs, packed=False)
                sums["nll"] += float(answer_nll(logits_NV, targets_N))
                sums["tokens"] += len(targets_N)
                wrong = owner_N[logits_NV.argmax(-1) != targets_N]
                sums["right"] += len(pairs) - len(wrong.unique())
        return sums

    def dev_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """nll: nats an answer; nll_token: nats a token; em: share decoded exactly."""
        return {
            "nll": sums["nll"] / sums["count"],
            "nll_token": sums["nll"] / sums["tokens"],
            "em": sums["right"] / sums["count"],
        }

    def _logits(
        self, module: nn.Module, pairs: list[Any], *, packed: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        layout = packed_batch if packed else padded_batch
        batch = layout(pairs, self.lm.pad_id).to(self.lm.device)
        return answer_logits(module, batch, logits_to_keep=self.lm.logits_to_keep)

    def _length(self, number: int) -> int:
        prompt, answer = self.pairs[number]
        return len(prompt) + len(answer)


def export_model(config: LmFtConfig, weights: str, output: str, record: dict[str, Any]) -> None:
    """Base LM + trained parameters -> `<output>/model/`, a folder that plain `AutoModelForCausalLM`
    loads.
    """
    lm = CausalLM.load(local_model(config.lm), precision="fp32", eos_token=config.eos_token)
    if config.lora_rank:
        lm.model = add_lora(lm.model, rank=config.lora_rank, alpha=config.lora_alpha)
    if weights:
        load_trained(storage.local_copy(weights), dict(lm.model.named_parameters()))
    record = {
        **record,
        "eos": lm.tokenizer.convert_ids_to_tokens(lm.eos_id),
        "eos_id": lm.eos_id,
        "context_length": lm.context_length,
    }
    with tempfile.TemporaryDirectory(dir=_beside(output)) as folder:
        path = os.path.join(folder, "model")
        export_lm(lm, path, radit=record, adapter=config.lora_export == "adapter")
        storage.put_folder(path, storage.join(output, "model"))


def _beside(output: str) -> str | None:
    """A place for scratch files on the disk of a local output, so that the last step is a
    rename.
    """
    if not storage.is_local(output):
        return None
    path = os.path.join(storage.local(output), "resume")
    os.makedirs(path, exist_ok=True)
    return path


def check_lm_ft(config: LmFtConfig) -> None:
    """InputError on values that cannot be, before any work."""
    check_bounds(config, config.BOUNDS)
    check_training("lm_ft", schedule=config.schedule, lr=config.lr, precision=config.precision)
    if config.select_by not in SELECT_BY:
        raise InputError(f"select_by={config.select_by!r}{nearest(config.select_by, SELECT_BY)}")
    if config.lora_export == "adapter" and not config.lora_rank:
        raise InputError("lora_export='adapter' needs lora_rank above 0; set it, or use 'merged'")
    if config.lora_export not in ("merged", "adapter"):
        raise InputError(f"lora_export={config.lora_export!r}, expected 'merged' or 'adapter'")
