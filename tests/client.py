"""A plain HTTP client of the tests: one connection for each request, JSON in and out."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The message of an error, which has the one form."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return str(error["message"])

    @property
    def events(self) -> list[Any]:
        """Server-sent events; "[DONE]" as a string."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        return [line[6:] if "[DONE]" in line else json.loads(line[6:]) for line in lines]


class Client:
    """Asks 127.0.0.1 at a port."""

    def __init__(self, port: int, *, timeout: float = 120, **headers: str) -> None:
        self.port, self.timeout, self.headers = port, timeout, headers
        self.base = f"http://127.0.0.1:{port}"

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request; a body that is no bytes goes as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.timeout)
        try:
            sent = {**self.headers, **(headers or {})}
            if body is not None and not isinstance(body, bytes | Iterator):
                body = json.dumps(body).encode()
                sent.setdefault("content-type", "application/json")
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, **body: Any) -> Reply:
        return self.request("POST", path, body)
