"""Answering and scoring one batch of ranked rows with one LM: the same code for evaluate, ask, the
endpoint and adapters.

In: ranked rows and a `Variant`. Out: one prediction row each, with every chunk's own answer and
weight; for several numbers of chunks at once, since a chunk's answer and the probability of an
answer under it do not depend on how many chunks stand beside it (`answer_depths`). A prompt is
computed once for all of that, where the LM allows (`models/prefix.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import torch

from radit_ray.core import ensembles, metrics
from radit_ray.core.retrieval import mixture_nll
from radit_ray.core.templates import gold_choice
from radit_ray.data.rows import answer_hits, hits_of, own_score
from radit_ray.engines.candidates import Candidates, Ids, Question, decode
from radit_ray.engines.variants import (
    TRUNCATION,
    Row,
    Variant,
    fit_prompts,
    gold_ids,
    scoring_of,
    truncation,
    weights_of,
)
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.prefix import Prefix, prefill, prefix_batches

# recall by the gold chunk where the example names it; answer_recall by answer string in any case
METRICS = ("em", "f1", "nll", "recall@1", "recall@5", "answer_recall@1", "answer_recall@5")
SCORE = "score"  # the example's own metric (rows.EXAMPLE), em where it names none

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
    found, tokens = answer_depths(
        lm, rows, variant, [variant.k], t_r=t_r, shots=shots, batch_tokens=batch_tokens
    )
    return found[variant.k], tokens


def answer_depths(
    lm: CausalLM,
    rows: list[Row],
    variant: Variant,
    ks: Sequence[int],
    *,
    t_r: float,
    shots: Sequence[str] = (),
    batch_tokens: int = 16384,
) -> tuple[dict[int, list[Row]], int]:
    """({k: prediction rows with the first k chunks, in order}, LM tokens computed); equal to
    `answer_batch` for each k.

    Each prompt is computed once, for what every k decodes from it and for one matrix of answers x
    chunks, of which every k reads a part. k = 0 and `concat` have prompts of their own, so they
    stand alone.
    """
    assert len(ks) == 1 or (min(ks) > 0 and variant.ensemble != "concat"), (variant.ensemble, ks)
    questions = [_question(lm, row, variant, ks, t_r, shots) for row in rows]
    # options stand in one row with their prompt: nothing would be read twice
    free = [number for number, row in enumerate(rows) if not len(row["choices"])]
    batches = prefix_batches(lm, [questions[i].prompts for i in free], batch_tokens=batch_tokens)
    parts = [([free[place] for place in batch], True) for batch in batches]
    kept = {number for batch, _ in parts for number in batch}
    if others := [number for number in range(len(rows)) if number not in kept]:
        parts.append((others, False))
    found: dict[int, dict[int, Row]] = {}
    tokens = 0
    for numbers, keep in parts:
        asked = [questions[number] for number in numbers]
        some, used = _answer(lm, asked, variant, t_r, batch_tokens, keep=keep)
        found |= zip(numbers, some, strict=True)
        tokens += used
    return {k: [found[number][k] for number in range(len(rows))] for k in ks}, tokens


def _question(
    lm: CausalLM, row: Row, variant: Variant, ks: Sequence[int], t_r: float, shots: Sequence[str]
) -> Question:
    gold = gold_ids(lm, row, variant.template)
    deepest = dataclasses.replace(variant, k=max(ks))
    fitted = fit_prompts(lm, row, deepest, gold, shots, cut_question=True)
    weights = {k: weights_of(row, variant, t_r, min(k, len(fitted)) or 1) for k in ks}
    return Question(row=row, gold=gold, fitted=fitted, weights=weights)


def _answer(
    lm: CausalLM,
    questions: list[Question],
    variant: Variant,
    t_r: float,
    batch_tokens: int,
    *,
    keep: bool,
) -> tuple[list[dict[int, Row]], int]:
    """({k: prediction row} of each question, LM tokens computed). keep: their prompts are computed
    once, and kept for decoding and scoring; else whoever reads a prompt computes it.
    """
    prefix, tokens = None, 0
    if keep:
        flat = [prompt for question in questions for prompt in question.prompts]
        prefix = prefill(lm, flat, batch_tokens=batch_tokens)
        tokens += lm.last_num_tokens
    found, used = decode(lm, questions, variant, batch_tokens, prefix)
    tokens += used
    # gold answer and candidates together, behind each prompt
    asked = [_unique_ids(by_k.values()) for by_k in found]
    scored, used = _logprobs(
        lm,
        [question.prompts for question in questions],
        [[q.gold, *ids] for q, ids in zip(questions, asked, strict=True)],
        batch_tokens,
        prefix,
    )
    tokens += used
    bare, used = _bare_logprobs(lm, questions, asked, variant, batch_tokens)
    tokens += used
    made = []
    for question, by_k, ids, *numbers in zip(questions, found, asked, scored, bare, strict=True):
        place = {tuple(one): line for line, one in enumerate(ids, start=1)}
        made.append(
            {
                k: _result(question, candidates, place, *numbers, variant, k, t_r)
                for k, candidates in by_k.items()
            }
        )
    return made, tokens


def _result(
    question: Question,
    candidates: Candidates,
    place: dict[tuple[int, ...], int],
    scored: np.ndarray,
    bare: np.ndarray,
    variant: Variant,
    k: int,
    t_r: float,
) -> Row:
    """The prediction row of one k. scored: the gold answer's line and those at `place`, with a
    column for each prompt; bare: of all lines but the gold answer's.
    """
    row, weight_K = question.row, question.weights[k]
    n = len(weight_K)
    lines = [place[tuple(ids)] for ids in candidates.ids]
    logprob_UK = torch.from_numpy(scored[lines, :n])
    if len(row["choices"]):
        bare_O = bare[[line - 1 for line in lines]]
        scoring = scoring_of(row, variant)
        result = _choose(row, candidates, logprob_UK, torch.from_numpy(weight_K), bare_O, scoring)
    else:
        result = _pick(candidates, logprob_UK, torch.from_numpy(weight_K))
    lost = truncation(question.fitted[:n])
    return _prediction(row, result, weight_K, scored[0, :n], lost, k, t_r)


def _unique_ids(found: Iterable[Candidates]) -> list[Ids]:
    """The ids of all candidates, each once, in order."""
    unique = {tuple(ids): None for candidates in found for ids in candidates.ids}
    return [list(ids) for ids in unique]


def gold_logprobs(
    lm: CausalLM, golds: list[list[int]], prompts: list[list[list[int]]], batch_tokens: int
) -> tuple[list[np.ndarray], int]:
    """log p_LM(gold answer | prompt) for each prompt of each row (nats, summed over tokens), and
    tokens computed. A row's answer is the same ids under each of its prompts.
    """
    scored, tokens = _logprobs(lm, prompts, [[ids] for ids in golds], batch_tokens, None)
    return [logprob_1K[0] for logprob_1K in scored], tokens


def _logprobs(
    lm: CausalLM,
    prompts: list[list[list[int]]],
    answers: list[list[list[int]]],
    batch_tokens: int,
    prefix: Prefix | None,
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
        [p for p, _ in pairs], [a for _, a in pairs], batch_tokens=batch_tokens, prefix=prefix
    )
    sizes = [len(p) * len(a) for p, a in zip(prompts, answers, strict=True)]
    parts = np.split(logprobs, np.cumsum(sizes)[:-1])
    tokens = lm.last_num_tokens
    return [part.reshape(-1, len(p)) for part, p in zip(parts, prompts, strict=True)], tokens


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
    lm: CausalLM,
    questions: list[Question],
    asked: list[list[Ids]],
    variant: Variant,
    batch_tokens: int,
) -> tuple[list[np.ndarray], int]:
    """log p_LM(option | "Answer:") of each choice, (O,), where the scoring divides by it; else
    zeros.
    """
    choosing = [
        i
        for i, question in enumerate(questions)
        if len(question.row["choices"]) and scoring_of(question.row, variant) == "nll_compl"
    ]
    bare = [np.zeros(len(ids), dtype=np.float32) for ids in asked]
    if not choosing:
        return bare, 0
    prompt = [*lm.bos_ids, *lm.encode("Answer:")]
    logprobs, tokens = _logprobs(
        lm, [[prompt]] * len(choosing), [asked[i] for i in choosing], batch_tokens, None
    )
    for i, logprob_O1 in zip(choosing, logprobs, strict=True):
        bare[i] = logprob_O1[:, 0]
    return bare, tokens


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
    lost: dict[str, int],
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
        **lost,
    }
