"""Contract of completions: log-probabilities are those of the p_R-weighted mixture, token by token,
computed again with plain transformers; a stream writes what the whole call writes; stop strings
never show, not even in parts.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from typing import Any

import numpy as np
import pytest
import torch
from tiny import documents, tiny_lm
from transformers import AutoModelForCausalLM

from radit_ray.core.errors import InputError
from radit_ray.engines.asking import question_row
from radit_ray.engines.plain_text import raw_text
from radit_ray.engines.ranking import chunk_columns
from radit_ray.engines.variants import Variant
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.scoring import mixture_token_logprobs
from radit_ray.serving.calling import Fault, in_groups
from radit_ray.serving.completing import Completion, Stream, Written, complete, with_logprobs

PROMPT = "Q: Who is the mayor of Arden?\nA:"
SCORES = (0.5, 0.3, 0.1)
BATCH = 16384


@pytest.fixture(scope="module", params=["llama", "gpt2"])  # with BOS, and without
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return CausalLM.load(tiny_lm(tmp_path_factory.mktemp(request.param), shape=request.param))


@pytest.fixture(scope="module")
def plain(lm: CausalLM) -> Any:
    return AutoModelForCausalLM.from_pretrained(lm.name).eval()


def job(*, chunks: int = 3, ensemble: str = "tokens", **fields: Any) -> Completion:
    found = [({**d, "doc_id": d["id"]}, s) for d, s in zip(documents(), SCORES, strict=False)]
    row = {**question_row("x"), **chunk_columns(found[:chunks])} if chunks else None
    variant = Variant(k=chunks, ensemble=ensemble, t_r=0.2)
    return Completion(
        **{"prompt": PROMPT, "row": row, "variant": variant, "max_tokens": 8, **fields}
    )


def probabilities(plain: Any, before: list[int], ids: list[int]) -> np.ndarray:
    """p(next token | all before) behind `before` and behind each of `ids`, (T + 1, V)."""
    with torch.no_grad():
        logits_TV = plain(input_ids=torch.tensor([[*before, *ids]])).logits[0]
    return torch.softmax(logits_TV[len(before) - 1 :].double(), -1).numpy()


def slow(plain: Any, lm: CausalLM, ids: list[int], chunks: int) -> np.ndarray:
    """The mixture's p(next token) behind each of `ids`, (T, V)."""
    scores = np.array(SCORES[:chunks] or [0.0]) / 0.2
    weights = np.exp(scores) / np.exp(scores).sum()
    texts = [f"Background: {d['title']} {d['text']}\n\n" for d in documents()[:chunks]] or [""]
    own = [
        probabilities(plain, [*lm.bos_ids, *lm.encode(text), *ids[:1]], ids[1:]) for text in texts
    ]
    return np.einsum("k,ktv->tv", weights, np.stack(own))


@pytest.mark.parametrize("chunks", [0, 1, 3])
@pytest.mark.parametrize("num", [0, 1, 6])
def test_echoed_log_probabilities_are_the_mixtures(
    lm: CausalLM, plain: Any, chunks: int, num: int
) -> None:
    ids = lm.encode(PROMPT)
    asked = job(chunks=chunks, prompt=tuple(ids), max_tokens=num, echo=True, logprobs=3)
    written = with_logprobs(lm, asked, batch_tokens=BATCH)
    table = written.logprobs
    assert table is not None
    new = len(table["tokens"]) - len(ids)
    assert new == written.completion_tokens <= num
    assert new or num != 1  # one is read off, EOS or not
    p_TV = slow(plain, lm, ids, chunks)
    expected = np.log(p_TV[range(len(ids) - 1), ids[1:]])
    assert table["token_logprobs"][0] is table["top_logprobs"][0] is None
    assert table["token_logprobs"][1 : len(ids)] == pytest.approx(expected.tolist(), abs=1e-4)
    best = np.log(np.sort(p_TV, axis=1)[:, ::-1][:-1, :3])
    for found, own in zip(table["top_logprobs"][1 : len(ids)], best, strict=True):
        # tokens that read alike share a name
        assert max(found.values()) == pytest.approx(own[0], abs=1e-4)
        assert min(found.values()) == pytest.approx(own[-1], abs=1e-4)
    if new:  # what stands behind the prompt is the likeliest token, with its log-probability
        assert table["token_logprobs"][len(ids)] == pytest.approx(np.log(p_TV[-1].max()), abs=1e-4)
    assert written.text.startswith(PROMPT)
    starts = [0, *itertools.accumulate(map(len, table["tokens"]))][:-1]
    assert table["text_offset"] == starts


