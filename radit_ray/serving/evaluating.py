"""POST /v1/evaluate: variants measured on a sample, with progress.

In: a task's name or some examples. Out: events, the last one with what `results.json` of a run
holds: metrics with intervals by variant, and paired contrasts of the first with each other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncGenerator
from typing import Any

import pyarrow as pa

from radit_ray.core.errors import nearest
from radit_ray.core.templates import retrieval_query
from radit_ray.data.artifacts import read_shard, resolve_link, run_record, shard_names
from radit_ray.data.examples import read_examples
from radit_ray.data.rows import EXAMPLE, example_row, seeded_order
from radit_ray.data.storage import join
from radit_ray.data.tasks import PREFIX, TASKS, local_files
from radit_ray.engines.measuring import measure
from radit_ray.engines.ranking import chunk_columns
from radit_ray.engines.variants import Row
from radit_ray.serving.refusals import Refused
from radit_ray.serving.schemas import EvaluateRequest
from radit_ray.serving.service import Served, Service

AT_ONCE = 8  # questions being answered: enough for batches, and others get their turn
SEED = 0
BOOTSTRAP = 2000
RECALL = 5  # chunks that recall@5 looks at, also where a variant reads fewer


class Evaluator:
    """Samples of the tasks that are at hand; one request at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.busy = False

    def tasks(self) -> list[dict[str, Any]]:
        """Names for `task`: the run's own questions (split eval), then known sets below the data
        folder. The name chooses one of these; nothing else is opened.
        """
        # those that the run's results are about come first
        recipe = run_record(self.service.config.run).get("recipe", {})
        first = recipe.get("evaluate", {}).get("tasks", ())
        own: dict[str, list[str]] = {name: [] for name in first}
        for row in self._own:
            own.setdefault(row["task"], []).append(row["question"])
        found: list[dict[str, Any]] = [
            {"name": name, "questions": len(asked), "example": asked[0]}
            for name, asked in own.items()
            if asked
        ]
        known = [name for name, task in TASKS.items() if local_files(task, task.split)]
        return found + [
            {"name": name, "questions": None, "example": ""} for name in known if name not in own
        ]

    async def run(self, asked: EvaluateRequest) -> AsyncGenerator[dict[str, Any]]:
        """Progress and, at last, the result; whoever stops reading ends it."""
        names = list(dict.fromkeys(asked.models)) or list(self.service.served)
        served = [self.service.pick(name, None, None)[0] for name in names]
        if bool(asked.task) == bool(asked.examples):
            raise Refused(422, "give either task or examples", param="task")
        if self.busy:
            raise Refused(429, "another evaluation is running; ask again later", retry_after=10)
        self.busy = True
        try:
            rows = await asyncio.to_thread(self._rows, asked)
            async with contextlib.aclosing(self._events(served, rows)) as events:
                async for event in events:
                    yield event
        finally:
            self.busy = False

    async def _events(
        self, served: list[Served], rows: list[Row]
    ) -> AsyncGenerator[dict[str, Any]]:
        total, done = len(rows) * len(served), 0
        yield {"done": 0, "total": total}
        free = asyncio.Semaphore(AT_ONCE)
        tables: dict[str, list[Row | None]] = {
            one.variant.name: [None] * len(rows) for one in served
        }

        async def one(which: Served, number: int) -> None:
            async with free:
                tables[which.variant.name][number] = await self._answered(which, rows[number])

        # a question's variants one after the other, so that an early end has pairs
        tasks = [
            asyncio.create_task(one(which, number))
            for number in range(len(rows))
            for which in served
        ]
        try:
            for task in asyncio.as_completed(tasks):
                await task
                done += 1
                yield {"done": done, "total": total}
            yield {"done": done, "total": total, "result": await self._result(served, tables)}
        finally:
            for task in tasks:
                task.cancel()

    async def _answered(self, served: Served, row: Row) -> Row:
        """The prediction row of an example, from the chunks that `rank` would have found."""
        variant = served.variant
        query = retrieval_query(row)
        found: list[Any] = []
        if query and variant.k:
            excluded, depth = set(row["exclude_ids"]), max(variant.k, RECALL)
            deeper = dataclasses.replace(variant, k=depth + len(excluded))
            chunks = (await self.service.find(served, deeper, query)).chunks
            found = [pair for pair in chunks if pair[0]["id"] not in excluded][:depth]
        ranked = {**row, "query": query, **chunk_columns(found)}
        prediction: Row = await self.service.call(lambda: served.lm.answer.remote(ranked, variant))
        return prediction

    async def _result(self, served: list[Served], tables: dict[str, Any]) -> dict[str, Any]:
        names = [one.variant.name for one in served]
        contrasts = [f"{names[0]}-minus-{name}" for name in names[1:]]
        found = await asyncio.to_thread(
            measure, tables, contrasts=contrasts, num_samples=BOOTSTRAP, seed=SEED
        )
        first = tables[names[0]]
        questions = [
            {
                "question": row["question"],
                "answers": row["answers"],
                "predictions": {name: tables[name][i]["prediction"] for name in names},
                "em": {name: tables[name][i]["em"] for name in names},
            }
            for i, row in enumerate(first)
        ]
        kept = ("num_questions", "variants", "contrasts", "truncation")
        return {**{name: found[name] for name in kept}, "questions": questions}

    def _rows(self, asked: EvaluateRequest) -> list[Row]:
        """Example rows; a task's by a seeded choice, so that a larger sample holds a smaller."""
        if asked.examples:
            return [
                example_row(
                    {
                        **one.model_dump(),
                        "id": f"example-{number}",
                        "split": "eval",
                        "category": "multiple-choice" if one.choices else "open-domain-qa",
                    }
                )
                for number, one in enumerate(asked.examples)
            ]
        names = [str(task["name"]) for task in self.tasks()]
        if asked.task not in names:
            hint = nearest(asked.task, names)
            raise Refused(404, f"no task {asked.task!r}{hint}", param="task")
        own = [row for row in self._own if row["task"] == asked.task]
        rows = own or read_examples(f"{PREFIX}{TASKS[asked.task].name}@{asked.limit}")
        chosen = sorted(rows, key=lambda row: seeded_order(SEED, row["id"]))[: asked.limit]
        return chosen

    @functools.cached_property
    def _own(self) -> list[Row]:
        """The questions of split eval that the run's variants were evaluated on, without chunks."""
        ranked = resolve_link(next(iter(self.service.served.values())).ranked)
        tables = [read_shard(join(ranked, name), EXAMPLE.names) for name in shard_names(ranked)]
        rows = pa.concat_tables(tables).to_pylist() if tables else []
        return [row for row in rows if row["split"] == "eval"]
