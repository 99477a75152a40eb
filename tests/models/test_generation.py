"""Contract: greedy decoding equals brute-force argmax step by step, alone and for mixtures of K
prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from radit_ray.core.errors import InputError
from radit_ray.models.causal_lm import CausalLM

LM_KINDS = ("llama", "llama_tied", "qwen2", "qwen3", "gpt2", "bert")
PROMPTS = [[5, 60, 71, 200, 33], [9, 14], [77, 78, 120, 121, 122, 123, 140, 33], [50, 51, 52]]


def brute_force(lm: CausalLM, prompts, weights, max_new_tokens: int, stops: set[int]) -> list[int]:
    """Probabilities of every prompt's own full forward, averaged with the weights; argmax; no
    cache, no padding.
    """
    new: list[int] = []
    for _ in range(max_new_tokens):
        mixture = 0
        for prompt, weight in zip(prompts, weights, strict=True):
            logits = lm.model(input_ids=torch.tensor([[*prompt, *new]])).logits[0, -1]
            mixture = mixture + weight * torch.softmax(logits.double(), 0)
        token = int(mixture.argmax())
        if token in stops:
            break
        new.append(token)
    return new


@pytest.mark.parametrize("kind", LM_KINDS)
def test_alone_equals_brute_force_and_batches_do_not_matter(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    stops = {lm.eos_id} | lm.newline_ids
    with torch.no_grad():
        expected = [brute_force(lm, [p], [1.0], 8, stops) for p in PROMPTS]
    assert any(expected)
    assert lm.generate(PROMPTS, max_new_tokens=8) == expected
    assert lm.last_num_tokens > 0
    assert lm.generate(PROMPTS, max_new_tokens=8, batch_tokens=1) == expected  # one row a batch


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_mixture_equals_brute_force(lm_folder: Callable[[str], str], kind: str) -> None:
    lm = CausalLM.load(lm_folder(kind))
    p_r = np.array([[0.55, 0.45], [0.1, 0.9]], dtype=np.float32)
    stops = {lm.eos_id} | lm.newline_ids
    with torch.no_grad():
        expected = [
            brute_force(lm, PROMPTS[2 * row : 2 * row + 2], p_r[row].tolist(), 8, stops)
            for row in range(2)
        ]
    for batch_tokens in (8192, 1):  # a budget below one group still keeps the group together
        found = lm.generate(
            PROMPTS, max_new_tokens=8, group_size=2, log_p_r=np.log(p_r), batch_tokens=batch_tokens
        )
        assert found == expected
    one_hot = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    found = lm.generate(PROMPTS, max_new_tokens=8, group_size=2, log_p_r=one_hot)
    assert found == lm.generate([PROMPTS[0], PROMPTS[3]], max_new_tokens=8)


def test_eos_and_newline_end_an_answer(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("gpt2"))
    free = lm.generate(PROMPTS[:1], max_new_tokens=8, stop_newline=False)[0]
    cut = free.index(free[3])
    lm.newline_ids = frozenset({free[3]})
    assert lm.generate(PROMPTS[:1], max_new_tokens=8)[0] == free[:cut]
    assert lm.generate(PROMPTS[:1], max_new_tokens=8, stop_newline=False)[0] == free
    lm.eos_id = free[3]
    assert lm.generate(PROMPTS[:1], max_new_tokens=8, stop_newline=False)[0] == free[:cut]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_string_ends_a_continuation_also_across_tokens(
    lm_folder: Callable[[str], str], kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    free = [lm.generate([p], max_new_tokens=12, stop_newline=False)[0] for p in PROMPTS]
    whole = lm.last_num_tokens
    words = [lm.tokenizer.decode(ids, skip_special_tokens=True) for ids in free]
    stop = words[-1][3:6]
    found = lm.generate(PROMPTS[-1:], max_new_tokens=12, stop_newline=False, stop=[stop])[0]
    assert found == free[-1][: len(found)]
    assert stop in lm.tokenizer.decode(found)
    assert stop not in lm.tokenizer.decode(found[:-1])
    assert lm.last_num_tokens < whole
    together = lm.generate(PROMPTS, max_new_tokens=12, stop_newline=False, stop=[stop, "no such"])
    cut = [lm.tokenizer.decode(ids, skip_special_tokens=True).split(stop)[0] for ids in together]
    assert cut == [text.split(stop)[0] for text in words]


def test_the_checkpoints_sampling_settings_are_ignored(
    lm_folder: Callable[[str], str], tmp_path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(lm_folder("qwen2"))
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(lm_folder("qwen2")).save_pretrained(tmp_path)
    plain = CausalLM.load(lm_folder("qwen2")).generate(PROMPTS, max_new_tokens=8)
    assert CausalLM.load(str(tmp_path)).generate(PROMPTS, max_new_tokens=8) == plain


def test_bad_input_is_one_line(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("gpt2"))
    with pytest.raises(InputError, match="3 prompts do not make groups of 2"):
        lm.generate(PROMPTS[:3], max_new_tokens=2, group_size=2)
    with pytest.raises(InputError, match="log_p_r is missing"):
        lm.generate(PROMPTS, max_new_tokens=2, group_size=2)
    with pytest.raises(InputError, match=r"shape \(1, 2\), expected \(2, 2\)"):
        lm.generate(PROMPTS, max_new_tokens=2, group_size=2, log_p_r=np.zeros((1, 2), np.float32))
    with pytest.raises(InputError, match="exceed the LM's context of 128"):
        lm.generate([[5] * 120], max_new_tokens=9)
    assert lm.generate([], max_new_tokens=2) == []
