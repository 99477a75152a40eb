"""Contract of plain text through a run's variant: without chunks it equals the LM in plain
transformers; with chunks it is the p_R-weighted mean of probabilities over their prompts; what it
writes is what evaluate predicts for the same prompt.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain import Chain, write_run
from tiny import documents, questions
from transformers import AutoModelForCausalLM, AutoTokenizer

from radit_ray.core.errors import InputError
from radit_ray.data.rows import example_row
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.asking import Opened, open_variant
from radit_ray.engines.plain_text import (
    Shown,
    continuation_logprobs,
    continuations,
    fit_prompts,
    last_question,
    query_of,
    text_logprobs,
)
from radit_ray.engines.ranking import rank

pytestmark = pytest.mark.ray
Ids = list[int]
ASKED = questions()["eval"][:5]
SHOT = "Q: Who is the mayor of Arden?\nA: Anna Boris\n\n"  # the question that counts is the last
CONTEXTS = [f"{SHOT}Q: {row['question']}\nA:" for row in ASKED]
LONG = " ".join(document["text"] for document in documents())  # many times the context of 256


@pytest.fixture(scope="module")
def opened(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """opened("replug") is that variant, loaded once."""
    run = write_run(chain, tmp_path_factory.mktemp("run"))
    made: dict[str, Opened] = {}

    def variant(name: str) -> Opened:
        if name not in made:
            made[name] = open_variant(run, name)
        return made[name]

    return variant


@pytest.fixture(scope="module")
def plain(chain: Chain) -> tuple[Any, Any]:
    """(model, tokenizer) as transformers loads them."""
    model = AutoModelForCausalLM.from_pretrained(chain.lm)
    return model.eval(), AutoTokenizer.from_pretrained(chain.lm)


def probabilities(model: Any, prompt: Ids, answer: Ids) -> torch.Tensor:
    """p(token | all before) at each position of the answer, (T, V), in one plain forward pass."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
    return torch.softmax(logits_TV[len(prompt) - 1 : -1].double(), -1)


def slow(
    model: Any, prompts: list[Ids], answer: Ids, weights: np.ndarray | list[float]
) -> tuple[float, bool]:
    """(log of the weighted mean of the answer's probability, each token the mean's argmax)."""
    p_KTV = torch.stack([probabilities(model, prompt, answer) for prompt in prompts])
    w_K = torch.tensor(np.array(weights)).double()
    logprob_K = p_KTV[:, range(len(answer)), answer].log().sum(1)  # 256 tokens: log-space
    mean_TV = (w_K[:, None, None] * p_KTV).sum(0)
    return float((w_K.log() + logprob_K).logsumexp(0)), mean_TV.argmax(-1).tolist() == answer


def found_by_hand(opened: Opened, question: str) -> tuple[list[str], np.ndarray]:
    """(backgrounds, p_R) of a question: s / T_R through a softmax, in numpy."""
    row = example_row({"id": "1", "question": question, "answers": ["unknown"]})
    (ranked,) = rank([row], opened.encoder, opened.index, k=3)
    weight_K = np.exp(np.array(ranked["scores"]) / 0.05 - max(ranked["scores"]) / 0.05)
    texts = zip(ranked["titles"], ranked["texts"], strict=True)
    return [f"Background: {t} {c}\n\n" for t, c in texts], weight_K / weight_K.sum()


def test_without_chunks_a_continuation_has_the_probability_of_the_plain_lm(
    opened: Callable[[str], Opened], plain: tuple[Any, Any]
) -> None:
    model, tokenizer = plain
    bare = tokenizer("", add_special_tokens=True)["input_ids"]  # BOS
    assert len(bare) == 1
    contexts, ids, expected = [], [], []
    for context in [*CONTEXTS, ""]:
        for answer in (" Anna", " 1200 or so", " the"):
            whole = tokenizer(context + answer)["input_ids"]
            prompt = tokenizer(context)["input_ids"]
            contexts.append(context)
            ids.append((prompt[1:], whole[len(prompt) :]))
            expected.append(slow(model, [prompt], whole[len(prompt) :], [1.0]))
        greedy = int(probabilities(model, prompt, [0])[0].argmax())
        contexts.append(context)
        ids.append((prompt[1:], [greedy]))
        expected.append(slow(model, [prompt], [greedy], [1.0]))
    found = continuation_logprobs(opened("closed-book"), contexts, ids)
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-4)
    assert [x for _, x in found] == [x for _, x in expected]
    assert {x for _, x in found} == {True, False}


