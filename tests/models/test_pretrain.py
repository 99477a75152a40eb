"""Pretraining from scratch: the batches, the tokenizer, the record, and what the packaged LM
knows.
"""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import radit_ray
from radit_ray.core.errors import InputError
from radit_ray.data.world import WorldConfig, make_world, word_parts
from radit_ray.data.world_prose import known_fingerprint, pretraining_text
from radit_ray.models.pretrain import CONTEXT, Size, batches, build, pretrain, train_tokenizer

TINY = Size(width=32, depth=2, heads=2, mlp=64, vocab=300, steps=30, tokens=512, lr=1e-2)
PACKAGED = Path(radit_ray.__file__).parent / "assets" / "world-lm-s"
WORLD = WorldConfig(num_known=6, num_train=3, num_dev=3, num_eval=3, num_distractors=0, num_noise=0)


@pytest.fixture(scope="module")
def texts():
    return list(itertools.islice(pretraining_text(make_world(WORLD)), 400))


@pytest.fixture(scope="module")
def packaged():
    return AutoTokenizer.from_pretrained(PACKAGED), AutoModelForCausalLM.from_pretrained(
        PACKAGED, dtype=torch.float32
    ).eval()


def answer_is_argmax(tokenizer, model, prompt, answer):
    """Whether greedy decoding of `prompt` would begin with `answer`: one forward pass instead of a
    loop.
    """
    prompt_ids = tokenizer(prompt)["input_ids"]
    answer_ids = tokenizer(f" {answer}", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits_TV = model(torch.tensor([prompt_ids + answer_ids])).logits[0]
    return logits_TV[len(prompt_ids) - 1 : -1].argmax(-1).tolist() == answer_ids


def test_tokenizer_prepends_bos_and_any_string_survives(texts):
    tokenizer = train_tokenizer(texts, vocab=400)
    assert len(tokenizer) <= 400
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    for text in ["Where was Talkun Norbek born?", " œuvre\n\n\t 東京 🙂 ", "A:  b"]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[1:]


def test_rows_hold_each_text_once_and_targets_are_the_next_ids(texts):
    tokenizer = train_tokenizer(texts, vocab=300)
    sole = [f"{number} {text[:200]}" for number, text in enumerate(texts)]
    seen = collections.Counter()
    for ids_BT, targets_BT in itertools.islice(
        batches(sole, tokenizer, steps=10_000, tokens=2048), 9000
    ):
        assert ids_BT.numel() <= 2048
        for ids_T, targets_T in zip(ids_BT.tolist(), targets_BT.tolist(), strict=True):
            length = targets_T.index(-100) if -100 in targets_T else len(targets_T)
            assert targets_T[:length] == ids_T[1 : length + 1]
            assert set(targets_T[length:]) == {-100}
            row = ids_T[: length + 1]
            assert row[0] == tokenizer.bos_token_id
            assert row[-1] == tokenizer.eos_token_id
            assert set(ids_T[length + 1 :]) <= {tokenizer.pad_token_id}
            seen[tokenizer.decode(row[1:-1])] += 1
    assert seen == collections.Counter(sole)


def test_the_last_tenth_are_full_windows_of_the_running_text(texts):
    tokenizer = train_tokenizer(texts, vocab=300)
    *rows, last = list(batches(texts, tokenizer, steps=10, tokens=1024))
    assert len(rows) == 9
    ids_BT, targets_BT = last
    assert ids_BT.shape == targets_BT.shape == (2, CONTEXT)
    assert ids_BT.flatten().tolist()[1:] == targets_BT.flatten().tolist()[:-1]
    rest = tokenizer.decode(ids_BT.flatten().tolist()).split("</s>")[0].removeprefix("<s>")
    assert rest in texts


def test_pretraining_learns_repeats_itself_and_loads_in_plain_libraries(tmp_path, texts):
    record = pretrain(texts, size=TINY, output=tmp_path / "a", num_threads=1, about={"world": "w"})
    again = pretrain(texts, size=TINY, output=tmp_path / "b", num_threads=1)
    assert record["sha256"] == again["sha256"]
    assert (
        record["sha256"]
        == hashlib.sha256((tmp_path / "a/model.safetensors").read_bytes()).hexdigest()
    )
    assert record == json.loads((tmp_path / "a/world_lm.json").read_text())
    assert record["world"] == "w"
    assert record["steps"] == 30
    assert 25 * 256 < record["tokens_seen"] <= 30 * 512
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "a")
    assert model.dtype == torch.bfloat16
    assert model.config.bos_token_id == tokenizer.bos_token_id == tokenizer("x")["input_ids"][0]
    assert record["num_parameters"] == sum(p.numel() for p in model.parameters())
    untrained = build(TINY, tokenizer)
    ids_BT = tokenizer(texts[:8], return_tensors="pt", padding=True)["input_ids"]
    labels_BT = ids_BT.masked_fill(ids_BT == tokenizer.pad_token_id, -100)
    with torch.no_grad():
        before = untrained(ids_BT, labels=labels_BT).loss
        after = model.float()(ids_BT, labels=labels_BT).loss
    assert after < before - 1.0  # nats per token; an untrained LM is at log 300 = 5.7
    assert record["final_loss"] < 5.0


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"size='x' of the LM; did you mean 'xs'\? .*l, m, s, xs, xxs"
    ):
        pretrain([], size="x", output=tmp_path)
    with pytest.raises(InputError, match=r"precision='fp8'"):
        pretrain([], size="s", output=tmp_path, precision="fp8")
    for wrong in ({"steps": 0}, {"num_threads": -1}):
        with pytest.raises(InputError, match=r"(steps=0|num_threads=-1) of the LM; .*at least 1"):
            pretrain([], size=TINY, output=tmp_path, **wrong)
    with pytest.raises(InputError, match="the texts ran out after 0 of 5 steps"):
        pretrain([], size=TINY, output=tmp_path, steps=5)


def test_packaged_lm_is_small_intact_and_of_the_default_world():
    record = json.loads((PACKAGED / "world_lm.json").read_text())
    assert sum(path.stat().st_size for path in PACKAGED.iterdir()) <= 4_000_000
    assert (
        record["sha256"]
        == hashlib.sha256((PACKAGED / "model.safetensors").read_bytes()).hexdigest()
    )
    assert record["known_sha256"] == known_fingerprint(make_world(WorldConfig()))


def test_packaged_lm_recalls_known_facts_but_not_those_of_eval(packaged):
    world, draw = make_world(WorldConfig()), random.Random(0)
    share = {}
    for task in ("world-known", "world"):
        examples = [e for e in world.examples if e["task"] == task and e["split"] == "eval"]
        right = [
            answer_is_argmax(
                *packaged, f"A visitor asked: {e['question']} The reply was", e["answers"][0]
            )
            for e in draw.sample(examples, 100)
        ]
        share[task] = sum(right) / len(right)
    assert share["world-known"] > 0.5
    assert (
        share["world"] < 0.15
    )  # guesses among some eighteen common nouns in a third of the questions


def test_packaged_lm_copies_names_it_has_never_met(packaged):
    tokenizer, model = packaged
    draw, right = random.Random(0), []
    for _ in range(40):
        names = draw.sample(word_parts(0)["eval"].values, 5)
        prompt = f"The register reads {', '.join(names)}. Once more: {', '.join(names[:2])},"
        right.append(answer_is_argmax(tokenizer, model, prompt, names[2]))
    assert sum(right) > 20  # a blind pick among the five names would be right 8 times
