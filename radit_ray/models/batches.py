"""Tensors for scoring and LM-ft: (prompt ids, answer ids) pairs -> one batch -> logits at the
answer positions only.

Three layouts give the same numbers. `padded_batch`: one row per pair, padded on the left so that
the answers end together. `packed_batch`: all pairs in ONE row without padding, with positions that
restart and a block-diagonal causal mask, so that no pair sees another. `shared_batch`: one row per
prompt with all its answers behind it, each seeing the prompt and itself only, so that a prompt is
computed once however many answers are scored. The last answer token is never fed: nothing is
predicted from it.

Suffixes: B rows, T positions, N answer tokens over all pairs, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from radit_ray.core.errors import InputError

if TYPE_CHECKING:
    from radit_ray.models.causal_lm import CausalLM

Pair = tuple[Sequence[int], Sequence[int]]  # prompt ids, answer ids


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Model inputs, and where in them each answer token is predicted."""

    input_ids_BT: Tensor
    attention_mask: Tensor  # (B, T) of 0/1, or (B, 1, T, T) bool of "may attend"
    position_ids_BT: Tensor
    row_N: Tensor  # row and column whose logits predict answer token n
    column_N: Tensor
    target_N: Tensor  # the answer token's id
    owner_N: Tensor  # which pair, in the order given, the token belongs to

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)}
        return Batch(**moved)

    def behind(self, front: int) -> Batch:
        """What is left of a `shared_batch` where a cache holds its first columns, its prompts: the
        answers, without their first tokens, which the prompts' ends predict.
        """
        later_N = self.column_N >= front
        return Batch(
            input_ids_BT=self.input_ids_BT[:, front:],
            attention_mask=self.attention_mask[:, :, front:],  # the keys stay
            position_ids_BT=self.position_ids_BT[:, front:],
            row_N=self.row_N[later_N],
            column_N=self.column_N[later_N] - front,
            target_N=self.target_N[later_N],
            owner_N=self.owner_N[later_N],
        )

    @property
    def num_tokens(self) -> int:
        """Positions computed, padding included (for cost accounting)."""
        return self.input_ids_BT.numel()


def padded_batch(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """One row per pair, padded on the left with `pad_id` (masked out, position 0)."""
    inputs = [_checked(pair) for pair in pairs]
    width = max(len(ids) for ids in inputs)
    input_ids_BT = torch.full((len(pairs), width), pad_id, dtype=torch.long)
    mask_BT = torch.zeros((len(pairs), width), dtype=torch.long)
    for row, ids in enumerate(inputs):
        input_ids_BT[row, width - len(ids) :] = torch.tensor(ids, dtype=torch.long)
        mask_BT[row, width - len(ids) :] = 1
    counts = [len(answer) for _, answer in pairs]
    owner_N = torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(counts))
    return Batch(
        input_ids_BT=input_ids_BT,
        attention_mask=mask_BT,
        position_ids_BT=(mask_BT.cumsum(1) - 1).clamp_min(0),
        row_N=owner_N,
        column_N=torch.cat([torch.arange(width - count, width) for count in counts]),
        target_N=_targets(pairs),
        owner_N=owner_N,
    )


