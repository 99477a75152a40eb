"""Eq. 2 over answers, REPLUG's mixture of next tokens, and the four scorings: each against plain
probabilities.

Tolerance: 1e-5 relative in fp32; probabilities here are above 1e-4, so plain fp64 products are a
fair reference.
"""

from __future__ import annotations

import pytest
import torch

from radit_ray.core.ensembles import answers, choice_scores, choices, tokens
from radit_ray.core.errors import InputError


def _probabilities(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(*shape, generator=generator), dim=-1)


def test_answers_is_the_weighted_sum_of_probabilities() -> None:
    p_UK, p_r_K = _probabilities(5, 3).double(), _probabilities(3, seed=1).double()
    for u, got in enumerate(answers(p_UK.log().float(), p_r_K.float()).exp().tolist()):
        assert got == pytest.approx(sum(float(p_r_K[k] * p_UK[u, k]) for k in range(3)), rel=1e-5)


def test_answers_in_a_batch_equal_answers_one_by_one() -> None:
    logprob_BUK, p_r_BK = _probabilities(4, 5, 3).log(), _probabilities(4, 3, seed=1)
    one_by_one = [answers(logprob_BUK[b], p_r_BK[b]) for b in range(4)]
    torch.testing.assert_close(answers(logprob_BUK, p_r_BK), torch.stack(one_by_one))


def test_an_answer_of_several_chunks_beats_the_best_of_one() -> None:
    """What re-scoring under all prompts is for: B is second everywhere and wins."""
    logprob_UK = torch.tensor([[0.60, 0.01, 0.01], [0.40, 0.35, 0.35]]).log()
    assert answers(logprob_UK, torch.tensor([0.4, 0.3, 0.3])).argmax() == 1
    assert logprob_UK.amax(-1).argmax() == 0


def test_answers_far_below_fp32_keep_their_order() -> None:
    logprob_UK = torch.tensor([[-400.0, -410.0], [-300.0, -500.0]])
    got_U = answers(logprob_UK, torch.tensor([0.5, 0.5]))
    assert torch.isfinite(got_U).all()
    assert got_U.argmax() == 1


def test_a_chunk_of_weight_zero_does_not_count() -> None:
    logprob_UK = _probabilities(4, 3).log()
    got_U = answers(logprob_UK, torch.tensor([0.3, 0.7, 0.0]))
    torch.testing.assert_close(got_U, answers(logprob_UK[:, :2], torch.tensor([0.3, 0.7])))


def test_choices_is_eq_2_per_option() -> None:
    p_OK, p_r_K = _probabilities(4, 2), _probabilities(2, seed=1)
    torch.testing.assert_close(choices(p_OK.log(), p_r_K).exp(), p_OK @ p_r_K)


def test_tokens_mixes_probabilities() -> None:
    logits_KV, p_r_K = (
        3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),
        _probabilities(3),
    )
    slow_V = sum(p_r_K[k].double() * torch.softmax(logits_KV[k].double(), dim=-1) for k in range(3))
    got_V = tokens(logits_KV, p_r_K)
    torch.testing.assert_close(got_V.exp().double(), slow_V, rtol=1e-5, atol=1e-7)
    assert got_V.exp().sum().item() == pytest.approx(1.0, abs=1e-6)


def test_tokens_is_not_a_mixture_of_logits() -> None:
    """Both chunks find token 2 tolerable; each is nearly sure of another one. Mixing logits would
    pick token 2.
    """
    p_KV = torch.tensor([[0.90, 1e-6, 0.10], [1e-6, 0.90, 0.10]])
    p_r_K = torch.tensor([0.5, 0.5])
    assert (p_r_K @ p_KV.log()).argmax() == 2
    assert tokens(p_KV.log(), p_r_K).argmax() == 0


def test_tokens_in_a_batch_and_in_bf16() -> None:
    logits_BKV, p_r_BK = (
        torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)),
        _probabilities(2, 3),
    )
    one_by_one = torch.stack([tokens(logits_BKV[b], p_r_BK[b]) for b in range(2)])
    torch.testing.assert_close(tokens(logits_BKV, p_r_BK), one_by_one)
    half_BKV = logits_BKV.to(torch.bfloat16)
    assert tokens(half_BKV, p_r_BK).dtype == torch.float32
    torch.testing.assert_close(
        tokens(half_BKV, p_r_BK), tokens(half_BKV.float(), p_r_BK), rtol=0, atol=0
    )


def test_a_wrong_number_of_weights_is_an_error_and_not_a_broadcast() -> None:
    with pytest.raises(InputError, match="is for 3 chunks"):
        answers(torch.zeros(5, 3), torch.tensor([1.0]))
    with pytest.raises(InputError, match="for 2; expected the same k"):
        tokens(torch.zeros(3, 7), torch.tensor([0.5, 0.5]))


def test_the_four_scorings() -> None:
    """Constructed so that every scoring has another winner."""
    logprob_O = torch.tensor([-4.0, -6.0, -9.0, -5.0])
    num_tokens_O = torch.tensor([2, 6, 8, 2])
    num_chars_O = torch.tensor([5, 8, 36, 6])
    uncond_O = torch.tensor([-4.0, -6.5, -9.5, -9.0])
    expected = {
        "nll": [-4.0, -6.0, -9.0, -5.0],
        "nll_token": [-2.0, -1.0, -1.125, -2.5],
        "nll_char": [-0.8, -0.75, -0.25, -5 / 6],
        "nll_compl": [0.0, 0.5, 0.5, 4.0],
    }
    winners = []
    for scoring, want in expected.items():
        got_O = choice_scores(logprob_O, num_tokens_O, num_chars_O, uncond_O, scoring=scoring)  # type: ignore[arg-type]
        torch.testing.assert_close(got_O, torch.tensor(want))
        winners.append(int(got_O.argmax()))
    assert winners == [0, 1, 2, 3]


def test_a_scoring_names_what_it_lacks() -> None:
    with pytest.raises(InputError, match="'nll_char' got no num_chars"):
        choice_scores(torch.zeros(2), scoring="nll_char")
    with pytest.raises(InputError, match="did you mean 'nll_compl'"):
        choice_scores(torch.zeros(2), scoring="nll_comp")  # type: ignore[arg-type]
