"""Eq. 3 and Eq. 5: value against a slow loop, gradient by formula and by finite differences.

Tolerances: 1e-5 relative in fp32 (sums of tens of terms), 1e-4 against finite differences in fp64.
"""

from __future__ import annotations

import math

import pytest
import torch

from radit_ray.core.errors import InputError
from radit_ray.core.losses import answer_nll, r_ft_loss
from radit_ray.core.retrieval import p_r


def test_answer_nll_is_the_sum_of_negative_log_probabilities() -> None:
    torch.manual_seed(0)
    logits_NV = 5 * torch.randn(7, 11)
    targets_N = torch.randint(11, (7,))
    slow = 0.0
    for row, target in zip(logits_NV.tolist(), targets_N.tolist(), strict=True):
        slow -= math.log(math.exp(row[target]) / sum(math.exp(x) for x in row))
    assert answer_nll(logits_NV, targets_N).item() == pytest.approx(slow, rel=1e-5)


def test_answer_nll_adds_up_over_micro_batches() -> None:
    torch.manual_seed(0)
    logits_NV, targets_N = torch.randn(9, 5), torch.randint(5, (9,))
    parts = answer_nll(logits_NV[:4], targets_N[:4]) + answer_nll(logits_NV[4:], targets_N[4:])
    torch.testing.assert_close(parts, answer_nll(logits_NV, targets_N), rtol=1e-6, atol=1e-6)


def test_answer_nll_of_bf16_logits_is_computed_in_fp32() -> None:
    torch.manual_seed(0)
    logits_NV = (20 * torch.randn(50, 100)).to(torch.bfloat16)
    targets_N = torch.randint(100, (50,))
    loss = answer_nll(logits_NV, targets_N)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, answer_nll(logits_NV.float(), targets_N), rtol=0, atol=0)


def test_answer_nll_gradient() -> None:
    torch.manual_seed(0)
    logits_NV = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets_N = torch.tensor([1, 0, 3])
    assert torch.autograd.gradcheck(lambda x: answer_nll(x, targets_N), (logits_NV,))


def _slow_kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def _case() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return 3 * torch.randn(4, 5), torch.softmax(2 * torch.randn(4, 5), dim=-1)


@pytest.mark.parametrize("t_r", [0.05, 1.0])
def test_r_ft_loss_is_the_mean_kl_in_each_direction(t_r: float) -> None:
    score_BK, p_lsr_BK = _case()
    p_r_BK = p_r(score_BK.double(), t_r=t_r)
    pairs = list(zip(p_lsr_BK.tolist(), p_r_BK.tolist(), strict=True))
    forward = sum(_slow_kl(lsr, r) for lsr, r in pairs) / 4
    backward = sum(_slow_kl(r, lsr) for lsr, r in pairs) / 4
    assert abs(forward - backward) > 0.1  # or the test could not tell them apart
    loss = r_ft_loss(score_BK, p_lsr_BK, t_r=t_r, direction="lsr_to_r")
    assert loss.item() == pytest.approx(forward, rel=1e-5)
    loss = r_ft_loss(score_BK, p_lsr_BK, t_r=t_r)  # as printed, the default
    assert loss.item() == pytest.approx(backward, rel=1e-5)


def test_r_ft_gradient_is_p_r_minus_p_lsr_over_t_r() -> None:
    score_BK, p_lsr_BK = _case()
    score_BK.requires_grad_()
    r_ft_loss(score_BK, p_lsr_BK, t_r=0.5, direction="lsr_to_r").backward()
    expected_BK = (p_r(score_BK.detach(), t_r=0.5) - p_lsr_BK) / 0.5 / 4
    torch.testing.assert_close(score_BK.grad, expected_BK, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["lsr_to_r", "r_to_lsr"])
def test_r_ft_gradient_agrees_with_finite_differences(direction: str) -> None:
    score_BK, p_lsr_BK = (x.double() for x in _case())
    score_BK.requires_grad_()
    mask_BK = torch.ones(4, 5, dtype=torch.bool)
    mask_BK[0, 3:] = False

    def loss(x: torch.Tensor) -> torch.Tensor:
        return r_ft_loss(x, p_lsr_BK, t_r=0.7, direction=direction, mask_BK=mask_BK)  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (score_BK,), atol=1e-4)


def test_the_target_gets_no_gradient() -> None:
    score_BK, p_lsr_BK = _case()
    score_BK.requires_grad_()
    p_lsr_BK.requires_grad_()
    r_ft_loss(score_BK, p_lsr_BK, t_r=1.0).backward()
    assert p_lsr_BK.grad is None
    assert score_BK.grad is not None
    assert score_BK.grad.abs().sum() > 0


@pytest.mark.parametrize("direction", ["lsr_to_r", "r_to_lsr"])
def test_masked_chunks_do_not_exist(direction: str) -> None:
    score_BK, p_lsr_BK = _case()
    p_lsr_BK = torch.softmax(p_lsr_BK[:, :3], dim=-1)
    want = r_ft_loss(score_BK[:, :3], p_lsr_BK, t_r=1.0, direction=direction)  # type: ignore[arg-type]
    padded_BK = torch.cat([p_lsr_BK, torch.zeros(4, 2)], dim=-1)
    score_BK = score_BK.clone().requires_grad_()
    mask_BK = torch.tensor([True, True, True, False, False]).expand(4, 5)
    got = r_ft_loss(score_BK, padded_BK, t_r=1.0, direction=direction, mask_BK=mask_BK)  # type: ignore[arg-type]
    torch.testing.assert_close(got, want)
    got.backward()
    assert score_BK.grad is not None
    assert torch.isfinite(score_BK.grad).all()
    assert score_BK.grad[:, 3:].abs().max() == 0


def test_one_hot_targets_and_far_scores_stay_finite() -> None:
    score_BK = torch.tensor([[300.0, 0.0]], requires_grad=True)
    for direction in ("lsr_to_r", "r_to_lsr"):
        loss = r_ft_loss(score_BK, torch.tensor([[0.0, 1.0]]), t_r=1.0, direction=direction)  # type: ignore[arg-type]
        assert torch.isfinite(loss)
        (grad_BK,) = torch.autograd.grad(loss, score_BK)
        assert torch.isfinite(grad_BK).all()


def test_bf16_scores_get_a_bf16_gradient_of_an_fp32_loss() -> None:
    score_BK, p_lsr_BK = _case()
    score_BK = score_BK.to(torch.bfloat16).requires_grad_()
    loss = r_ft_loss(score_BK, p_lsr_BK, t_r=1.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert score_BK.grad is not None
    assert score_BK.grad.dtype == torch.bfloat16


def test_an_unknown_direction_is_named() -> None:
    score_BK, p_lsr_BK = _case()
    with pytest.raises(InputError, match=r"'r_to_lrs'; did you mean 'r_to_lsr'\?"):
        r_ft_loss(score_BK, p_lsr_BK, t_r=1.0, direction="r_to_lrs")  # type: ignore[arg-type]
