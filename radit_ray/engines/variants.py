"""A variant: how a ranked row becomes prompts, and what they weigh.

In: ranked rows and a `Variant` (how many chunks, which ensemble, ...). Out: the row's prompts as
token ids that fit the LM's context, p_R over them, and the gold answer's ids. Whatever answers or
scores (evaluate, score, ask, adapters) builds its prompts here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import torch

from radit_ray.core import ensembles
from radit_ray.core.errors import InputError, nearest
from radit_ray.core.retrieval import p_r
from radit_ray.core.templates import (
    GOLD_CONTEXT,
    Prompt,
    eval_prompt,
    format_chunk,
    gold_answer,
    resolve_template,
)
from radit_ray.models.causal_lm import CausalLM, FittedPrompt

ENSEMBLES = ("answers", "tokens", "concat")
LONG_METRICS = ("f1", "rouge-l")  # overlap with an answer of one or more sentences
TRUNCATION = ("num_truncated", "num_question_cut")
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to answer: a row of the ablation."""

    name: str = "radit"
    lm: str = ""  # Hugging Face id or folder
    ranked: str = ""  # ranked rows of its own query encoder; "" = those of the call
    k: int = 10  # chunks used, k_infer; 0 = closed book
    ensemble: str = "answers"  # "answers" (paper), "tokens" (REPLUG), "concat" (one prompt)
    t_r: float = 0.0  # temperature of p_R; 0 = the one recorded with the ranked rows
    shots: int = 0  # demonstrations in front, drawn from split "train"
    shot_chunks: bool = True  # each demonstration carries its own top chunk (as REPLUG's code)
    template: str = "auto"  # Table 12; "auto" = the example's own, else by its category
    # choices: nll, nll_token, nll_char, nll_compl; "auto" = the example's own, else nll
    scoring: str = "auto"
    max_new_tokens: int = 32  # of a decoded answer
    long_new_tokens: int = 128  # of one whose metric is in LONG_METRICS, if that is more
    max_answers: int = (
        0  # "answers": unique answers scored again, those with most p_R first; 0 = all
    )
    eos_token: str = ""  # only for a tokenizer without EOS and SEP

    @property
    def nested(self) -> bool:
        """Whether variants with other ks are answered together with this one: prefixes of it."""
        return self.k > 0 and self.ensemble != "concat"


def check_variant(variant: Variant) -> None:
    """InputError on an unknown ensemble or template, or numbers out of range."""
    if variant.template != "auto":
        resolve_template({}, variant.template)
    for what, value, known in (
        ("ensemble", variant.ensemble, ENSEMBLES),
        ("scoring", variant.scoring, ("auto", *get_args(ensembles.Scoring))),
    ):
        if value not in known:
            raise InputError(f"unknown {what} {value!r}{nearest(value, known)}")
    lengths = (variant.max_new_tokens, variant.long_new_tokens)
    if variant.k < 0 or variant.shots < 0 or min(lengths) < 1:
        raise InputError(
            f"variant {variant.name!r}: expected k and shots of 0 or more, max_new_tokens and "
            "long_new_tokens of 1 or more"
        )


def answer_length(lm: CausalLM, row: Row, variant: Variant) -> int:
    """The most tokens that are decoded for a row; a long answer takes half the context at most."""
    if row["metric"] not in LONG_METRICS:
        return variant.max_new_tokens
    return max(variant.max_new_tokens, min(variant.long_new_tokens, lm.context_length // 2))


def chunks_used(row: Row, variant: Variant) -> list[tuple[str, str]]:
    """The (title, text) pairs a variant shows for a row: its first k; none where the category has a
    context of its own.
    """
    pairs = list(zip(row["titles"], row["texts"], strict=True))[: variant.k]
    if row["category"] in GOLD_CONTEXT or not pairs:
        return []
    if variant.ensemble == "concat":
        # best first: when the context overflows it is the tail that is cut
        return [("", "\n".join(format_chunk(title, text) for title, text in pairs))]
    return pairs


def prompts_of(row: Row, variant: Variant, shots: Sequence[str] = ()) -> list[Prompt]:
    """One prompt for each chunk used; a single one without background where there is none."""
    chunks = chunks_used(row, variant) or [None]
    return [
        eval_prompt(row, template=variant.template, chunk=chunk, shots=shots) for chunk in chunks
    ]


def weights_of(row: Row, variant: Variant, t_r: float, num_prompts: int) -> np.ndarray:
    """p_R over the prompts, (K,): the softmax of Eq. 2 over the chunks used; one prompt has weight
    1.
    """
    if num_prompts == 1:
        return np.ones(1, dtype=np.float32)
    score_BK = torch.tensor([row["scores"][:num_prompts]])
    return p_r(score_BK, t_r=t_r)[0].numpy()


def gold_ids(lm: CausalLM, row: Row, template: str) -> list[int]:
    """The y whose probability counts: token ids of the first gold answer, or of the right option,
    without EOS; cut to half the context, so that every prompt of the row leaves room for all of it.
    """
    ids = lm.answer_ids(gold_answer(row, resolve_template(row, template)))
    return ids[: max(1, lm.context_length // 2)]


def fit_prompts(
    lm: CausalLM,
    row: Row,
    variant: Variant,
    gold: list[int],
    shots: Sequence[str] = (),
    *,
    cut_question: bool = False,
) -> list[FittedPrompt]:
    """A row's prompts, cut to the context with room for the answer.

    A question that alone is too long loses its beginning where `cut_question` says so; else
    InputError names the example.
    """
    room = max(min(answer_length(lm, row, variant), lm.context_length // 2), len(gold))
    fitted = []
    for prompt in prompts_of(row, variant, shots):
        try:
            fitted.append(lm.fit_prompt(prompt, room=room, cut_instruction=cut_question))
        except InputError as error:
            raise InputError(f"example {row['id']!r}: {error}") from None
    return fitted


def truncation(fitted: Sequence[FittedPrompt]) -> dict[str, int]:
    """TRUNCATION of a row: prompts that lost demonstrations or background; tokens that the question
    itself lost.
    """
    truncated = sum(bool(f.num_background_cut or f.num_shots_dropped) for f in fitted)
    question_cut = max(f.num_instruction_cut for f in fitted)
    return dict(zip(TRUNCATION, (truncated, question_cut), strict=True))


def scoring_of(row: Row, variant: Variant) -> str:
    """How a row's choices are compared."""
    return str(variant.scoring if variant.scoring != "auto" else row["scoring"] or "nll")
