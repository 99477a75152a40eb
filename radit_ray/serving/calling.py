"""Calls between the deployments: made again where a replica dies, cancelled where nobody waits any
more; and calls that wait done as one batch, of which a bad one spoils no other.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from ray.exceptions import RayActorError, WorkerCrashedError

from radit_ray.core.errors import InputError

ATTEMPTS = 3  # of a call whose replica dies; Serve starts another one meanwhile
PAUSE_S = 0.1  # between two
LOST = (RayActorError, WorkerCrashedError)
LOG = logging.getLogger("ray.serve")
T = TypeVar("T")
R = TypeVar("R")


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


class Batched(Generic[T, R]):
    """Calls that wait while one batch is computed become the next one.

    `work` is given at most `most` items and returns their results in order. Serve's own
    `serve.batch` closes a batch before it waits for its turn, so that each of them holds one call
    where nothing waits for a batch to fill.
    """

    def __init__(self, work: Callable[[list[T]], Awaitable[list[R]]], *, most: int) -> None:
        self.work, self.most = work, most
        self.waiting: list[tuple[T, asyncio.Future[R]]] = []
        self.task: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.waiting.append((item, future))
        if self.task is None or self.task.done():
            # of no request: Serve cancels what the context of a cancelled one has called
            self.task = asyncio.create_task(self._all(), context=contextvars.Context())
        return await future

    async def _all(self) -> None:
        while self.waiting:
            # what nobody waits for any more is not computed
            self.waiting = [(item, future) for item, future in self.waiting if not future.done()]
            batch, self.waiting = self.waiting[: self.most], self.waiting[self.most :]
            if batch:
                await self._one(batch)

    async def _one(self, batch: list[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self.work([item for item, _ in batch])
            pairs = list(zip(batch, results, strict=True))
        except (Exception, asyncio.CancelledError) as error:  # whatever it is, each caller is told
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in pairs:
            if not future.done():
                future.set_result(result)


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