def packed_batch(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """All pairs in one row (1, T) without padding; `pad_id` is unused and there so that both
    layouts are called alike.
    """
    del pad_id
    inputs = [_checked(pair) for pair in pairs]
    counts = [len(answer) for _, answer in pairs]
    lengths = torch.tensor([len(ids) for ids in inputs])
    segment_T = torch.repeat_interleave(torch.arange(len(pairs)), lengths)
    ends = lengths.cumsum(0).tolist()
    causal_TT = torch.ones(len(segment_T), len(segment_T), dtype=torch.bool).tril()
    return Batch(
        input_ids_BT=torch.tensor([[i for ids in inputs for i in ids]], dtype=torch.long),
        attention_mask=(causal_TT & (segment_T[:, None] == segment_T[None, :]))[None, None],
        position_ids_BT=torch.cat([torch.arange(len(ids)) for ids in inputs])[None],
        row_N=torch.zeros(sum(counts), dtype=torch.long),
        column_N=torch.cat(
            [torch.arange(end - count, end) for end, count in zip(ends, counts, strict=True)]
        ),
        target_N=_targets(pairs),
        owner_N=torch.repeat_interleave(torch.arange(len(pairs)), torch.tensor(counts)),
    )


def shared_batch(
    prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]], pad_id: int
) -> Batch:
    """One row per prompt, all its answers behind it; `owner_N` counts the answers row by row.

    Prompts are padded on the left so that they end in one column: the head then runs at few columns
    for all rows together. An answer's positions follow the prompt's, as if it stood there alone.
    """
    pairs = [(p, a) for p, own in zip(prompts, answers, strict=True) for a in own]
    for pair in pairs:
        _checked(pair)
    front = max(map(len, prompts))
    width = front + max(sum(len(a) - 1 for a in own) for own in answers)
    input_ids_BT = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    position_ids_BT = torch.zeros((len(prompts), width), dtype=torch.long)
    segment_BT = torch.zeros((len(prompts), width), dtype=torch.long)  # 0 padding, 1 prompt
    rows: list[int] = []
    columns: list[int] = []
    for row, (prompt, own) in enumerate(zip(prompts, answers, strict=True)):
        start = front - len(prompt)
        input_ids_BT[row, start:front] = torch.tensor(prompt, dtype=torch.long)
        position_ids_BT[row, start:front] = torch.arange(len(prompt))
        segment_BT[row, start:front] = 1
        at = front
        for number, answer in enumerate(own):
            end = at + len(answer) - 1
            input_ids_BT[row, at:end] = torch.tensor(answer[:-1], dtype=torch.long)
            position_ids_BT[row, at:end] = len(prompt) + torch.arange(len(answer) - 1)
            segment_BT[row, at:end] = 2 + number
            rows += [row] * len(answer)
            columns += [front - 1, *range(at, end)]  # the prompt's end predicts the first token
            at = end
    query_BT1, key_B1T = segment_BT[:, :, None], segment_BT[:, None, :]
    may_BTT = (key_B1T == query_BT1) | ((key_B1T == 1) & (query_BT1 > 1))
    causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
    return Batch(
        input_ids_BT=input_ids_BT,
        attention_mask=(may_BTT & causal_TT)[:, None],
        position_ids_BT=position_ids_BT,
        row_N=torch.tensor(rows),
        column_N=torch.tensor(columns),
        target_N=_targets(pairs),
        owner_N=torch.repeat_interleave(
            torch.arange(len(pairs)), torch.tensor([len(answer) for _, answer in pairs])
        ),
    )


