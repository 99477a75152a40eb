"""Prompts and answers -> answer log-probs: what Eq. 2 and Eq. 4 need of an LM.

In: a loaded `CausalLM`, token ids. Out: log p_LM(y | c o x), one number a pair, or the p_R-weighted
mixture of an answer over an example's prompts. Answers of one prompt go into one row where the
model allows, so that options and candidates cost little more than their prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radit_ray.core.ensembles import answers as mix_answers
from radit_ray.core.ensembles import tokens as mix_tokens
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
    from radit_ray.models.prefix import Prefix

# an example's prompts, and the answers that stand behind each of them
Group = tuple[Sequence[Sequence[int]], Sequence[Sequence[int]]]
SCORE_ROWS = 1024  # answer tokens per fp32 log-softmax: 0.5 GB at a vocabulary of 128k


@torch.inference_mode()
def answer_logprobs(
    lm: CausalLM,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
    prefix: Prefix | None = None,
) -> NDArray[np.float32]:
    """log p_LM(answer | prompt) in nats, (B,): the SUM over the answer's tokens, fp32
    log-softmax.

    Pairs with the same prompt share its computation where the model allows; prompts of a `prefix`
    are not computed at all. Rows are batched by length under `batch_tokens` (rows * longest row)
    and come back in the order given.
    """
    pairs: list[Pair] = list(zip(prompts, answers, strict=True))
    _check_context(lm, max((len(prompt) + len(answer) for prompt, answer in pairs), default=0))
    lm.last_num_tokens = 0
    rows = _rows(lm, pairs)
    if prefix is not None:
        logprob_B = np.zeros(len(pairs), dtype=np.float32)
        _score_behind(prefix, pairs, rows, logprob_B, batch_tokens)
        return logprob_B
    # stays on the device until the end, so that a GPU computes while the next batch is laid out
    sum_B = torch.zeros(len(pairs), dtype=torch.float32, device=lm.device)
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
            number_P = torch.tensor([number for row in chosen for number in row])
            sum_B[number_P.to(lm.device)] = _sums(lm, batch, len(number_P))
    result: NDArray[np.float32] = sum_B.cpu().numpy()
    return result


def _score_behind(
    prefix: Prefix,
    pairs: list[Pair],
    rows: list[list[int]],
    logprob_B: NDArray[np.float32],
    batch_tokens: int,
) -> None:
    """Fills in the log-probs of pairs whose prompts are kept; only answers count as length, and the
    head runs at each of their tokens.
    """
    lengths = [sum(len(pairs[number][1]) for number in row) for row in rows]
    budget = on_device(batch_tokens, prefix.lm.device)
    if prefix.lm.device.type == "cpu":  # a GPU has room for more logits, and launches to save
        budget = min(SCORE_ROWS, budget)
    for bucket in length_buckets(lengths, budget):
        chosen = [rows[place] for place in bucket]
        numbers = [number for row in chosen for number in row]
        logprob_B[numbers] = prefix.logprobs(
            [pairs[row[0]][0] for row in chosen],
            [[pairs[number][1] for number in row] for row in chosen],
        )


@torch.inference_mode()
def mixture_logprobs(
    lm: CausalLM,
    prompts: Sequence[Sequence[Sequence[int]]],
    answers: Sequence[Sequence[Sequence[int]]],
    p_r: Sequence[NDArray[np.float32]],
    *,
    batch_tokens: int = 8192,
) -> list[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """For each example, with K prompts, U answers and p_R (K,): log sum_k p_R(k) p_LM(u | prompt k)
    in nats, (U,), and whether u is what greedy decoding of the mixture writes, (U,): each of its
    tokens has most probability in `ensembles.tokens`.

    An example's prompts share a batch; its answers share a prompt's row where the model allows and
    the context has room.
    """
    results = [
        (np.zeros(len(own), dtype=np.float32), np.zeros(len(own), dtype=np.bool_))
        for own in answers
    ]
    parts = [
        (example, numbers, (prompts[example], [answers[example][n] for n in numbers]))
        for example in range(len(answers))
        for numbers in _together(lm, prompts[example], answers[example])
    ]
    lm.last_num_tokens = 0
    for shared in (True, False):
        kind = [part for part in parts if (len(part[1]) > 1) == shared]
        lengths = [
            len(own) * (max(map(len, own)) + sum(map(len, behind))) for _, _, (own, behind) in kind
        ]
        for bucket in length_buckets(lengths, on_device(batch_tokens, lm.device)):
            chosen = [kind[place] for place in bucket]
            logits = _logits(lm, [group for _, _, group in chosen], shared=shared)
            for (example, numbers, (_, behind)), (logits_KTV, target_T) in zip(
                chosen, logits, strict=True
            ):
                p_r_K = torch.from_numpy(p_r[example]).to(lm.device)
                logprob_U, greedy_U = _mixed(logits_KTV, target_T, [*map(len, behind)], p_r_K)
                results[example][0][numbers] = logprob_U
                results[example][1][numbers] = greedy_U
    return results


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """What a mixture says of each of T tokens, in nats, and of the N likeliest in each one's
    place.
    """

    logprob_T: NDArray[np.float32]
    top_ids_TN: NDArray[np.int64]
    top_logprob_TN: NDArray[np.float32]


@torch.inference_mode()
def mixture_token_logprobs(
    lm: CausalLM,
    prompts: Sequence[Sequence[int]],
    ids: Sequence[int],
    p_r_K: NDArray[np.float32],
    *,
    top: int = 1,
    batch_tokens: int = 8192,
) -> TokenLogprobs:
    """log sum_k p_R(k) p_LM(token t | prompt k, tokens before t) of each of `ids`: the `tokens`
    mixture, whose p_R does not change along the text.

    The K prompts go through in parts under `batch_tokens`, at least one at a time, so that no more
    than a part's logits and one (T, V) sum exist at once.
    """
    _check_context(lm, max(map(len, prompts)) + len(ids))
    width = max(map(len, prompts)) + len(ids)
    step = max(1, on_device(batch_tokens, lm.device) // width)
    weight_K = torch.from_numpy(np.array(p_r_K, dtype=np.float32)).to(lm.device)
    mixed_TV: Tensor | None = None
    lm.last_num_tokens = 0
    for start in range(0, len(prompts), step):
        part = slice(start, start + step)
        ((logits_KTV, _),) = _logits(lm, [(prompts[part], [ids])], shared=False)
        own_TV = mix_tokens(logits_KTV.transpose(0, 1), weight_K[part])
        mixed_TV = own_TV if mixed_TV is None else torch.logaddexp(mixed_TV, own_TV)
    assert mixed_TV is not None
    target_T1 = torch.tensor(ids, device=lm.device)[:, None]
    best_TN, ids_TN = mixed_TV.topk(min(max(1, top), mixed_TV.shape[-1]), dim=-1)
    return TokenLogprobs(
        logprob_T=mixed_TV.gather(1, target_T1)[:, 0].cpu().numpy(),
        top_ids_TN=ids_TN.cpu().numpy(),
        top_logprob_TN=best_TN.cpu().numpy(),
    )


def _together(
    lm: CausalLM, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[list[int]]:
    """Numbers of the answers that go behind an example's prompts at once: all, or one by one."""
    longest = max(map(len, prompts))
    _check_context(lm, longest + max(map(len, answers), default=0))
    fits = longest + sum(map(len, answers)) <= lm.context_length
    if len(answers) > 1 and fits and lm.shares_prompts:
        return [list(range(len(answers)))]
    return [[number] for number in range(len(answers))]


