"""Greedy decoding of prompts in batches, alone or K prompts mixed into one continuation (REPLUG's
`tokens` ensemble).

In: prompt ids, at most one group of K per example with log p_R. Out: one list of new ids per
example. The model runs through transformers' `generate` with left padding, or behind prompts that
are computed already (`prefix`); either way one logits processor makes the mixture, and three
stopping rules end an answer (EOS, a newline, a string).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    EosTokenCriteria,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from radit_ray.core.ensembles import tokens as mix_tokens
from radit_ray.core.errors import InputError
from radit_ray.models.batches import length_buckets

if TYPE_CHECKING:
    from radit_ray.models.causal_lm import CausalLM
    from radit_ray.models.prefix import Prefix


class MixtureProcessor(LogitsProcessor):  # type: ignore[misc]
    """Replaces each row's logits by its group's mixture log sum_k p_R(k) p(token | prompt k), so
    all K rows agree.
    """

    def __init__(self, p_r_BK: Tensor) -> None:
        self.p_r_BK = p_r_BK

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        num_examples, group = self.p_r_BK.shape
        mixed_BV = mix_tokens(scores.view(num_examples, group, -1), self.p_r_BK)
        return mixed_BV.repeat_interleave(group, dim=0)


class NewlineCriteria(StoppingCriteria):  # type: ignore[misc]
    """Ends a row when its newest token contains a line break."""

    def __init__(self, newline_ids: frozenset[int], device: torch.device) -> None:
        self.newline_ids = torch.tensor(sorted(newline_ids), device=device)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.isin(input_ids[:, -1], self.newline_ids)


class TextCriteria(StoppingCriteria):  # type: ignore[misc]
    """Ends a row when the text of its newest tokens holds one of some strings."""

    def __init__(self, stop: Sequence[str], tokenizer: Any, width: int) -> None:
        self.stop, self.tokenizer = stop, tokenizer
        self.width = width  # tokens of the prompt, which may hold any string
        # a token holds a byte or more, so a string that has just ended lies within these
        self.num_tokens = max(len(text.encode()) for text in stop)

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        newest = input_ids[:, max(self.width, input_ids.shape[1] - self.num_tokens) :]
        texts = self.tokenizer.batch_decode(newest, clean_up_tokenization_spaces=False)
        ended = [any(text in words for text in self.stop) for words in texts]
        return torch.tensor(ended, device=input_ids.device)


@torch.inference_mode()
def greedy(
    lm: CausalLM,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_newline: bool = True,
    stop: Sequence[str] = (),
    group_size: int = 1,
    log_p_r: Tensor | NDArray[np.float32] | None = None,
    batch_tokens: int = 8192,
    prefix: Prefix | None = None,
    streamer: Any = None,
) -> list[list[int]]:
    """One continuation per example, cut before EOS (and before the token with the first newline).

    prompts: B * group_size id lists, an example's K prompts in a row. log_p_r (B, K), nats: weights
    of the K prompts; needed where group_size > 1 (Eq. 2 per token, EOS in the mixture); minus
    infinity leaves a prompt out. stop: strings that end a continuation; they stay in it, for the
    caller to cut the text. streamer: a transformers one, for a single example; it gets the newest
    ids of all rows at each step. Groups are never split over batches; batches hold rows * (longest
    prompt + max_new_tokens) <= batch_tokens, at least one group. prefix: where the prompts are
    computed already (and nothing is streamed).
    """
    p_r_BK = _weights(log_p_r, len(prompts), group_size)
    longest = max(map(len, prompts), default=0)
    if longest + max_new_tokens > lm.context_length:
        raise InputError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the LM's context "
            f"of {lm.context_length}; "
            "fit it with prompt_ids(prompt, room=max_new_tokens)"
        )
    if any(not prompt for prompt in prompts):
        raise InputError("a prompt has no tokens; expected at least one")
    groups = [list(prompts[i : i + group_size]) for i in range(0, len(prompts), group_size)]
    lengths = [max_new_tokens + max(map(len, group)) for group in groups]
    results: list[list[int]] = [[] for _ in groups]
    lm.last_num_tokens = 0
    if prefix is not None and lm.device.type == "cuda":
        batch_tokens = sys.maxsize  # what is kept has its own bound
    for batch in length_buckets([length * group_size for length in lengths], batch_tokens):
        rows = [prompt for example in batch for prompt in groups[example]]
        weights = None if p_r_BK is None else p_r_BK[batch].to(lm.device)
        if prefix is None:
            new_ids = _run(lm, rows, weights, max_new_tokens, stop_newline, stop, streamer)
        else:
            new_ids = _run_behind(prefix, rows, weights, max_new_tokens, stop_newline, stop)
        for position, example in enumerate(batch):
            results[example] = _cut(lm, new_ids[position * group_size], stop_newline)
    return results


def _run(
    lm: CausalLM,
    rows: list[Sequence[int]],
    p_r_BK: Tensor | None,
    max_new_tokens: int,
    stop_newline: bool,
    stop: Sequence[str],
    streamer: Any,
) -> list[list[int]]:
    """New ids per row (padded with pad_id after the row's end) of one `generate` call."""
    width = max(map(len, rows))
    input_ids_BT = torch.full((len(rows), width), lm.pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(rows), width), dtype=torch.long)
    for row, ids in enumerate(rows):
        input_ids_BT[row, width - len(ids) :] = torch.tensor(ids, dtype=torch.long)
        mask_BT[row, width - len(ids) :] = 1
    output_BT = lm.model.generate(
        input_ids=input_ids_BT.to(lm.device),
        attention_mask=mask_BT.to(lm.device),
        generation_config=GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=lm.eos_id,
            pad_token_id=lm.pad_id,
        ),
        logits_processor=LogitsProcessorList([] if p_r_BK is None else [MixtureProcessor(p_r_BK)]),
        stopping_criteria=_criteria(lm, stop_newline, stop, width),  # and EOS
        streamer=streamer,
    )
    lm.last_num_tokens += output_BT.numel()
    new_ids: list[list[int]] = output_BT[:, width:].tolist()
    return new_ids