def test_with_chunks_it_is_the_weighted_mean_of_probabilities(
    opened: Callable[[str], Opened], plain: tuple[Any, Any]
) -> None:
    model, _ = plain
    variant = opened("replug")
    lm = variant.lm
    pairs, expected = [], []
    for row, context in zip(ASKED, CONTEXTS, strict=True):
        backgrounds, weights = found_by_hand(variant, row["question"])
        prompts = [[*lm.bos_ids, *lm.encode(text), *lm.encode(context)] for text in backgrounds]
        assert len({tuple(p) for p in prompts}) == 3
        for answer in (" " + row["answers"][0], " Greta"):
            pairs.append((context, lm.encode(context + answer)[len(lm.encode(context)) :]))
            expected.append(slow(model, prompts, pairs[-1][1], weights))
        mean_V = sum(
            w * probabilities(model, p, [0])[0] for p, w in zip(prompts, weights, strict=True)
        )
        pairs.append((context, [int(mean_V.argmax())]))
        expected.append(slow(model, prompts, pairs[-1][1], weights))
        assert expected[-1][1]
    contexts = [context for context, _ in pairs]
    ids = [(lm.encode(context), answer) for context, answer in pairs]
    for batch_tokens in (16384, 1):
        found = continuation_logprobs(variant, contexts, ids, batch_tokens=batch_tokens)
        np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-3)
        assert [x for _, x in found] == [x for _, x in expected]
    backwards = continuation_logprobs(variant, contexts[::-1], ids[::-1])
    np.testing.assert_allclose([x for x, _ in backwards[::-1]], [x for x, _ in found], atol=1e-4)


@pytest.mark.parametrize("name", ["closed-book", "replug", "tokens", "concat"])
def test_what_is_written_is_what_evaluate_predicts_for_the_same_prompt(
    opened: Callable[[str], Opened], name: str
) -> None:
    variant = opened(name)
    chosen = variant.variant
    rows = [example_row({k: row[k] for k in ("id", "question", "answers")}) for row in ASKED]
    ranked = rank(rows, variant.encoder, variant.index, k=max(1, chosen.k))
    predicted, _ = answer_batch(variant.lm, ranked, chosen, t_r=chosen.t_r)
    contexts = [f"Q: {row['question']}\nA:" for row in ASKED]
    written = continuations(variant, contexts, max_new_tokens=chosen.max_new_tokens, until=["\n"])
    assert [text.strip() for text in written] == [row["prediction"] for row in predicted]
    assert any(written)


def test_without_chunks_a_text_is_what_the_plain_lm_writes_up_to_the_string(
    opened: Callable[[str], Opened], plain: tuple[Any, Any]
) -> None:
    model, tokenizer = plain
    variant = opened("closed-book")
    expected = []
    for context in CONTEXTS:
        ids = tokenizer(context, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=2)
        expected.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    assert continuations(variant, CONTEXTS, max_new_tokens=20) == expected
    until = [expected[0][5:7], "no such string"]
    cut = continuations(variant, CONTEXTS, max_new_tokens=20, until=until)
    assert cut == [text.split(until[0])[0] for text in expected]
    assert cut[0] != expected[0]


def test_a_long_text_is_scored_once_in_windows(
    opened: Callable[[str], Opened], plain: tuple[Any, Any]
) -> None:
    model, _ = plain
    lm = opened("closed-book").lm
    size, ids, bos = lm.context_length, lm.encode(LONG), list(lm.bos_ids)
    edges = [0, *range(size - 1, len(ids), size - 1), len(ids)]
    assert len(edges) > 4
    expected = 0.0
    for start, end in itertools.pairwise(edges):
        before = ids[end - size : start] if start else bos
        p_TV = probabilities(model, before, ids[start:end])
        expected += float(p_TV[range(end - start), ids[start:end]].log().sum())
    found = text_logprobs(opened("closed-book"), [LONG, "", "Arden is old."])
    assert found[0] == pytest.approx(expected, rel=1e-5)
    assert found[1] == 0
    short = lm.encode("Arden is old.")
    assert found[2] == pytest.approx(slow(model, [bos], short, [1.0])[0], abs=1e-4)


def test_later_windows_of_a_text_are_read_with_what_the_text_before_finds(
    opened: Callable[[str], Opened], plain: tuple[Any, Any]
) -> None:
    model, _ = plain
    variant = opened("replug")
    lm = variant.lm
    size, bos = lm.context_length, list(lm.bos_ids)
    first = lm.encode(LONG)[: size - 1]
    text = lm.tokenizer.decode(first) + " trade in"
    ids = lm.encode(text)
    rest = ids[size - 1 :]
    assert ids[: size - 1] == first
    assert 0 < len(rest) < 9
    alone = slow(model, [bos], first, [1.0])[0]
    asked = query_of(variant.encoder, lm.tokenizer.decode(first), "context")
    backgrounds, weights = found_by_hand(variant, asked)
    heads = [[*bos, *lm.encode(text)] for text in backgrounds]
    before = size - len(rest) - max(map(len, heads))
    prompts = [[*head, *first[-before:]] for head in heads]
    expected = alone + slow(model, prompts, rest, weights)[0]
    (found,) = text_logprobs(variant, [text])
    assert found == pytest.approx(expected, abs=2e-3)
    # the first window is that of the LM without chunks
    found = text_logprobs(variant, ["Arden is old."])
    assert found == text_logprobs(opened("closed-book"), ["Arden is old."])


