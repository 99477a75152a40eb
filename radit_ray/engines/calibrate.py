"""What this machine reaches: the rates that `radit plan` multiplies with, measured in a minute.

Models of random weights and the usual shapes (an encoder of 6 layers x 384, an LM of 8 layers x
512), in the precision that the stages would pick. A device is the GPU, or one CPU core: inference
is measured on one thread, as an actor of one CPU has, training on all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from radit_ray.core.chunking import chunk_document
from radit_ray.engines.ddp import autocast
from radit_ray.models import faiss_shard
from radit_ray.models.precision import resolve_precision

ROUNDS = 5
SENTENCE = "the old town by the river was founded in 1820 and has a market every second week "


def calibrate() -> dict[str, float]:
    """The fields of `radit_ray.plan.Rates` but the price, of the GPU or of one CPU core."""
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cores = 1 if device.type == "cuda" else os.cpu_count() or 1
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6}
    encoder = BertModel(BertConfig(**shape, num_attention_heads=12)).to(device).eval()
    shape = {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8}
    lm = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=8, vocab_size=32_000)).to(device)
    precision = resolve_precision("auto", device.type)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if device.type == "cpu" else threads)
        forward = [_forward(model, device, precision) for model in (encoder, lm.eval())]
    finally:
        torch.set_num_threads(threads)
    memory = (
        torch.cuda.get_device_properties(0).total_memory
        if device.type == "cuda"
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / cores
    )
    return {
        "inference_flops_per_s": median(forward),
        "training_flops_per_s": _training(lm.train(), device, precision) / cores,
        "search_bytes_per_s": _search() / cores,
        "chunk_words_per_s": _chunking(),
        "memory_bytes": float(memory),
    }


def _seconds(work: Callable[[], object]) -> float:
    """The median of some calls, after one that is not counted."""
    work()
    found = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - start)
    return median(found)


def _matrices(model: torch.nn.Module) -> int:
    """Parameters that every token is multiplied with: all but embedding tables."""
    tables = [m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    return sum(p.numel() for p in model.parameters()) - sum(t.numel() for t in tables)


def _batch(device: torch.device) -> torch.Tensor:
    shape = (64, 160) if device.type == "cuda" else (16, 160)
    return torch.randint(5, 20_000, shape, device=device)


@torch.no_grad()
def _forward(model: torch.nn.Module, device: torch.device, precision: str) -> float:
    """FLOPs per second of a forward pass."""
    ids = _batch(device)
    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    model = model.to(kind)
    seconds = _seconds(lambda: model(input_ids=ids))
    model.to(torch.float32)
    return 2.0 * _matrices(model) * ids.numel() / seconds


def _training(lm: torch.nn.Module, device: torch.device, precision: str) -> float:
    """FLOPs per second of a training step, all cores."""
    ids = _batch(device)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-5)

    def step() -> None:
        with autocast(device, precision):
            loss = lm(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return 6.0 * _matrices(lm) * ids.numel() / _seconds(step)


def _search() -> float:
    """Bytes of vectors read per second by an exact search of 512 queries, all cores."""
    vectors_ND = np.random.default_rng(0).normal(size=(50_000, 384)).astype(np.float16)
    queries_QD = vectors_ND[:512].astype(np.float32)
    index = faiss_shard.build("flat", vectors_ND)
    return vectors_ND.nbytes / _seconds(lambda: faiss_shard.search(index, queries_QD, 10))


def _chunking() -> float:
    """Words per second of one core."""
    text = "\n".join(SENTENCE * 12 for _ in range(40))
    return len(text.split()) / _seconds(lambda: list(chunk_document(text)))