def _run_behind(
    prefix: Prefix,
    rows: list[Sequence[int]],
    p_r_BK: Tensor | None,
    max_new_tokens: int,
    stop_newline: bool,
    stop: Sequence[str],
) -> list[list[int]]:
    """As `_run`, behind kept prompts; a row that has ended is not computed any more."""
    lm = prefix.lm
    criteria = _criteria(lm, stop_newline, stop, width=0)
    criteria.append(EosTokenCriteria(lm.eos_id))

    def pick(logits_RV: Tensor, number_R: Tensor) -> Tensor:
        if p_r_BK is not None:
            group = p_r_BK.shape[1]  # a group's rows end together
            logits_RV = MixtureProcessor(p_r_BK[number_R[::group] // group])(number_R, logits_RV)
        return logits_RV.argmax(-1)

    return prefix.decode(rows, max_new_tokens=max_new_tokens, pick=pick, ended=criteria)


def _criteria(
    lm: CausalLM, stop_newline: bool, stop: Sequence[str], width: int
) -> StoppingCriteriaList:
    """What ends a row beside EOS; `width` are the prompt's columns among the ids it will see."""
    criteria = StoppingCriteriaList()
    if stop_newline and lm.newline_ids:
        criteria.append(NewlineCriteria(lm.newline_ids, lm.device))
    if stop:
        criteria.append(TextCriteria(stop, lm.tokenizer, width))
    return criteria


def _weights(
    log_p_r: Tensor | NDArray[np.float32] | None, num_prompts: int, group_size: int
) -> Tensor | None:
    """p_R (B, K) fp32, or None for prompts that stand alone."""
    if group_size < 1 or num_prompts % group_size:
        raise InputError(
            f"{num_prompts} prompts do not make groups of {group_size}; expected a multiple"
        )
    if group_size == 1:
        return None
    if log_p_r is None:
        raise InputError(
            f"group_size is {group_size} but log_p_r is missing; give log p_R of shape (B, "
            f"{group_size})"
        )
    log_p_r_BK = torch.as_tensor(log_p_r, dtype=torch.float32)
    expected = (num_prompts // group_size, group_size)
    if tuple(log_p_r_BK.shape) != expected:
        raise InputError(
            f"log_p_r has shape {tuple(log_p_r_BK.shape)}, expected {expected} (examples, "
            "prompts each)"
        )
    return log_p_r_BK.exp()


def _cut(lm: CausalLM, ids: list[int], stop_newline: bool) -> list[int]:
    """The ids before the first EOS (or token with a newline); PAD after a stop goes with them."""
    stops = {lm.eos_id} | (lm.newline_ids if stop_newline else frozenset())
    for position, token in enumerate(ids):
        if token in stops:
            return ids[:position]
    return ids
