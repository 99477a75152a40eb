"""Calls between the deployments: made again where a replica dies, cancelled where nobody waits any
more; and many calls done as one batch, of which a bad one spoils no other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ray.exceptions import RayActorError, WorkerCrashedError

from radit_ray.core.errors import InputError

ATTEMPTS = 3  # of a call whose replica dies; Serve starts another one meanwhile
PAUSE_S = 0.1  # between two
LOST = (RayActorError, WorkerCrashedError)
LOG = logging.getLogger("ray.serve")


@dataclasses.dataclass(frozen=True)
class Fault:
    """What was wrong with a call: of the request, in the one line of an InputError, or (500) of the
    server, whose log then says more.
    """

    message: str
    status: int = 422


BROKEN = Fault("the server failed; its log says why", status=500)


async def retried(call: Callable[[], Any]) -> Any:
    """The result of a call; calls are pure, so one whose replica dies is made again. One that
    nobody waits for any more is cancelled where it runs.
    """
    for attempt in range(ATTEMPTS):
        response = call()
        try:
            return await response
        except LOST:
            if attempt == ATTEMPTS - 1:
                raise
            await asyncio.sleep(PAUSE_S)
        except asyncio.CancelledError:
            response.cancel()
            raise


async def streamed(call: Callable[[], Any]) -> AsyncGenerator[Any]:
    """The items of a streaming call: pieces of a text, at last what is no text. Decoding is greedy:
    another replica writes the same text again, of which only what was not told yet is passed on.
    """
    told = 0  # characters
    for attempt in range(ATTEMPTS):
        response, skipped, whole = call(), told, False
        try:
            async for item in response:
                if not isinstance(item, str):
                    yield item
                    continue
                new, skipped = item[skipped:], max(0, skipped - len(item))
                told += len(new)
                if new:
                    yield new
            whole = True
            return
        except LOST:
            if attempt == ATTEMPTS - 1:
                raise
            await asyncio.sleep(PAUSE_S)
        finally:
            if not whole:
                response.cancel()


def in_groups(
    asked: list[tuple[Any, Any]], work: Callable[[Any, list[Any]], list[Any]]
) -> list[Any]:
    """Results in the order asked, of one call of `work(key, items)` for each key; an item that
    cannot be done gives a Fault, and the others of its group are done without it.
    """
    groups: dict[Any, list[int]] = {}
    for number, (key, _) in enumerate(asked):
        groups.setdefault(key, []).append(number)
    results: list[Any] = [None] * len(asked)
    for key, numbers in groups.items():
        items = [asked[number][1] for number in numbers]
        for number, result in zip(numbers, _done(key, items, work), strict=True):
            results[number] = result
    return results


def _done(key: Any, items: list[Any], work: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    try:
        return work(key, items)
    except Exception as error:  # whatever it is: the others are not to blame for it
        if len(items) > 1:
            return [_done(key, [item], work)[0] for item in items]
        if isinstance(error, InputError):
            return [Fault(str(error))]
        LOG.exception("radit: a request failed")
        return [BROKEN]
