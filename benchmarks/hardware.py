"""How much of what the hardware can do embed, score, lm-ft and decode reach, and what takes the
rest.

First the machine's own rate: square matrix products in fp32 and bf16, the best of some sizes. Then
each hot path at a shape that fills it. Model FLOPs are counted as in PaLM (arXiv 2204.02311,
appendix B): 2 for each weight that a token is multiplied with, and 4 * layers * width * length for
attention's two products over a sequence of that length; three times that in training. Only what
must be computed counts: the head at answer positions, no padding, no recomputation. The fraction is
model FLOPs a second over the matmul rate in the precision of the forward pass. Beside it stands
torch's profile: the share of the operators' own time.

    python -m benchmarks.hardware [--device cuda] [--threads N] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks import stand_ins
from benchmarks.lm_ft import Ours as LmFt
from benchmarks.side_by_side import Results, options_of, plain_row, with_bound
from benchmarks.tokens import ours as decode_tokens
from radit_ray.engines.resources import Resources
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.precision import resolve_precision

GOALS = {"embed": 0.6, "score": 0.5, "lm-ft": 0.4, "decode": None}
GPU_GOAL = 0.45
ANSWER_TOKENS = 8
PROFILED = 8  # operators that are named
SEVEN_BILLION = 120e9  # bytes of a GPU that holds a 7B LM in training


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """A hot path: the work, its model FLOPs, and in what."""

    name: str
    work: Callable[[], Any]
    flops: float
    precision: str
    shape: str


def matmul_rate(precision: str, device: str, *, quick: bool) -> float:
    """FLOPs a second of a square product, the best of some sizes, each the median of a few."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    sizes = (512,) if quick else (1024, 2048) if device == "cpu" else (4096, 8192, 16384)
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = _seconds(lambda a=a, b=b: a @ b, device, repeats=7)  # type: ignore[misc]
        best = max(best, 2.0 * size**3 / median(seconds))
    return best


def _seconds(work: Callable[[], Any], device: str, *, repeats: int) -> list[float]:
    """Of each call, after one that is not counted; CPU seconds of one thread, else wall seconds."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    clock = time.perf_counter if device != "cpu" else clock
    work()
    found = []
    for _ in range(repeats):
        if device != "cpu":
            torch.cuda.synchronize()
        start = clock()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        found.append(clock() - start)
    return found


def attention_flops(config: Any, lengths: list[int]) -> float:
    """Of a forward pass over sequences of these lengths: scores and weighted values."""
    return 4.0 * config.num_hidden_layers * config.hidden_size * sum(n * n for n in lengths)


def lm_flops(lm: CausalLM, prompts: list[int], answers: list[int]) -> float:
    """A forward pass over prompts and answers, the head at the answers' positions alone."""
    head = lm.model.get_output_embeddings().weight.numel()
    lengths = [p + a - 1 for p, a in zip(prompts, answers, strict=True)]
    body = (lm.flops_per_token - 2 * head) * sum(lengths)
    return body + 2.0 * head * sum(answers) + attention_flops(lm.model.config, lengths)


def embed_path(options: argparse.Namespace, precision: str) -> Path:
    shape = "tiny" if options.quick else "base"
    encoder = DualEncoder.load(
        stand_ins.encoder(shape), precision=precision, device=options.device, separate=False
    )
    texts = stand_ins.texts(16 if options.device == "cpu" else 16_384, mean=110, spread=0.3)
    lengths = [len(ids) for ids in encoder.chunk.tokens(texts)]
    config = next(iter(encoder.chunk.model.children())).config
    named = encoder.query_module.named_parameters()
    pooler = sum(p.numel() for name, p in named if ".pooler." in name)  # mean pooling: unused
    flops = (encoder.flops_per_token - 2 * pooler) * sum(lengths) + attention_flops(config, lengths)
    return Path(
        name="embed",
        work=lambda: encoder.encode_chunks([""] * len(texts), texts, batch_tokens=16384),
        **{"flops": flops, "precision": precision},
        shape=f"BERT {shape}, {len(texts)} chunks of {sum(lengths) // len(lengths)} tokens",
    )


def lm_shape(options: argparse.Namespace) -> str:
    return "tiny" if options.quick else "medium" if options.device == "cpu" else "1b"


def score_path(options: argparse.Namespace, precision: str) -> Path:
    shape = lm_shape(options)
    lm = CausalLM.load(stand_ins.lm(shape), precision=precision, device=options.device)
    texts = stand_ins.texts(8 if options.device == "cpu" else 512, mean=150, spread=0.2)
    prompts = [lm.encode(text) for text in texts]
    answers = [prompt[:ANSWER_TOKENS] for prompt in prompts]
    lengths = [len(prompt) for prompt in prompts]
    return Path(
        name="score",
        work=lambda: lm.answer_logprobs(prompts, answers, batch_tokens=16384),
        flops=lm_flops(lm, lengths, [ANSWER_TOKENS] * len(prompts)),
        precision=precision,
        shape=f"LLaMA {shape}, {len(texts)} prompts of {sum(lengths) // len(lengths)} tokens",
    )


