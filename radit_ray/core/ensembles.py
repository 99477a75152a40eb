"""Parallel in-context retrieval augmentation: what the LM says under each of k prompts, weighted by
p_R into one answer.

Shapes: U unique answers, O options, K chunks, V vocabulary; a leading B (examples) is allowed on
every argument. `p_r_K` are probabilities that sum to one over the k chunks given (`retrieval.p_r`).
All results are in nats and at least fp32. Source: RA-DIT (arXiv 2310.01352) Eq. 2 and appendix B;
REPLUG for `tokens`.
"""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from radit_ray.core.errors import InputError, nearest
from radit_ray.core.metrics import Scoring
from radit_ray.core.retrieval import at_least_fp32


def answers(logprob_UK: Tensor, p_r_K: Tensor) -> Tensor:
    """Eq. 2 over whole answers: log sum_k p_R(k) p(u|k). Shape U (or BU): one log-probability per
    unique answer.

    Every unique answer is scored under every prompt, not only under those that produced it.

    >>> answers(torch.log(torch.tensor([[0.9, 0.1], [0.2, 0.8]])), torch.tensor([0.25, 0.75])).exp()
    tensor([0.3000, 0.6500])
    """
    _check_chunks("logprob", logprob_UK, p_r_K, dim=-1)
    return torch.logsumexp(
        at_least_fp32(logprob_UK) + at_least_fp32(p_r_K).log().unsqueeze(-2), dim=-1
    )


def choices(logprob_OK: Tensor, p_r_K: Tensor) -> Tensor:
    """Eq. 2 for multiple choice: the p_R-weighted log-probability of each option. Shape O (or BO).

    Any length normalisation (`choice_scores`) comes after the mixture, since p_R weights
    probabilities.
    """
    return answers(logprob_OK, p_r_K)


def tokens(logits_KV: Tensor, p_r_K: Tensor) -> Tensor:
    """REPLUG's mixture: log sum_k p_R(k) softmax(logits_k). Shape V (or BV): log-probabilities of
    the next token.

    Mixed in probability space: a weighted mean of logits is a geometric mean of probabilities and
    has another argmax.

    >>> tokens(torch.log(torch.tensor([[0.5, 0.5], [0.9, 0.1]])), torch.tensor([0.5, 0.5])).exp()
    tensor([0.7000, 0.3000])
    """
    _check_chunks("logits", logits_KV, p_r_K, dim=-2)
    log_p_KV = torch.log_softmax(at_least_fp32(logits_KV), dim=-1)
    return torch.logsumexp(log_p_KV + at_least_fp32(p_r_K).log().unsqueeze(-1), dim=-2)


def choice_scores(
    logprob_O: Tensor,
    num_tokens_O: Tensor | None = None,
    num_chars_O: Tensor | None = None,
    logprob_uncond_O: Tensor | None = None,
    *,
    scoring: Scoring,
) -> Tensor:
    """The four scorings of appendix B with the sign turned: higher is better, the argmax wins.
    Shape O (or BO).

    "nll" is the log-probability itself; "nll_token" and "nll_char" divide it by the option's tokens
    or characters; "nll_compl" subtracts its log-probability under the bare prompt "Answer:"
    (`logprob_uncond_O`).

    >>> logprob_O, num_chars_O = torch.tensor([-6.0, -8.0]), torch.tensor([4, 10])
    >>> choice_scores(logprob_O, num_chars_O=num_chars_O, scoring="nll_char")
    tensor([-1.5000, -0.8000])
    """
    if scoring not in get_args(Scoring):
        raise InputError(f"unknown scoring {scoring!r}{nearest(scoring, get_args(Scoring))}")
    logprob_O = at_least_fp32(logprob_O)
    if scoring == "nll":
        return logprob_O
    needed = {
        "nll_token": ("num_tokens", num_tokens_O),
        "nll_char": ("num_chars", num_chars_O),
        "nll_compl": ("logprob_uncond", logprob_uncond_O),
    }
    name, value_O = needed[scoring]
    if value_O is None:
        raise InputError(
            f"scoring {scoring!r} got no {name}; expected one {name} per option: pass it, or use "
            "'nll'"
        )
    if scoring == "nll_compl":
        return logprob_O - at_least_fp32(value_O)
    return logprob_O / at_least_fp32(value_O)


def _check_chunks(name: str, values: Tensor, p_r_K: Tensor, *, dim: int) -> None:
    """Broadcasting would silently mix a single weight into all chunks; the last dimension of p_R
    must be the k.
    """
    if values.shape[dim] != p_r_K.shape[-1]:
        raise InputError(
            f"{name} of shape {tuple(values.shape)} is for {values.shape[dim]} chunks and p_r of "
            "shape "
            f"{tuple(p_r_K.shape)} for {p_r_K.shape[-1]}; expected the same k: pass one weight per "
            "chunk"
        )
