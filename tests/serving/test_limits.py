"""Contract of the layer in front of the endpoints: who is let in, how much, how long; what is
refused costs no work and is told as JSON; nothing of it needs Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.serving.command import check_address
from radit_ray.serving.config import Limits, ServeConfig, is_loopback, read_token, token_hash
from radit_ray.serving.counting import Counters
from radit_ray.serving.limits import Guard

TOKEN = "correct-horse-battery-staple"
BODY = b'{"question": "secret words"}'


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body and answers with its length."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


async def ask(
    guard: Guard,
    *,
    method: str = "POST",
    path: str = "/v1/answer",
    client: str = "127.0.0.1",
    pieces: tuple[bytes, ...] = (BODY,),
    pause: float = 0,
    **headers: str,
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body) of one request, its body in pieces."""
    sent: list[Any] = []
    waiting = list(pieces)

    async def receive() -> Any:
        if not waiting:
            await asyncio.Event().wait()  # the client waits for the answer
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"host": "127.0.0.1:8000", **{k.replace("_", "-"): v for k, v in headers.items()}}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": pairs, "scheme": "http"}
    await guard(scope | {"client": (client, 5), "query_string": b""}, receive, send)
    start, *rest = sent
    found = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], found, b"".join(part["body"] for part in rest)


@pytest.fixture
def guarded() -> Callable[..., Guard]:
    def make(app: Any = echo, *, token: str = "", **limits: Any) -> Guard:
        hashed = token_hash(token) if token else ""
        return Guard(app, token=hashed, limits=Limits(**limits), counters=Counters())

    return make


def run(*calls: Any) -> list[Any]:
    """Results of coroutines that go at once."""

    async def together() -> list[Any]:
        return list(await asyncio.gather(*calls))

    return asyncio.run(together())


def error(body: bytes) -> str:
    found = json.loads(body)["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return str(found["message"])


def test_without_a_token_only_this_machine_under_its_own_name_is_answered(
    guarded: Callable[..., Guard],
) -> None:
    guard = guarded()
    for more in ({}, {"host": "localhost:9000"}, {"host": "[::1]:80", "client": "::1"}):
        assert run(ask(guard, **more))[0][0] == 200
    for more in (
        {"client": "10.0.0.7"},  # another machine
        {"host": "evil.example"},  # a name that was made to point here
        {"host": "evil.example:8000"},
        {"host": ""},
        {"origin": "http://evil.example"},  # another page in the browser
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9"},
        {"path": "/", "method": "GET", "client": "10.0.0.7"},
    ):
        ((status, _, body),) = run(ask(guard, **more))
        assert status == 403, more
        assert error(body)
    assert run(ask(guard, origin="http://127.0.0.1:8000"))[0][0] == 200


def test_a_token_is_asked_for_and_never_told(
    guarded: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    guard = guarded(token=TOKEN)
    outside = {"client": "10.0.0.7", "host": "radit.example"}
    with caplog.at_level(logging.INFO):
        for given in (f"Bearer {TOKEN}", f"bearer  {TOKEN}"):
            assert run(ask(guard, authorization=given, **outside))[0][0] == 200
        for given in ("", TOKEN, "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \u00e9"):
            ((status, headers, body),) = run(ask(guard, authorization=given, **outside))
            assert status == 401
            assert headers["www-authenticate"] == "Bearer"
            assert "Authorization: Bearer" in error(body)
    for path in ("/", "/healthz", "/readyz", "/page/page.js", "/docs", "/openapi.json"):
        assert run(ask(guard, path=path, method="GET", **outside))[0][0] == 200
    for path in ("/metrics", "/v1/models", "/v1/tasks"):
        assert run(ask(guard, path=path, method="GET", **outside))[0][0] == 401
    assert TOKEN not in caplog.text
    assert "secret" not in caplog.text
    assert TOKEN not in str(vars(guard))


def test_a_body_that_is_too_large_is_not_read_to_its_end(guarded: Callable[..., Guard]) -> None:
    guard = guarded(body_bytes=1000)
    told = run(ask(guard, content_length="1001"))[0]
    # without its length, in pieces
    found = run(ask(guard, pieces=(b"x" * 600,) * 2))[0]
    for status, _, body in (told, found):
        assert status == 413
        assert "1000 bytes" in error(body)
    assert run(ask(guard, pieces=(b"x" * 500,) * 2)) == [(200, *found_headers(guard), b"1000")]


def found_headers(guard: Guard) -> tuple[dict[str, str]]:
    """Those that every response has."""
    ((_, headers, _),) = run(ask(guard))
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
    return (headers,)


def test_a_slow_body_and_a_slow_answer_end(guarded: Callable[..., Guard]) -> None:
    async def never(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.Event().wait()

    ((status, _, body),) = run(ask(guarded(body_s=0.05), pieces=(b"x",) * 9, pause=0.02))
    assert status == 408
    assert "send it at once" in error(body)
    guard = guarded(never, request_s=0.05)
    ((status, headers, body),) = run(ask(guard))
    assert (status, headers["retry-after"]) == (503, "1")
    assert "0.05 s" in error(body)
    assert guard.counters.in_flight == 0


def test_more_at_once_than_allowed_are_refused_at_once(guarded: Callable[..., Guard]) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(1)
        await echo(scope, receive, send)

    guard = guarded(slow, in_flight=3)
    found = run(*(ask(guard) for _ in range(10)))
    assert sorted(status for status, _, _ in found) == [200] * 3 + [429] * 7
    assert {h["retry-after"] for status, h, _ in found if status == 429} == {"1"}
    assert run(ask(guard))[0][0] == 200  # nothing is left over
    guard.draining = True
    ((status, headers, _),) = run(ask(guard))
    assert (status, headers["retry-after"]) == (503, "5")
    assert run(ask(guard, method="GET", path="/healthz"))[0][0] == 200


def test_an_id_from_outside_cannot_write_lines_into_the_log(
    guarded: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="ray.serve"):
        run(ask(guarded(), x_request_id="mine-7"), ask(guarded(), x_request_id="a\nradit forged"))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert any("mine-7" in line for line in lines)
    assert not any("forged" in line or "\n" in line for line in lines)


def test_an_address_that_others_reach_needs_a_token(tmp_path: Any) -> None:
    config = ServeConfig(run="")
    for host in ("0.0.0.0", "::", "10.0.0.7", "example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(InputError, match="--token-file"):
            check_address(host, 8000, config)
    file = tmp_path / "token"
    for text in ("", "short", "sixteen or more, but with spaces", "t\u00f6ken" * 9):
        file.write_text(text)
        with pytest.raises(InputError, match="ASCII characters"):
            read_token(str(file))
    with pytest.raises(InputError, match="No such file"):
        read_token(str(tmp_path / "other"))
    file.write_text(f"{TOKEN}\n")
    assert read_token(str(file)) == token_hash(TOKEN)
    assert TOKEN not in read_token(str(file))
