"""Eq. 2's weights and Eq. 4's target: values against math.exp in a loop, masks, dtypes, and what
each kind of a means.

Tolerance: 1e-5 relative, which fp32 log-softmax over a handful of chunks keeps with room.
"""

from __future__ import annotations

import math

import pytest
import torch

from radit_ray.core.errors import InputError
from radit_ray.core.retrieval import (
    T_R_GRID,
    TAU_DEFAULTS,
    entropy,
    fit_t_r,
    log_p_r,
    lsr_target,
    mixture_nll,
    p_r,
)


def _slow_softmax(values: list[float]) -> list[float]:
    exps = [math.exp(x - max(values)) for x in values]
    return [x / sum(exps) for x in exps]


@pytest.mark.parametrize("t_r", [0.01, 0.05, 1.0, 7.0])
def test_p_r_is_the_softmax_of_scores_over_t_r(t_r: float) -> None:
    torch.manual_seed(0)
    score_BK = torch.randn(3, 6)
    slow_BK = [_slow_softmax([s / t_r for s in row]) for row in score_BK.tolist()]
    got_BK = p_r(score_BK, t_r=t_r)
    torch.testing.assert_close(got_BK, torch.tensor(slow_BK), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(got_BK.sum(-1), torch.ones(3))
    torch.testing.assert_close(log_p_r(score_BK, t_r=t_r).exp(), got_BK)


def test_p_r_of_scores_in_the_hundreds_neither_overflows_nor_rounds() -> None:
    score_BK = torch.tensor([[401.0, 400.0, 399.0]])  # DRAGON+ scores look like this
    torch.testing.assert_close(
        p_r(score_BK, t_r=1.0), torch.tensor([[0.6652, 0.2447, 0.0900]]), rtol=0, atol=1e-4
    )


def test_low_precision_scores_are_softmaxed_in_fp32() -> None:
    score_BK = torch.tensor([[1.0, 2.0, 3.5]])
    for dtype in (torch.bfloat16, torch.float16, torch.int64):
        got_BK = p_r(score_BK.to(dtype), t_r=0.3)
        assert got_BK.dtype == torch.float32
        torch.testing.assert_close(got_BK, p_r(score_BK.to(dtype).float(), t_r=0.3), rtol=0, atol=0)


def test_masked_chunks_have_probability_zero_and_no_influence() -> None:
    score_BK = torch.tensor([[1.0, 2.0, 99.0], [0.0, 5.0, 1.0]])
    mask_BK = torch.tensor([[True, True, False], [True, True, True]])
    got_BK = p_r(score_BK, t_r=1.0, mask_BK=mask_BK)
    assert got_BK[0, 2] == 0
    torch.testing.assert_close(got_BK[0, :2], p_r(score_BK[0, :2], t_r=1.0))
    torch.testing.assert_close(got_BK[1], p_r(score_BK[1], t_r=1.0))


def test_an_example_without_chunks_is_an_error() -> None:
    with pytest.raises(InputError, match="no chunk left"):
        p_r(torch.zeros(2, 2), t_r=1.0, mask_BK=torch.tensor([[True, True], [False, False]]))


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_must_be_positive_numbers(bad: float) -> None:
    with pytest.raises(InputError, match="t_r is"):
        p_r(torch.zeros(1, 2), t_r=bad)
    with pytest.raises(InputError, match="tau is"):
        lsr_target(torch.zeros(1, 2), torch.ones(1), kind="prob", tau=bad)


@pytest.mark.parametrize("kind", list(TAU_DEFAULTS))
def test_lsr_target_is_the_softmax_of_a_over_tau(kind: str) -> None:
    logprob_BK = torch.tensor([[-3.0, -4.5, -3.2, -9.0], [-1.0, -0.2, -0.9, -2.0]])
    num_answer_tokens_B = torch.tensor([6, 1])
    tau = TAU_DEFAULTS[kind]
    slow_BK = []
    for row, num in zip(logprob_BK.tolist(), [6, 1], strict=True):
        a = {
            "mean_logprob": [x / num for x in row],
            "sum_logprob": row,
            "prob_per_token": [math.exp(x / num) for x in row],
            "prob": [math.exp(x) for x in row],
        }[kind]
        slow_BK.append(_slow_softmax([x / tau for x in a]))
    got_BK = lsr_target(logprob_BK, num_answer_tokens_B, kind=kind, tau=tau)  # type: ignore[arg-type]
    torch.testing.assert_close(got_BK, torch.tensor(slow_BK), rtol=1e-4, atol=1e-6)
    assert got_BK.argmax(-1).tolist() == [0, 1]  # every kind ranks chunks by log-probability


def test_sum_logprob_with_tau_1_is_the_posterior_under_a_flat_prior() -> None:
    p_y_given_c = torch.tensor([[0.5, 0.2, 0.1]])
    got_BK = lsr_target(p_y_given_c.log(), torch.tensor([3]), kind="sum_logprob", tau=1.0)
    torch.testing.assert_close(got_BK, p_y_given_c / p_y_given_c.sum())


def test_eq_4_as_printed_is_uniform_for_a_50_token_answer() -> None:
    """At 2 nats a token p_LM is e^-100: a is 0 for every chunk, however much better one is."""
    logprob_BK = torch.tensor([[-60.0, -100.0, -140.0, -100.0]])
    num_answer_tokens_B = torch.tensor([50])
    uniform_BK = torch.full((1, 4), 0.25)
    printed_BK = lsr_target(logprob_BK, num_answer_tokens_B, kind="prob", tau=0.01)
    torch.testing.assert_close(printed_BK, uniform_BK, rtol=0, atol=1e-6)
    ours_BK = lsr_target(logprob_BK, num_answer_tokens_B, kind="mean_logprob", tau=0.1)
    assert ours_BK[0, 0] > 0.99


def test_lsr_target_in_bf16_and_with_a_mask() -> None:
    logprob_BK = torch.tensor([[-8.0, -16.0, -1.0]], dtype=torch.bfloat16)
    mask_BK = torch.tensor([[True, True, False]])
    got_BK = lsr_target(
        logprob_BK, torch.tensor([8]), kind="mean_logprob", tau=0.5, mask_BK=mask_BK
    )
    want_BK = torch.tensor([[*_slow_softmax([-2.0, -4.0]), 0.0]])
    assert got_BK.dtype == torch.float32
    torch.testing.assert_close(got_BK, want_BK)


def test_lsr_target_rejects_unknown_kinds_and_empty_answers() -> None:
    with pytest.raises(InputError, match="did you mean 'mean_logprob'"):
        lsr_target(torch.zeros(1, 2), torch.ones(1), kind="mean_logprobs", tau=1.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="num_answer_tokens is 0"):
        lsr_target(torch.zeros(1, 2), torch.zeros(1), kind="mean_logprob", tau=1.0)


def test_entropy_in_nats() -> None:
    p_BK = torch.tensor([[0.25] * 4, [1.0, 0.0, 0.0, 0.0], [0.7, 0.2, 0.1, 0.0]])
    slow = -sum(p * math.log(p) for p in (0.7, 0.2, 0.1))
    torch.testing.assert_close(entropy(p_BK), torch.tensor([math.log(4), 0.0, slow]))


def _dev_set(true_t_r: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One chunk of four holds the answer, drawn from p_R at `true_t_r`; it alone gives the answer a
    probability.
    """
    generator = torch.Generator().manual_seed(0)
    score_BK = torch.randn(4000, 4, generator=generator)
    gold_B = torch.multinomial(torch.softmax(score_BK / true_t_r, -1), 1, generator=generator)
    return score_BK, torch.full((4000, 4), math.log(1e-3)).scatter(1, gold_B, math.log(0.5))


@pytest.mark.parametrize("true_t_r", [0.1, 0.5, 2.0])
def test_fit_t_r_finds_the_temperature_that_made_the_data(true_t_r: float) -> None:
    score_BK, logprob_BK = _dev_set(true_t_r)
    assert fit_t_r(score_BK, logprob_BK, grid=T_R_GRID) == pytest.approx(true_t_r)


def test_fit_t_r_is_the_argmin_of_the_slow_mixture() -> None:
    torch.manual_seed(3)
    score_BK, logprob_BK = torch.randn(20, 3), -5 * torch.rand(20, 3)
    grid = (0.05, 0.3, 1.0, 10.0)

    def slow(t_r: float) -> float:
        total = 0.0
        for scores, logprobs in zip(score_BK.tolist(), logprob_BK.tolist(), strict=True):
            weights = _slow_softmax([s / t_r for s in scores])
            total -= math.log(sum(w * math.exp(x) for w, x in zip(weights, logprobs, strict=True)))
        return total / 20

    for t_r in grid:
        assert mixture_nll(score_BK, logprob_BK, t_r=t_r).mean().item() == pytest.approx(
            slow(t_r), rel=1e-5
        )
    assert fit_t_r(score_BK, logprob_BK, grid=grid) == min(grid, key=slow)


def test_mixture_nll_keeps_a_chunk_whose_p_r_underflows() -> None:
    """p_R of the second chunk is e^-200, zero in fp32, and still the likelier way to the answer."""
    got_B = mixture_nll(torch.tensor([[200.0, 0.0]]), torch.tensor([[-500.0, -5.0]]), t_r=1.0)
    torch.testing.assert_close(got_B, torch.tensor([205.0]))


def test_mixture_nll_ignores_masked_columns_whatever_they_hold() -> None:
    score_BK, logprob_BK = torch.tensor([[1.0, 0.0, 3.0]]), torch.tensor([[-1.0, -2.0, math.nan]])
    mask_BK = torch.tensor([[True, True, False]])
    want_B = mixture_nll(score_BK[:, :2], logprob_BK[:, :2], t_r=1.0)
    torch.testing.assert_close(mixture_nll(score_BK, logprob_BK, t_r=1.0, mask_BK=mask_BK), want_B)


def test_fit_t_r_needs_data() -> None:
    with pytest.raises(InputError, match="give dev examples"):
        fit_t_r(torch.zeros(0, 3), torch.zeros(0, 3))
