"""What stands in front of every endpoint: who may ask, how much, how long.

An ASGI layer, so that a request that is refused costs next to nothing and its body is never read
whole.
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

from radit_ray.serving.config import Limits, is_loopback, token_hash
from radit_ray.serving.counting import Counters
from radit_ray.serving.refusals import EVENTS, Refused, error_event

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

LOG = logging.getLogger("ray.serve")
# answered without a token: they tell nothing of the run, and the page asks for the token itself
OPEN = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
OPEN_FOLDER = "/page/"
WORK = "/v1/"  # counted against `Limits.in_flight`
_LONG = ("/v1/evaluate",)
LOGGED = 2000  # bytes of a body, where contents are logged at all
_ID = re.compile(r"[\w.-]{1,64}")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    # the page and its own files, nothing from elsewhere
    # and no form that is sent anywhere: the page's own are read by its script
    (
        b"content-security-policy",
        b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
]


class Guard:
    """The layer. `token` is the hash of the bearer token, "" = only this machine may ask; `paths`
    are those that are counted by name, also where nobody routes them any more.
    """

    def __init__(
        self,
        app: Any,
        *,
        token: str,
        limits: Limits,
        counters: Counters,
        paths: frozenset[str] = frozenset(),
        log_contents: bool = False,
    ) -> None:
        self.app, self.token, self.limits, self.counters = app, token, limits, counters
        self.paths, self.log_contents = paths, log_contents
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
            id=own if _ID.fullmatch(own) else uuid.uuid4().hex,
            scope=scope,
            send=send,
            keep=LOGGED if self.log_contents else 0,
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
        # an int of thousands of digits is a ValueError
        if length.isdigit() and int(length[:18]) > limits.body_bytes:
            raise _too_large(limits)
        seconds = limits.evaluate_s if path in _LONG else limits.request_s
        with self.counters.working():
            try:
                async with asyncio.timeout(seconds):
                    await self.app(scope, _Body(receive, limits, request), request.reply)
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
        asked = request.scope["path"]
        path = getattr(route, "path", "") or (asked if asked in self.paths else "other")
        method = request.scope["method"]
        self.counters.done(method, path, status, seconds)
        LOG.info("radit %s %s %s %d %.0f ms", request.id, method, path, status, 1000 * seconds)
        if self.log_contents:
            LOG.info("radit %s asked %r answered %r", request.id, request.asked, request.answered)


class _Request:
    """One request: its id, when it came, what was answered; `keep` bytes of either side, to be
    logged.
    """

    def __init__(self, *, id: str, scope: Message, send: Send, keep: int) -> None:
        self.id, self.scope, self.send, self.keep = id, scope, send, keep
        self.started, self.status = time.perf_counter(), 0
        self.streams = self.ended = False
        self.asked = self.answered = b""

    async def reply(self, message: Message) -> None:
        """Sends on, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            known = dict(message.get("headers", ()))
            self.streams = known.get(b"content-type", b"").startswith(EVENTS.encode())
            more = [(name, value) for name, value in HEADERS if name not in known]
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        else:
            self.ended = not message.get("more_body", False)
            self.answered += message.get("body", b"")[: self.keep - len(self.answered)]
        await self.send(message)

    async def refuse(self, refused: Refused) -> None:
        """An error as the response; as the last event of one that streams."""
        if self.status:
            if self.streams and not self.ended:
                body = error_event(refused).encode()
                await self.reply({"type": "http.response.body", "body": body})
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

    def __init__(self, receive: Receive, limits: Limits, request: _Request) -> None:
        self.receive, self.limits, self.request = receive, limits, request
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
        body = message.get("body", b"")
        self.left -= len(body)
        self.request.asked += body[: self.request.keep - len(self.request.asked)]
        if self.left < 0:
            raise _too_large(self.limits)
        self.whole = not message.get("more_body", False)
        return message


def _too_large(limits: Limits) -> Refused:
    return Refused(413, f"the body has more than {limits.body_bytes} bytes; send less at once")