def lm_ft_path(options: argparse.Namespace, precision: str, shape: str = "") -> Path:
    on_gpu, shape = options.device != "cpu", shape or lm_shape(options)
    rows = stand_ins.ranked_rows(5 if not on_gpu else 20 if shape == "7b" else 80, k=3)
    ours = LmFt(
        stand_ins.lm(shape),
        rows,
        precision,
        options.device,
        batch_size=16 if on_gpu else 2,
        # fp32 weights, gradients and two moments of 7B leave no room for activations
        resources=Resources(gradient_checkpointing=shape == "7b"),
    )
    lm, task = ours.task.lm, ours.task
    chosen = [task.pairs[i] for step in task.steps for sequence in step for i in sequence]
    flops = 3 * lm_flops(lm, [len(p) for p, _ in chosen], [len(a) for _, a in chosen])
    return Path(
        name="lm-ft" + (", 7B" if shape == "7b" else ""),
        work=ours.train,
        **{"flops": flops, "precision": precision},
        shape=f"LLaMA {shape}, {len(chosen)} instances of {ours.num_tokens // len(chosen)} tokens",
    )


def decode_path(options: argparse.Namespace, precision: str) -> Path:
    shape = lm_shape(options)
    lm = CausalLM.load(stand_ins.lm(shape), precision=precision, device=options.device)
    texts = stand_ins.texts(10 if options.device == "cpu" else 320, mean=120, spread=0.2)
    prompts = [lm.encode(text) for text in texts]
    questions = [prompts[i : i + 10] for i in range(0, len(prompts), 10)]
    new = sum(len(ids) for ids in decode_tokens(lm, questions)) / len(questions)
    counts = [max(1, round(new))] * len(prompts)
    return Path(
        name="decode",
        work=lambda: decode_tokens(lm, questions),
        flops=lm_flops(lm, [len(prompt) for prompt in prompts], counts),
        precision=precision,
        shape=f"LLaMA {shape}, {len(questions)} questions of 10 prompts, {counts[0]} new tokens",
    )


def profiled(work: Callable[[], Any], device: str) -> dict[str, float]:
    """The share of each operator in all operators' own time, the largest first."""
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=kinds) as found:
        work()
    name = "self_cpu_time_total" if device == "cpu" else "self_device_time_total"
    times = {
        event.key: float(getattr(event, name))
        for event in found.key_averages()
        if event.device_type == DeviceType.CPU  # a kernel's time stands at its operator as well
    }
    total = sum(times.values()) or 1.0
    largest = sorted(times, key=lambda key: -times[key])[:PROFILED]
    return {key: round(times[key] / total, 3) for key in largest}


def bound_of(profile_shares: dict[str, float]) -> str:
    """What the profile says takes the rest."""
    products = ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear", "mkldnn::_linear_pointwise")
    share = sum(profile_shares.get(name, 0.0) for name in products)
    others = [
        f"{name} {value:.0%}" for name, value in profile_shares.items() if name not in products
    ]
    return (
        f"matrix products take {share:.0%} of the operators' time, the rest among others "
        + ", ".join(others[:4])
    )


def main() -> None:
    options = options_of(__doc__)
    results = Results("hardware", options)
    fast = resolve_precision("auto", options.device)
    rates = {}
    # a GPU's fp32 is told, and nothing is run in it
    for precision in dict.fromkeys(("fp32", fast)):
        rates[precision] = matmul_rate(precision, options.device, quick=options.quick)
        name = f"matmul rate, {precision}"
        facts = {"ours": rates[precision] / 1e9, "ratio": None, "floor": None, "better": "higher"}
        results.add({**plain_row(name, **facts, unit="GFLOP/s"), "note": _rate(rates[precision])})
    paths: list[Callable[..., Path]] = [embed_path, score_path, lm_ft_path, decode_path]
    if options.device != "cpu" and torch.cuda.mem_get_info()[1] > SEVEN_BILLION:
        paths.append(functools.partial(lm_ft_path, shape="7b"))
    for make in paths:
        for precision in rates if options.device == "cpu" else [fast]:
            path = make(options, precision)
            if options.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            seconds = median(_seconds(path.work, options.device, repeats=options.repeats))
            peak = 0 if options.device == "cpu" else torch.cuda.max_memory_allocated()
            rate = path.flops / seconds
            goal = GOALS[path.name] if options.device == "cpu" else GPU_GOAL
            if options.quick or path.name == "decode" or precision != fast:
                goal = None  # the goal is for the precision that the stages pick
            shares = profiled(path.work, options.device)
            row = plain_row(
                f"{path.name}: fraction of the matmul rate, {precision}",
                **{"ours": rate / 1e9, "ratio": rate / rates[precision], "floor": goal},
                **{"better": "higher", "unit": "GFLOP/s"},
                **{"shape": path.shape, "model_flops": path.flops, "profile": shares},
                **{"seconds": seconds, "peak_gpu_bytes": peak},
            )
            results.add(with_bound(row, bound_of(shares)))
            del path
            gc.collect()  # an optimizer's states leave the device before the next ones come
            if options.device != "cpu":
                torch.cuda.empty_cache()


def _rate(flops: float) -> str:
    return f"{flops / 1e9:.0f} GFLOP/s"


if __name__ == "__main__":
    main()
