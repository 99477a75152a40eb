"""Contract: every ensemble answers as a slow loop over one prompt and one token at a time would, in
any batch; choices by the paper's scorings; no chunk is no background.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import LM_KINDS, documents, questions, tiny_lm

from radit_ray.core.errors import InputError
from radit_ray.core.metrics import rouge_l
from radit_ray.data.rows import example_row
from radit_ray.engines.answering import PREDICTION, answer_batch, answer_depths
from radit_ray.engines.variants import ENSEMBLES, Variant, answer_length, check_variant, fit_prompts
from radit_ray.models import prefix
from radit_ray.models.causal_lm import CausalLM

T_R = 0.2
NEW = 6
CLOSE = 1e-3  # nats, of sums over some tokens in fp32
NUM_QUESTIONS = len(questions()["eval"])  # the whole test set of the tiny world


@pytest.fixture(scope="module")
def lm(tiny_models: tuple[str, str]) -> CausalLM:
    return CausalLM.load(tiny_models[0], precision="fp32")


def ranked_row(number: int, *, k: int = 3, **fields: Any) -> dict[str, Any]:
    """A ranked row made by hand: the right document second."""
    texts = documents()
    asked = questions()["eval"][number]
    right = next(i for i, d in enumerate(texts) if d["id"] == asked["group"])
    shown = [(right + offset) % 40 for offset in (5, 0, 11, 3, 7)[:k]]
    row = example_row({**asked, **fields, "split": "eval"})
    return {
        **row,
        "chunk_ids": [f"{texts[i]['id']}#0" for i in shown],
        "doc_ids": [texts[i]["id"] for i in shown],
        "titles": [texts[i]["title"] for i in shown],
        "texts": [texts[i]["text"] for i in shown],
        "scores": [0.9 - 0.1 * n for n in range(len(shown))],
    }


def p_r(row: dict[str, Any], k: int) -> list[float]:
    weights = [math.exp(score / T_R) for score in row["scores"][:k]]
    return [weight / sum(weights) for weight in weights]


def prompt_ids(lm: CausalLM, row: dict[str, Any], background: str) -> list[int]:
    """BOS, background, instruction, each encoded by itself."""
    pieces = [f"Background: {background}\n\n"] if background else []
    pieces.append(f"Q: {row['question']}\nA:")
    encoded = [lm.tokenizer(p, add_special_tokens=False)["input_ids"] for p in pieces]
    return [*lm.bos_ids, *(i for ids in encoded for i in ids)]


def backgrounds(row: dict[str, Any], k: int) -> list[str]:
    return [f"{a} {b}" for a, b in zip(row["titles"][:k], row["texts"][:k], strict=True)]


@torch.inference_mode()
def next_logprobs(lm: CausalLM, ids: list[int]) -> torch.Tensor:
    """log p of the next token, (V,), by a plain forward pass."""
    return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)


def sum_logprob(lm: CausalLM, prompt: list[int], answer: list[int]) -> float:
    return sum(
        float(next_logprobs(lm, [*prompt, *answer[:at]])[token]) for at, token in enumerate(answer)
    )


def decode(lm: CausalLM, prompts: list[list[int]], weights: list[float]) -> str:
    """Greedy on the mixture of next-token probabilities; with one prompt it is plain greedy."""
    made: list[int] = []
    for _ in range(NEW):
        mixed = sum(
            weight * next_logprobs(lm, [*prompt, *made]).exp()
            for prompt, weight in zip(prompts, weights, strict=True)
        )
        token = int(mixed.argmax())  # type: ignore[union-attr]
        if token == lm.eos_id or "\n" in lm.tokenizer.decode([token]):
            break
        made.append(token)
    return lm.text(made).split("\n")[0].strip()


def slow_answers(lm: CausalLM, row: dict[str, Any], k: int) -> dict[str, Any]:
    """Decode every chunk's prompt, score each unique answer under every prompt, weight by p_R."""
    prompts = [prompt_ids(lm, row, text) for text in backgrounds(row, k)]
    weights = p_r(row, k)
    alone = [decode(lm, [prompt], [1.0]) for prompt in prompts]
    scores: dict[str, float] = {}
    for answer in dict.fromkeys(text for text in alone if text):
        ids = [*lm.answer_ids(answer), lm.eos_id]
        total = sum(
            weight * math.exp(sum_logprob(lm, prompt, ids))
            for prompt, weight in zip(prompts, weights, strict=True)
        )
        scores[answer] = math.log(total)
    return {"alone": alone, "scores": scores}


