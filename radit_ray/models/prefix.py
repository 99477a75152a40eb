"""Prompts computed once: what is decoded behind a prompt and what is scored behind it read the same
keys and values.

In: a loaded `CausalLM` and prompt ids (`prefill`). Out: a `Prefix`, which `CausalLM.generate` and
`CausalLM.answer_logprobs` take for prompts they need not compute again. A prompt of some hundred
tokens and answers of ten make that nearly all there is to compute.

Suffixes: B prompts kept, R rows behind them, T columns of the prompts (they end in the last one), Q
new columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from radit_ray.core.errors import InputError
from radit_ray.models.batches import (
    Batch,
    answer_logits,
    length_buckets,
    on_device,
    padded_batch,
    probe_answers,
    probe_tolerance,
    shared_batch,
)
from radit_ray.models.scoring import token_logprobs

if TYPE_CHECKING:
    from radit_ray.models.causal_lm import CausalLM

Ids = Sequence[int]

# keys and values kept at once: 16384 tokens of an 8B LLaMA in bf16, 4096 of the first 7B one.
# What reads them copies the rows it needs, so that as much again may be held for a while.
MAX_BYTES = 2**31
GPU_SHARE = 0.2  # of a GPU's free memory, where that is more


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Prompts of one LM, each computed once; nothing that reads it changes it."""

    lm: CausalLM
    row_of: dict[tuple[int, ...], int]  # a prompt's row
    length_B: Tensor
    layers: list[tuple[Tensor, Tensor]]  # keys and values of each layer, (B, heads, T, head size)
    logits_BV: Tensor  # what each prompt's last token predicts

    @property
    def num_bytes(self) -> int:
        """Of the keys and values."""
        return sum(part.numel() * part.element_size() for layer in self.layers for part in layer)

    def rows(self, prompts: Sequence[Ids]) -> Tensor:
        """The row of each prompt, (R,)."""
        rows = [self.row_of[tuple(prompt)] for prompt in prompts]
        return torch.tensor(rows, dtype=torch.long, device=self.lm.device)

    def logprobs(
        self, prompts: Sequence[Ids], answers: Sequence[Sequence[Ids]]
    ) -> NDArray[np.float32]:
        """log p_LM(answer | prompt) in nats of each prompt's answers, one behind the other, summed
        over tokens; one forward pass.
        """
        row_R = self.rows(prompts)
        row_A = row_R.repeat_interleave(row_R.new_tensor([len(own) for own in answers]))
        first_A = row_R.new_tensor([answer[0] for own in answers for answer in own])
        # the prompt's end has predicted the first token already
        sum_A = token_logprobs(self.logits_BV[row_A], first_A)
        if any(len(answer) > 1 for own in answers for answer in own):
            batch = shared_batch(prompts, answers, self.lm.pad_id).behind(max(map(len, prompts)))
            logits_NV, target_N, owner_N = Continued(self, row_R).read(batch.to(self.lm.device))
            sum_A.index_add_(0, owner_N, token_logprobs(logits_NV, target_N))
        result: NDArray[np.float32] = sum_A.cpu().numpy()
        return result

    def decode(
        self,
        prompts: Sequence[Ids],
        *,
        max_new_tokens: int,
        pick: Callable[[Tensor, Tensor], Tensor],
        ended: Callable[[Tensor, Any], Tensor],
    ) -> list[list[int]]:
        """New ids behind each prompt, the one that ends it included. Rows that have ended leave the
        batch.

        pick(logits_RV, number_R) gives the next token of the rows that go on, (R,), number_R being
        their places in `prompts`; ended(new_RQ, None) says which stop behind these ids.
        """
        row_R = self.rows(prompts)
        number_R = torch.arange(len(prompts), device=self.lm.device)
        continued, logits_RV = Continued(self, row_R), self.logits_BV[row_R]
        new_RQ = row_R.new_empty(len(prompts), 0)
        made: list[list[int]] = [[] for _ in prompts]
        while True:
            new_RQ = torch.cat([new_RQ, pick(logits_RV, number_R)[:, None]], 1)
            last = new_RQ.shape[1] == max_new_tokens
            stops_R = torch.ones_like(number_R, dtype=torch.bool) if last else ended(new_RQ, None)
            for number, ids in zip(
                number_R[stops_R].tolist(), new_RQ[stops_R].tolist(), strict=True
            ):
                made[number] = ids
            if bool(stops_R.all()):
                return made
            if bool(stops_R.any()):
                (going,) = torch.nonzero(~stops_R, as_tuple=True)
                number_R, new_RQ = number_R[going], new_RQ[going]
                continued.keep(going)
            logits_RV = continued.step(new_RQ[:, -1])