def test_a_prompt_that_fills_the_context_is_scored_without_background(
    lm: CausalLM, plain: Any
) -> None:
    room = lm.context_length - max(1, len(lm.bos_ids)) - 1
    ids = (lm.encode(" ".join(d["text"] for d in documents())))[:room]
    asked = job(prompt=tuple(ids), max_tokens=1, echo=True, logprobs=0)
    table = with_logprobs(lm, asked, batch_tokens=BATCH).logprobs
    assert table is not None
    p_TV = slow(plain, lm, ids, 0)
    expected = np.log(p_TV[range(room - 1), ids[1:]])
    assert table["token_logprobs"][1:room] == pytest.approx(expected.tolist(), abs=1e-3)
    longer = dataclasses.replace(asked, prompt=(*ids, ids[0]))
    with pytest.raises(InputError, match=f"the prompt has {room + 1} tokens"):
        with_logprobs(lm, longer, batch_tokens=BATCH)


def test_the_mixture_does_not_depend_on_the_parts_it_is_computed_in(lm: CausalLM) -> None:
    prompts = [lm.encode(d["text"])[:n] for d, n in zip(documents(), (9, 30, 17, 4), strict=False)]
    ids, weights = lm.encode(PROMPT), np.array([0.4, 0.3, 0.2, 0.1], dtype=np.float32)
    whole = mixture_token_logprobs(lm, prompts, ids, weights, top=2, batch_tokens=BATCH)
    parts = mixture_token_logprobs(lm, prompts, ids, weights, top=2, batch_tokens=1)
    assert whole.logprob_T == pytest.approx(parts.logprob_T, abs=1e-5)
    assert (whole.top_ids_TN == parts.top_ids_TN).all()


def test_the_text_of_a_call_with_log_probabilities_is_the_mixtures(lm: CausalLM) -> None:
    (text,) = complete(lm, [job()], batch_tokens=BATCH)
    assert with_logprobs(lm, job(logprobs=0), batch_tokens=BATCH).text == text.text


def streamed(lm: CausalLM, asked: Completion) -> tuple[list[str], Written]:
    """(the pieces, what was written) of a stream."""

    async def both() -> tuple[list[str], Written]:
        stream = Stream(lm, asked, asyncio.get_running_loop())
        work = asyncio.create_task(asyncio.to_thread(stream.run))
        pieces = [piece async for piece in stream.texts()]
        return pieces, await work

    return asyncio.run(both())


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_stream_writes_what_the_whole_call_writes(lm: CausalLM, chunks: int) -> None:
    asked = job(chunks=chunks, max_tokens=24)
    pieces, written = streamed(lm, asked)
    assert [written] == complete(lm, [asked], batch_tokens=BATCH)
    assert "".join(pieces) == written.text
    assert len(pieces) > 3 or written.completion_tokens < 4  # an EOS comes when it likes


def test_stop_strings_never_show(lm: CausalLM) -> None:
    whole = streamed(lm, job(max_tokens=24))[1].text
    for start in range(1, len(whole) - 4, 11):
        stop = whole[start : start + 4]
        asked = job(max_tokens=24, stop=(stop, "never written"))
        pieces, written = streamed(lm, asked)
        assert written.text == whole[: whole.find(stop)]
        assert written.finish_reason == "stop"
        assert "".join(pieces) == written.text
        assert complete(lm, [asked], batch_tokens=BATCH) == [written]
        assert written.completion_tokens <= 24


def test_a_stream_that_nobody_reads_stops_at_the_next_token(lm: CausalLM) -> None:
    async def left() -> Written:
        stream = Stream(lm, job(max_tokens=100), asyncio.get_running_loop())
        work = asyncio.create_task(asyncio.to_thread(stream.run))
        async for _ in stream.texts():
            break
        stream.cancel()
        return await work

    written = asyncio.run(left())
    assert written.completion_tokens == 0


def test_a_prompt_too_long_is_refused_and_white_space_is_kept(lm: CausalLM) -> None:
    with pytest.raises(InputError, match="shorten the prompt or ask for fewer"):
        complete(lm, [job(prompt="word " * 400)], batch_tokens=BATCH)
    started = time.perf_counter()
    with pytest.raises(InputError, match="far more than the LM's context"):
        complete(lm, [job(prompt="a" * 1_000_000)], batch_tokens=BATCH)
    assert time.perf_counter() - started < 2  # to encode it takes several
    (written,) = complete(lm, [job(prompt="  x\n ", echo=True, max_tokens=2)], batch_tokens=BATCH)
    assert written.text.startswith(raw_text(lm, lm.encode("  x\n ")))


def test_ids_that_the_lm_does_not_have_spoil_no_other_prompt(lm: CausalLM) -> None:
    bad = [job(prompt=(10**6,)), job(prompt=(10**6,), echo=True, logprobs=1), job(stop=("\ud800",))]

    def work(key: Any, asked: list[Completion]) -> list[Written]:
        if asked[0].logprobs is None:
            return complete(lm, asked, batch_tokens=BATCH)
        return [with_logprobs(lm, one, batch_tokens=BATCH) for one in asked]

    one, other, third, good = in_groups([(one.key, one) for one in (*bad, job())], work)
    size = lm.model.get_input_embeddings().weight.shape[0]
    assert one == other == Fault(f"token id 1000000, expected 0 to {size - 1}")
    assert third.status == 500
    assert good == complete(lm, [job()], batch_tokens=BATCH)[0]
