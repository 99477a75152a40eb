"""Answering and scoring one batch of ranked rows with one LM: the same code for evaluate, ask, the
endpoint and adapters.

In: ranked rows and a `Variant` (how many chunks, which ensemble, ...). Out: one prediction row
each, with every chunk's own answer and weight. Score uses `answer_logprobs` of the same prompts, so
that training targets and evaluation agree.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from radit_ray.core import ensembles, metrics
from radit_ray.core.errors import InputError, nearest
from radit_ray.core.retrieval import mixture_nll, p_r
from radit_ray.core.templates import (
    GOLD_CONTEXT,
    Prompt,
    clean_answer,
    eval_prompt,
    format_chunk,
    gold_answer,
    gold_choice,
    options,
    resolve_template,
)
from radit_ray.engines.ranking import hits_of
from radit_ray.models.causal_lm import CausalLM

ENSEMBLES = ("answers", "tokens", "concat")
METRICS = ("em", "f1", "nll", "recall@1", "recall@5")
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
    template: str = "auto"  # Table 12; "auto" = by the example's category
    scoring: str = "nll"  # choices: nll, nll_token, nll_char, nll_compl
    max_new_tokens: int = 32  # of a decoded answer
    max_answers: int = (
        0  # "answers": unique answers scored again, those with most p_R first; 0 = all
    )
    eos_token: str = ""  # only for a tokenizer without EOS and SEP


_FLOATS = pa.list_(pa.float32())
_STRINGS = pa.list_(pa.string())
PREDICTION = pa.schema(
    [
        ("id", pa.string()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("question", pa.string()),
        ("answers", _STRINGS),
    ]
    + [("prediction", pa.string())]
    + [(name, pa.float64()) for name in METRICS]
    + [
        ("chunk_ids", _STRINGS),
        ("p_r", _FLOATS),
        ("chunk_answers", _STRINGS),
        ("chunk_logprobs", _FLOATS),
    ]
    + [("candidates", _STRINGS), ("candidate_logprobs", _FLOATS), ("num_truncated", pa.int32())]
)


def check_variant(variant: Variant) -> None:
    """InputError on an unknown ensemble or template, or numbers out of range."""
    if variant.template != "auto":
        resolve_template({}, variant.template)
    if variant.ensemble not in ENSEMBLES:
        raise InputError(
            f"unknown ensemble {variant.ensemble!r}{nearest(variant.ensemble, ENSEMBLES)}"
        )
    if variant.k < 0 or variant.shots < 0 or variant.max_new_tokens < 1:
        raise InputError(
            f"variant {variant.name!r}: expected k and shots of 0 or more, max_new_tokens of 1 or "
            "more"
        )


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


def answer_batch(
    lm: CausalLM,
    rows: list[Row],
    variant: Variant,
    *,
    t_r: float,
    shots: Sequence[str] = (),
    batch_tokens: int = 16384,
) -> tuple[list[Row], int]:
    """(prediction rows in order, LM tokens computed). `t_r` must be resolved; `shots` are whole
    demonstrations.
    """
    golds = [gold_ids(lm, row, variant.template) for row in rows]
    fitted = [
        fit_prompts(lm, row, variant, ids, shots) for row, ids in zip(rows, golds, strict=True)
    ]
    weights = [
        weights_of(row, variant, t_r, len(f[0])) for row, f in zip(rows, fitted, strict=True)
    ]
    results: list[Row] = [{} for _ in rows]
    tokens = 0
    generating = [i for i, row in enumerate(rows) if not len(row["choices"])]
    choosing = [i for i, row in enumerate(rows) if len(row["choices"])]
    for numbers, answer in ((generating, _generate), (choosing, _choose)):
        if not numbers:
            continue
        prompts = [fitted[i][0] for i in numbers]
        found, used = answer(
            lm,
            [rows[i] for i in numbers],
            prompts,
            [weights[i] for i in numbers],
            variant,
            batch_tokens,
        )
        tokens += used
        for i, result in zip(numbers, found, strict=True):
            results[i] = result
    gold, used = gold_logprobs(lm, golds, [f[0] for f in fitted], batch_tokens)
    tokens += used
    predictions = [
        _prediction(row, result, weight_K, gold_K, truncated, variant.k, t_r)
        for row, result, weight_K, gold_K, (_, truncated) in zip(
            rows, results, weights, gold, fitted, strict=True
        )
    ]
    return predictions, tokens


def gold_logprobs(
    lm: CausalLM, golds: list[list[int]], prompts: list[list[list[int]]], batch_tokens: int
) -> tuple[list[np.ndarray], int]:
    """log p_LM(gold answer | prompt) for each prompt of each row (nats, summed over tokens), and
    tokens computed. A row's answer is the same ids under each of its prompts.
    """
    flat = [prompt for row_prompts in prompts for prompt in row_prompts]
    answers = [ids for ids, row_prompts in zip(golds, prompts, strict=True) for _ in row_prompts]
    logprobs = lm.answer_logprobs(flat, answers, batch_tokens=batch_tokens)
    return _split(logprobs, [len(p) for p in prompts]), lm.last_num_tokens


def gold_ids(lm: CausalLM, row: Row, template: str) -> list[int]:
    """The y whose probability counts: token ids of the first gold answer, or of the right option,
    without EOS; cut to half the context, so that every prompt of the row leaves room for all of it.
    """
    ids = lm.answer_ids(gold_answer(row, resolve_template(row, template)))
    return ids[: max(1, lm.context_length // 2)]


def fit_prompts(
    lm: CausalLM, row: Row, variant: Variant, gold: list[int], shots: Sequence[str] = ()
) -> tuple[list[list[int]], int]:
    """Token ids of a row's prompts, cut to the context with room for the answer; how many were cut.

    InputError names the example whose question alone does not fit.
    """
    room = max(min(variant.max_new_tokens, lm.context_length // 2), len(gold))
    fitted = []
    for prompt in prompts_of(row, variant, shots):
        try:
            fitted.append(lm.fit_prompt(prompt, room=room))
        except InputError as error:
            raise InputError(f"example {row['id']!r}: {error}") from None
    truncated = sum(bool(f.num_background_cut or f.num_shots_dropped) for f in fitted)
    return [f.ids for f in fitted], truncated


def _generate(
    lm: CausalLM,
    rows: list[Row],
    prompts: list[list[list[int]]],
    weights: list[np.ndarray],
    variant: Variant,
    batch_tokens: int,
) -> tuple[list[Row], int]:
    """Decoded answers by the variant's ensemble."""
    if variant.ensemble == "tokens" and any(len(p) > 1 for p in prompts):
        return _generate_tokens(lm, prompts, weights, variant, batch_tokens)
    flat = [prompt for row_prompts in prompts for prompt in row_prompts]
    ids = lm.generate(flat, max_new_tokens=variant.max_new_tokens, batch_tokens=batch_tokens)
    tokens = lm.last_num_tokens
    texts = _split([clean_answer(lm.text(i)) for i in ids], [len(p) for p in prompts])
    candidates = [
        _candidates(t, w, variant.max_answers) for t, w in zip(texts, weights, strict=True)
    ]
    # every unique answer under every prompt (Eq. 2), EOS included so that a prefix of an answer
    # does not win by being short
    pairs = [
        (prompt, lm.answer_ids(answer, eos=True))
        for row_prompts, found in zip(prompts, candidates, strict=True)
        if len(found) > 1
        for answer in found
        for prompt in row_prompts
    ]
    pairs = [
        (prompt, answer[: max(1, lm.context_length - len(prompt))]) for prompt, answer in pairs
    ]
    logprobs = lm.answer_logprobs(
        [p for p, _ in pairs], [a for _, a in pairs], batch_tokens=batch_tokens
    )
    tokens += lm.last_num_tokens
    results, at = [], 0
    for row_texts, found, row_prompts, weight_K in zip(
        texts, candidates, prompts, weights, strict=True
    ):
        scores = np.zeros(len(found), dtype=np.float32)
        if len(found) > 1:
            size = len(found) * len(row_prompts)
            logprob_UK = torch.from_numpy(logprobs[at : at + size].reshape(len(found), -1))
            at += size
            scores = ensembles.answers(logprob_UK, torch.from_numpy(weight_K)).numpy()
        best = found[int(scores.argmax())] if found else ""
        results.append(
            {
                "prediction": best,
                "chunk_answers": row_texts,
                "candidates": found,
                "candidate_logprobs": scores.tolist(),
            }
        )
    return results, tokens


