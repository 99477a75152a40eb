"""Contract: ids are what the tokenizer would give in place, prompts fit, and log-probs are exact
sums in the order given.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from radit_ray.core.errors import InputError
from radit_ray.core.templates import Prompt
from radit_ray.models.causal_lm import CausalLM

KINDS = ("llama", "llama_tied", "qwen2", "qwen3", "gpt2", "bert")


@pytest.mark.parametrize("kind", KINDS)
def test_logprobs_equal_token_by_token_forwards(lm_folder: Callable[[str], str], kind: str) -> None:
    lm = CausalLM.load(lm_folder(kind))
    assert lm.logits_to_keep
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (9, 3), (30, 2), (4, 7), (17, 1), (2, 2), (60, 5), (3, 4)]
    prompts = [rng.integers(5, 250, n).tolist() for n, _ in sizes]
    answers = [rng.integers(5, 250, n).tolist() for _, n in sizes]
    found = lm.answer_logprobs(prompts, answers)
    assert found.dtype == np.float32
    expected = []
    with torch.no_grad():
        for prompt, answer in zip(prompts, answers, strict=True):
            logits = lm.model(input_ids=torch.tensor([prompt + answer])).logits[0].double()
            at = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            log_p = torch.log_softmax(logits, dim=-1)
            expected.append(sum(float(log_p[t, i]) for t, i in zip(at, answer, strict=True)))
    # 1e-4 in fp32, relative to sums of up to 60 nats
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-5)
    eight_of_one = [lm.answer_logprobs([p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
    np.testing.assert_allclose(found, eight_of_one, atol=1e-4, rtol=1e-5)
    np.testing.assert_allclose(
        found, lm.answer_logprobs(prompts, answers, batch_tokens=70), atol=1e-4, rtol=1e-5
    )
    lm.logits_to_keep = False
    np.testing.assert_allclose(found, lm.answer_logprobs(prompts, answers), atol=1e-4, rtol=1e-5)
    assert lm.last_num_tokens >= sum(p + a - 1 for p, a in sizes)
    assert lm.answer_logprobs([], []).shape == (0,)


def test_special_tokens_per_tokenizer(lm_folder: Callable[[str], str]) -> None:
    expected = {  # BOS, EOS, PAD
        "llama": ((1,), 2, 2),  # no PAD: EOS, masked
        "llama_tied": ((0,), 1, 2),
        "gpt2": ((), 1, 2),
        "bert": ((2,), 3, 0),  # no EOS: SEP
    }
    for kind, (bos_ids, eos_id, pad_id) in expected.items():
        lm = CausalLM.load(lm_folder(kind))
        assert (lm.bos_ids, lm.eos_id, lm.pad_id) == (bos_ids, eos_id, pad_id)
        assert lm.context_length == 128


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_answer_ids_are_the_ids_in_place(lm_folder: Callable[[str], str], kind: str) -> None:
    lm = CausalLM.load(lm_folder(kind))
    for answer in ("Paris", "O'Brien paid 1,000", "a: b", "in London"):
        ids = lm.answer_ids(answer)
        assert lm.encode("Answer:") + ids == lm.encode(f"Answer: {answer}")
        assert lm.answer_ids(f"  {answer} ") == ids
        assert lm.answer_ids(answer, eos=True) == [*ids, lm.eos_id]
    with pytest.raises(InputError, match="answer '  ' has no tokens"):
        lm.answer_ids("  ")


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_control_tokens_in_a_text_stay_text(lm_folder: Callable[[str], str], kind: str) -> None:
    lm = CausalLM.load(lm_folder(kind))
    for control in ("</s>", "[SEP]", "<s>", "[CLS]"):
        assert not {lm.eos_id, *lm.bos_ids} & set(lm.encode(f"the town {control} of"))


def test_round_trip(lm_folder: Callable[[str], str]) -> None:
    answers = ["Paris", "O'Brien", "1,000", "well-known", "the (old) town", "in 1990."]
    for kind in ("llama", "gpt2", "bert"):
        lm = CausalLM.load(lm_folder(kind))
        assert lm.round_trip_share(answers) == 1.0
    assert lm.text(lm.answer_ids("O'Brien, 1,000 (old) 1.5 10:30")) == (
        "o'brien, 1,000 (old) 1.5 10:30"
    )
    # the tiny WordPiece vocabulary has no such letter
    assert lm.round_trip_share(["Paris", "Ж"]) == 0.5


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_prompts_fit_the_context(lm_folder: Callable[[str], str], kind: str) -> None:
    lm = CausalLM.load(lm_folder(kind))
    shots = ("Question: who wrote it?\nAnswer: author\n\n", "Question: the river?\nAnswer: old\n\n")
    background = "Background: " + "the old town " * 8 + "\n\n"
    prompt = Prompt(shots=shots, background=background, instruction="Question: what?\nAnswer:")
    pieces = [lm.encode(text) for text in (*shots, background, prompt.instruction)]
    whole = [*lm.bos_ids, *itertools.chain(*pieces)]

    def fitted(tokens_free: int):
        return lm.fit_prompt(prompt, room=lm.context_length - len(whole) + tokens_free)

    assert (fitted(0).ids, fitted(0).num_shots_dropped) == (whole, 0)
    without_first = fitted(1)
    assert without_first.num_shots_dropped == 1
    assert without_first.ids == [*lm.bos_ids, *itertools.chain(*pieces[1:])]
    closing = lm.encode(".\n\n")[len(lm.encode(".")) :]
    cut = fitted(len(pieces[0]) + len(pieces[1]) + 5)
    assert (cut.num_shots_dropped, cut.num_background_cut) == (2, 5)
    kept = len(pieces[2]) - 5 - len(closing)
    assert cut.ids == [*lm.bos_ids, *pieces[2][:kept], *closing, *pieces[3]]
    everything = lm.context_length - len(lm.bos_ids) - len(pieces[3])
    ids, num_cut = lm.prompt_ids(prompt, room=everything)
    assert (ids, num_cut) == ([*lm.bos_ids, *pieces[3]], len(pieces[2]))
    with pytest.raises(InputError, match="context is 128 tokens; shorten the question"):
        lm.prompt_ids(prompt, room=everything + 1)


def test_dropout_is_off_in_training_mode_too(lm_folder: Callable[[str], str]) -> None:
    for kind in ("llama", "gpt2", "bert"):
        lm = CausalLM.load(lm_folder(kind))
        assert set(lm.base_dropout.values()) >= {0.1}
        ids = torch.arange(5, 40)[None]
        evaluated = lm.model(input_ids=ids).logits
        lm.model.train()
        torch.testing.assert_close(lm.model(input_ids=ids).logits, evaluated, atol=0, rtol=0)


def test_sizes(lm_folder: Callable[[str], str]) -> None:
    lm = CausalLM.load(lm_folder("llama_tied"))
    # per layer q, o: 32*32, k, v: 32*16, mlp 3*32*64, norms 2*32; final norm 32; head = tied table
    layer = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32
    assert lm.num_parameters == 2 * layer + 32 + 300 * 32
    assert lm.flops_per_token == 2 * (2 * layer + 32 + 300 * 32)
    untied = CausalLM.load(lm_folder("llama"))
    assert untied.num_parameters == lm.num_parameters + 300 * 32
    assert untied.flops_per_token == lm.flops_per_token


class WholeHead(LlamaForCausalLM):
    """A model that takes logits_to_keep and ignores it."""

    def forward(self, logits_to_keep=0, **kwargs):
        return super().forward(**kwargs)


def test_a_model_that_ignores_logits_to_keep_gets_the_full_head(
    lm_folder: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = CausalLM.load(lm_folder("llama")).answer_logprobs([[5, 6, 7]], [[8, 9]])
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", WholeHead.from_pretrained)
    with pytest.warns(UserWarning, match="WholeHead does not support logits_to_keep"):
        lm = CausalLM.load(lm_folder("llama"))
    assert not lm.logits_to_keep
    np.testing.assert_allclose(lm.answer_logprobs([[5, 6, 7]], [[8, 9]]), expected, atol=1e-5)


def test_bf16_is_close(lm_folder: Callable[[str], str]) -> None:
    full = CausalLM.load(lm_folder("qwen2"))
    half = CausalLM.load(lm_folder("qwen2"), precision="bf16")
    assert next(half.model.parameters()).dtype == torch.bfloat16
    pair = [[5, 6, 7, 8]], [[9, 10]]
    found, expected = half.answer_logprobs(*pair)[0], full.answer_logprobs(*pair)[0]
    assert math.isclose(found, expected, rel_tol=0.05)  # 8 bits of mantissa through 2 layers


def test_what_cannot_be_loaded_is_one_line(lm_folder: Callable[[str], str], tmp_path: Path) -> None:
    good = Path(lm_folder("gpt2"))
    with pytest.raises(InputError, match="no such folder; did you mean 'gpt2'"):
        CausalLM.load(str(good.parent / "gpt3"))
    with pytest.raises(InputError, match=r"has no config\.json"):
        CausalLM.load(str(tmp_path))
    pickled = tmp_path / "pickled"
    shutil.copytree(good, pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only as a pickle \(pytorch_model.bin\)"):
        CausalLM.load(str(pickled))
    with pytest.raises(InputError, match="'no-such-lm' cannot be loaded") as caught:
        CausalLM.load("no-such-lm")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="fit it with prompt_ids"):
        CausalLM.load(str(good)).answer_logprobs([[5] * 127], [[6, 7]])


def test_eos_comes_from_the_argument_where_the_tokenizer_has_none(
    lm_folder: Callable[[str], str], tmp_path: Path
) -> None:
    shutil.copytree(lm_folder("gpt2"), tmp_path, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    token, token_id = tokenizer.convert_ids_to_tokens(280), 280
    assert CausalLM.load(str(tmp_path), eos_token=token).eos_id == token_id
    with pytest.raises(InputError, match="eos_token 'nope' is not in the vocabulary"):
        CausalLM.load(str(tmp_path), eos_token="nope")
    # GPT2Config's default, 50256, lies outside this vocabulary
    with pytest.raises(InputError, match="has no EOS token"):
        CausalLM.load(str(tmp_path))
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('_id": 50256', '_id": 7'))
    assert CausalLM.load(str(tmp_path)).eos_id == 7
