"""The endpoints as FastAPI routes: requests in, responses of a `Service` out. GET /docs lists
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

import radit_ray
from radit_ray.core.errors import InputError
from radit_ray.serving import openai
from radit_ray.serving.evaluating import Evaluator
from radit_ray.serving.limits import LOG, Guard
from radit_ray.serving.refusals import EVENTS, FAILED, Refused, add_errors, error_event
from radit_ray.serving.schemas import (
    Answer,
    AnswerRequest,
    ChatRequest,
    CompletionRequest,
    Error,
    EvaluateRequest,
    Retrieved,
    RetrieveRequest,
    ScoreRequest,
    Scores,
)
from radit_ray.serving.service import Service

PAGE = Path(__file__).parent / "page"
FILES = {  # of the page: no name from a request is ever opened
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Error, "description": text}
    for status, text in {
        401: "missing or wrong token",
        403: "not from this machine, or from another page",
        404: "unknown variant or task",
        408: "the body came too slowly",
        413: "the body is too large",
        422: "a field is wrong",
        429: "too many requests at once; Retry-After says when to come back",
        503: "no answer in time, or shutting down; with Retry-After",
    }.items()
}
EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
STREAMS: dict[str, Any] = {EVENTS: {"schema": EVENT}}


def build_app(service: Service, *, token: str) -> Guard:
    """The whole application; `token` is the hash of the bearer token, "" = none is asked for."""
    app = FastAPI(
        title="radit",
        version=radit_ray.__version__,
        description="A retriever and an LM tuned for each other: ask, score, evaluate.",
        docs_url=None,  # FastAPI's page loads its scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    guard = Guard(
        app,
        token=token,
        limits=service.config.limits,
        counters=service.counters,
        log_contents=service.config.log_contents,
    )
    add_errors(app)
    _questions(app, service)
    _openai(app, service)
    _evaluate(app, service)
    _health(app, service, guard)
    _page(app)
    guard.paths = frozenset(getattr(route, "path", "") for route in app.routes)
    return guard


def _questions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/retrieve", response_model=Retrieved, responses=ERRORS, tags=["radit"])
    async def retrieve(asked: RetrieveRequest) -> Any:
        """The chunks that a question finds, with p_R."""
        return await service.retrieve(asked)

    @app.post("/v1/answer", response_model=Answer, responses=ERRORS, tags=["radit"])
    async def answer(asked: AnswerRequest) -> Any:
        """The answer, the chunks it rests on, and what each of them would have answered."""
        return await service.answer(asked)

    @app.post("/v1/score", response_model=Scores, responses=ERRORS, tags=["radit"])
    async def score(asked: ScoreRequest) -> Any:
        """How probable each of some choices is as the answer."""
        return await service.score(asked)


def _openai(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models", responses=_errors_of(401, 403), tags=["openai"])
    async def models() -> dict[str, Any]:
        """The variants that are loaded."""
        return {"object": "list", "data": service.models()}

    whole_or_pieces = {**ERRORS, 200: {"content": STREAMS}}

    @app.post("/v1/completions", responses=whole_or_pieces, tags=["openai"])
    async def completions(asked: CompletionRequest) -> Any:
        """Text behind a prompt, the background of each chunk found in front of it."""
        return await _reply(openai.completions(service, asked), bool(asked.stream))

    @app.post("/v1/chat/completions", responses=whole_or_pieces, tags=["openai"])
    async def chat(asked: ChatRequest) -> Any:
        """The answer to the last message of a conversation."""
        return await _reply(openai.chat(service, asked), bool(asked.stream))


async def _reply(events: AsyncGenerator[dict[str, Any]], stream: bool) -> Any:
    """The one result, or the pieces as server-sent events; what goes wrong before the first piece
    is an error like any other.
    """
    first = await anext(events)
    if not stream:
        return first
    return _sse(events, first, end="[DONE]")


def _sse(
    events: AsyncGenerator[dict[str, Any]], first: dict[str, Any], end: str = ""
) -> StreamingResponse:
    """Events; one that tells an error is the last, and `end` comes only where all is told."""

    async def lines() -> AsyncIterator[str]:
        async with contextlib.aclosing(events):  # whoever stops reading ends the work
            yield f"data: {json.dumps(first)}\n\n"
            try:
                async for event in events:
                    yield f"data: {json.dumps(event)}\n\n"
            except Refused as refused:  # the status is sent already
                yield error_event(refused)
            except InputError as error:
                yield error_event(Refused(422, str(error)))
            except Exception:
                LOG.exception("radit: a stream broke off")
                yield error_event(FAILED)
            else:
                if end:
                    yield f"data: {end}\n\n"

    return StreamingResponse(lines(), media_type=EVENTS)


def _evaluate(app: FastAPI, service: Service) -> None:
    evaluator = Evaluator(service)

    @app.get("/v1/tasks", responses=_errors_of(401, 403), tags=["radit"])
    async def tasks() -> dict[str, Any]:
        """Tasks that /v1/evaluate knows: those of the run, and sets that lie on the server."""
        return {"tasks": await asyncio.to_thread(evaluator.tasks)}

    @app.post(
        "/v1/evaluate",
        response_class=StreamingResponse,
        responses={**ERRORS, 200: {"content": STREAMS}},
        tags=["radit"],
    )
    async def evaluate(asked: EvaluateRequest) -> Any:
        """Measures variants on a sample: server-sent events with the progress, the last one with
        the metrics and their intervals. Closing the connection ends it.
        """
        events = evaluator.run(asked)
        return _sse(events, await anext(events))


def _health(app: FastAPI, service: Service, guard: Guard) -> None:
    @app.get("/healthz", tags=["health"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses=_errors_of(503), tags=["health"])
    async def readyz() -> dict[str, str]:
        """Every deployment answers."""
        if guard.draining or not await service.ready():
            raise Refused(503, "not ready: a model is loading or the server is shutting down")
        return {"status": "ready"}

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=_errors_of(401, 403),
        tags=["health"],
    )
    async def metrics() -> Response:
        """Prometheus' text form."""
        return Response(service.counters.text(), media_type="text/plain; version=0.0.4")


def _page(app: FastAPI) -> None:
    files = {name: (PAGE / name).read_bytes() for name in (*FILES, "index.html", "docs.html")}

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return Response(files["index.html"], media_type="text/html; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(files["docs.html"], media_type="text/html; charset=utf-8")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return Response(files[name], media_type=FILES[name])


def _errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: ERRORS[status] for status in statuses}