def _candidates(texts: list[str], weight_K: np.ndarray, max_answers: int) -> list[str]:
    """Unique non-empty answers, those whose prompts hold most p_R first."""
    mass: collections.Counter[str] = collections.Counter()
    for text, weight in zip(texts, weight_K, strict=True):
        if text:
            mass[text] += float(weight)
    return [text for text, _ in mass.most_common(max_answers or None)]


def _generate_tokens(
    lm: CausalLM,
    prompts: list[list[list[int]]],
    weights: list[np.ndarray],
    variant: Variant,
    batch_tokens: int,
) -> tuple[list[Row], int]:
    """One continuation of K prompts mixed token by token; rows with as many prompts go together."""
    results: list[Row] = [{} for _ in prompts]
    tokens = 0
    for count in sorted({len(p) for p in prompts}):
        numbers = [i for i, p in enumerate(prompts) if len(p) == count]
        ids = lm.generate(
            [prompt for i in numbers for prompt in prompts[i]],
            max_new_tokens=variant.max_new_tokens,
            group_size=count,
            log_p_r=np.log(np.stack([weights[i] for i in numbers])) if count > 1 else None,
            batch_tokens=batch_tokens,
        )
        tokens += lm.last_num_tokens
        for i, answer in zip(numbers, ids, strict=True):
            text = clean_answer(lm.text(answer))
            results[i] = {
                "prediction": text,
                "chunk_answers": [],
                "candidates": [text],
                "candidate_logprobs": [0.0],
            }
    return results, tokens


