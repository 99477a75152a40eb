"""The two training losses: logits or retrieval scores in, one scalar with a gradient out. RA-DIT
Eq. 3 and 5.

Shapes: N answer tokens (of any number of examples), V vocabulary, B examples, K chunks per example.
Units: nats. Everything is computed in at least fp32, whatever dtype comes in.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from radit_ray.core.errors import InputError, nearest
from radit_ray.core.retrieval import at_least_fp32, log_p_r

Direction = Literal["lsr_to_r", "r_to_lsr"]


def answer_nll(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """Eq. 3: the SUM over answer tokens of -log p_LM(y_t | chunk, question, y_<t), in nats. A
    scalar.

    The caller picks the positions (answer and EOS; never background, instruction or padding) and
    divides by what it wants the mean of, so that a sum over micro-batches and workers is exact.

    >>> answer_nll(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0]))
    tensor(0.8201)
    """
    return functional.cross_entropy(at_least_fp32(logits_NV), targets_N, reduction="sum")


def r_ft_loss(
    score_BK: Tensor,
    p_lsr_BK: Tensor,
    *,
    t_r: float,
    direction: Direction = "r_to_lsr",
    mask_BK: Tensor | None = None,
) -> Tensor:
    """Eq. 5: the KL divergence between p_R and the frozen target p_LSR over k chunks, mean over B,
    in nats. A scalar.

    "r_to_lsr" is KL(p_R || p_LSR), as the paper prints it; "lsr_to_r" is KL(p_LSR || p_R), what
    REPLUG's and Atlas' code compute. The gradient flows through `score_BK` only.

    For "lsr_to_r" it is (p_R - p_LSR) / (T_R B) per score:

    >>> score_BK = torch.zeros(1, 2, requires_grad=True)
    >>> p_lsr_BK = torch.tensor([[0.9, 0.1]])
    >>> loss = r_ft_loss(score_BK, p_lsr_BK, t_r=1.0, direction="lsr_to_r")
    >>> loss.backward()
    >>> round(loss.item(), 4), score_BK.grad
    (0.3681, tensor([[-0.4000,  0.4000]]))
    >>> round(r_ft_loss(score_BK, p_lsr_BK, t_r=1.0).item(), 4)
    0.5108
    """
    if direction not in get_args(Direction):
        raise InputError(
            f"unknown KL direction {direction!r}{nearest(direction, get_args(Direction))}"
        )
    log_r_BK = log_p_r(score_BK, t_r=t_r, mask_BK=mask_BK)
    p_lsr_BK = p_lsr_BK.detach().to(log_r_BK.dtype)
    if mask_BK is not None:  # 0 * -inf would be NaN, in the loss or in its gradient
        log_r_BK = log_r_BK.masked_fill(~mask_BK, 0.0)
        p_lsr_BK = p_lsr_BK.masked_fill(~mask_BK, 0.0)
    if direction == "lsr_to_r":
        kl_BK: Tensor = torch.special.xlogy(p_lsr_BK, p_lsr_BK) - p_lsr_BK * log_r_BK
    else:
        # A target that underflowed to 0 would make the KL infinite: its log stops at fp32's
        # smallest normal number, -87.3.
        log_lsr_BK = p_lsr_BK.clamp_min(torch.finfo(torch.float32).tiny).log()
        p_r_BK = log_r_BK.exp() if mask_BK is None else log_r_BK.exp() * mask_BK
        kl_BK = p_r_BK * (log_r_BK - log_lsr_BK)
    return kl_BK.sum(-1).mean()
