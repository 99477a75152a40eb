"""What the endpoints do: find chunks, have them answered from, tell why.

In: requests whose fields are checked (`schemas.py`). Out: what their responses hold. Everything
heavy happens in the deployments; this process only composes their calls, so that a second variant
costs no memory here, and makes a call again whose replica died.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from radit_ray.core.errors import nearest
from radit_ray.data.rows import example_row
from radit_ray.engines.asking import question_row
from radit_ray.engines.ranking import chunk_columns
from radit_ray.engines.variants import Row, Variant, weights_of
from radit_ray.serving.calling import LOST, Fault, retried, streamed
from radit_ray.serving.config import ServeConfig
from radit_ray.serving.counting import Counters
from radit_ray.serving.deployments import Found
from radit_ray.serving.refusals import Refused
from radit_ray.serving.schemas import AnswerRequest, RetrieveRequest, ScoreRequest

READY_S = 5.0  # for the deployments to say that they are there
READY_FOR_S = 1.0  # that an answer of theirs holds: anybody may ask, and each check costs calls


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """One variant, and the handles of what it is made of; variants share those they can."""

    variant: Variant
    retriever: Any
    lm: Any
    index: str  # names of the deployments, to tell who shares what
    encoder: str
    lm_name: str
    num_chunks: int
    ranked: str
    index_version: str = ""


class Service:
    """The variants of a run behind one address."""

    def __init__(self, config: ServeConfig, served: Mapping[str, Served]) -> None:
        self.config, self.served = config, dict(served)
        self.counters = Counters()
        self.started = int(time.time())
        self.check: asyncio.Task[bool] | None = None
        self.checked = 0.0

    def pick(self, model: str, k: int | None, ensemble: str | None) -> tuple[Served, Variant]:
        """The variant asked for, with the request's own k and ensemble; 404 for one that is not
        loaded.
        """
        name = model or next(iter(self.served))
        if name not in self.served:
            hint = nearest(name, self.served)
            raise Refused(404, f"model {name!r} is not loaded{hint}", param="model")
        served = self.served[name]
        changes: dict[str, Any] = {"k": k} if k is not None else {}
        if ensemble is not None:
            changes["ensemble"] = ensemble
        return served, dataclasses.replace(served.variant, **changes)

    async def find(
        self, served: Served, variant: Variant, text: str, *, is_prompt: bool = False
    ) -> Found:
        """The variant's chunks for a text; none where it uses none."""
        if not variant.k:
            return Found(query="", chunks=[])
        found: Found = await self.call(
            lambda: served.retriever.search.remote(text, variant.k, is_prompt=is_prompt)
        )
        return found

    async def call(self, make: Callable[[], Any]) -> Any:
        """One call of a deployment, made again where its replica dies; Refused where it cannot be
        done.
        """
        with _refusing():
            return _checked(await retried(make))

    async def stream(self, make: Callable[[], Any]) -> AsyncGenerator[Any]:
        """The items of a streaming call, likewise."""
        with _refusing():
            async with contextlib.aclosing(streamed(make)) as items:
                async for item in items:
                    yield _checked(item)

    async def retrieve(self, asked: RetrieveRequest) -> dict[str, Any]:
        """What a question finds; a closed-book variant searches too, where k is given."""
        served, variant = self.pick(asked.model, asked.k, None)
        started = time.perf_counter()
        found = await self.find(served, variant, asked.question)
        ended = time.perf_counter()
        return {
            "model": variant.name,
            "question": asked.question,
            "k": len(found.chunks),
            "t_r": variant.t_r,
            "index_version": served.index_version,
            "chunks": _chunks(found, p_r(found, variant)),
            "timings": _timings(started, ended, ended),
        }

    async def answer(self, asked: AnswerRequest) -> dict[str, Any]:
        """The answer, and what each chunk has to do with it."""
        served, variant = self.pick(asked.model, asked.k, asked.ensemble)
        started = time.perf_counter()
        found = await self.find(served, variant, asked.question)
        between = time.perf_counter()
        row = {**question_row(asked.question), **chunk_columns(found.chunks)}
        prediction = await self.predict(served, variant, row, why=asked.probabilities)
        return {
            "model": variant.name,
            "question": asked.question,
            "k": len(found.chunks),
            "ensemble": variant.ensemble,
            "answer": prediction["prediction"],
            "probability": _mixed(prediction),
            "chunks": _answered(found, variant, prediction),
            "candidates": [
                {"answer": text, "logprob": logprob}
                for text, logprob in zip(
                    prediction["candidates"], prediction["candidate_logprobs"], strict=True
                )
            ],
            "timings": _timings(started, between, time.perf_counter()),
        }

    async def score(self, asked: ScoreRequest) -> dict[str, Any]:
        """The choices compared, by the p_R-weighted probability of each."""
        served, variant = self.pick(asked.model, asked.k, asked.ensemble)
        variant = dataclasses.replace(variant, scoring=asked.scoring, template=asked.template)
        started = time.perf_counter()
        found = await self.find(served, variant, asked.question)
        between = time.perf_counter()
        # which one is right is not known: the row needs one to be complete
        known = {"answers": asked.choices[:1], "choices": asked.choices}
        row = example_row({**question_row(asked.question), **known})
        prediction = await self.predict(served, variant, {**row, **chunk_columns(found.chunks)})
        scores = np.array(prediction["candidate_logprobs"], dtype=np.float64)
        share = np.exp(scores - scores.max())
        choices = zip(asked.choices, scores.tolist(), (share / share.sum()).tolist(), strict=True)
        return {
            "model": variant.name,
            "question": asked.question,
            "k": len(found.chunks),
            "ensemble": variant.ensemble,
            "scoring": asked.scoring,
            "answer": prediction["prediction"],
            "choices": [{"choice": c, "score": s, "share": p} for c, s, p in choices],
            "chunks": _answered(found, variant, prediction),
            "timings": _timings(started, between, time.perf_counter()),
        }

    async def predict(
        self, served: Served, variant: Variant, row: Row, *, why: bool = False
    ) -> Row:
        """The prediction row of a ranked row; Refused where the context does not hold the
        question.
        """
        prediction: Row = await self.call(lambda: served.lm.answer.remote(row, variant, why=why))
        if prediction["num_question_cut"]:
            raise Refused(
                422,
                f"the question is {prediction['num_question_cut']} tokens too long for the LM's "
                "context; shorten it",
                param="question",
            )
        self.counters.answers.labels(variant.name).inc()
        return prediction

    async def ready(self) -> bool:
        """Whether every deployment answers: one check for all who ask within a second."""
        if self.check is None or (
            self.check.done() and time.monotonic() - self.checked > READY_FOR_S
        ):
            self.check = asyncio.create_task(self._parts_answer())
        return await asyncio.shield(self.check)  # whoever goes does not end it for the others

    async def _parts_answer(self) -> bool:
        lms = {one.lm_name: one.lm for one in self.served.values()}
        encoders = {one.encoder: one.retriever for one in self.served.values()}
        calls = [part.info.remote() for part in (*lms.values(), *encoders.values())]
        try:
            async with asyncio.timeout(READY_S):
                await asyncio.gather(*calls)
        except Exception:  # whatever it is, it is not ready
            return False
        finally:
            self.checked = time.monotonic()
        return True

    def models(self) -> list[dict[str, Any]]:
        """The variants that are loaded, in OpenAI's form; who shares LM, encoder and index with
        whom shows in their names.
        """
        return [
            {
                "id": name,
                "object": "model",
                "created": self.started,
                "owned_by": "radit",
                "radit": {
                    "k": one.variant.k,
                    "ensemble": one.variant.ensemble,
                    "t_r": one.variant.t_r,
                    "max_new_tokens": one.variant.max_new_tokens,
                    "num_chunks": one.num_chunks,
                    "lm": one.lm_name,
                    "query_encoder": one.encoder,
                    "index": one.index,
                    "index_version": one.index_version,
                },
            }
            for name, one in self.served.items()
        ]


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What Serve and Ray raise, as the client is told it."""
    try:
        yield
    except BackPressureError:
        raise Refused(429, "the queue is full; ask again in a second") from None
    except (DeploymentUnavailableError, *LOST):
        raise Refused(503, "a part of the server is not there; ask again later") from None


def _checked(result: Any) -> Any:
    if isinstance(result, Fault):
        raise Refused(result.status, result.message)
    return result


def p_r(found: Found, variant: Variant) -> list[float]:
    """p_R over the chunks found."""
    if not found.chunks:
        return []
    row = chunk_columns(found.chunks)
    weights: list[float] = weights_of(row, variant, variant.t_r, len(found.chunks)).tolist()
    return weights


def _chunks(found: Found, weights: Sequence[float]) -> list[dict[str, Any]]:
    return [
        {**{name: chunk[name] for name in ("id", "title", "text")}, "score": score, "p_r": weight}
        for (chunk, score), weight in zip(found.chunks, weights, strict=True)
    ]


def _answered(found: Found, variant: Variant, prediction: Row) -> list[dict[str, Any]]:
    """The chunks with what each says by itself; None where they were read in one prompt, or not
    asked alone.
    """
    num = len(found.chunks)
    several = variant.ensemble != "concat" or num == 1
    own = prediction["chunk_answers"] if several else []
    own_logprobs = prediction.get("own_logprobs", []) if several else []
    given = prediction.get("given_logprobs", []) if several else []
    return [
        {
            **chunk,
            "answer": own[i] if i < len(own) else None,
            "probability": _probability(own_logprobs, i),
            "answer_probability": _probability(given, i),
        }
        for i, chunk in enumerate(_chunks(found, p_r(found, variant)))
    ]


def _probability(logprobs: Sequence[float | None], i: int) -> float | None:
    value = logprobs[i] if i < len(logprobs) else None
    return None if value is None else math.exp(value)


def _mixed(prediction: Row) -> float | None:
    """Probability of the answer given, over all prompts."""
    given = prediction.get("given_logprobs", [])
    if not given or any(value is None for value in given):
        return None
    pairs = zip(prediction["p_r"], given, strict=True)
    return sum(weight * math.exp(value) for weight, value in pairs)


def _timings(started: float, between: float, ended: float) -> dict[str, float]:
    return {
        "retrieve_ms": 1000 * (between - started),
        "answer_ms": 1000 * (ended - between),
        "total_ms": 1000 * (ended - started),
    }