def _logits(lm: CausalLM, groups: list[Group], *, shared: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits_KTV, target_T) of each group, T over its answers one behind the other, from one
    forward pass.
    """
    rows = [(prompt, answers) for prompts, answers in groups for prompt in prompts]
    if shared:
        batch = shared_batch([prompt for prompt, _ in rows], [own for _, own in rows], lm.pad_id)
    else:
        batch = padded_batch([(prompt, answer) for prompt, (answer,) in rows], lm.pad_id)
    batch = batch.to(lm.device)
    lm.last_num_tokens += batch.num_tokens
    logits_NV, target_N, _ = answer_logits(lm, batch, logits_to_keep=lm.logits_to_keep)
    sizes = [sum(map(len, answers)) for _, answers in groups]
    counts = [len(prompts) * size for (prompts, _), size in zip(groups, sizes, strict=True)]
    for logits, target, size in zip(
        torch.split(logits_NV, counts), torch.split(target_N, counts), sizes, strict=True
    ):
        yield logits.view(-1, size, logits.shape[-1]), target[:size]


def _mixed(
    logits_KTV: Tensor, target_T: Tensor, sizes: list[int], p_r_K: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """(log-prob, greedy) of the U answers of these sizes that make up T."""
    logprobs, hits = [], []
    step = max(1, SCORE_ROWS // len(p_r_K))  # slices, as in token_logprobs
    for logits, target in zip(
        torch.split(logits_KTV, step, 1), torch.split(target_T, step), strict=True
    ):
        flat = token_logprobs(logits.flatten(0, 1), target.repeat(len(p_r_K)))
        logprobs.append(flat.view(len(p_r_K), -1))
        hits.append(mix_tokens(logits.transpose(0, 1), p_r_K).argmax(-1) == target)
    logprob_KT, hit_T = torch.cat(logprobs, 1), torch.cat(hits)
    logprob_UK = torch.stack([part.sum(1) for part in torch.split(logprob_KT, sizes, 1)])
    greedy_U = torch.stack([part.all() for part in torch.split(hit_T, sizes)])
    return mix_answers(logprob_UK, p_r_K).cpu().numpy(), greedy_U.cpu().numpy()


def _check_context(lm: CausalLM, longest: int) -> None:
    if longest > lm.context_length:
        raise InputError(
            f"a prompt with its answer has {longest} tokens, the LM's context is "
            f"{lm.context_length}; "
            "fit it with prompt_ids(prompt, room=len(answer))"
        )


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


def _sums(lm: CausalLM, batch: Batch, num: int) -> Tensor:
    """Summed log-probs of the `num` answers of a batch, (num,)."""
    batch = batch.to(lm.device)
    lm.last_num_tokens += batch.num_tokens
    logits_NV, target_N, owner_N = answer_logits(lm, batch, logits_to_keep=lm.logits_to_keep)
    sums = torch.zeros(num, dtype=torch.float32, device=lm.device)
    return sums.index_add_(0, owner_N, token_logprobs(logits_NV, target_N))


def token_logprobs(logits_NV: Tensor, target_N: Tensor) -> Tensor:
    """log softmax at the targets, (N,) fp32; in slices, so that an fp32 copy of all logits never
    exists at once.
    """
    parts = [
        -nn.functional.cross_entropy(logits.float(), target, reduction="none")
        for logits, target in zip(
            torch.split(logits_NV, SCORE_ROWS), torch.split(target_N, SCORE_ROWS), strict=True
        )
    ]
    return torch.cat(parts)
