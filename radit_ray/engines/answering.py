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
from typing import Any, get_args

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
from radit_ray.data.rows import answer_hits, hits_of, own_score
from radit_ray.models.causal_lm import CausalLM

ENSEMBLES = ("answers", "tokens", "concat")
# recall by the gold chunk where the example names it; answer_recall by answer string in any case
METRICS = ("em", "f1", "nll", "recall@1", "recall@5", "answer_recall@1", "answer_recall@5")
SCORE = "score"  # the example's own metric (rows.EXAMPLE), em where it names none
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
        ("article", pa.string()),
        ("question", pa.string()),
        ("answers", _STRINGS),
    ]
    + [("prediction", pa.string())]
    + [(name, pa.float64()) for name in (*METRICS, SCORE)]
    + [
        ("chunk_ids", _STRINGS),
        ("p_r", _FLOATS),
        ("chunk_answers", _STRINGS),
        ("chunk_logprobs", _FLOATS),
    ]
    + [("candidates", _STRINGS), ("candidate_logprobs", _FLOATS)]
    # prompts that lost demonstrations or background; tokens that the question itself lost
    + [(name, pa.int32()) for name in TRUNCATION]
)


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
        fit_prompts(lm, row, variant, ids, shots, cut_question=True)
        for row, ids in zip(rows, golds, strict=True)
    ]
    prompts = [prompts for prompts, _ in fitted]
    weights = [weights_of(row, variant, t_r, len(p)) for row, p in zip(rows, prompts, strict=True)]
    found, tokens = _candidates(lm, rows, prompts, weights, variant, batch_tokens)
    # gold answer and candidates together: a prompt is computed once for all of them
    scored, used = _logprobs(
        lm, prompts, [[g, *c.ids] for g, c in zip(golds, found, strict=True)], batch_tokens
    )
    tokens += used
    bare, used = _bare_logprobs(lm, rows, found, variant, batch_tokens)
    tokens += used
    predictions = []
    for i, row in enumerate(rows):
        gold_K, logprob_UK = scored[i][0], torch.from_numpy(scored[i][1:])
        weight_K = torch.from_numpy(weights[i])
        if len(row["choices"]):
            result = _choose(row, found[i], logprob_UK, weight_K, bare[i], scoring_of(row, variant))
        else:
            result = _pick(found[i], logprob_UK, weight_K)
        predictions.append(
            _prediction(row, result, weights[i], gold_K, fitted[i][1], variant.k, t_r)
        )
    return predictions, tokens


def gold_logprobs(
    lm: CausalLM, golds: list[list[int]], prompts: list[list[list[int]]], batch_tokens: int
) -> tuple[list[np.ndarray], int]:
    """log p_LM(gold answer | prompt) for each prompt of each row (nats, summed over tokens), and
    tokens computed. A row's answer is the same ids under each of its prompts.
    """
    scored, tokens = _logprobs(lm, prompts, [[ids] for ids in golds], batch_tokens)
    return [logprob_1K[0] for logprob_1K in scored], tokens


