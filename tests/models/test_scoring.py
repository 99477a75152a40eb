"""Contract: answers of one prompt, scored in one row, have the log-probs they have alone; the
prompt is computed once; the mixture of several prompts is the weighted mean of probabilities.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from radit_ray.core.errors import InputError
from radit_ray.models.batches import answer_logits, padded_batch, shared_batch, supports_sharing
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.scoring import mixture_logprobs

LM_KINDS = ("llama", "qwen3", "gpt2", "bert")
PROMPTS = [[5, 60, 71, 200, 33, 9], [77, 78, 120], [11]]
ANSWERS = [[[40, 41], [40], [17, 18, 19, 20]], [[250], [251, 252]], [[99, 98, 97]]]
PAIRS = [(p, a) for p, own in zip(PROMPTS, ANSWERS, strict=True) for a in own]


def slow_logprob(lm: CausalLM, prompt: list[int], answer: list[int]) -> float:
    """The sum over the answer's tokens, one full forward per token."""
    total = 0.0
    for position, token in enumerate(answer):
        with torch.no_grad():
            ids = torch.tensor([[*prompt, *answer[:position]]])
            logits_V = lm.model(input_ids=ids).logits[0, -1].double()
        total += float(logits_V[token] - torch.logsumexp(logits_V, 0))
    return total


class IgnoresPositions(GPT2LMHeadModel):
    """A model whose absolute positions do not restart within a row."""

    def forward(self, position_ids=None, **kwargs):
        return super().forward(**kwargs)


@pytest.mark.parametrize("kind", LM_KINDS)
@pytest.mark.parametrize("keep", [True, False])
def test_shared_rows_equal_rows_of_their_own(
    lm_folder: Callable[[str], str], kind: str, keep: bool
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    losses = {}
    for name, batch in (
        ("shared", shared_batch(PROMPTS, ANSWERS, lm.pad_id)),
        ("alone", padded_batch(PAIRS, lm.pad_id)),
    ):
        with torch.no_grad():
            logits_NV, target_N, owner_N = answer_logits(lm, batch, logits_to_keep=keep)
        losses[name] = torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
        assert owner_N.tolist() == [0, 0, 1, 2, 2, 2, 2, 3, 4, 4, 5, 5, 5]
    torch.testing.assert_close(losses["shared"], losses["alone"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", LM_KINDS)
def test_answer_logprobs_in_any_order_equal_the_slow_loop(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    assert lm.shares_prompts
    order = [3, 0, 5, 2, 4, 1]
    found = lm.answer_logprobs([PAIRS[i][0] for i in order], [PAIRS[i][1] for i in order])
    np.testing.assert_allclose(found, [slow_logprob(lm, *PAIRS[i]) for i in order], atol=1e-4)


def test_a_prompt_is_computed_once_and_rows_stay_within_the_context(
    lm_folder: Callable[[str], str],
) -> None:
    lm = CausalLM.load(lm_folder("llama"))
    prompt = [7] * (lm.context_length // 2)
    answers = [[20 + n] * 10 for n in range(4)]
    lm.answer_logprobs([prompt] * 4, answers)
    assert lm.last_num_tokens == len(prompt) + 4 * 9
    many = [[30 + n] * (lm.context_length // 4) for n in range(5)]  # two fit behind the prompt
    found = lm.answer_logprobs([prompt] * 5, many)
    alone = [lm.answer_logprobs([prompt], [answer])[0] for answer in many]
    np.testing.assert_allclose(found, alone, rtol=1e-4)


def test_a_model_that_ignores_positions_is_scored_row_by_row(
    lm_folder: Callable[[str], str],
) -> None:
    lm = CausalLM.load(lm_folder("gpt2"))
    lm.model.__class__ = IgnoresPositions
    assert not supports_sharing(lm)
    prompt, answers = [5, 60, 71], [[40, 41], [42, 43]]  # of one length: no padding either
    found = lm.answer_logprobs([prompt, prompt], answers)
    np.testing.assert_allclose(found, [slow_logprob(lm, prompt, a) for a in answers], atol=1e-4)


def test_an_answer_beyond_the_context_is_refused(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("llama"))
    with pytest.raises(InputError, match="context is"):
        lm.answer_logprobs([[5] * lm.context_length], [[6]])


@pytest.mark.parametrize("kind", LM_KINDS)
def test_the_mixture_of_prompts_equals_the_slow_loop(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    prompts = [PROMPTS, [[8, 9, 10], [60, 61]], [[33, 44]]]
    p_r = [np.array(weights, dtype=np.float32) for weights in ([0.2, 0.5, 0.3], [0.9, 0.1], [1.0])]
    written = [
        lm.generate(
            own,
            max_new_tokens=3,
            stop_newline=False,
            group_size=len(own),
            log_p_r=torch.from_numpy(weight_K).log()[None],
        )[0]
        for own, weight_K in zip(prompts, p_r, strict=True)
    ]
    answers = [[[40, 41], written[0], [17]], [written[1]], [[*written[2][:-1], 99], written[2]]]
    expected = [
        [
            np.log(sum(w * np.exp(slow_logprob(lm, p, a)) for p, w in zip(own, p_r_K, strict=True)))
            for a in behind
        ]
        for own, behind, p_r_K in zip(prompts, answers, p_r, strict=True)
    ]
    greedy = [
        [a == ids[: len(a)] for a in behind] for ids, behind in zip(written, answers, strict=True)
    ]
    assert {*greedy[0], *greedy[2]} == {True, False}
    for batch_tokens in (8192, 1):
        found = mixture_logprobs(lm, prompts, answers, p_r, batch_tokens=batch_tokens)
        for (logprob_U, _), slow_U in zip(found, expected, strict=True):
            np.testing.assert_allclose(logprob_U, slow_U, atol=1e-4)
        assert [greedy_U.tolist() for _, greedy_U in found] == greedy


def test_a_mixture_computes_a_prompt_once_where_the_context_has_room(
    lm_folder: Callable[[str], str],
) -> None:
    lm = CausalLM.load(lm_folder("llama"))
    prompts = [[[7] * 40, [8] * 40]]
    weights = [np.array([0.5, 0.5], dtype=np.float32)]
    mixture_logprobs(lm, prompts, [[[20 + n] * 10 for n in range(4)]], weights)
    assert lm.last_num_tokens == 2 * (40 + 4 * 9)
    longer = [[20 + n] * (lm.context_length // 4) for n in range(4)]  # do not fit side by side
    found = mixture_logprobs(lm, prompts, [longer], weights)[0][0]
    alone = [mixture_logprobs(lm, prompts, [[a]], weights)[0][0][0] for a in longer]
    np.testing.assert_allclose(found, alone, rtol=1e-4)
    with pytest.raises(InputError, match="context is"):
        mixture_logprobs(lm, prompts, [[[9] * lm.context_length]], weights)
