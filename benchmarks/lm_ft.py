"""lm-ft: examples a second and memory against fed-rag's RALT (row 4), useful tokens a second
against TRL's SFT on completions, unpacked (row 4b).

All train the same LM (LLaMA shape, V = 32,000) on the same prompts, chunk first, three instances an
example, in equally many AdamW steps. Ours is the stage's task in the trainer's engine: the loss on
answer tokens and EOS, the head at those positions only, batches by length. fed-rag's collator puts
the loss on every token and adds no EOS (its own first loss is checked against that); TRL's loss is
ours and is checked to be the same. Useful tokens are those of prompts and answers, no padding.

    python -m benchmarks.lm_ft [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import tempfile
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional

from benchmarks import stand_ins
from benchmarks.peers import MissingPeerError, Peer
from benchmarks.side_by_side import (
    NAIVE,
    Results,
    alternate,
    missing_row,
    options_of,
    plain_row,
    speed_row,
    timed,
)
from benchmarks.workers.loop import peak_bytes, reset_peak, resident_bytes
from radit_ray.data import storage
from radit_ray.data.artifacts import commit_shard, read_shard
from radit_ray.data.rows import RANKED
from radit_ray.engines.ddp import DdpEngine
from radit_ray.engines.resources import Resources
from radit_ray.engines.trainer import Loop
from radit_ray.engines.zero import ZeroEngine
from radit_ray.models.precision import resolve_precision
from radit_ray.stages.lm_ft import LmFtConfig, LmFtTask
from radit_ray.stages.lm_ft_instances import LmTokenWorker

FLOOR, MEMORY_FLOOR, TRL_FLOOR = 2.0, 0.6, 1.5
K_TRAIN = 3
SEQ_LEN = 2048


class Ours:
    """The stage's task and the trainer's engine over all instances of some rows."""

    def __init__(
        self,
        folder: str,
        rows: list[dict[str, Any]],
        precision: str,
        device: str = "cpu",
        *,
        batch_size: int = 2,
        resources: Resources = Resources(),
    ) -> None:
        config = LmFtConfig(
            lm=folder,
            **{"k_train": K_TRAIN, "batch_size": batch_size, "steps": 1, "seq_len": SEQ_LEN},
            precision=precision,
        )
        with tempfile.TemporaryDirectory() as scratch:
            table = pa.Table.from_pylist(rows, schema=RANKED)
            commit_shard(scratch, "ranked.parquet", table)
            worker = LmTokenWorker(config=config, ranked=scratch, output=f"{scratch}/tokens")
            numbers = list(range(len(rows)))
            worker({"name": "tokens.parquet", "shard": "ranked.parquet", "rows": numbers})
            tokens = {
                "files": [storage.join(scratch, "tokens", "tokens.parquet")],
                "shards": [0],
                "order": [(0, row) for row in numbers],
                "dev": [],
            }
            # as many steps as one pass over all instances has
            total = sum(read_shard(tokens["files"][0], ["length"])["length"].to_pylist())
            config = dataclasses.replace(config, steps=max(1, -(-total // (batch_size * SEQ_LEN))))
            self.task = LmFtTask(config=config, tokens=tokens, resources=resources, device=device)
        fields = {field.name for field in dataclasses.fields(Loop)}
        self.loop = Loop(**{name: getattr(config, name) for name in fields})
        self.engine: Any = (
            ZeroEngine(self.task.module, self.loop, resources, torch.device(device))
            if resources.zero_stage
            else DdpEngine(self.task.module, self.loop, torch.device(device))
        )
        self.steps = config.steps
        self.num_tokens = self.num_instances = 0
        for step in self.task.steps:
            chosen = [self.task.pairs[i] for sequence in step for i in sequence]
            self.num_instances += len(chosen)
            self.num_tokens += sum(len(p) + len(a) for p, a in chosen)

    def texts(self) -> list[tuple[str, str]]:
        """(prompt, answer) of every instance as text, in the order of the steps."""
        lm = self.task.lm
        chosen = [self.task.pairs[i] for step in self.task.steps for s in step for i in s]
        # BOS is the tokenizer's own business, EOS the collator's
        fronts = [lm.tokenizer.decode(p[len(lm.bos_ids) :]) for p, _ in chosen]
        ends = [lm.tokenizer.decode([i for i in a if i != lm.eos_id]) for _, a in chosen]
        return list(zip(fronts, ends, strict=True))

    def train(self) -> list[float]:
        """One pass; the loss of each step."""
        return [self.engine.step(self.task, step, 0, 1, 1e-5)[0] for step in range(self.steps)]


class Naive:
    """The same loss from all logits, four instances a batch as they come, plain AdamW."""

    def __init__(self, ours: Ours, folder: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.pad_id = ours.task.lm.pad_id
        self.steps = [
            [ours.task.pairs[i] for sequence in step for i in sequence] for step in ours.task.steps
        ]

    def loss(self, pairs: list[Any]) -> torch.Tensor:
        """The sum over answer tokens, padding on the right."""
        width = max(len(p) + len(a) for p, a in pairs)
        ids_BT = torch.full((len(pairs), width), self.pad_id)
        label_BT = torch.full((len(pairs), width), -100)
        for row, (prompt, answer) in enumerate(pairs):
            ids_BT[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
            label_BT[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        mask_BT = (ids_BT != self.pad_id).long()
        logits_BTV = self.model(input_ids=ids_BT, attention_mask=mask_BT).logits[:, :-1]
        return functional.cross_entropy(
            logits_BTV.flatten(0, 1), label_BT[:, 1:].flatten(), reduction="sum"
        )

    def train(self) -> None:
        for pairs in self.steps:
            count = sum(len(a) for _, a in pairs)
            for start in range(0, len(pairs), 4):
                (self.loss(pairs[start : start + 4]) / count).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


def answer_loss(ours: Ours, num: int = 0) -> float:
    """The mean over answer tokens of the first `num` instances, 0 = of the first step."""
    task = ours.task
    chosen = [i for step in task.steps for sequence in step for i in sequence]
    chosen = chosen[:num] if num else [i for sequence in task.steps[0] for i in sequence]
    count = sum(len(task.pairs[i][1]) for i in chosen)
    with torch.no_grad():
        return sum(float(task.loss(task.module, ([i], count))) for i in chosen)


def whole_loss(ours: Ours) -> float:
    """The mean over all tokens of the first instance, without EOS."""
    task = ours.task
    prompt, answer = task.pairs[task.steps[0][0][0]]
    ids_T = torch.tensor([*prompt, *[i for i in answer if i != task.lm.eos_id]])
    with torch.no_grad():
        logits_TV = task.module(input_ids=ids_T[None]).logits[0, :-1]
    return float(functional.cross_entropy(logits_TV, ids_T[1:]))


class MemoryWorker:
    """Our side in a process of its own, for its peak."""

    def extra_bytes(self, folder: str, rows: list[dict[str, Any]], precision: str) -> int:
        import ctypes

        ours = Ours(folder, rows, precision)
        ours.train()
        ours.engine.optimizer.zero_grad(set_to_none=True)
        ctypes.CDLL(None).malloc_trim(0)
        before = resident_bytes()
        reset_peak()
        ours.train()
        return peak_bytes() - before


def main() -> None:
    options = options_of(__doc__)
    results = Results("lm_ft", options)
    if options.device != "cpu":
        _zero(options, results)
        return
    rows = stand_ins.ranked_rows(2 if options.quick else 6, k=K_TRAIN)
    folder = stand_ins.lm("tiny" if options.quick else "small")
    ours = Ours(folder, rows, "fp32", options.device)
    naive = Naive(ours, folder)
    answers = answer_loss(ours)
    with torch.no_grad():
        count = sum(len(a) for _, a in naive.steps[0])
        np.testing.assert_allclose(float(naive.loss(naive.steps[0])) / count, answers, rtol=1e-4)
    if options.peers == "none":
        compared = alternate(timed(ours.train), timed(naive.train), options, lambda *_: None)
        facts = {"count": ours.num_instances / K_TRAIN, "unit": "examples", "precision": "fp32"}
        results.add(speed_row(f"4 lm-ft vs {NAIVE}", compared, floor=None, **facts))
        return
    del naive
    for name, floor, unit, measure in (
        ("4 lm-ft vs fed-rag RALT", FLOOR, "examples", _fed_rag),
        ("4b lm-ft vs TRL SFT, completions only, unpacked", TRL_FLOOR, "useful tokens", _trl),
    ):
        _try(results, name, floor, unit, lambda m=measure: m(options, results, folder, rows))


def _zero(options: argparse.Namespace, results: Results) -> None:
    """What DeepSpeed ZeRO costs where there is nothing to shard: one GPU."""
    rows, folder = stand_ins.ranked_rows(60, k=K_TRAIN), stand_ins.lm("1b")
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # as Ray Train sets them
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531"}
    found: dict[int, Any] = {}
    for stage in (0, 2, 3):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        resources = Resources(zero_stage=stage)
        ours = Ours(folder, rows, "bf16", options.device, batch_size=16, resources=resources)
        side = timed(ours.train)
        first = side().result[0]
        seconds = [side().wall_s for _ in range(options.repeats)]
        peak = torch.cuda.max_memory_allocated()
        found[stage] = {"seconds": median(seconds), "peak_gpu_bytes": peak, "first_loss": first}
        np.testing.assert_allclose(first, found[0]["first_loss"], rtol=2e-3)
        tokens = ours.num_tokens
        del ours, side
        gc.collect()
        if stage:
            row = plain_row(
                f"GPU lm-ft, LLaMA 1b: seconds with ZeRO-{stage} over seconds without",
                ours=tokens / found[stage]["seconds"],
                ratio=found[stage]["seconds"] / found[0]["seconds"],
                **{"floor": None, "better": "lower", "unit": "tokens/s", "precision": "bf16"},
            )
            results.add({**row, **found[stage], "without": found[0]})


def _try(results: Results, name: str, floor: float, unit: str, measure: Callable[[], None]) -> None:
    try:
        measure()
    except MissingPeerError as missing:
        results.add(missing_row(name, floor=floor, unit=f"{unit}/CPU s", why=str(missing)))


def _fed_rag(
    options: argparse.Namespace, results: Results, folder: str, rows: list[dict[str, Any]]
) -> None:
    ours = Ours(folder, rows, "fp32", options.device)
    texts = ours.texts()
    # the collator's text is "{context}{response}": our prompt, our answer
    examples = [
        {"query": str(number), "chunks": [prompt], "response": answer}
        for number, (prompt, answer) in enumerate(texts)
    ]
    size = -(-len(examples) // ours.steps)  # instances of a step
    training = {"folder": folder, "template": "{context}{response}", "examples": examples}
    with Peer("fed-rag", "on_fed_rag", threads=options.threads) as peer:
        peer.call("load_training", **training)
        np.testing.assert_allclose(peer.call("first_loss").result, whole_loss(ours), rtol=1e-3)
        wrong = "its loss is on every token and it adds no EOS; its first loss is that of our LM"
        facts = {"count": ours.num_instances / K_TRAIN, "unit": "examples", "note": wrong}
        for precision in ("fp32", "auto"):
            chosen = resolve_precision(precision, options.device)
            own = ours if precision == "fp32" else Ours(folder, rows, chosen, options.device)
            compared = alternate(
                timed(own.train), peer.side("train", size=size), options, lambda *_: None
            )
            name = "4 lm-ft vs fed-rag RALT"
            name += f", as called ({chosen} / fp32)" if precision == "auto" else ""
            results.add(speed_row(name, compared, floor=FLOOR, precision=chosen, **facts))
    del ours
    with Peer("fed-rag", "on_fed_rag", threads=options.threads, small_blocks=True) as peer:
        peer.call("load_training", **training)
        theirs = peer.call("extra_bytes", size=size).result
    with Peer("", "on_radit", threads=options.threads, small_blocks=True) as peer:
        mine = peer.call("extra_bytes", folder=folder, rows=rows, precision="fp32").result
    row = plain_row(
        "4 lm-ft: memory beyond weights and optimizer states vs fed-rag RALT",
        **{"ours": mine / 2**20, "ratio": mine / theirs, "floor": MEMORY_FLOOR},
        **{"better": "lower", "unit": "MiB"},
        precision="fp32",
    )
    results.add({**row, "peer": theirs / 2**20})


def _trl(
    options: argparse.Namespace, results: Results, folder: str, rows: list[dict[str, Any]]
) -> None:
    ours = Ours(folder, rows, "fp32", options.device)
    size = -(-ours.num_instances // ours.steps)
    with Peer("trl", "on_trl", threads=options.threads) as peer:
        for called in (False, True):
            chosen = resolve_precision("auto", options.device) if called else "fp32"
            own = Ours(folder, rows, chosen, options.device) if called else ours
            peer.call("load", folder=folder, pairs=own.texts(), size=size, as_called=called)
            if not called:
                theirs = peer.call("first_loss").result
                np.testing.assert_allclose(theirs, answer_loss(ours, size), rtol=1e-3)
            compared = alternate(timed(own.train), peer.side("train"), options, lambda *_: None)
            name = "4b lm-ft vs TRL SFT, completions only, unpacked"
            name += f", as called ({chosen} / its defaults)" if called else ""
            facts = {"count": own.num_tokens, "unit": "useful tokens", "precision": chosen}
            results.add(speed_row(name, compared, floor=TRL_FLOOR, **facts))


if __name__ == "__main__":
    main()
