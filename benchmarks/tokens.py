"""The `tokens` ensemble (REPLUG): seconds a question against FlashRAG, and its tokens against brute
force (row 8); both ensembles asked many questions at once against one at a time.

K = 10 prompts of about 200 tokens a question. FlashRAG decodes the same prompts with the same
weights, one question at a time, and mixes logits where REPLUG mixes probabilities, so it writes
other tokens: the check lets our logits, mixed its way, write the same. Ours must write, token by
token, what brute force does: every prompt computed anew for every token, probabilities mixed in
float64.

    python -m benchmarks.tokens [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from benchmarks import stand_ins
from benchmarks.peers import MissingPeerError, Peer
from benchmarks.score import prompts_of
from benchmarks.side_by_side import (
    NAIVE,
    Done,
    Results,
    alternate,
    missing_row,
    options_of,
    plain_row,
    speed_row,
    timed,
)
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.variants import Row, Variant
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.prefix import prefill

FLOOR, GPU_FLOOR = 1.0, 8.0
NUM_NEW = 16
BATCH_TOKENS = 16384

Questions = list[list[list[int]]]  # of each question its K prompts


def weights(k: int) -> np.ndarray:
    """p_R of every question, (K,)."""
    p_r = np.exp(-0.2 * np.arange(k))
    return (p_r / p_r.sum()).astype(np.float32)


def ours(lm: CausalLM, questions: Questions) -> list[list[int]]:
    """The stage's way: each prompt once, then all questions together token by token."""
    flat = [prompt for prompts in questions for prompt in prompts]
    log_p_r = np.log(np.stack([weights(len(prompts)) for prompts in questions]))
    prefix = prefill(lm, flat, batch_tokens=BATCH_TOKENS)
    return lm.generate(
        flat,
        **{"max_new_tokens": NUM_NEW, "stop_newline": False, "group_size": len(questions[0])},
        **{"log_p_r": log_p_r, "batch_tokens": BATCH_TOKENS, "prefix": prefix},
    )


@torch.inference_mode()
def brute_force(
    lm: CausalLM, questions: Questions, *, of_logits: bool = False
) -> tuple[list[list[int]], float]:
    """(new ids, the smallest gap between the best two tokens); of_logits: a weighted mean of
    logits, as FlashRAG.
    """
    found, gap = [], np.inf
    for prompts in questions:
        p_r_K = torch.from_numpy(weights(len(prompts))).double()
        new: list[int] = []
        while len(new) < NUM_NEW and lm.eos_id not in new:
            rows = [torch.tensor([[*prompt, *new]], device=lm.device) for prompt in prompts]
            logits = [lm.model(input_ids=ids_BT).logits[0, -1] for ids_BT in rows]
            logits_KV = torch.stack(logits).double().cpu()
            if of_logits:
                mixed_V = (p_r_K[:, None] * logits_KV).sum(0)
            else:
                mixed_V = (p_r_K[:, None] * logits_KV.softmax(-1)).sum(0).log()
            best = mixed_V.topk(2)
            gap = min(gap, float(best.values[0] - best.values[1]))
            new.append(int(best.indices[0]))
        found.append([i for i in new if i != lm.eos_id])
    return found, gap


