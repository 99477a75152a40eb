"""The deployments behind the gateway: query encoder, index shards, language model.

In: paths of a finished run. Out: Serve deployments that are scaled each on its own. Calls that wait
while one is computed become the next batch; nothing waits for a batch to fill. A bad value comes
back as a `Fault` and not as an exception, because Ray's wrapper of one hides its message.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch

from radit_ray.core.errors import InputError
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.connect import quiet
from radit_ray.engines.explaining import explain
from radit_ray.engines.plain_text import TAIL_CHARS, query_of
from radit_ray.engines.ranking import query_encoder
from radit_ray.engines.references import local_model
from radit_ray.engines.sharded_index import IndexShard, merge_top_k
from radit_ray.engines.variants import Row, Variant
from radit_ray.models.causal_lm import CausalLM
from radit_ray.serving.calling import Batched, Fault, in_groups, retried
from radit_ray.serving.completing import (
    Completion,
    Stream,
    Written,
    check_ids,
    complete,
    with_logprobs,
)

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """(chunk row, score) pairs, best first, and the text they were searched with."""

    query: str
    chunks: list[tuple[dict[str, Any], float]]


class Shard:
    """One shard of an index, memory-mapped where its kind allows."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        quiet()
        self.shard = IndexShard(**arguments, memory_map=True)

    async def search(
        self, query_QD: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        """(scores, rows, {row: chunk}): the chunks come along, which saves a second call."""
        return await asyncio.to_thread(self._search, query_QD, k)

    def _search(
        self, query_QD: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray, dict[int, dict[str, Any]]]:
        score_QK, row_QK = self.shard.search(query_QD, min(k, self.shard.table.num_rows))
        wanted = np.unique(row_QK[row_QK >= 0])
        chunks = self.shard.chunks(wanted)
        return score_QK, row_QK, dict(zip(wanted.tolist(), chunks, strict=True))

    async def info(self) -> dict[str, Any]:
        """Whether it is there, and the memory of its process."""
        return {"resident_bytes": resident_bytes()}


class Retriever:
    """A query encoder in front of the shards of an index."""

    def __init__(
        self,
        encoder: str,
        preset: str,
        shards: list[Any],
        starts: Sequence[int],
        *,
        device: str,
        threads: int,
        sharers: int,
        max_batch: int,
        batch_tokens: int,
    ) -> None:
        prepare(threads, sharers)
        self.shards, self.starts, self.batch_tokens = shards, starts, batch_tokens
        self.encoder = query_encoder(encoder, preset=preset, device=device, separate=False)
        self.batched = Batched(self.found, most=max_batch)

    async def search(self, text: str, k: int, *, is_prompt: bool = False) -> Found:
        """The k best chunks for a question; for a prompt, for the last question in it."""
        return await self.batched((text, k, is_prompt))

    async def found(self, asked: list[tuple[str, int, bool]]) -> list[Found]:
        """`search` for several at once."""
        queries, vectors = await asyncio.to_thread(self._encode, asked)
        results: list[Found | None] = [None] * len(asked)

        async def search(k: int) -> None:
            numbers = [i for i, (_, own, _) in enumerate(asked) if own == k]
            found = await self._search([vectors[i] for i in numbers], k)
            for number, chunks in zip(numbers, found, strict=True):
                results[number] = Found(query=queries[number], chunks=chunks)

        # each depth by itself: an approximate index looks farther for a larger k, so that an answer
        # would depend on who else asks
        await asyncio.gather(*(search(k) for k in sorted({k for _, k, _ in asked})))
        return results  # type: ignore[return-value]

    async def _search(self, queries: list[Any], k: int) -> list[list[tuple[dict[str, Any], float]]]:
        """(chunk, score) pairs of each query, best first, from all shards."""
        sent = np.stack(queries) if isinstance(queries[0], np.ndarray) else queries
        results = await asyncio.gather(
            *(retried(lambda s=s: s.search.remote(sent, k)) for s in self.shards)
        )
        positions = [
            np.where(rows < 0, -1, rows + start)
            for (_, rows, _), start in zip(results, self.starts, strict=True)
        ]
        score_QK, position_QK = merge_top_k([scores for scores, _, _ in results], positions, k)
        chunks = {
            row + start: chunk
            for (_, _, own), start in zip(results, self.starts, strict=True)
            for row, chunk in own.items()
        }
        return [
            [(chunks[p], score) for p, score in zip(*pair, strict=True) if p >= 0]
            for pair in zip(position_QK.tolist(), score_QK.tolist(), strict=True)
        ]

    async def info(self) -> dict[str, Any]:
        """Whether it and its shards are there, and the memory of its process."""
        await asyncio.gather(*(shard.info.remote() for shard in self.shards))
        return {"resident_bytes": resident_bytes()}

    def _encode(self, asked: list[tuple[str, int, bool]]) -> tuple[list[str], np.ndarray]:
        queries = [
            query_of(self.encoder, text, "question") if is_prompt else text
            for text, _, is_prompt in asked
        ]
        return queries, self.encoder.encode_queries(queries, batch_tokens=self.batch_tokens)


class LanguageModel:
    """An LM: answers ranked rows, continues prompts. One thread at a time computes."""

    def __init__(
        self,
        path: str,
        *,
        eos_token: str,
        precision: str,
        device: str,
        threads: int,
        sharers: int,
        max_batch: int,
        batch_tokens: int,
    ) -> None:
        prepare(threads, sharers)
        self.lm = CausalLM.load(
            local_model(path), precision=precision, device=device, eos_token=eos_token
        )
        self.batch_tokens = batch_tokens
        self.computing = threading.Lock()
        self.answers = Batched(self._answers, most=max_batch)
        self.completions = Batched(self._completions, most=max_batch)

    async def answer(self, row: Row, variant: Variant, *, why: bool = False) -> Row | Fault:
        """The prediction row of a ranked row; with `why` what each chunk's prompt says of it, as
        `own_logprobs` and `given_logprobs`.
        """
        return await self.answers(((variant, why), row))

    async def complete(self, asked: Completion) -> Written | Fault:
        """What stands behind a prompt."""
        return await self.completions((asked.key, asked))

    async def texts(self, prompts: list[list[int]]) -> list[str] | Fault:
        """The ends of token ids as text, as far as a question is looked for in them."""
        try:
            for ids in prompts:
                check_ids(self.lm, ids)
        except InputError as error:
            return Fault(str(error))
        ends = [ids[-TAIL_CHARS:] for ids in prompts]
        return await asyncio.to_thread(lambda: [self.lm.tokenizer.decode(ids) for ids in ends])

    async def info(self) -> dict[str, Any]:
        """Whether it is there, and the memory of its process."""
        return {"resident_bytes": resident_bytes()}

    async def stream(self, asked: Completion) -> Any:
        """Yields the text of `complete` as it is written, then the `Written` whole; or a Fault.

        A mixture writes token by token. With several prompts that write each their own, the text
        comes at once, since it is known only at the end which of them is the answer.
        """
        if asked.alone:
            written = await self.complete(asked)
            if isinstance(written, Written):
                yield written.text
            yield written
            return
        stream = Stream(self.lm, asked, asyncio.get_running_loop())
        work = asyncio.create_task(asyncio.to_thread(self._locked, stream.run))
        try:
            async for text in stream.texts():
                yield text
            yield await work
        except InputError as error:
            yield Fault(str(error))
        finally:
            stream.cancel()

    async def _answers(self, asked: list[tuple[Hashable, Row]]) -> list[Row | Fault]:
        return await asyncio.to_thread(self._locked, in_groups, asked, self._answer)

    async def _completions(self, asked: list[tuple[Hashable, Completion]]) -> list[Written | Fault]:
        return await asyncio.to_thread(self._locked, in_groups, asked, self._complete)

    def _locked(self, work: Callable[..., T], *arguments: Any) -> T:
        with self.computing:
            return work(*arguments)

    def _answer(self, key: tuple[Variant, bool], rows: list[Row]) -> list[Row]:
        variant, why = key
        predictions, _ = answer_batch(
            self.lm, rows, variant, t_r=variant.t_r, batch_tokens=self.batch_tokens
        )
        if not why:
            return predictions
        found = explain(self.lm, rows, predictions, variant, batch_tokens=self.batch_tokens)
        return [
            {**prediction, "own_logprobs": one.own, "given_logprobs": one.given}
            for prediction, one in zip(predictions, found, strict=True)
        ]

    def _complete(self, key: Hashable, asked: list[Completion]) -> list[Written]:
        if asked[0].logprobs is None:
            return complete(self.lm, asked, batch_tokens=self.batch_tokens)
        return [with_logprobs(self.lm, one, batch_tokens=self.batch_tokens) for one in asked]


def prepare(threads: int, sharers: int) -> None:
    """What every process with a model does first: `threads` of torch, 0 = the node's CPUs by the
    number that share them.
    """
    quiet()
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // sharers))


def resident_bytes() -> int:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
