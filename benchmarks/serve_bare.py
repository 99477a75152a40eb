"""What Ray Serve itself costs, for benchmarks/serve.py: an application of the same shape as
`radit serve` in which nothing is computed, and a flood from a client that costs little.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import aiohttp
import ray
from ray import serve

from radit_ray.serving.command import ONE_LOOP

ANSWER = {"answer": "x" * 20, "chunks": [{"text": "x" * 1000}] * 3}  # as much as an answer of ours


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Leaf:
    """An index shard, or an LM."""

    async def call(self, row: Any) -> Any:
        return row


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Middle:
    """A retriever: asks a shard."""

    def __init__(self, leaf: Any) -> None:
        self.leaf = leaf

    async def call(self, row: Any) -> Any:
        return await self.leaf.call.remote(row)


@serve.deployment(ray_actor_options={"num_cpus": 0})
class Front:
    """A gateway: asks the retriever, then the LM."""

    def __init__(self, retriever: Any, lm: Any) -> None:
        self.retriever, self.lm = retriever, lm

    async def __call__(self, request: Any) -> Any:
        await request.body()
        return await self.lm.call.remote(await self.retriever.call.remote(ANSWER))


@contextlib.contextmanager
def bare(port: int) -> Iterator[None]:
    """The empty application at 127.0.0.1:port, with the settings of `radit serve`."""
    os.environ.update(ONE_LOOP)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        serve.run(Front.bind(Middle.bind(Leaf.bind()), Leaf.options(name="lm").bind()))
        yield
    finally:
        serve.shutdown()
        ray.shutdown()


def flood(url: str, body: Mapping[str, Any], at_once: int) -> dict[str, Any]:
    """So many requests at once, each on a connection of its own: {status: count}, and how long
    those waited that were refused (seconds).
    """
    replies = asyncio.run(_flood(url, json.dumps(body).encode(), at_once))
    refused = [seconds for status, seconds in replies if status != 200]
    return {
        "at_once": at_once,
        "statuses": dict(Counter(str(status) for status, _ in replies)),
        "refused_p50_s": median(refused) if refused else None,
        "refused_slowest_s": max(refused, default=None),
    }


async def _flood(url: str, body: bytes, at_once: int) -> list[tuple[int, float]]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
        timeout=aiohttp.ClientTimeout(total=300),
    ) as session:

        async def one() -> tuple[int, float]:
            started = time.perf_counter()
            headers = {"content-type": "application/json"}
            async with session.post(url, data=body, headers=headers) as reply:
                await reply.read()
                return reply.status, time.perf_counter() - started

        return await asyncio.gather(*(one() for _ in range(at_once)))