def at_once(options: argparse.Namespace, results: Results, lm: CausalLM, rows: list[Row]) -> None:
    """Questions/s of `answers` and `tokens`, many at once against one at a time."""
    alone = rows[: max(1, len(rows) // 8)] if options.device != "cpu" else rows
    for ensemble in ("answers", "tokens"):
        variant = Variant(k=len(rows[0]["texts"]), ensemble=ensemble, max_new_tokens=NUM_NEW)
        equal: list[float] = []

        def ask(asked: list[Row], variant: Variant = variant) -> list[str]:
            found, _ = answer_batch(lm, asked, variant, t_r=0.1, batch_tokens=BATCH_TOKENS)
            return [row["prediction"] for row in found]

        def same(mine: list[str], other: list[str], equal: list[float] = equal) -> None:
            equal.append(float(np.mean([a == b for a, b in zip(mine, other, strict=False)])))
            # what bf16 rounds depends on the batch, and a random LM's best tokens are close
            assert lm.precision != "fp32" or equal == [1.0], (mine, other)

        def one_by_one(ask: Callable[[list[Row]], list[str]] = ask) -> Done:
            done = timed(lambda: [answer for row in alone for answer in ask([row])])()
            times = len(rows) / len(alone)
            return dataclasses.replace(done, cpu_s=done.cpu_s * times, wall_s=done.wall_s * times)

        compared = alternate(timed(lambda ask=ask: ask(rows)), one_by_one, options, same)
        floor = GPU_FLOOR if options.device != "cpu" else None
        name = f"GPU {ensemble}: {len(rows)} questions at once vs one at a time"
        name = name if options.device != "cpu" else name.replace("GPU ", "")
        facts = {"equal": equal[0], "precision": lm.precision, "one_at_a_time": len(alone)}
        row = speed_row(name, compared, count=len(rows), unit="questions", floor=floor, **facts)
        results.add(row)


def main() -> None:
    options = options_of(__doc__)
    results = Results("tokens", options)
    folder = stand_ins.lm("tiny" if options.quick else "small")
    lm = CausalLM.load(folder, precision="fp32", device=options.device)
    num = 2 if options.quick else 4 if options.device == "cpu" else 64
    rows = stand_ins.ranked_rows(num, k=3 if options.quick else 10)
    questions = [
        [[*lm.bos_ids, *lm.encode(prompt)] for prompt in prompts] for prompts in prompts_of(rows)
    ]
    exact = questions[: 2 if options.quick else 3]
    expected, gap = brute_force(lm, exact)
    pairs = zip(ours(lm, exact), expected, strict=True)
    equal = float(np.mean([mine == other for mine, other in pairs]))
    results.add(
        plain_row(
            "8 tokens: answers equal to brute force",
            **{"ours": equal, "ratio": equal, "floor": 1.0, "better": "higher"},
            **{"unit": "share of questions", "smallest_gap_nats": gap},
        )
    )
    facts = {"count": len(questions), "unit": "questions", "precision": "fp32"}
    if options.device != "cpu":  # what a GPU is for
        lm = CausalLM.load(stand_ins.lm("1b"), precision="auto", device=options.device)
    elif options.peers == "none":
        compared = alternate(
            timed(lambda: ours(lm, questions)),
            timed(lambda: brute_force(lm, questions)[0]),
            *(options, lambda *_: None),
        )
        results.add(speed_row(f"8 tokens vs {NAIVE}", compared, floor=None, **facts))
    else:
        _flashrag(options, results, lm, questions, facts)
    at_once(options, results, lm, rows)


def _flashrag(
    options: argparse.Namespace,
    results: Results,
    lm: CausalLM,
    questions: Questions,
    facts: dict[str, object],
) -> None:
    name = "8 tokens vs FlashRAG REPLUG"
    try:
        with Peer("fed-rag", "on_flashrag", threads=options.threads) as peer:
            peer.call("load_lm", folder=lm.name)
            p_r = [weights(len(prompts)).tolist() for prompts in questions]
            asked = {"questions": questions, "weights": p_r, "num_new": NUM_NEW}
            its_way, _ = brute_force(lm, questions[:1], of_logits=True)

            def check(_: list[list[int]], other: list[list[int]]) -> None:
                assert other[0][: len(its_way[0])] == its_way[0], (other[0], its_way[0])

            compared = alternate(
                timed(lambda: ours(lm, questions)), peer.side("decode", **asked), options, check
            )
            note = "it mixes logits, not probabilities; from our logits its way, the same tokens"
            results.add(speed_row(name, compared, floor=FLOOR, note=note, **facts))
    except MissingPeerError as missing:
        unit = "questions/CPU s"
        results.add(missing_row(name, floor=FLOOR, unit=unit, why=str(missing)))


if __name__ == "__main__":
    main()