@pytest.mark.parametrize(
    ("context", "query"),
    [
        ("Q: who wrote emma?\nA: Austen\n\nQ: who wrote it?\nA:", "who wrote it?"),
        ("A passage.\nQuestion: is it old?\nAnswer:", "is it old?"),
        ("Context. Q: why did he go? A:", "why did he go?"),
        ("Question:\nwhere is it?\nAnswer:", "where is it?"),
        ("FAQ: read  this", "FAQ: read this"),  # no marker: the whole
        ("Who?\nA. x\nB. y\nAnswer:", "Who? A. x B. y Answer:"),
        ("Q: \nA:", "Q: A:"),
    ],
)
def test_the_query_is_the_last_question(
    opened: Callable[[str], Opened], context: str, query: str
) -> None:
    assert query_of(opened("replug").encoder, context, "question") == query
    assert query_of(opened("replug").encoder, context, "context") == " ".join(context.split())


def test_the_last_question_is_what_one_pattern_for_all_of_it_finds() -> None:
    slow = re.compile(r"\b(?:Q|Question):\s*(.*?)\s*(?=\n|\bA:|\bAnswer:|\Z)")
    draw = random.Random(0)
    pieces = ("Q:", "Question:", "A:", "Answer:", "\n", " ", "\t", "who", "faQ:", "is?")
    for _ in range(4000):
        text = "".join(draw.choices(pieces, k=draw.randint(0, 12)))
        found = [question for question in slow.findall(text) if question]
        assert last_question(text) == (found[-1] if found else ""), text


@pytest.mark.parametrize(
    "text",
    ["Q: a" + " " * 900_000 + "b\n", "Q:" * 450_000, "Q:" + "\n" * 900_000 + "b", "Q: a\nA:" * 99],
)
def test_a_question_is_found_in_time_that_grows_with_its_text(text: str) -> None:
    started = time.perf_counter()
    assert last_question(text)
    assert time.perf_counter() - started < 5  # quadratic: hours


def test_only_the_end_of_a_long_context_is_looked_at(opened: Callable[[str], Opened]) -> None:
    encoder = opened("replug").encoder
    far = "Q: who wrote Emma?\n" + "word " * 100_000
    assert "Emma" not in query_of(encoder, far, "question")
    near = "word " * 100_000 + "\nQ: who wrote Emma?\nA:"
    assert query_of(encoder, near, "question") == "who wrote Emma?"


def test_a_context_without_question_is_searched_with_its_end(
    opened: Callable[[str], Opened],
) -> None:
    encoder = opened("replug").encoder
    query = query_of(encoder, LONG, "question")
    assert LONG.endswith(query)
    (read,) = encoder.query_tokens([query])
    assert len(read) == encoder.query.max_tokens
    (further,) = encoder.query_tokens(["x " + query])
    assert further[2:-1] == read[1:-2]  # [CLS] x ...: nothing of the query itself was cut


def test_a_prompt_fits_and_keeps_the_end_of_its_context(opened: Callable[[str], Opened]) -> None:
    lm = opened("replug").lm
    size, bos = lm.context_length, list(lm.bos_ids)
    text = f"Background: {LONG[:600]}\n\n"
    whole, context = lm.encode(text), lm.encode("Q: who?\nA:")
    shown = Shown(backgrounds=(text, "Background: Arden\n\n"), p_r_K=np.ones(2) / 2)
    assert len(whole) > size // 2
    roomy, short = fit_prompts(lm, shown, context, room=9)
    assert len(roomy) == min(size - 9, len(bos) + len(whole) + len(context))
    assert roomy[-len(context) :] == short[-len(context) :] == context
    many = context * (size // len(context))
    for prompt in fit_prompts(lm, shown, many, room=9):
        assert len(prompt) == size - 9
        kept = size - 9 - (size - 9 - len(bos)) // 2 - len(bos)
        assert prompt[-kept:] == many[-kept:]
    bare = Shown(backgrounds=("",), p_r_K=np.ones(1))
    assert fit_prompts(lm, bare, [], room=9) == [bos]
    with pytest.raises(InputError, match="256 tokens to score or to write leave no room"):
        fit_prompts(lm, shown, context, room=size)


def test_a_run_that_cannot_be_opened_says_why_in_one_line(chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json, expected the folder of a finished"):
        open_variant(str(tmp_path), "radit")
    run = write_run(chain, tmp_path / "run")
    with pytest.raises(InputError, match="no variant 'replg'; did you mean 'replug'"):
        open_variant(run, "replg")
    with pytest.raises(InputError, match="answers with demonstrations; use another variant"):
        open_variant(run, "replug-5shot")
