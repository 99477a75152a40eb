"""Why an answer: what each chunk's prompt makes of its own answer, and of the one that was given.

In: ranked rows and their predictions (`answering`). Out: two probabilities a chunk, scored as the
ensemble `answers` scores (EOS included), so that the p_R-weighted mean of the second is the
probability of the answer in the mixture. One more forward pass over the prompts, which answering
itself does not need.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from radit_ray.engines.variants import Row, Variant, fit_prompts, gold_ids
from radit_ray.models.causal_lm import CausalLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explained:
    """For each prompt of a row, in nats; None where there is no answer to score."""

    own: list[float | None]  # log p(the prompt's own answer | prompt); empty: nothing of its own
    given: list[float | None]  # log p(the answer that was given | prompt)


def explain(
    lm: CausalLM,
    rows: Sequence[Row],
    predictions: Sequence[Row],
    variant: Variant,
    *,
    batch_tokens: int = 16384,
) -> list[Explained]:
    """What each prompt says of the answers, for each row; prompts as in `answer_batch`."""
    prompts, answers, places = [], [], []
    results = []
    for number, (row, prediction) in enumerate(zip(rows, predictions, strict=True)):
        gold = gold_ids(lm, row, variant.template)
        fitted = fit_prompts(lm, row, variant, gold, cut_question=True)
        own = prediction["chunk_answers"]
        texts = [[prediction["prediction"]] * len(fitted), own]
        results.append(Explained(given=[None] * len(fitted), own=[None] * len(own)))
        for kind, column in zip(("given", "own"), texts, strict=True):
            for place, (prompt, text) in enumerate(zip(fitted, column, strict=bool(column))):
                room = lm.context_length - len(prompt.ids)
                if text and room > 0:
                    prompts.append(prompt.ids)
                    answers.append(lm.answer_ids(text, eos=True)[:room])
                    places.append((number, kind, place))
    logprobs = lm.answer_logprobs(prompts, answers, batch_tokens=batch_tokens)
    for (number, kind, place), logprob in zip(places, logprobs, strict=True):
        getattr(results[number], kind)[place] = float(logprob)
    return results
