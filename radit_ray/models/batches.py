"""Tensors for scoring and LM-ft: (prompt ids, answer ids) pairs -> one batch -> logits at the
answer positions only.

Two layouts give the same numbers. `padded_batch`: one row per pair, padded on the left so that the
answers end together. `packed_batch`: all pairs in ONE row without padding, with positions that
restart and a block-diagonal causal mask, so that no pair sees another. The last answer token is
never fed: nothing is predicted from it.

Suffixes: B rows, T positions, N answer tokens over all pairs, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
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
    attention_mask: Tensor  # (B, T) of 0/1, or (1, 1, T, T) bool of "may attend" for a packed row
    position_ids_BT: Tensor
    row_N: Tensor  # row and column whose logits predict answer token n
    column_N: Tensor
    target_N: Tensor  # the answer token's id
    owner_N: Tensor  # which pair, in the order given, the token belongs to

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)}
        return Batch(**moved)

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
    model: Any, batch: Batch, *, logits_to_keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward pass: (logits_NV, target_N, owner_N), row n predicts answer token n of its pair.

    model: a `CausalLM`, or any module with the call of a transformers causal LM (also wrapped by
    DDP or peft). logits_to_keep: the head runs at the needed columns only; False computes all
    logits and picks from them.
    """
    module = getattr(model, "model", model) if hasattr(model, "answer_ids") else model
    inputs = {
        "input_ids": batch.input_ids_BT,
        "attention_mask": _model_mask(batch.attention_mask, module),
        "position_ids": batch.position_ids_BT,
        "use_cache": False,
    }
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
    window = getattr(lm.model.config, "sliding_window", None)
    windowed = getattr(lm.model.config, "use_sliding_window", True)
    if window is not None and windowed and window < lm.context_length:
        return False
    usable = [i for i in range(lm.model.config.vocab_size) if i not in {lm.pad_id, lm.eos_id}]
    picked = [usable[(i * 37 + 11) % len(usable)] for i in range(14)]
    pairs = [(picked[:5], picked[5:7]), (picked[7:9], picked[9:12]), (picked[12:13], picked[13:14])]
    tolerance = 1e-4 if lm.precision == "fp32" else 5e-2
    try:
        packed_N = _token_nll(lm, packed_batch(pairs, lm.pad_id))
    except (TypeError, ValueError, RuntimeError, NotImplementedError):
        return False
    alone_N = torch.cat([_token_nll(lm, padded_batch([pair], lm.pad_id)) for pair in pairs])
    return bool(torch.allclose(packed_N, alone_N, atol=tolerance, rtol=0))


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
