"""Contract: behind kept prompts every LM decodes and scores as a full forward pass without cache or
padding would; an LM that cannot is found out and asked the plain way; memory has a bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from test_generation import brute_force
from tiny import LM_KINDS, byte_level_tokenizer
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from radit_ray.models import prefix as module
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.prefix import prefill, prefix_batches

LONG = [30 + (7 * i) % 200 for i in range(90)]
PROMPTS = [[5, 60, 71, 200, 33], [9], LONG, [77, 78, 120, 121, 122, 123, 140, 33], [50, 51, 52]]
ANSWERS = [[45], [60, 61, 62], [88, 89]]
CLOSE = 1e-4  # nats, of sums over some tokens in fp32


@torch.inference_mode()
def slow_logprob(lm: CausalLM, prompt: list[int], answer: list[int]) -> float:
    """Token by token, each by a forward pass of its own."""
    total = 0.0
    for at, token in enumerate(answer):
        logits = lm.model(input_ids=torch.tensor([[*prompt, *answer[:at]]])).logits[0, -1]
        total += float(logits.double().log_softmax(-1)[token])
    return total


@pytest.mark.parametrize("kind", LM_KINDS)
def test_decoding_and_scoring_equal_brute_force(lm_folder: Callable[[str], str], kind: str) -> None:
    lm = CausalLM.load(lm_folder(kind))
    with torch.no_grad():
        free = [brute_force(lm, [p], [1.0], 8, set()) for p in PROMPTS]
        lm.newline_ids |= {free[0][2], free[2][5], free[3][0]}
        stops = {lm.eos_id} | lm.newline_ids
        expected = [brute_force(lm, [p], [1.0], 8, stops) for p in PROMPTS]
    assert len({len(ids) for ids in expected}) > 1  # rows leave the batch one after the other
    assert lm.prefix_bytes
    pairs = [(prompt, answer) for prompt in PROMPTS for answer in ANSWERS]
    slow = [slow_logprob(lm, *pair) for pair in pairs]
    for batch_tokens in (8192, 100, 1):
        kept = prefill(lm, PROMPTS, batch_tokens=batch_tokens)
        assert kept.num_bytes == lm.prefix_bytes * len(PROMPTS) * len(LONG)
        for _ in range(2):  # nothing that reads them changes the kept prompts
            found = lm.generate(PROMPTS, max_new_tokens=8, batch_tokens=batch_tokens, prefix=kept)
            assert found == expected
            logprobs = lm.answer_logprobs(
                [p for p, _ in pairs], [a for _, a in pairs], batch_tokens=batch_tokens, prefix=kept
            )
            assert logprobs.tolist() == pytest.approx(slow, abs=CLOSE)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_mixtures_of_any_size_from_the_same_prompts(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    prompts = [*PROMPTS, *(prompt[::-1] for prompt in PROMPTS)]  # two groups of five
    kept = prefill(lm, prompts)
    stops = {lm.eos_id} | lm.newline_ids
    for k in (1, 2, 3, 5):
        p_r = np.random.default_rng(k).dirichlet(np.ones(k), 2).astype(np.float32)
        groups = [prompts[start : start + k] for start in (0, 5)]
        with torch.no_grad():
            expected = [
                brute_force(lm, group, weights.tolist(), 8, stops)
                for group, weights in zip(groups, p_r, strict=True)
            ]
        found = lm.generate(
            [*groups[0], *groups[1]],
            max_new_tokens=8,
            group_size=k,
            log_p_r=np.log(p_r),
            prefix=kept,
        )
        assert found == expected


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
def test_what_ends_a_text_ends_it_behind_kept_prompts(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    kept = prefill(lm, PROMPTS)
    free = lm.generate(PROMPTS, max_new_tokens=12, stop_newline=False)
    stop = lm.tokenizer.decode(free[-1], skip_special_tokens=True)[3:6]
    options = {"max_new_tokens": 12, "stop_newline": False, "stop": [stop]}
    cut = [lm.text(ids) for ids in lm.generate(PROMPTS, **options)]
    assert cut != [lm.text(ids) for ids in free]
    assert [lm.text(ids) for ids in lm.generate(PROMPTS, **options, prefix=kept)] == cut
    lm.newline_ids = frozenset({free[0][3]})
    ended = lm.generate(PROMPTS, max_new_tokens=12, prefix=kept)
    assert ended == lm.generate(PROMPTS, max_new_tokens=12)
    assert ended[0] == free[0][: free[0].index(free[0][3])]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_answers_that_do_not_fit_the_context_together(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    """38 tokens are left behind the prompt, the answers have 10 or 38: several rows."""
    lm = CausalLM.load(lm_folder(kind))
    answers = [[40 + i + j for j in range(10)] for i in range(9)] + [LONG[: 128 - 90]]
    kept = prefill(lm, [LONG])
    found = lm.answer_logprobs([LONG] * 10, answers, prefix=kept)
    slow = [slow_logprob(lm, LONG, answer) for answer in answers]
    assert found.tolist() == pytest.approx(slow, abs=2 * CLOSE)  # sums over up to 38 tokens


def test_tokens_are_counted_as_computed(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("llama"))
    two = [PROMPTS[0], PROMPTS[4]]
    assert lm.prefix_bytes == 2 * 2 * 2 * 8 * 4  # k and v, 2 layers, 2 heads of 8, fp32
    kept = prefill(lm, [*two, *two])  # equal ones once, padded to the longest
    assert lm.last_num_tokens == 2 * 5
    lm.answer_logprobs(two * 2, [[40, 41, 42]] * 2 + [[50, 51]] * 2, prefix=kept)
    assert lm.last_num_tokens == 2 * (2 + 1)  # the last token of an answer is not read
    free = lm.generate(two, max_new_tokens=6, prefix=kept)
    # the first token comes with the prompt, the last is not read, an end is a token
    assert lm.last_num_tokens == sum(min(len(ids), 5) for ids in free)
    bf16 = CausalLM.load(lm_folder("llama"), precision="bf16")
    assert bf16.prefix_bytes == lm.prefix_bytes // 2


def test_batches_stay_within_the_bounds(
    lm_folder: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = CausalLM.load(lm_folder("llama"))
    groups = [[[5] * length] * count for length, count in ((10, 2), (40, 3), (12, 4), (9, 1))]
    assert prefix_batches(lm, groups) == [[1, 2, 0, 3]]
    assert prefix_batches(lm, groups, batch_tokens=100) == [[1], [2, 0, 3]]
    assert prefix_batches(lm, groups, batch_tokens=1) == [[1], [2], [0], [3]]
    monkeypatch.setattr(module, "MAX_BYTES", 100 * lm.prefix_bytes)
    found = prefix_batches(lm, groups)
    assert found == [[2, 0, 3]]  # the second group alone has 120 tokens
    assert prefix_batches(lm, groups, batch_tokens=60) == [[2], [0, 3]]
    for batch in found:
        kept = prefill(lm, [prompt for number in batch for prompt in groups[number]])
        assert kept.num_bytes <= module.MAX_BYTES


def test_an_lm_that_cannot_keep_prompts_is_found_out(tmp_path, lm_folder) -> None:
    shape = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    window = MistralConfig(
        **shape,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        sliding_window=16,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    for name, model in (
        ("window", MistralForCausalLM(window)),
        ("states", MambaForCausalLM(MambaConfig(**shape, state_size=4))),
    ):
        model.save_pretrained(tmp_path / name)
        byte_level_tokenizer(bos=False).save_pretrained(tmp_path / name)
        with torch.no_grad():
            lm = CausalLM.load(str(tmp_path / name))
        assert not lm.prefix_bytes, name
        assert prefix_batches(lm, [PROMPTS]) == []
    assert CausalLM.load(lm_folder("qwen2")).prefix_bytes