class Continued:
    """A copy of some rows of a `Prefix` that grows by what the LM reads next; as wide as the
    longest of their prompts.
    """

    def __init__(self, prefix: Prefix, row_R: Tensor) -> None:
        self.lm = prefix.lm
        self.length_R = prefix.length_B[row_R]
        width = int(self.length_R.max())
        column_T = torch.arange(width, device=row_R.device)
        self.seen_RT = column_T >= width - self.length_R[:, None]
        self.cache = DynamicCache()
        for number, parts in enumerate(prefix.layers):
            keys, values = (part[row_R, :, part.shape[2] - width :] for part in parts)
            self.cache.update(keys, values, number)

    def step(self, token_R: Tensor) -> Tensor:
        """The logits behind one more token of each row, (R, V)."""
        self.seen_RT = torch.cat([self.seen_RT, torch.ones_like(self.seen_RT[:, :1])], 1)
        row_R = torch.arange(len(token_R), device=token_R.device)
        batch = Batch(
            input_ids_BT=token_R[:, None],
            attention_mask=self.seen_RT[:, None, None],
            position_ids_BT=self.length_R[:, None],
            row_N=row_R,
            column_N=torch.zeros_like(row_R),
            target_N=torch.zeros_like(row_R),  # nothing is compared
            owner_N=row_R,
        )
        self.length_R = self.length_R + 1
        logits_RV, _, _ = self.read(batch)
        return logits_RV

    def read(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """As `answer_logits`, behind what was read before."""
        self.lm.last_num_tokens += batch.num_tokens
        return answer_logits(
            self.lm, batch, logits_to_keep=self.lm.logits_to_keep, cache=self.cache
        )

    def keep(self, row_R: Tensor) -> None:
        """Goes on with these rows only."""
        self.length_R, self.seen_RT = self.length_R[row_R], self.seen_RT[row_R]
        self.cache.batch_select_indices(row_R)


@torch.inference_mode()
def prefill(lm: CausalLM, prompts: Sequence[Ids], *, batch_tokens: int = 8192) -> Prefix:
    """Computes prompts, equal ones once, in forward passes of at most `batch_tokens` (rows *
    longest row). Sets `last_num_tokens`.

    Only for an LM with `prefix_bytes`; what `prefix_batches` gives fits into `most_bytes`.
    """
    unique = list(dict.fromkeys(map(tuple, prompts)))
    lengths = [len(prompt) for prompt in unique]
    if not all(lengths):
        raise InputError("a prompt has no tokens; expected at least one")
    layers: list[tuple[Tensor, Tensor]] = []
    logits_BV = torch.empty(0)
    lm.last_num_tokens = 0
    for bucket in length_buckets(lengths, on_device(batch_tokens, lm.device)):
        # one answer token that is not fed: its logits are those of the prompt's end
        batch = padded_batch([(unique[row], [lm.pad_id]) for row in bucket], lm.pad_id)
        lm.last_num_tokens += batch.num_tokens
        cache = DynamicCache()
        logits, _, _ = answer_logits(
            lm, batch.to(lm.device), logits_to_keep=lm.logits_to_keep, cache=cache
        )
        found = [(layer.keys, layer.values) for layer in cache.layers]
        if not layers:  # the longest prompts come first
            logits_BV = logits.new_empty(len(unique), logits.shape[1])
            layers = [
                tuple(part.new_zeros(len(unique), *part.shape[1:]) for part in layer)
                for layer in found
            ]
        logits_BV[bucket] = logits
        for layer, parts in zip(layers, found, strict=True):
            for whole, part in zip(layer, parts, strict=True):
                whole[bucket, :, whole.shape[2] - part.shape[2] :] = part
    return Prefix(
        lm=lm,
        row_of={prompt: row for row, prompt in enumerate(unique)},
        length_B=torch.tensor(lengths, device=lm.device),
        layers=layers,
        logits_BV=logits_BV,
    )


def prefix_batches(
    lm: CausalLM, groups: Sequence[Sequence[Ids]], *, batch_tokens: int = 8192
) -> list[list[int]]:
    """Numbers of the groups of prompts to `prefill` together.

    A batch holds prompts * longest <= batch_tokens, at least one group, and in any case no more
    than `most_bytes` of keys and values; on a GPU only the latter, since a token for many rows
    costs it hardly more than one for a few. A group that is larger is in no batch; none is where
    the LM cannot go on behind kept prompts.
    """
    if not lm.prefix_bytes:
        return []
    most = most_bytes(lm.device) // lm.prefix_bytes
    at_once = most if lm.device.type == "cuda" else min(batch_tokens, most)
    longest = [max(map(len, group)) for group in groups]
    batches: list[list[int]] = []
    rows = 0
    for number in sorted(range(len(groups)), key=lambda number: (-longest[number], number)):
        count = len(groups[number])
        if count * longest[number] > most:
            continue
        # the first group of a batch holds its longest prompt
        if batches and (rows + count) * longest[batches[-1][0]] <= at_once:
            batches[-1].append(number)
            rows += count
        else:
            batches.append([number])
            rows = count
    return batches


def most_bytes(device: torch.device) -> int:
    """Keys and values that may be kept at once."""
    if device.type != "cuda":
        return MAX_BYTES
    free, _ = torch.cuda.mem_get_info(device)
    # what torch holds in reserve is free as well
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(MAX_BYTES, int(GPU_SHARE * free))


@torch.inference_mode()
def bytes_per_token(lm: CausalLM) -> int:
    """What a token's keys and values take; 0 where answers behind kept prompts, read at once or
    token by token, do not get the losses they have alone (to the tolerance of `supports_packing`):
    sliding windows, states instead of keys and values, attention kernels without arbitrary masks.
    """
    if not lm.shares_prompts:
        return 0
    prompts, answers = probe_answers(lm)
    pairs = [(p, a) for p, own in zip(prompts, answers, strict=True) for a in own]
    alone = [float(lm.answer_logprobs([p], [a])[0]) for p, a in pairs]
    try:
        prefix = prefill(lm, prompts)
        at_once = prefix.logprobs(prompts, answers)
        last_RQ = torch.tensor([own[-1] for own in answers], device=lm.device)
        stepwise = _stepwise(prefix, prompts, last_RQ)
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError):
        return 0  # how models refuse a cache, or have another
    atol = probe_tolerance(lm) * last_RQ.shape[1]  # sums of so many tokens
    same = np.allclose(at_once, alone, atol=atol, rtol=0)
    same &= np.allclose(stepwise, alone[1::2], atol=atol, rtol=0)
    return prefix.num_bytes // (len(prompts) * max(map(len, prompts))) if same else 0


def _stepwise(prefix: Prefix, prompts: Sequence[Ids], answer_RQ: Tensor) -> NDArray[np.float32]:
    """log p_LM(answer | prompt), (R,), as `decode` would read it."""
    continued = Continued(prefix, prefix.rows(prompts))
    logits_RV = prefix.logits_BV[prefix.rows(prompts)]
    sum_R = token_logprobs(logits_RV, answer_RQ[:, 0])
    for token_R, next_R in zip(answer_RQ.T[:-1], answer_RQ.T[1:], strict=True):
        sum_R += token_logprobs(continued.step(token_R), next_R)
    result: NDArray[np.float32] = sum_R.cpu().numpy()
    return result
