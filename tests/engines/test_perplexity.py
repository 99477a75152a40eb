"""Contract of the plain-text numbers: the log-probability of a text is the plain forward's, nats
per token are a mean over tokens, and their interval draws whole documents.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from radit_ray.core.errors import InputError
from radit_ray.engines.perplexity import measure_texts, read_text
from radit_ray.models.causal_lm import CausalLM


def test_read_text_is_the_plain_forward(tiny_models: tuple[str, str]) -> None:
    lm = CausalLM.load(tiny_models[0], precision="fp32")
    for text in ("The mayor of Arden is Anna Boris.", "a", "salt and wool " * 200):
        ids = [*lm.bos_ids, *lm.encode(text)][: lm.context_length]
        with torch.inference_mode():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        slow = sum(float(logits[t, ids[t + 1]]) for t in range(len(ids) - 1))
        found = read_text(lm, text)
        assert found["num_tokens"] == len(ids) - 1
        assert found["logprob"] == pytest.approx(slow, rel=1e-4)  # fp32 sums in another order
    assert read_text(lm, "") == {"num_tokens": 0, "logprob": 0.0}


def table(counts: list[int], logprobs: list[float]) -> list[dict[str, Any]]:
    documents = ["a", "a", "b", "c"]
    names = ("doc_id", "num_tokens", "logprob")
    return [
        dict(zip(names, row, strict=True)) for row in zip(documents, counts, logprobs, strict=True)
    ]


def test_nats_are_means_over_tokens_with_paired_differences() -> None:
    counts = [10, 30, 5, 0]
    base, tuned = table(counts, [-20.0, -30.0, -20.0, 0.0]), table(counts, [-25.0, -60.0, -5.0, 0])
    found = measure_texts({"base": base, "tuned": tuned}, num_samples=200)
    assert (found["num_texts"], found["num_documents"], found["num_tokens"]) == (4, 2, 45)
    values = {name: cell["value"] for name, cell in found["nats_per_token"].items()}
    assert values == pytest.approx({"base": 70 / 45, "tuned": 90 / 45})
    assert found["perplexity"]["base"] == pytest.approx(np.exp(70 / 45))
    cell = found["contrasts"]["tuned-minus-base"]
    assert cell["diff"] == pytest.approx(20 / 45)
    # two documents: the draws are a twice, both, or b twice
    assert (cell["low"], cell["high"]) == pytest.approx((-15 / 5, 35 / 40))


def test_lms_that_cut_texts_differently_are_refused() -> None:
    base, other = table([1, 2, 3, 4], [-1.0] * 4), table([1, 2, 3, 5], [-1.0] * 4)
    with pytest.raises(InputError, match=r"'other' and 'base' cut texts into other tokens"):
        measure_texts({"base": base, "other": other})
    with pytest.raises(InputError, match="no text"):
        measure_texts({"base": table([0] * 4, [0.0] * 4)})