def length_buckets(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches of similar length: rows * longest <= batch_tokens, at least one row;
    longest first.

    >>> length_buckets([3, 9, 4], 9)
    [[1], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        # The first row of a batch is its longest.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def on_device(batch_tokens: int, device: torch.device) -> int:
    """The token budget of one forward pass: on a CPU at most 2048, since the activations of larger
    batches leave the cache (MiniLM encoder 1.6 times, 22M LM in training 1.4 times as fast as with
    16384; 2 cores).
    """
    return min(batch_tokens, 2048) if device.type == "cpu" else batch_tokens


def answer_logits(
    model: Any, batch: Batch, *, logits_to_keep: bool, cache: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward pass: (logits_NV, target_N, owner_N), row n predicts answer token n of its pair.

    model: a `CausalLM`, or any module with the call of a transformers causal LM (also wrapped by
    DDP or peft). logits_to_keep: the head runs at the needed columns only; False computes all
    logits and picks from them. cache: transformers' keys and values of the columns before, which
    grows by those of this batch.
    """
    module = getattr(model, "model", model) if hasattr(model, "answer_ids") else model
    inputs = {
        "input_ids": batch.input_ids_BT,
        "attention_mask": _model_mask(batch.attention_mask, module),
        "position_ids": batch.position_ids_BT,
        "use_cache": cache is not None,
    }
    if cache is not None:
        # transformers 5 renames the argument on its way
        known = inspect.signature(module.forward).parameters
        inputs["cache" if "cache" in known else "past_key_values"] = cache
    column_N = batch.column_N
    if logits_to_keep:
        # torch.unique sorts; a kept column serves every row of a padded batch.
        keep_C, column_N = torch.unique(batch.column_N, return_inverse=True)
        inputs["logits_to_keep"] = keep_C
    logits_BCV = module(**_accepted(module, inputs)).logits
    return logits_BCV[batch.row_N, column_N], batch.target_N, batch.owner_N


@torch.no_grad()
def supports_packing(lm: CausalLM) -> bool:
    """Whether a packed row gives each of three short pairs the loss it has alone, to 1e-4 (fp32) or
    5e-2 nats (bf16).

    False for attention kernels without arbitrary masks, models that ignore position ids, and
    sliding windows shorter than the context (the given mask would replace the window).
    """
    ids = _probe_ids(lm)
    pairs: list[Pair] = [(ids[:5], ids[5:7]), (ids[7:9], ids[9:12]), (ids[12:13], ids[13:14])]
    return _as_alone(lm, pairs, lambda: packed_batch(pairs, lm.pad_id))


@torch.no_grad()
def supports_sharing(lm: CausalLM) -> bool:
    """Whether two prompts with two answers each behind them give the losses of four rows of their
    own, to the tolerance of `supports_packing` and for the same reasons.
    """
    prompts, answers = probe_answers(lm)
    pairs: list[Pair] = [(p, a) for p, own in zip(prompts, answers, strict=True) for a in own]
    return _as_alone(lm, pairs, lambda: shared_batch(prompts, answers, lm.pad_id))


def probe_answers(lm: CausalLM) -> tuple[list[list[int]], list[list[list[int]]]]:
    """(two prompts, two answers for each) to find out what an LM can do."""
    ids = _probe_ids(lm)
    return [ids[:5], ids[5:7]], [[ids[7:9], ids[9:12]], [ids[12:13], ids[11:14]]]


def probe_tolerance(lm: CausalLM) -> float:
    """Nats by which the loss of a token may differ where the layout does."""
    return 1e-4 if lm.precision == "fp32" else 5e-2


def _probe_ids(lm: CausalLM) -> list[int]:
    usable = [i for i in range(lm.model.config.vocab_size) if i not in {lm.pad_id, lm.eos_id}]
    return [usable[(i * 37 + 11) % len(usable)] for i in range(14)]


def _as_alone(lm: CausalLM, pairs: list[Pair], make: Callable[[], Batch]) -> bool:
    """Whether a batch gives every pair's answer tokens the loss they have in a row of their own."""
    window = getattr(lm.model.config, "sliding_window", None)
    windowed = getattr(lm.model.config, "use_sliding_window", True)
    if window is not None and windowed and window < lm.context_length:
        return False
    try:
        together_N = _token_nll(lm, make())
    except (TypeError, ValueError, RuntimeError):  # how models refuse a mask or positions of ours
        return False
    alone_N = torch.cat([_token_nll(lm, padded_batch([pair], lm.pad_id)) for pair in pairs])
    return bool(torch.allclose(together_N, alone_N, atol=probe_tolerance(lm), rtol=0))


def _token_nll(lm: CausalLM, batch: Batch) -> Tensor:
    """-log p of each answer token, N, fp32 nats."""
    logits_NV, target_N, _ = answer_logits(
        lm, batch.to(lm.device), logits_to_keep=lm.logits_to_keep
    )
    return torch.nn.functional.cross_entropy(logits_NV.float(), target_N, reduction="none").cpu()


def _model_mask(mask: Tensor, module: torch.nn.Module) -> Tensor:
    """A 4-D mask becomes additive in the compute dtype, which every attention implementation with
    masks adds.
    """
    if mask.dim() == 2:
        return mask
    dtype = next(module.parameters()).dtype
    if torch.is_autocast_enabled(mask.device.type):
        dtype = torch.get_autocast_dtype(mask.device.type)
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(
        ~mask, torch.finfo(dtype).min
    )


def _accepted(module: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Drops position ids and use_cache for models whose forward has no such argument (RoPE-free,
    ALiBi, state space).
    """
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return inputs
    optional = {"position_ids", "use_cache"}
    return {k: v for k, v in inputs.items() if k in parameters or k not in optional}


def _checked(pair: Pair) -> list[int]:
    """The ids that are fed: the prompt and all but the last answer token."""
    prompt, answer = pair
    if not prompt or not answer:
        raise InputError(
            f"a pair has {len(prompt)} prompt and {len(answer)} answer tokens; expected at least "
            "one of each"
        )
    return [*prompt, *answer[:-1]]


def _targets(pairs: Sequence[Pair]) -> Tensor:
    return torch.tensor([i for _, answer in pairs for i in answer], dtype=torch.long)
