"""Every error in one form, OpenAI's {"error": {"message", "type", "param", "code"}}: what was
wrong, and what to change.
"""

from __future__ import annotations

import json
import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from radit_ray.core.errors import InputError
from radit_ray.serving.schemas import MAX_K

EVENTS = "text/event-stream"
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
NOT_SAMPLED = "decoding is greedy; leave it out or set 0"
ONE_ANSWER = "decoding is greedy, so there is one answer; leave it out"
HINTS = {
    **dict.fromkeys(("temperature", "frequency_penalty", "presence_penalty"), NOT_SAMPLED),
    **dict.fromkeys(("n", "best_of"), ONE_ANSWER),
    **dict.fromkeys(
        ("logprobs", "top_logprobs"), "POST /v1/completions gives up to 20, a chat none"
    ),
    **dict.fromkeys(
        ("suffix", "logit_bias", "tools", "tool_choice", "response_format", "store"),
        "it cannot be had here; leave it out",
    ),
    "k": f"1 to {MAX_K} are allowed; a variant without retrieval, such as closed-book, uses none",
}
MESSAGES = {
    "extra_forbidden": "unknown field; leave it out",
    "missing": "is missing; add it",
    "string_pattern_mismatch": "expected some text without control characters alone or a NUL",
    "string_too_short": "is empty; give some text",
    "model_attributes_type": "expected a JSON object, with content-type: application/json",
}
OUT_OF_RANGE = ("greater_than_equal", "less_than_equal", "literal_error", "too_long")
SHOWN = 80  # characters of a field's name or a number: they come from outside
_TYPE = re.compile(r"(constrained-)?(str|int)|list\[.*\]")  # pydantic's name for one of several


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


def error_event(refused: Refused) -> str:
    """An error of a response that has begun, as a server-sent event: the last one."""
    return f"data: {json.dumps(refused.body)}\n\n"


FAILED = Refused(500, "the server failed; its log says why, by the request's id")


def add_errors(app: FastAPI) -> None:
    """Every error in the one form."""

    def respond(refused: Refused) -> JSONResponse:
        return JSONResponse(refused.body, refused.status, headers=refused.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong(request: Request, error: RequestValidationError) -> JSONResponse:
        return respond(_wrong_field(error))

    @app.exception_handler(InputError)
    async def bad(request: Request, error: InputError) -> JSONResponse:
        return respond(Refused(422, str(error)))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error, Refused):
            return respond(error)
        if error.status_code == 400:
            return respond(Refused(422, f"{_no_json(error.__cause__)}; send a JSON object"))
        response = respond(
            Refused(
                error.status_code,
                f"{error.detail}: {request.method} {request.url.path[:SHOWN]}; "
                "GET /docs lists what there is",
            )
        )
        response.headers.update(error.headers or {})  # Allow, of a 405
        return response

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return respond(FAILED)


def _no_json(cause: BaseException | None) -> str:
    """Why a body could not be read, where it is not for its grammar."""
    if isinstance(cause, RecursionError):
        return "the body is nested too deeply"
    if isinstance(cause, UnicodeDecodeError):
        return "the body is no JSON in UTF-8"
    return "the body is no JSON, or holds a number of thousands of digits"


def _wrong_field(error: RequestValidationError) -> Refused:
    """The first thing that is wrong, with its value where that is a number: text may be long, or
    private.
    """
    errors = error.errors()
    # where a field may be of several types, the one that fits and is wrong in something else
    own = [one for one in errors if one["loc"][:2] == errors[0]["loc"][:2]]
    first = min(own, key=lambda one: one["type"].endswith("_type"))
    kind = first["type"]
    parts = [str(part) for part in first["loc"] if part != "body"]
    place = [part[:SHOWN] for part in parts if not _TYPE.fullmatch(part)]
    if kind == "json_invalid":
        why = f"{first['ctx']['error']} at character {place[0]}"
        return Refused(422, f"the body is no JSON ({why}); send a JSON object")
    message = MESSAGES.get(kind) or first["msg"].replace("Input should be", "expected")
    if isinstance(first["input"], int | float):
        message = f"got {str(first['input'])[:SHOWN]}, {message}"
    name = next(iter(place), "")
    hint = HINTS.get(name, "") if kind in OUT_OF_RANGE else ""
    where = ".".join(place)[:SHOWN] or "the body"
    return Refused(422, f"{where}: {message}{f'; {hint}' if hint else ''}", param=name or None)
