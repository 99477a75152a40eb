"""p_R and the LM-supervised target: retrieval scores and answer log-probabilities in, distributions
over k chunks out.

Everything is computed in log-space and in at least fp32, whatever dtype comes in: retrieval scores
of DRAGON+ are in the hundreds and answer log-probabilities in the tens, and either overflows or
rounds badly in bf16.

Shapes: B examples, K chunks per example (`score_BK`, `logprob_BK`, `mask_BK` True = a real chunk);
leading dimensions other than B are allowed. Units: nats. Source: RA-DIT (arXiv 2310.01352) Eq. 1, 2
and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from radit_ray.core.errors import InputError, nearest

LsrKind = Literal["mean_logprob", "sum_logprob", "prob_per_token", "prob"]

# tau belongs to the kind: a difference of 0.1 nat per token, of 1 nat per answer, of 0.01 in
# probability (the paper's).
TAU_DEFAULTS: dict[str, float] = {
    "mean_logprob": 0.1,
    "sum_logprob": 1.0,
    "prob_per_token": 0.01,
    "prob": 0.01,
}

# 1-2-5 steps over the temperatures that presets span (e5 0.01 ... dragon-plus 1) and a decade
# beyond on either side.
T_R_GRID: tuple[float, ...] = tuple(m * 10.0**e for e in (-3, -2, -1, 0, 1) for m in (1, 2, 5))


def at_least_fp32(x: Tensor) -> Tensor:
    """bf16, fp16 and integers become fp32; fp64 stays, so that gradients can be checked
    numerically.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def log_p_r(score_BK: Tensor, *, t_r: float, mask_BK: Tensor | None = None) -> Tensor:
    """log p_R(c|x), Eq. 2's weights: log-softmax over the k chunks of s(x,c) / T_R. Shape BK;
    masked entries are -inf.

    The paper's softmax has no temperature (T_R = 1), which its unnormalised DRAGON+ scores do not
    need; cosine retrievers do (docs/method.md).
    """
    check_positive("t_r", t_r)
    return _log_softmax(at_least_fp32(score_BK) / t_r, mask_BK)


def p_r(score_BK: Tensor, *, t_r: float, mask_BK: Tensor | None = None) -> Tensor:
    """p_R(c|x), Eq. 2's weights: softmax over the k chunks of s(x,c) / T_R. Shape BK, rows sum to
    one.

    >>> p_r(torch.tensor([[2.0, 1.0, 0.0]]), t_r=1.0)
    tensor([[0.6652, 0.2447, 0.0900]])
    >>> p_r(torch.tensor([[2.0, 1.0, 0.0]]), t_r=1.0, mask_BK=torch.tensor([[True, True, False]]))
    tensor([[0.7311, 0.2689, 0.0000]])
    """
    return log_p_r(score_BK, t_r=t_r, mask_BK=mask_BK).exp()


def lsr_target(
    logprob_BK: Tensor,
    num_answer_tokens_B: Tensor,
    *,
    kind: LsrKind,
    tau: float,
    mask_BK: Tensor | None = None,
) -> Tensor:
    """p_LSR(c|x,y), Eq. 4: softmax over the k chunks of a(c) / tau. Shape BK, rows sum to one.

    `logprob_BK` is the SUM of the answer's token log-probabilities under each chunk's prompt. What
    a is, is the open point: "prob" is Eq. 4 as printed (the probability of the whole answer), which
    is uniform for any but the shortest answers; "sum_logprob" with tau 1 is the posterior over
    chunks under a flat prior; "mean_logprob" and "prob_per_token" divide by the number of tokens
    first.

    >>> logprob_BK = torch.tensor([[-2.0, -4.0, -8.0]])
    >>> lsr_target(logprob_BK, torch.tensor([2]), kind="sum_logprob", tau=1.0)
    tensor([[0.8789, 0.1189, 0.0022]])
    >>> lsr_target(logprob_BK, torch.tensor([2]), kind="mean_logprob", tau=1.0)
    tensor([[0.7054, 0.2595, 0.0351]])
    """
    check_positive("tau", tau)
    if kind not in get_args(LsrKind):
        raise InputError(f"unknown LSR kind {kind!r}{nearest(kind, get_args(LsrKind))}")
    logprob_BK = at_least_fp32(logprob_BK)
    if kind in ("mean_logprob", "prob_per_token"):
        num_B = num_answer_tokens_B.to(logprob_BK)
        if bool((num_B < 1).any()):
            raise InputError(
                f"num_answer_tokens is {num_B.min().item():g} for some example; expected at least "
                "1: "
                "drop examples with an empty answer before scoring"
            )
        logprob_BK = logprob_BK / num_B.unsqueeze(-1)
    a_BK = logprob_BK.exp() if kind in ("prob_per_token", "prob") else logprob_BK
    return _log_softmax(a_BK / tau, mask_BK).exp()


def entropy(p_BK: Tensor) -> Tensor:
    """Entropy of each distribution over its k chunks, in nats. Shape B; log(k) for a uniform one.

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000])
    """
    entropy_B: Tensor = torch.special.entr(at_least_fp32(p_BK)).sum(-1)
    return entropy_B


def mixture_nll(
    score_BK: Tensor, logprob_BK: Tensor, *, t_r: float, mask_BK: Tensor | None = None
) -> Tensor:
    """-log sum_k p_R(k|x) p_LM(y|k,x): the negative log of Eq. 2 for the gold answer, in nats.
    Shape B.

    In log-space from the scores on: a probability of 1e-50 for the one chunk that holds the answer
    still counts.

    >>> mixture_nll(torch.tensor([[0.0, 0.0]]), torch.log(torch.tensor([[0.5, 0.1]])), t_r=1.0)
    tensor([1.2040])
    """
    logprob_BK = at_least_fp32(logprob_BK)
    if mask_BK is not None:  # a padded column may hold anything, NaN too
        logprob_BK = logprob_BK.masked_fill(~mask_BK, 0.0)
    return -torch.logsumexp(log_p_r(score_BK, t_r=t_r, mask_BK=mask_BK) + logprob_BK, dim=-1)


def fit_t_r(
    score_BK: Tensor,
    logprob_BK: Tensor,
    *,
    grid: Sequence[float] = T_R_GRID,
    mask_BK: Tensor | None = None,
) -> float:
    """The T_R of `grid` with the least mean answer NLL (`mixture_nll`) on dev; the first one where
    several tie.

    Fitted once, on the base retriever, and used for every variant: otherwise R-ft could win by
    sharpening alone.
    """
    if not grid or score_BK.numel() == 0:
        raise InputError(
            f"cannot fit t_r on {score_BK.numel()} scores and {len(grid)} temperatures; expected "
            "at least one of each: "
            "give dev examples, or set t_r"
        )
    losses = [mixture_nll(score_BK, logprob_BK, t_r=t_r, mask_BK=mask_BK).mean() for t_r in grid]
    return float(grid[int(torch.stack(losses).argmin())])


def check_positive(name: str, value: float) -> None:
    """A temperature must be a finite number above zero."""
    if not 0 < value < float("inf"):
        raise InputError(
            f"{name} is {value}; expected a finite number above 0: set {name} to, say, 1.0"
        )


def _log_softmax(x_BK: Tensor, mask_BK: Tensor | None) -> Tensor:
    if mask_BK is None:
        return torch.log_softmax(x_BK, dim=-1)
    if not bool(mask_BK.any(-1).all()):
        raise InputError(
            "an example has no chunk left under its mask; expected at least one: drop such examples"
        )
    return torch.log_softmax(x_BK.masked_fill(~mask_BK, -torch.inf), dim=-1)