def slow_nll(lm: CausalLM, row: dict[str, Any], k: int) -> float:
    """-log sum_k p_R(k) p(gold | prompt k)."""
    gold = lm.answer_ids(row["answers"][0])
    prompts = [prompt_ids(lm, row, text) for text in backgrounds(row, k)] or [
        prompt_ids(lm, row, "")
    ]
    weights = p_r(row, k) if k > 1 else [1.0]
    total = sum(
        weight * math.exp(sum_logprob(lm, prompt, gold))
        for prompt, weight in zip(prompts, weights, strict=True)
    )
    return -math.log(total)


def run(lm: CausalLM, rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    variant = Variant(max_new_tokens=NEW, **fields)
    predictions, tokens = answer_batch(lm, rows, variant, t_r=T_R, batch_tokens=700)
    assert tokens > 0
    for prediction in predictions:
        assert set(prediction) == set(PREDICTION.names)
    return predictions


@pytest.mark.parametrize("k", [1, 3])
def test_answers_equals_the_slow_loop_on_every_question(lm: CausalLM, k: int) -> None:
    rows = [ranked_row(n) for n in range(NUM_QUESTIONS)]
    predictions = run(lm, rows, k=k, ensemble="answers")
    several = 0
    for row, prediction in zip(rows, predictions, strict=True):
        slow = slow_answers(lm, row, k)
        assert prediction["chunk_answers"] == slow["alone"]
        assert set(prediction["candidates"]) == set(slow["scores"])
        if len(slow["scores"]) > 1:
            several += 1
            found = dict(
                zip(prediction["candidates"], prediction["candidate_logprobs"], strict=True)
            )
            assert found == pytest.approx(slow["scores"], abs=CLOSE)
        best = max(slow["scores"], key=lambda a: slow["scores"][a], default="")
        assert prediction["prediction"] == best
        assert prediction["p_r"] == pytest.approx(p_r(row, k), abs=1e-6)
        assert prediction["nll"] == pytest.approx(slow_nll(lm, row, k), abs=CLOSE)
        expected = [
            sum_logprob(lm, prompt_ids(lm, row, text), lm.answer_ids(row["answers"][0]))
            for text in backgrounds(row, k)
        ]
        assert prediction["chunk_logprobs"] == pytest.approx(expected, abs=CLOSE)
    assert several > NUM_QUESTIONS / 2 if k > 1 else not several  # else nothing was weighed


@pytest.mark.parametrize("kind", LM_KINDS)
def test_every_kind_of_lm_computes_a_prompt_once_and_answers_as_the_slow_loop(
    tmp_path: Path, kind: str
) -> None:
    """Prompts of very different lengths among them, and a question without any chunk."""
    lm = CausalLM.load(tiny_lm(tmp_path, shape=kind))
    assert lm.prefix_bytes
    rows = [ranked_row(n, k=k) for n, k in enumerate((3, 3, 2, 0))]
    rows[1]["texts"] = ["Anna.", rows[1]["texts"][1] * 2, rows[1]["texts"][2]]
    for row, prediction in zip(rows, run(lm, rows, k=3), strict=True):
        shown = len(row["texts"])
        if shown > 1:
            slow = slow_answers(lm, row, 3)
            assert prediction["chunk_answers"] == slow["alone"]
            best = max(slow["scores"], key=lambda a: slow["scores"][a], default="")
            assert prediction["prediction"] == best
        assert prediction["nll"] == pytest.approx(slow_nll(lm, row, shown), abs=CLOSE)
    for row, prediction in zip(rows, run(lm, rows, k=3, ensemble="tokens"), strict=True):
        prompts = [prompt_ids(lm, row, text) for text in backgrounds(row, 3) or [""]]
        weights = p_r(row, 3) if row["texts"] else [1.0]
        assert prediction["prediction"] == decode(lm, prompts, weights)
    for row, prediction in zip(rows, run(lm, rows, k=2, ensemble="concat"), strict=True):
        if not prediction["num_truncated"]:
            prompt = prompt_ids(lm, row, "\n".join(backgrounds(row, 2)))
            assert prediction["prediction"] == decode(lm, [prompt], [1.0])


@pytest.mark.parametrize("kind", LM_KINDS)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_an_lm_that_cannot_keep_prompts_answers_the_same(
    tmp_path: Path, kind: str, ensemble: str
) -> None:
    """Choices and free answers in one batch, several k; a candidate longer than its room."""
    lm = CausalLM.load(tiny_lm(tmp_path, shape=kind))
    rows = [ranked_row(n, k=3) for n in range(4)] + [choice_row(0)]
    rows[0]["texts"] = [" ".join(rows[0]["texts"]) * 2] * 3  # fills the context
    variant = Variant(ensemble=ensemble, max_new_tokens=20, k=3)
    ks = [3] if ensemble == "concat" else [1, 2, 3]
    kept, tokens = answer_depths(lm, rows, variant, ks, t_r=T_R)
    lm.prefix_bytes = 0
    plain, more = answer_depths(lm, rows, variant, ks, t_r=T_R)
    assert tokens < 0.9 * more
    for k in ks:
        for one, other in zip(kept[k], plain[k], strict=True):
            for name, value in other.items():
                if name in ("candidate_logprobs", "chunk_logprobs", "nll"):
                    assert one[name] == pytest.approx(value, abs=CLOSE), (k, name)
                else:
                    assert one[name] == value, (k, name)


def test_prompts_beyond_the_memory_bound_are_split_or_computed_the_plain_way(
    lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [ranked_row(n) for n in range(4)]
    rows[0]["texts"] = [text * 2 for text in rows[0]["texts"]]
    variant = Variant(k=3, max_new_tokens=NEW)
    expected, _ = answer_batch(lm, rows, variant, t_r=T_R)
    sizes = [
        3 * max(len(prompt_ids(lm, row, text)) for text in backgrounds(row, 3)) for row in rows
    ]
    used = []
    for tokens in (max(sizes), max(sizes[1:]), 1):
        monkeypatch.setattr(prefix, "MAX_BYTES", tokens * lm.prefix_bytes)
        found, num = answer_batch(lm, rows, variant, t_r=T_R)
        used.append(num)
        for one, other in zip(found, expected, strict=True):
            assert one["chunk_answers"] == other["chunk_answers"]
            assert one["nll"] == pytest.approx(other["nll"], abs=CLOSE)
    assert used[0] < used[1] < used[2]  # one by one; the first the plain way; all of them


def test_max_answers_keeps_those_with_most_weight(lm: CausalLM) -> None:
    rows = [ranked_row(n, k=5) for n in range(5)]
    all_of = run(lm, rows, k=5)
    two = run(lm, rows, k=5, max_answers=2)
    for row, full, cut in zip(rows, all_of, two, strict=True):
        mass: collections.Counter[str] = collections.Counter()
        for text, weight in zip(full["chunk_answers"], p_r(row, 5), strict=True):
            mass[text] += weight  # type: ignore[assignment]
        expected = [text for text, _ in mass.most_common() if text][:2]
        assert set(cut["candidates"]) == set(expected)


@pytest.mark.parametrize("k", [1, 3])
def test_tokens_equals_the_slow_loop_on_every_question(lm: CausalLM, k: int) -> None:
    rows = [ranked_row(n) for n in range(NUM_QUESTIONS)] + [ranked_row(5, k=2)]
    predictions = run(lm, rows, k=k, ensemble="tokens")
    for row, prediction in zip(rows, predictions, strict=True):
        shown = min(k, len(row["texts"]))
        prompts = [prompt_ids(lm, row, text) for text in backgrounds(row, k)]
        assert prediction["prediction"] == decode(lm, prompts, p_r(row, shown))
        assert prediction["nll"] == pytest.approx(slow_nll(lm, row, shown), abs=CLOSE)


def test_concat_is_one_prompt_of_all_chunks(lm: CausalLM) -> None:
    rows = [ranked_row(n, k=2) for n in range(4)]
    predictions = run(lm, rows, k=2, ensemble="concat")
    for row, prediction in zip(rows, predictions, strict=True):
        prompt = prompt_ids(lm, row, "\n".join(backgrounds(row, 2)))
        room = lm.context_length - max(NEW, len(lm.answer_ids(row["answers"][0])))
        assert len(prompt) <= room  # nothing is cut here
        assert prediction["num_truncated"] == 0
        assert prediction["prediction"] == decode(lm, [prompt], [1.0])
        gold = sum_logprob(lm, prompt, lm.answer_ids(row["answers"][0]))
        assert prediction["nll"] == pytest.approx(-gold, abs=CLOSE)


@pytest.mark.parametrize("ensemble", ["answers", "tokens"])
@pytest.mark.parametrize("max_answers", [0, 2])
def test_several_depths_at_once_equal_each_by_itself(
    lm: CausalLM, ensemble: str, max_answers: int
) -> None:
    rows = [ranked_row(n, k=5) for n in range(6)] + [ranked_row(6, k=2)]
    rows += [{**ranked_row(n, k=5), "choices": ["Anna", "Arden", "old town"]} for n in range(2)]
    rows[-1] |= {"answers": ["Arden"], "scoring": "nll_compl"}
    rows[-2] |= {"answers": ["Anna"]}
    variant = Variant(ensemble=ensemble, max_answers=max_answers, max_new_tokens=NEW)
    found, tokens = answer_depths(lm, rows, variant, [1, 3, 5], t_r=T_R)
    alone = 0
    for k in (1, 3, 5):
        expected, used = answer_batch(lm, rows, dataclasses.replace(variant, k=k), t_r=T_R)
        alone += used
        for one, other in zip(found[k], expected, strict=True):
            for name, value in other.items():
                if name in ("candidate_logprobs", "chunk_logprobs", "p_r", "nll"):
                    assert one[name] == pytest.approx(value, abs=CLOSE), (k, name)
                else:
                    assert one[name] == value, (k, name)
    assert tokens < 0.8 * alone


@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_answers_that_are_measured_by_overlap_may_be_longer(lm: CausalLM, ensemble: str) -> None:
    metrics = ("em", "f1", "rouge-l", "em", "accuracy", "f1")
    rows = [ranked_row(n, metric=metric) for n, metric in enumerate(metrics)]
    short = Variant(ensemble=ensemble, max_new_tokens=1, long_new_tokens=1, k=3)
    both = dataclasses.replace(short, long_new_tokens=NEW)
    texts = {
        length: [row["prediction"] for row in answer_batch(lm, rows, variant, t_r=T_R)[0]]
        for length, variant in (
            ("mixed", both),
            ("short", short),
            ("long", dataclasses.replace(short, max_new_tokens=NEW)),
        )
    }
    is_long = [metric in ("f1", "rouge-l") for metric in metrics]
    expected = [texts["long" if long else "short"][n] for n, long in enumerate(is_long)]
    assert texts["mixed"] == expected
    assert texts["mixed"] not in (texts["short"], texts["long"])
    with pytest.raises(InputError, match="long_new_tokens"):
        check_variant(dataclasses.replace(short, long_new_tokens=0))
    # never more than half the context
    assert answer_length(lm, rows[1], dataclasses.replace(short, long_new_tokens=10**6)) == (
        lm.context_length // 2
    )


def test_a_context_that_overflows_is_counted(lm: CausalLM) -> None:
    row = ranked_row(0, k=5)
    row["texts"] = [text * 2 for text in row["texts"]]
    (prediction,) = run(lm, [row], k=5, ensemble="concat")
    assert (prediction["num_truncated"], prediction["num_question_cut"]) == (1, 0)


def test_a_question_longer_than_the_context_loses_its_beginning(lm: CausalLM) -> None:
    row = ranked_row(0, k=2)
    row["question"] = f"{'the old town ' * lm.context_length}{row['question']}"
    (prediction,) = run(lm, [row], k=2)
    whole = prompt_ids(lm, row, "")
    room = max(NEW, len(lm.answer_ids(row["answers"][0])))
    kept = lm.context_length - room - len(lm.bos_ids)
    assert prediction["num_question_cut"] == len(whole) - len(lm.bos_ids) - kept
    assert prediction["num_truncated"] == 2  # both chunks had to go
    gold = sum_logprob(lm, [*lm.bos_ids, *whole[-kept:]], lm.answer_ids(row["answers"][0]))
    assert prediction["nll"] == pytest.approx(-gold, abs=CLOSE)


def test_without_chunks_there_is_no_background(lm: CausalLM) -> None:
    rows = [ranked_row(n) for n in range(3)]
    for row, prediction in zip(rows, run(lm, rows, k=0), strict=True):
        prompt = prompt_ids(lm, row, "")
        assert prediction["prediction"] == decode(lm, [prompt], [1.0])
        gold = sum_logprob(lm, prompt, lm.answer_ids(row["answers"][0]))
        assert prediction["nll"] == pytest.approx(-gold, abs=CLOSE)
        assert prediction["p_r"] == [1.0]


def test_eight_at_once_equal_one_by_one(lm: CausalLM) -> None:
    rows = [ranked_row(n) for n in range(7)] + [choice_row(3)]
    together = run(lm, rows, k=3)
    alone = [run(lm, [row], k=3)[0] for row in rows]
    for a, b in zip(together, alone, strict=True):
        assert a["prediction"] == b["prediction"]
        assert a["chunk_answers"] == b["chunk_answers"]
        assert a["nll"] == pytest.approx(b["nll"], abs=CLOSE)


def choice_row(number: int) -> dict[str, Any]:
    asked = questions()["eval"]
    right = asked[number]["answers"][0]
    others = [row["answers"][0] for row in asked if row["answers"][0] != right]
    return ranked_row(
        number, choices=[others[0], right, others[1]], category="multiple-choice", task="choices"
    )


@pytest.mark.parametrize("ensemble", ["answers", "tokens"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("scoring", ["nll", "nll_token", "nll_char", "nll_compl"])
def test_choices_by_weighted_probability_on_every_question(
    lm: CausalLM, scoring: str, k: int, ensemble: str
) -> None:
    """Template "qa": the options' own text is scored, the same way in both ensembles."""
    rows = [choice_row(n) for n in range(NUM_QUESTIONS)]
    predictions = run(lm, rows, k=k, scoring=scoring, template="qa", ensemble=ensemble)
    for row, prediction in zip(rows, predictions, strict=True):
        scores = []
        for choice in row["choices"]:
            ids = lm.answer_ids(choice)
            total = sum(
                weight * math.exp(sum_logprob(lm, prompt_ids(lm, row, text), ids))
                for text, weight in zip(backgrounds(row, k), p_r(row, k), strict=True)
            )
            bare = [lm.tokenizer.bos_token_id]
            bare += lm.tokenizer("Answer:", add_special_tokens=False)["input_ids"]
            uncond = sum_logprob(lm, bare, ids) if scoring == "nll_compl" else 0.0
            size = {"nll_token": len(ids), "nll_char": len(choice)}.get(scoring, 1)
            scores.append((math.log(total) - uncond) / size)
        assert prediction["candidate_logprobs"] == pytest.approx(scores, abs=CLOSE)
        best = row["choices"][max(range(3), key=lambda i: scores[i])]
        assert prediction["prediction"] == best
        assert prediction["em"] == float(best == row["answers"][0])


def test_each_example_is_asked_scored_and_judged_its_own_way(lm: CausalLM) -> None:
    """One batch of rows with different templates, scorings and metrics equals each alone."""
    char = {**choice_row(0), "template": "qa", "scoring": "nll_char"}
    compl = {**choice_row(1), "template": "question-answer", "scoring": "nll_compl"}
    free = ranked_row(2, metric="rouge-l", answers=["a b", "c"])
    mixed = run(lm, [char, compl, free], k=2)
    for row, prediction, changes in zip(
        [char, compl, free],
        mixed,
        [
            {"template": "qa", "scoring": "nll_char"},
            {"template": "question-answer", "scoring": "nll_compl"},
            {},
        ],
        strict=True,
    ):
        bare = {**row, "template": "", "scoring": ""}
        (alone,) = run(lm, [bare], k=2, **changes)
        assert prediction["prediction"] == alone["prediction"]
        assert prediction["candidate_logprobs"] == pytest.approx(
            alone["candidate_logprobs"], abs=CLOSE
        )
    assert [row["score"] for row in mixed[:2]] == [row["em"] for row in mixed[:2]]
    assert mixed[2]["score"] == rouge_l(mixed[2]["prediction"], ["a b", "c"])
    assert run(lm, [char], k=2, scoring="nll")[0]["candidate_logprobs"] != pytest.approx(
        mixed[0]["candidate_logprobs"], abs=CLOSE
    )  # the variant's scoring wins


def test_shots_stand_in_front(lm: CausalLM) -> None:
    row = ranked_row(0, k=1)
    shot = "Q: Who?\nA: Anna\n\n"
    variant = Variant(max_new_tokens=NEW, k=0)
    (with_shot,), _ = answer_batch(lm, [row], variant, t_r=T_R, shots=[shot])
    prompt = prompt_ids(lm, row, "")
    ids = lm.tokenizer(shot, add_special_tokens=False)["input_ids"]
    prompt = [prompt[0], *ids, *prompt[1:]]
    gold = sum_logprob(lm, prompt, lm.answer_ids(row["answers"][0]))
    assert with_shot["nll"] == pytest.approx(-gold, abs=CLOSE)
    assert with_shot["prediction"] == decode(lm, [prompt], [1.0])


def test_recall_counts_the_chunks_retrieved(lm: CausalLM) -> None:
    right_second = ranked_row(0)
    right_first = {**right_second, "texts": right_second["texts"][1::-1] * 2}
    right_first = {**right_first, "texts": right_first["texts"][:3]}
    nothing = {
        **right_second,
        **{name: [] for name in ("chunk_ids", "doc_ids", "titles", "texts", "scores")},
    }
    found = run(lm, [right_second, right_first, nothing], k=2)
    assert [row["recall@1"] for row in found] == [0.0, 1.0, None]
    assert [row["recall@5"] for row in found] == [1.0, 1.0, None]


def test_a_training_question_longer_than_the_context_is_named(lm: CausalLM) -> None:
    row = {**ranked_row(0), "question": "Who is the mayor of Arden? " * 60}
    with pytest.raises(InputError, match=rf"example '{row['id']}': the instruction has \d+ tokens"):
        fit_prompts(lm, row, Variant(k=2), [5])


def test_unknown_ensembles_and_numbers() -> None:
    with pytest.raises(InputError, match=r"unknown ensemble 'token'.*tokens"):
        check_variant(Variant(ensemble="token"))
    with pytest.raises(InputError, match="'radit': expected k and shots of 0 or more"):
        check_variant(dataclasses.replace(Variant(), k=-1))
