"""Contract of the gateway towards clients, with handles in place of Serve's: what nobody waits for
is cancelled, a replica that dies costs a client nothing, errors have their status or are a stream's
last event, and a bad value is told in one line that does not repeat it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError
from test_limits import TOKEN, ask, error, run

from radit_ray.data.rows import example_row
from radit_ray.engines.variants import Variant
from radit_ray.serving import service as services
from radit_ray.serving.app import build_app
from radit_ray.serving.calling import ATTEMPTS, Batched, Fault, in_groups
from radit_ray.serving.completing import Written
from radit_ray.serving.config import Limits, ServeConfig, token_hash
from radit_ray.serving.deployments import Found
from radit_ray.serving.evaluating import Evaluator
from radit_ray.serving.limits import Guard
from radit_ray.serving.service import Served, Service

PROMPT = {"model": "radit", "prompt": "Q: x\nA:"}
CHAT = {"model": "radit", "messages": [{"role": "user", "content": "x"}]}
WRITTEN = Written(text="one two", prompt_tokens=1, completion_tokens=2, finish_reason="stop")
GONE = DeploymentUnavailableError(DeploymentID(name="lm-0", app_name="radit"))
PATHS = {"/v1/completions": PROMPT, "/v1/chat/completions": CHAT}
HANG = object()


class Response:
    """What a handle's call gives: awaited, or read item by item; an exception among them is raised,
    HANG never comes.
    """

    def __init__(self, *items: Any) -> None:
        self.items, self.cancelled = items, False

    async def _next(self, item: Any) -> Any:
        if item is HANG:
            await asyncio.Event().wait()
        if isinstance(item, BaseException):
            raise item
        return item

    def __await__(self) -> Any:
        return self._next(self.items[0]).__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self.items:
            yield await self._next(item)

    def cancel(self) -> None:
        self.cancelled = True


class Part:
    """A deployment: each method answers its calls in turn, the last one for ever after."""

    def __init__(self, **answers: list[tuple[Any, ...]]) -> None:
        self.answers = answers
        self.made: list[Response] = []
        self.asked: list[Any] = []

    def options(self, **_: Any) -> Part:
        return self

    def __getattr__(self, name: str) -> Any:
        @dataclasses.dataclass
        class Method:
            remote: Callable[..., Response]

        def remote(*asked: Any, **_: Any) -> Response:
            left = self.answers[name]
            self.asked.append(asked)
            self.made.append(Response(*(left.pop(0) if len(left) > 1 else left[0])))
            return self.made[-1]

        return Method(remote)


def chunk(name: str) -> dict[str, str]:
    return {"id": name, "doc_id": name, "title": "t", "text": f"text of {name}"}


def parts_of(lm: Part, retriever: Part, *, k: int) -> Served:
    names = {"index": "i", "encoder": "e", "lm_name": "l", "num_chunks": 3, "ranked": ""}
    return Served(variant=Variant(k=k, t_r=1.0), retriever=retriever, lm=lm, **names)


def served(lm: Part, *, token: str = "", **config: Any) -> Guard:
    """The whole application in front of an LM and one chunk."""
    found = Found(query="q", chunks=[(chunk("c"), 1.0)])
    parts = parts_of(lm, Part(search=[(found,)], info=[({},)]), k=1)
    service = Service(ServeConfig(run="/nowhere", **config), {"radit": parts})
    return build_app(service, token=token_hash(token) if token else "")


def post(guard: Guard, path: str, body: Any, **headers: str) -> tuple[int, bytes]:
    sent = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = ask(guard, path=path, pieces=(sent,), content_type="application/json", **headers)
    ((status, _, answer),) = run(call)
    return status, answer


def events(answer: bytes) -> list[Any]:
    lines = answer.decode().split("\n\n")[:-1]
    return [line[6:] if "[DONE]" in line else json.loads(line[6:]) for line in lines]


def texts(found: list[Any]) -> str:
    """What a stream of either kind wrote."""
    choices = [event["choices"][0] for event in found if "choices" in event]
    return "".join(one.get("text") or one.get("delta", {}).get("content", "") for one in choices)


def test_what_nobody_waits_for_is_cancelled() -> None:
    lm = Part(complete=[(HANG,)], stream=[("one ", HANG)])
    guard = served(lm, limits=Limits(request_s=0.5))
    assert post(guard, "/v1/completions", PROMPT)[0] == 503
    assert [one.cancelled for one in lm.made] == [True]
    assert post(guard, "/v1/completions", {**PROMPT, "prompt": ["a", "b"]})[0] == 503
    assert [one.cancelled for one in lm.made] == [True] * 3

    guard = served(lm)

    async def leave(stream: bool) -> None:
        before = len(lm.made)
        body = json.dumps({**PROMPT, "stream": stream}).encode()
        going = ask(guard, path="/v1/completions", pieces=(body,), content_type="application/json")
        task = asyncio.create_task(going)
        while len(lm.made) == before:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    for stream in (False, True):
        asyncio.run(leave(stream))
        assert lm.made[-1].cancelled
    assert guard.counters.in_flight == 0


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_whose_replica_dies_goes_on_with_another(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radit_ray.serving.calling.PAUSE_S", 0)
    # the other one's pieces are cut elsewhere
    again = ("o", "ne t", "wo", WRITTEN)
    lm = Part(stream=[(RayActorError(),), ("one ", RayActorError()), again])
    status, answer = post(served(lm), path, {**PATHS[path], "stream": True})
    found = events(answer)
    assert (status, found[-1]) == (200, "[DONE]")
    assert texts(found[:-1]) == "one two"
    assert [one.cancelled for one in lm.made] == [True, True, False]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("last", "status"),
    [
        (RayActorError(), "overloaded_error"),
        (GONE, "overloaded_error"),
        (HANG, "overloaded_error"),
        (Fault("bad"), "invalid_request_error"),
        (RuntimeError("secret words"), "server_error"),
    ],
)
def test_what_goes_wrong_in_a_stream_is_its_last_event(
    path: str, last: Any, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radit_ray.serving.calling.PAUSE_S", 0)
    lm = Part(stream=[("one ", last)])
    guard = served(lm, limits=Limits(request_s=1 if last is HANG else 60))
    code, answer = post(guard, path, {**PATHS[path], "stream": True})
    found = events(answer)
    assert code == 200
    assert texts(found[:-1]) == "one "
    assert found[-1]["error"]["type"] == status
    assert b"secret" not in answer


@pytest.mark.parametrize(
    ("first", "status"), [(GONE, 503), (RayActorError(), 503), (Fault("bad"), 422)]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_before_the_first_piece_has_its_status(
    first: Any, status: int, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("radit_ray.serving.calling.PAUSE_S", 0)
    lm = Part(complete=[(first,)], stream=[(first,)])
    assert post(served(lm), "/v1/completions", {**PROMPT, "stream": stream})[0] == status
    assert len(lm.made) == (ATTEMPTS if isinstance(first, RayActorError) else 1)


def test_readiness_is_asked_once_for_all_who_want_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "READY_FOR_S", 60)
    lm = Part(info=[({},), (RayActorError(),)])
    guard = served(lm, token=TOKEN)  # readiness needs none

    async def ready(number: int) -> set[int]:
        calls = (ask(guard, method="GET", path="/readyz") for _ in range(number))
        return {status for status, _, _ in await asyncio.gather(*calls)}

    async def twice() -> None:
        assert await ready(200) == {200}
        assert len(lm.made) == 1
        monkeypatch.setattr(services, "READY_FOR_S", -1)
        assert await ready(3) == {503}
        assert len(lm.made) == 2

    asyncio.run(twice())


def test_calls_that_wait_are_the_next_batch() -> None:
    batches: list[list[int]] = []
    go = asyncio.Event()

    async def work(items: list[int]) -> list[int]:
        batches.append(items)
        if len(batches) == 1:
            await go.wait()
        if 13 in items:
            raise ValueError("thirteen")
        return [10 * item for item in items]

    async def all_of() -> list[Any]:
        batched = Batched(work, most=3)
        tasks = [asyncio.create_task(batched(number)) for number in (1, 2, 3, 4, 5)]
        while not batches:
            await asyncio.sleep(0)
        tasks += [asyncio.create_task(batched(number)) for number in (6, 13)]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.sleep(0)
        go.set()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert await batched(7) == 70  # it goes on after an error and after a pause
        return found

    found = asyncio.run(all_of())
    assert batches == [[1, 2, 3], [5, 6, 13], [7]]  # nobody waits for 4
    assert found[:3] == [10, 20, 30]
    assert [type(one) for one in found[3:]] == [asyncio.CancelledError] + 3 * [ValueError]


def test_a_bad_item_of_a_batch_spoils_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def work(key: str, items: list[int]) -> list[int]:
        return [1 // item for item in items]

    with caplog.at_level(logging.ERROR):
        found = in_groups([("a", 1), ("a", 0), ("b", 1), ("a", 1)], work)
    assert found == [1, Fault("the server failed; its log says why", status=500), 1, 1]
    assert "ZeroDivisionError" in caplog.text
    lm = Part(complete=[(found[1],)])
    assert post(served(lm), "/v1/completions", PROMPT)[0] == 500


GOOD = [
    ("/v1/completions", {"stop": "\n\nQuestion:"}),
    ("/v1/completions", {"stop": ["\n\nQuestion:"] * 8}),
    ("/v1/completions", {"stop": None, "suffix": None, "logit_bias": None, "best_of": None}),
    ("/v1/completions", {"suffix": "", "logit_bias": {}}),
    ("/v1/chat/completions", {"logprobs": False, "top_logprobs": 0, "logit_bias": {}, "tools": []}),
    ("/v1/chat/completions", {"logprobs": None, "tools": None, "response_format": None}),
    ("/v1/chat/completions", {"response_format": {"type": "text"}, "tool_choice": "none"}),
]


@pytest.mark.parametrize(("path", "fields"), GOOD)
def test_fields_that_ask_for_nothing_else_are_taken(path: str, fields: dict[str, Any]) -> None:
    status, answer = post(served(Part(complete=[(WRITTEN,)])), path, {**PATHS[path], **fields})
    assert status == 200, answer


BAD = [
    ("/v1/completions", {"stop": ["x"] * 9}, "stop: List should have at most 8 items"),
    ("/v1/completions", {"stop": "x" * 201}, "stop: String should have at most 200 characters"),
    ("/v1/completions", {"stop": "\ud800"}, "stop: expected a valid string"),
    ("/v1/completions", {"stop": "a\0"}, "a stop string holds a NUL character; change it"),
    ("/v1/completions", {"suffix": "x"}, "it cannot be had here; leave it out"),
    ("/v1/completions", {"logit_bias": {"5": 1}}, "logit_bias: Dictionary should have at most 0"),
    ("/v1/completions", {"prompt": 5}, "prompt: got 5, expected a valid string"),
    ("/v1/completions", {"x" * 900_000: 1}, "x: got 1, unknown field; leave it out"),
    ("/v1/chat/completions", {"logprobs": True}, "a chat none"),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": " "}]},
        "the last message is empty; give some text",
    ),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "x" * 4001}]},
        "the last message has 4001 characters, expected at most 4000; shorten it",
    ),
]


@pytest.mark.parametrize(("path", "fields", "message"), BAD)
def test_a_bad_field_is_told_in_one_short_line(
    path: str, fields: dict[str, Any], message: str
) -> None:
    status, answer = post(served(Part()), path, {**PATHS[path], **fields})
    assert status == 422
    assert message in error(answer)
    assert len(answer) < 600


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"question": ' + b"9" * 5000 + b"}", "holds a number of thousands of digits"),
        (b'{"question": "x", "k": ' + b"9" * 4000 + b"}", "k: got 99"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe\x00", "no JSON in UTF-8"),
    ],
)
def test_a_body_that_cannot_be_read_says_why(body: bytes, message: str) -> None:
    status, answer = post(served(Part()), "/v1/answer", body)
    assert (status, message in error(answer)) == (422, True), answer
    assert len(answer) < 400


def test_refusals_are_counted_at_their_path() -> None:
    guard = served(Part(), token=TOKEN, limits=Limits(body_bytes=10))
    assert post(guard, "/v1/answer", {"question": "x"})[0] == 401
    given = f"Bearer {TOKEN}"
    assert post(guard, "/v1/answer", {"question": "xxxxxxx"}, authorization=given)[0] == 413
    assert post(guard, "/v1/made-up", {}, authorization=given)[0] == 404
    told = guard.counters.text().decode()
    for path, status in (("/v1/answer", 401), ("/v1/answer", 413), ("other", 404)):
        counted = f'radit_requests_total{{method="POST",path="{path}",status="{status}"}} 1.0'
        assert counted in told, told


def test_contents_are_logged_only_where_that_is_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    body = {**PROMPT, "prompt": "secret\nwords" + "x" * 5000}
    for asked in (False, True):
        caplog.clear()
        guard = served(Part(complete=[(WRITTEN,)]), token=TOKEN, log_contents=asked)
        with caplog.at_level(logging.INFO, logger="ray.serve"):
            post(guard, "/v1/completions", body, authorization=f"Bearer {TOKEN}")
        told = [record.getMessage() for record in caplog.records]
        assert any("secret" in line and "one two" in line for line in told) == asked
        assert not any("\n" in line or len(line) > 5000 or TOKEN in line for line in told)


def test_an_evaluation_finds_what_retrieve_finds() -> None:
    """Chunks that an example excludes are dropped, and others take their places."""
    chunks = [(chunk(name), 1.0) for name in "abc"]
    retriever = Part(search=[(Found(query="q", chunks=chunks),)])
    lm = Part(answer=[({},)])
    parts = parts_of(lm, retriever, k=2)
    service = Service(ServeConfig(run="/nowhere"), {"radit": parts})
    row = example_row({"id": "1", "question": "x?", "answers": ["yes"], "exclude_ids": ["b"]})
    asyncio.run(Evaluator(service)._answered(parts, row))
    assert retriever.asked == [("x?", 6)]  # the five of recall@5, and one to spare
    ((ranked, _),) = lm.asked
    assert ranked["chunk_ids"] == ["a", "c"]
