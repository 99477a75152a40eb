"""score: pairs of example and chunk a second against fed-rag (row 1), and how exact (row 2).

Both read the same questions, chunks and LM (LLaMA shape, V = 32,000, random weights). Ours is what
the stage does with a shard: prompts built, tokenised, batched by length, the head at the answers'
positions. fed-rag's is `compute_target_sequence_proba` for each pair. Its target log-probs are one
position late (the first answer token is scored behind itself), which the check reproduces: the same
numbers from our model at its positions, so the two read the same tokens with the same weights.

    python -m benchmarks.score [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

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
from radit_ray.core.templates import eval_prompt
from radit_ray.engines.variants import Row
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.precision import resolve_precision
from radit_ray.stages.score import score_rows

FLOOR, EXACT = 1.4, 1e-4
BATCH_TOKENS = 16384  # the stage's default


def prompts_of(rows: Sequence[Row]) -> list[list[str]]:
    """The text of each example's prompts, chunk first."""
    found = []
    for row in rows:
        pairs = zip(row["titles"], row["texts"], strict=True)
        prompts = [eval_prompt(row, chunk=chunk) for chunk in pairs]
        found.append([prompt.background + prompt.instruction for prompt in prompts])
    return found


@torch.inference_mode()
def naive(lm: CausalLM, rows: Sequence[Row], *, late: int = 0) -> np.ndarray:
    """log p(answer | prompt) of each pair, one at a time from all logits; `late` positions late."""
    found = []
    for row, prompts in zip(rows, prompts_of(rows), strict=True):
        answer = lm.answer_ids(row["answers"][0])
        for prompt in prompts:
            front = [*lm.bos_ids, *lm.encode(prompt)]
            ids_BT = torch.tensor([[*front, *answer]], device=lm.device)
            logprob_TV = lm.model(input_ids=ids_BT).logits[0].double().log_softmax(-1)
            start = len(front) - 1 + late
            at_T = torch.arange(start, start + len(answer), device=lm.device)
            found.append(float(logprob_TV[at_T, torch.tensor(answer, device=lm.device)].sum()))
    return np.array(found)


def ours(lm: CausalLM, rows: list[Row]) -> list[list[float]]:
    """What the stage `score` writes for these rows."""
    scored, _ = score_rows(lm, rows, BATCH_TOKENS)
    return [row["logprobs"] for row in scored]


def main() -> None:
    options = options_of(__doc__)
    results = Results("score", options)
    rows = stand_ins.ranked_rows(2 if options.quick else 6, k=4 if options.quick else 10)
    folder = stand_ins.lm("tiny" if options.quick else "small")
    lm = CausalLM.load(folder, precision="fp32", device=options.device)
    expected = naive(lm, rows)
    error = float(np.abs(np.array(ours(lm, rows)).ravel() - expected).max())
    results.add(
        plain_row(
            "2 score: max abs error of an answer's log-prob against a naive fp32 reference",
            **{"ours": error, "ratio": error, "floor": EXACT, "better": "lower", "unit": "nats"},
            num_pairs=len(expected),
        )
    )
    _speed(options, results, lm, rows, expected)


def _speed(
    options: argparse.Namespace,
    results: Results,
    lm: CausalLM,
    rows: list[Row],
    expected: np.ndarray,
) -> None:
    def same(mine: list[list[float]], other: Sequence[float]) -> None:
        np.testing.assert_allclose(np.concatenate(mine), expected, atol=EXACT)
        np.testing.assert_allclose(other, expected, atol=EXACT)

    facts = {"count": len(expected), "unit": "pairs", "precision": "fp32"}
    if options.peers == "none":
        compared = alternate(
            timed(lambda: ours(lm, rows)), timed(lambda: naive(lm, rows)), options, same
        )
        results.add(speed_row(f"1 score vs {NAIVE}", compared, floor=None, **facts))
        return
    try:
        with Peer("fed-rag", "on_fed_rag", threads=options.threads) as peer:
            pairs = [
                (prompt, f" {row['answers'][0]}")
                for row, prompts in zip(rows, prompts_of(rows), strict=True)
                for prompt in prompts
            ]
            peer.call("load_lm", folder=lm.name)
            late = naive(lm, rows, late=1)

            def late_by_one(mine: list[list[float]], other: Sequence[float]) -> None:
                np.testing.assert_allclose(np.concatenate(mine), expected, atol=EXACT)
                np.testing.assert_allclose(np.log(other), late, atol=0.01)

            wrong = "its log-probs are one position late; from our logits there they are the same"
            for precision in ("fp32", "auto"):
                chosen = resolve_precision(precision, options.device)
                own = (
                    lm
                    if precision == "fp32"
                    else CausalLM.load(lm.name, precision=chosen, device=options.device)
                )
                as_called = precision == "auto"
                compared = alternate(
                    timed(lambda own=own: ours(own, rows)),
                    peer.side("score", pairs=pairs),
                    options,
                    (lambda *_: None) if as_called else late_by_one,
                )
                name = "1 score vs fed-rag" + (
                    f", as called ({chosen} / fp32)" if as_called else ""
                )
                facts |= {"precision": chosen}
                results.add(speed_row(name, compared, floor=FLOOR, **facts, note=wrong))
    except MissingPeerError as missing:
        results.add(
            missing_row("1 score vs fed-rag", floor=FLOOR, unit="pairs/CPU s", why=str(missing))
        )


if __name__ == "__main__":
    main()
