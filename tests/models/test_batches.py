"""Contract: padded and packed batches give each pair the loss it has alone, with gradients, and
nothing leaks.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import GPT2LMHeadModel

from radit_ray.core.errors import InputError
from radit_ray.models.batches import (
    answer_logits,
    length_buckets,
    packed_batch,
    padded_batch,
    supports_packing,
)
from radit_ray.models.causal_lm import CausalLM

LM_KINDS = ("llama", "llama_tied", "qwen2", "qwen3", "gpt2", "bert")
PAIRS = [
    ([5, 60, 71, 200, 33], [40, 41]),
    ([9], [17, 18, 19, 20]),
    ([77, 78, 120, 121, 122, 123, 140], [250]),
]


class IgnoresPositions(GPT2LMHeadModel):
    """A model whose absolute positions do not restart within a row."""

    def forward(self, position_ids=None, **kwargs):
        return super().forward(**kwargs)


def slow_nll(lm: CausalLM, prompt: list[int], answer: list[int]) -> list[float]:
    """-log p of each answer token, one full forward per token."""
    result = []
    for position, token in enumerate(answer):
        logits = lm.model(input_ids=torch.tensor([[*prompt, *answer[:position]]])).logits[0, -1]
        result.append(float(torch.logsumexp(logits, 0) - logits[token]))
    return result


def batch_nll(lm: CausalLM, batch, *, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    logits_NV, target_N, owner_N = answer_logits(lm, batch, logits_to_keep=keep)
    return torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none"), owner_N


@pytest.mark.parametrize("kind", LM_KINDS)
@pytest.mark.parametrize("layout", [padded_batch, packed_batch])
@pytest.mark.parametrize("keep", [True, False])
def test_each_pair_has_the_loss_it_has_alone(
    lm_folder: Callable[[str], str], kind: str, layout, keep: bool
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    with torch.no_grad():
        nll_N, owner_N = batch_nll(lm, layout(PAIRS, lm.pad_id), keep=keep)
        expected = [slow_nll(lm, *pair) for pair in PAIRS]
    assert owner_N.tolist() == [0, 0, 1, 1, 1, 1, 2]
    # 1e-4: fp32 sums in another order, at logits of order 10
    torch.testing.assert_close(
        nll_N, torch.tensor([x for pair in expected for x in pair]), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_gradients_of_packed_and_padded_agree(lm_folder: Callable[[str], str], kind: str) -> None:
    gradients = []
    for layout in (padded_batch, packed_batch):
        lm = CausalLM.load(lm_folder(kind))
        batch_nll(lm, layout(PAIRS, lm.pad_id), keep=True)[0].sum().backward()
        table = lm.model.get_input_embeddings().weight.grad
        assert torch.isfinite(table).all()
        assert table[60].abs().sum() > 0  # a prompt token of pair 0
        gradients.append(table)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-3, rtol=1e-3)


def test_another_pair_in_the_pack_changes_nothing(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("qwen3"))
    other = [([201, 202, 203], [204, 205]), PAIRS[2]]
    with torch.no_grad():
        nll_N, _ = batch_nll(lm, packed_batch([PAIRS[0], PAIRS[2]], lm.pad_id), keep=True)
        other_N, _ = batch_nll(lm, packed_batch(other, lm.pad_id), keep=True)
    assert abs(float(nll_N[0] - other_N[0])) > 1e-2
    torch.testing.assert_close(nll_N[2], other_N[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", LM_KINDS)
def test_packing_probe_says_yes(lm_folder: Callable[[str], str], kind: str) -> None:
    assert supports_packing(CausalLM.load(lm_folder(kind)))


def test_packing_probe_says_no(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("llama"))
    lm.model.config.sliding_window = 16
    assert not supports_packing(lm)
    lm = CausalLM.load(lm_folder("gpt2"))
    lm.model.__class__ = IgnoresPositions
    assert not supports_packing(lm)


def test_batch_moves_and_counts() -> None:
    batch = padded_batch(PAIRS, 0)
    assert batch.num_tokens == 3 * 7
    assert batch.input_ids_BT.tolist()[1] == [0, 0, 0, 9, 17, 18, 19]
    assert batch.position_ids_BT.tolist()[1] == [0, 0, 0, 0, 1, 2, 3]
    moved = batch.to("meta")
    assert {t.device.type for t in vars(moved).values()} == {"meta"}
    packed = packed_batch(PAIRS, 0)
    assert packed.num_tokens == 6 + 4 + 7
    assert packed.position_ids_BT.tolist()[0] == [*range(6), *range(4), *range(7)]


def test_empty_prompt_or_answer_is_refused() -> None:
    with pytest.raises(InputError, match="0 prompt and 2 answer tokens"):
        padded_batch([([], [1, 2])], 0)
    with pytest.raises(InputError, match="1 prompt and 0 answer tokens"):
        packed_batch([([1], [])], 0)


def test_length_buckets_keep_the_budget_and_every_row() -> None:
    lengths = [3, 50, 7, 7, 120, 1, 64, 64]
    batches = length_buckets(lengths, 128)
    assert sorted(row for batch in batches for row in batch) == list(range(8))
    assert all(len(batch) * max(lengths[row] for row in batch) <= 128 for batch in batches)
    assert length_buckets([500], 128) == [[0]]
    assert length_buckets([], 128) == []