def _logprobs(
    lm: CausalLM,
    prompts: list[list[list[int]]],
    answers: list[list[list[int]]],
    batch_tokens: int,
) -> tuple[list[np.ndarray], int]:
    """For each row the matrix (U, K) of its U answers under its K prompts, and tokens computed."""
    pairs = [
        # a candidate may be longer than the room that was kept for the gold answer
        (prompt, answer[: lm.context_length - len(prompt)])
        for row_prompts, row_answers in zip(prompts, answers, strict=True)
        for answer in row_answers
        for prompt in row_prompts
    ]
    logprobs = lm.answer_logprobs(
        [p for p, _ in pairs], [a for _, a in pairs], batch_tokens=batch_tokens
    )
    sizes = [len(p) * len(a) for p, a in zip(prompts, answers, strict=True)]
    parts = np.split(logprobs, np.cumsum(sizes)[:-1])
    tokens = lm.last_num_tokens
    return [part.reshape(-1, len(p)) for part, p in zip(parts, prompts, strict=True)], tokens


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
) -> tuple[list[list[int]], dict[str, int]]:
    """Token ids of a row's prompts, cut to the context with room for the answer; TRUNCATION.

    A question that alone is too long loses its beginning where `cut_question` says so; else
    InputError names the example.
    """
    room = max(min(variant.max_new_tokens, lm.context_length // 2), len(gold))
    fitted = []
    for prompt in prompts_of(row, variant, shots):
        try:
            fitted.append(lm.fit_prompt(prompt, room=room, cut_instruction=cut_question))
        except InputError as error:
            raise InputError(f"example {row['id']!r}: {error}") from None
    truncated = sum(bool(f.num_background_cut or f.num_shots_dropped) for f in fitted)
    question_cut = max(f.num_instruction_cut for f in fitted)
    return [f.ids for f in fitted], dict(zip(TRUNCATION, (truncated, question_cut), strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a row may answer: texts, and the ids of those that the ensemble has to score."""

    texts: list[str]
    ids: list[list[int]]
    chunk_answers: list[str] = dataclasses.field(default_factory=list)  # each prompt's own


def _candidates(
    lm: CausalLM,
    rows: list[Row],
    prompts: list[list[list[int]]],
    weights: list[np.ndarray],
    variant: Variant,
    batch_tokens: int,
) -> tuple[list[Candidates], int]:
    """The options of a choice; else what the LM decodes, from each prompt or from their mixture."""
    found: list[Candidates] = []
    for row in rows:
        texts = options(row, variant.template) if len(row["choices"]) else []
        found.append(Candidates(texts=texts, ids=[lm.answer_ids(text) for text in texts]))
    asked = [i for i, row in enumerate(rows) if not len(row["choices"])]
    mixed = [i for i in asked if variant.ensemble == "tokens" and len(prompts[i]) > 1]
    alone = [i for i in asked if i not in set(mixed)]
    tokens = 0
    for count in sorted({len(prompts[i]) for i in mixed}):
        numbers = [i for i in mixed if len(prompts[i]) == count]
        ids = lm.generate(
            [prompt for i in numbers for prompt in prompts[i]],
            max_new_tokens=variant.max_new_tokens,
            group_size=count,
            log_p_r=np.log(np.stack([weights[i] for i in numbers])),
            batch_tokens=batch_tokens,
        )
        tokens += lm.last_num_tokens
        for i, answer in zip(numbers, ids, strict=True):
            found[i] = Candidates(texts=[clean_answer(lm.text(answer))], ids=[])
    if alone:
        flat = [prompt for i in alone for prompt in prompts[i]]
        ids = lm.generate(flat, max_new_tokens=variant.max_new_tokens, batch_tokens=batch_tokens)
        tokens += lm.last_num_tokens
        decoded = iter(clean_answer(lm.text(answer)) for answer in ids)
        for i in alone:
            own = [next(decoded) for _ in prompts[i]]
            found[i] = unique_answers(lm, own, weights[i], variant.max_answers)
    return found, tokens


def unique_answers(
    lm: CausalLM, chunk_answers: list[str], weight_K: np.ndarray, max_answers: int
) -> Candidates:
    """Unique non-empty answers, those whose prompts hold most p_R first. A single one needs no
    score.
    """
    mass: collections.Counter[str] = collections.Counter()
    for text, weight in zip(chunk_answers, weight_K, strict=True):
        if text:
            mass[text] += float(weight)
    texts = [text for text, _ in mass.most_common(max_answers or None)]
    # every unique answer under every prompt (Eq. 2), EOS included so that a prefix of an answer
    # does not win by being short
    ids = [lm.answer_ids(text, eos=True) for text in texts] if len(texts) > 1 else []
    return Candidates(texts=texts, ids=ids, chunk_answers=chunk_answers)


def _pick(found: Candidates, logprob_UK: torch.Tensor, weight_K: torch.Tensor) -> Row:
    """The candidate with most probability in the mixture (Eq. 2)."""
    scores = [0.0] * len(found.texts)
    if found.ids:
        scores = ensembles.answers(logprob_UK, weight_K).tolist()
    best = max(range(len(scores)), key=scores.__getitem__, default=None)
    return {
        "prediction": "" if best is None else found.texts[best],
        "chunk_answers": found.chunk_answers,
        "candidates": found.texts,
        "candidate_logprobs": scores,
    }


def _bare_logprobs(
    lm: CausalLM, rows: list[Row], found: list[Candidates], variant: Variant, batch_tokens: int
) -> tuple[list[np.ndarray], int]:
    """log p_LM(option | "Answer:") of each choice, (O,), where the scoring divides by it; else
    zeros.
    """
    choosing = [
        i
        for i, row in enumerate(rows)
        if len(row["choices"]) and scoring_of(row, variant) == "nll_compl"
    ]
    bare = [np.zeros(len(candidates.ids), dtype=np.float32) for candidates in found]
    if not choosing:
        return bare, 0
    prompt = [*lm.bos_ids, *lm.encode("Answer:")]
    logprobs, tokens = _logprobs(
        lm, [[prompt]] * len(choosing), [found[i].ids for i in choosing], batch_tokens
    )
    for i, logprob_O1 in zip(choosing, logprobs, strict=True):
        bare[i] = logprob_O1[:, 0]
    return bare, tokens


def scoring_of(row: Row, variant: Variant) -> str:
    """How a row's choices are compared."""
    return str(variant.scoring if variant.scoring != "auto" else row["scoring"] or "nll")


def _choose(
    row: Row,
    found: Candidates,
    logprob_OK: torch.Tensor,
    weight_K: torch.Tensor,
    bare_O: np.ndarray,
    scoring: str,
) -> Row:
    """The option with the best p_R-weighted probability under a scoring (Appendix
    B).
    """
    scores = ensembles.choice_scores(
        ensembles.choices(logprob_OK, weight_K),
        num_tokens_O=torch.tensor([len(ids) for ids in found.ids]),
        num_chars_O=torch.tensor([len(text) for text in found.texts]),
        logprob_uncond_O=torch.from_numpy(bare_O),
        scoring=scoring,  # type: ignore[arg-type]
    )
    best = int(scores.argmax())
    right = float(best == gold_choice(row))
    return {
        "prediction": row["choices"][best],
        "chunk_answers": [found.texts[i] for i in logprob_OK.argmax(0).tolist()],
        "candidates": list(row["choices"]),
        "candidate_logprobs": scores.tolist(),
        "em": right,
        "f1": right,
        SCORE: right,
    }


def _prediction(
    row: Row,
    result: Row,
    weight_K: np.ndarray,
    gold_K: np.ndarray,
    truncated: dict[str, int],
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
    holds_K = answer_hits(row) if k else []
    return {
        **{name: row[name] for name in ("id", "task", "group", "article", "question", "answers")},
        "em": metrics.exact_match(result["prediction"], row["answers"]),
        "f1": metrics.f1(result["prediction"], row["answers"]),
        SCORE: own_score(row, result["prediction"]),
        **result,
        "nll": nll,
        "recall@1": float(any(hits_K[:1])) if hits_K else None,
        "recall@5": float(any(hits_K[:5])) if hits_K else None,
        "answer_recall@1": float(any(holds_K[:1])) if holds_K else None,
        "answer_recall@5": float(any(holds_K[:5])) if holds_K else None,
        "chunk_ids": row["chunk_ids"][:k],
        "p_r": weight_K.tolist(),
        "chunk_logprobs": gold_K.tolist(),
        **truncated,
    }
