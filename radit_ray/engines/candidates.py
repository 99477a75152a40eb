"""What a question may be answered with: the options of a choice, or what the LM decodes from the
question's prompts, each alone or all as a mixture.
"""

from __future__ import annotations

import collections
import dataclasses

import numpy as np

from radit_ray.core.templates import clean_answer, options
from radit_ray.engines.variants import Row, Variant, answer_length
from radit_ray.models.causal_lm import CausalLM, FittedPrompt
from radit_ray.models.prefix import Prefix

Ids = list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """A row as the LM is asked: the gold answer's ids, its prompts, and for each k what they
    weigh.
    """

    row: Row
    gold: Ids
    fitted: list[FittedPrompt]
    weights: dict[int, np.ndarray]  # {k: p_R over the prompts that k chunks use}

    @property
    def prompts(self) -> list[Ids]:
        """Of the largest k."""
        return [fitted.ids for fitted in self.fitted]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidates:
    """What a row may answer: texts, and the ids of those that the ensemble has to score."""

    texts: list[str]
    ids: list[list[int]]
    chunk_answers: list[str] = dataclasses.field(default_factory=list)  # each prompt's own


def decode(
    lm: CausalLM,
    questions: list[Question],
    variant: Variant,
    batch_tokens: int,
    prefix: Prefix | None,
) -> tuple[list[dict[int, Candidates]], int]:
    """For each question and k: the options of a choice; else what the LM decodes, from each prompt
    or from their mixture.
    """
    found: list[dict[int, Candidates]] = []
    # (number of prompts, most new tokens) -> (question, k)
    mixed: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # most new tokens -> question -> its prompts that are decoded by themselves
    alone: dict[int, dict[int, int]] = {}
    for i, question in enumerate(questions):
        row, weights = question.row, question.weights
        texts = options(row, variant.template) if len(row["choices"]) else []
        choices = Candidates(texts=texts, ids=[lm.answer_ids(text) for text in texts])
        found.append(dict.fromkeys(weights, choices) if texts else {})
        length = answer_length(lm, row, variant)
        for k, weight_K in () if texts else weights.items():
            if variant.ensemble == "tokens" and len(weight_K) > 1:
                mixed.setdefault((len(weight_K), length), []).append((i, k))
            else:
                counts = alone.setdefault(length, {})
                counts[i] = max(counts.get(i, 0), len(weight_K))
    tokens = 0
    for (count, length), places in sorted(mixed.items()):
        ids = lm.generate(
            [prompt for i, _ in places for prompt in questions[i].prompts[:count]],
            max_new_tokens=length,
            group_size=count,
            log_p_r=np.log(np.stack([questions[i].weights[k] for i, k in places])),
            batch_tokens=batch_tokens,
            prefix=prefix,
        )
        tokens += lm.last_num_tokens
        for (i, k), answer in zip(places, ids, strict=True):
            found[i][k] = Candidates(texts=[clean_answer(lm.text(answer))], ids=[])
    for length, counts in sorted(alone.items()):
        ids = lm.generate(
            [prompt for i, count in counts.items() for prompt in questions[i].prompts[:count]],
            max_new_tokens=length,
            batch_tokens=batch_tokens,
            prefix=prefix,
        )
        tokens += lm.last_num_tokens
        decoded = iter(clean_answer(lm.text(answer)) for answer in ids)
        for i, count in counts.items():
            own = [next(decoded) for _ in range(count)]
            for k, weight_K in questions[i].weights.items():
                if k not in found[i]:
                    first = own[: len(weight_K)]
                    found[i][k] = unique_answers(lm, first, weight_K, variant.max_answers)
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