def _choose(
    lm: CausalLM,
    rows: list[Row],
    prompts: list[list[list[int]]],
    weights: list[np.ndarray],
    variant: Variant,
    batch_tokens: int,
) -> tuple[list[Row], int]:
    """The option with the best p_R-weighted probability under the variant's scoring (Appendix
    B).
    """
    encoded = [[lm.answer_ids(o) for o in options(row, variant.template)] for row in rows]
    pairs = [
        (prompt, option)
        for row_prompts, ids in zip(prompts, encoded, strict=True)
        for option in ids
        for prompt in row_prompts
    ]
    logprobs = lm.answer_logprobs(
        [p for p, _ in pairs], [o for _, o in pairs], batch_tokens=batch_tokens
    )
    tokens = lm.last_num_tokens
    uncond: list[np.ndarray] = [np.zeros(len(ids), dtype=np.float32) for ids in encoded]
    if variant.scoring == "nll_compl":
        bare = [*lm.bos_ids, *lm.encode("Answer:")]
        flat = [option for ids in encoded for option in ids]
        uncond = _split(
            lm.answer_logprobs([bare] * len(flat), flat, batch_tokens=batch_tokens),
            [len(i) for i in encoded],
        )
        tokens += lm.last_num_tokens
    results, at = [], 0
    for row, row_prompts, ids, weight_K, bare_O in zip(
        rows, prompts, encoded, weights, uncond, strict=True
    ):
        size = len(ids) * len(row_prompts)
        logprob_OK = torch.from_numpy(logprobs[at : at + size].reshape(len(ids), -1))
        at += size
        names = options(row, variant.template)
        scores = ensembles.choice_scores(
            ensembles.choices(logprob_OK, torch.from_numpy(weight_K)),
            num_tokens_O=torch.tensor([len(i) for i in ids]),
            num_chars_O=torch.tensor([len(n) for n in names]),
            logprob_uncond_O=torch.from_numpy(bare_O),
            scoring=variant.scoring,  # type: ignore[arg-type]
        )
        best = int(scores.argmax())
        alone = [names[i] for i in logprob_OK.argmax(0).tolist()]
        right = float(best == gold_choice(row))
        results.append(
            {
                "prediction": row["choices"][best],
                "chunk_answers": alone,
                "candidates": list(row["choices"]),
            }
            | {"candidate_logprobs": scores.tolist(), "em": right, "f1": right}
        )
    return results, tokens


def _prediction(
    row: Row,
    result: Row,
    weight_K: np.ndarray,
    gold_K: np.ndarray,
    truncated: int,
    k: int,
    t_r: float,
) -> Row:
    """The prediction row with its metrics; recall has no value where no chunk is used."""
    num = len(weight_K)
    if num > 1:
        scores = torch.tensor([row["scores"][:num]])
        nll = float(mixture_nll(scores, torch.from_numpy(gold_K)[None], t_r=t_r)[0])
    else:
        nll = -float(gold_K[0])
    hits_K = hits_of(row) if k else []
    return {
        **{name: row[name] for name in ("id", "task", "group", "question", "answers")},
        "em": metrics.exact_match(result["prediction"], row["answers"]),
        "f1": metrics.f1(result["prediction"], row["answers"]),
        **result,
        "nll": nll,
        "recall@1": float(any(hits_K[:1])) if hits_K else None,
        "recall@5": float(any(hits_K[:5])) if hits_K else None,
        "chunk_ids": row["chunk_ids"][:k],
        "p_r": weight_K.tolist(),
        "chunk_logprobs": gold_K.tolist(),
        "num_truncated": truncated,
    }


def _split(values: Any, sizes: list[int]) -> list[Any]:
    """Consecutive parts of the given sizes."""
    parts, at = [], 0
    for size in sizes:
        parts.append(values[at : at + size])
        at += size
    return parts
