"""Prompts and answers -> answer log-probs: what Eq. 2 and Eq. 4 need of an LM.

In: a loaded `CausalLM`, token ids. Out: log p_LM(y | c o x), one number a pair. Answers of one
prompt go into one row where the model allows, so that options and candidates cost little more than
their prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radit_ray.core.errors import InputError
from radit_ray.models.batches import (
    Batch,
    Pair,
    answer_logits,
    length_buckets,
    on_device,
    padded_batch,
    shared_batch,
)

if TYPE_CHECKING:
    from radit_ray.models.causal_lm import CausalLM

_SCORE_ROWS = 1024  # answer tokens per fp32 log-softmax: 0.5 GB at a vocabulary of 128k


@torch.inference_mode()
def answer_logprobs(
    lm: CausalLM,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
) -> NDArray[np.float32]:
    """log p_LM(answer | prompt) in nats, (B,): the SUM over the answer's tokens, fp32
    log-softmax.

    Pairs with the same prompt share its computation where the model allows. Rows are batched by
    length under `batch_tokens` (rows * longest row) and come back in the order given.
    """
    pairs: list[Pair] = list(zip(prompts, answers, strict=True))
    longest = max((len(prompt) + len(answer) for prompt, answer in pairs), default=0)
    if longest > lm.context_length:
        raise InputError(
            f"a prompt with its answer has {longest} tokens, the LM's context is "
            f"{lm.context_length}; "
            "fit it with prompt_ids(prompt, room=len(answer))"
        )
    logprob_B = np.zeros(len(pairs), dtype=np.float32)
    lm.last_num_tokens = 0
    rows = _rows(lm, pairs)
    shared = [row for row in rows if len(row) > 1]
    for kind in (shared, [row for row in rows if len(row) == 1]):
        lengths = [
            len(pairs[row[0]][0]) + sum(len(pairs[number][1]) for number in row) for row in kind
        ]
        for bucket in length_buckets(lengths, on_device(batch_tokens, lm.device)):
            chosen = [kind[place] for place in bucket]
            if kind is shared:
                batch = shared_batch(
                    [pairs[row[0]][0] for row in chosen],
                    [[pairs[number][1] for number in row] for row in chosen],
                    lm.pad_id,
                )
            else:
                batch = padded_batch([pairs[row[0]] for row in chosen], lm.pad_id)
            numbers = [number for row in chosen for number in row]
            logprob_B[numbers] = _sums(lm, batch, len(numbers))
    return logprob_B


def _rows(lm: CausalLM, pairs: list[Pair]) -> list[list[int]]:
    """Pair numbers that go into one row: those of one prompt, as many as fit the context."""
    if len({tuple(prompt) for prompt, _ in pairs}) == len(pairs) or not lm.shares_prompts:
        return [[number] for number in range(len(pairs))]
    rows: list[list[int]] = []
    room: dict[tuple[int, ...], tuple[list[int], int]] = {}  # prompt: its open row, tokens left
    for number, (prompt, answer) in enumerate(pairs):
        row, left = room.get(tuple(prompt), ([], 0))
        if len(answer) > left:
            row, left = [], lm.context_length - len(prompt)
            rows.append(row)
        row.append(number)
        room[tuple(prompt)] = row, left - len(answer)
    return rows


def _sums(lm: CausalLM, batch: Batch, num: int) -> NDArray[np.float32]:
    """Summed log-probs of the `num` answers of a batch, (num,)."""
    batch = batch.to(lm.device)
    lm.last_num_tokens += batch.num_tokens
    logits_NV, target_N, owner_N = answer_logits(lm, batch, logits_to_keep=lm.logits_to_keep)
    sums = torch.zeros(num, dtype=torch.float32, device=lm.device)
    sums.index_add_(0, owner_N, _token_logprobs(logits_NV, target_N))
    result: NDArray[np.float32] = sums.cpu().numpy()
    return result


def _token_logprobs(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """log softmax at the targets, (N,) fp32; in slices, so that an fp32 copy of all logits never
    exists at once.
    """
    parts = [
        -nn.functional.cross_entropy(logits.float(), target, reduction="none")
        for logits, target in zip(
            torch.split(logits_NV, _SCORE_ROWS), torch.split(target_N, _SCORE_ROWS), strict=True
        )
    ]
    return torch.cat(parts)
