"""What stands in front of every endpoint: who may ask, how much, how long; and errors as JSON.

An ASGI layer, so that a request that is refused costs next to nothing and its body is never read
whole. Errors have OpenAI's form, {"error": {"message", "type", "param", "code"}}, and say what to
change.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from radit_ray.serving.config import Limits, is_loopback, token_hash
from radit_ray.serving.counting import Counters

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOG = logging.getLogger("ray.serve")
# answered without a token: they tell nothing of the run, and the page asks for the token itself
OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
OPEN_FOLDER = "/page/"
WORK = "/v1/"  # counted against `Limits.in_flight`
_LONG = ("/v1/evaluate",)
_ID = re.compile(r"[\w.-]{1,64}")
KINDS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "server_error",
    503: "overloaded_error",
}
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    # the page and its own files, nothing from elsewhere
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
]


class Refused(HTTPException):
    """A request that is not done: its status and what to change. FastAPI lets its own kind through
    wherever it is raised, also while it reads a body.
    """

    def __init__(
        self, status: int, message: str, *, param: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(status, message)
        self.status, self.message, self.param = status, message, param
        self.retry_after = retry_after or (1 if status in (429, 503) else 0)
        self.headers = self._headers()

    @property
    def body(self) -> dict[str, Any]:
        """The error as the response carries it."""
        kind = KINDS.get(self.status, "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": kind}
        return {"error": error}

    def _headers(self) -> dict[str, str]:
        found = {"retry-after": str(self.retry_after)} if self.retry_after else {}
        return found | ({"www-authenticate": "Bearer"} if self.status == 401 else {})


class Guard:
    """The layer. `token` is the hash of the bearer token, "" = only this machine may ask."""

    def __init__(self, app: Any, *, token: str, limits: Limits, counters: Counters) -> None:
        self.app, self.token, self.limits, self.counters = app, token, limits, counters
        self.draining = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        own = headers.get("x-request-id", b"").decode("latin-1")
        request = _Request(
            id=own if _ID.fullmatch(own) else uuid.uuid4().hex, scope=scope, send=send
        )
        try:
            self._admit(scope, headers)
            await self._work(scope, receive, request, headers)
        except Refused as refused:
            await request.refuse(refused)
        finally:
            self._tell(request)

    def _admit(self, scope: Message, headers: dict[str, bytes]) -> None:
        """Raises Refused for whoever may not ask."""
        host = headers.get("host", b"").decode("latin-1")
        origin = headers.get("origin", b"").decode("latin-1")
        # another page in the browser that asks here: CORS keeps it from reading, this from asking
        if origin and origin.partition("://")[2] != host:
            raise Refused(
                403, f"requests from {origin[:80]!r} are not answered; open the page here"
            )
        path = scope["path"]
        if not self.token:
            client = (scope.get("client") or ("", 0))[0]
            name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
            # the name as well: a page whose name was made to point here has the origin that it
            # asks (DNS rebinding)
            if not (is_loopback(client) and is_loopback(name)):
                raise Refused(
                    403,
                    "without a token only this machine is answered, under 127.0.0.1 or localhost; "
                    "start radit serve with --token-file",
                )
            return
        if path in OPEN or path.startswith(OPEN_FOLDER):
            return
        scheme, _, given = headers.get("authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(
            token_hash(given.strip()), self.token
        ):
            raise Refused(
                401, "missing or wrong token; send the header Authorization: Bearer TOKEN"
            )

    async def _work(
        self, scope: Message, receive: Receive, request: _Request, headers: dict[str, bytes]
    ) -> None:
        path, limits = scope["path"], self.limits
        if not path.startswith(WORK) or scope["method"] == "GET":
            await self.app(scope, receive, request.reply)
            return
        if self.draining:
            raise Refused(503, "the server is shutting down; ask another one", retry_after=5)
        if self.counters.in_flight >= limits.in_flight:
            raise Refused(
                429, f"{limits.in_flight} requests are being answered; ask again in a second"
            )
        length = headers.get("content-length", b"0")
        if length.isdigit() and int(length) > limits.body_bytes:
            raise _too_large(limits)
        seconds = limits.evaluate_s if path in _LONG else limits.request_s
        with self.counters.working():
            try:
                async with asyncio.timeout(seconds):
                    await self.app(scope, _Body(receive, limits), request.reply)
            except TimeoutError:
                raise Refused(
                    503,
                    f"no answer within {seconds:g} s; ask for fewer chunks or tokens, or later",
                ) from None

    def _tell(self, request: _Request) -> None:
        """One line in the log, with ids and numbers and no contents; and the counters."""
        seconds = time.perf_counter() - request.started
        status = request.status or 499  # nobody waited for the answer
        route = request.scope.get("route")
        path = getattr(route, "path", "") or "other"
        method = request.scope["method"]
        self.counters.done(method, path, status, seconds)
        LOG.info("radit %s %s %s %d %.0f ms", request.id, method, path, status, 1000 * seconds)


class _Request:
    """One request: its id, when it came, what was answered."""

    def __init__(self, *, id: str, scope: Message, send: Send) -> None:
        self.id, self.scope, self.send = id, scope, send
        self.started, self.status = time.perf_counter(), 0

    async def reply(self, message: Message) -> None:
        """Sends on, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            known = {name.lower() for name, _ in message.get("headers", ())}
            more = [(name, value) for name, value in HEADERS if name not in known]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self.send(message)

    async def refuse(self, refused: Refused) -> None:
        """An error as the response, unless one has begun: then it just ends."""
        if self.status:
            return
        body = json.dumps(refused.body).encode()
        headers = {**refused.headers, "content-type": "application/json"}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.reply(
            {"type": "http.response.start", "status": refused.status, "headers": pairs}
        )
        await self.reply({"type": "http.response.body", "body": body})


class _Body:
    """The receiving side of a request, which ends where the body grows too large or too slowly."""

    def __init__(self, receive: Receive, limits: Limits) -> None:
        self.receive, self.limits = receive, limits
        self.left, self.whole = limits.body_bytes, False
        self.until = time.perf_counter() + limits.body_s

    async def __call__(self) -> Message:
        if self.whole:
            return await self.receive()  # that the client has gone
        try:
            async with asyncio.timeout(max(0.0, self.until - time.perf_counter())):
                message = await self.receive()
        except TimeoutError:
            raise Refused(
                408, f"the body was not there after {self.limits.body_s:g} s; send it at once"
            ) from None
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise _too_large(self.limits)
        self.whole = not message.get("more_body", False)
        return message


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body has more than {limits.body_bytes} bytes; send less at once")
