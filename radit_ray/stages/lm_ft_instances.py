"""What LM-ft trains on: which ranked rows, as which tokens, in which order (RA-DIT section 2.2).

In: ranked rows and a tokenizer. Out: token files in the stage's `resume/` and the plan of steps,
the same for any number of workers.
"""

from __future__ import annotations

import collections
import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from radit_ray.core.errors import InputError
from radit_ray.core.mixing import capped_weights, mix
from radit_ray.core.templates import (
    GOLD_CONTEXT,
    eval_prompt,
    gold_answer,
    resolve_template,
    train_prompt,
)
from radit_ray.data import storage
from radit_ray.data.artifacts import Input, commit_shard, read_shard, shard_names
from radit_ray.data.batching import plan_steps
from radit_ray.data.work import Work
from radit_ray.engines.references import local_model
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import map_shards
from radit_ray.models.causal_lm import CausalLM

if TYPE_CHECKING:
    from radit_ray.stages.lm_ft import LmFtConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which ranked rows train, in order, and which are looked at as dev: (shard number, row
    number).
    """

    order: list[tuple[int, int]]
    dev: list[tuple[int, int]]


def choose_instances(ranked: Input, config: LmFtConfig) -> Chosen:
    """The mixed order of train examples (capped weights, fixed shares) and a seeded choice of dev
    examples.
    """
    places: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    dev: list[tuple[int, int]] = []
    words = 0
    for number, name in enumerate(shard_names(ranked)):
        table = read_shard(
            ranked.file(name), ["task", "split", "texts", "question", "answers", "category"]
        )
        for row, example in enumerate(table.to_pylist()):
            if example["split"] == "dev" and example["task"] != "corpus":
                dev.append((number, row))
            if example["split"] != "train":
                continue
            if (
                example["category"] not in GOLD_CONTEXT
                and 0 < len(example["texts"]) < config.k_train
            ):
                raise InputError(
                    f"k_train={config.k_train}, but the ranked rows hold {len(example['texts'])} "
                    "chunks; "
                    "lower k_train or retrieve with a larger k"
                )
            places[example["task"]].append((number, row))
            shown = example["texts"][: config.k_train] or [""]
            words += sum(len(t.split()) for t in shown)
            words += len(shown) * len(
                (example["question"] + " ".join(example["answers"][:1])).split()
            )
    total = sum(len(found) for found in places.values())
    if not total:
        raise InputError(
            f"{ranked.path}: no example of split 'train'; retrieve for training examples first"
        )
    if not dev:
        raise InputError(
            f"{ranked.path}: no example of split 'dev'; give one, or retrieve with --dev-share 0.1"
        )
    # A word is one token or more, so this many examples fill every sequence of the training.
    wanted = config.steps * config.batch_size * config.seq_len
    num = min(-(-wanted * total // max(1, words)), total * config.steps * config.batch_size)
    sizes = {task: len(found) for task, found in places.items()}
    weights = capped_weights(sizes, cap=config.cap, shares=config.shares)
    order = [places[task][i] for task, i in mix(sizes, num=num, weights=weights, seed=config.seed)]
    picked = np.random.default_rng(config.seed).permutation(len(dev))[: config.dev_limit]
    return Chosen(order=order, dev=[dev[i] for i in sorted(picked.tolist())])


def tokenise(
    work: Work[LmFtConfig], ranked: Input, chosen: Chosen, resources: Resources
) -> dict[str, Any]:
    """Tokenises each chosen row once, on actors; returns where the tokens lie and the order of
    instances.
    """
    needed: dict[int, set[int]] = collections.defaultdict(set)
    for shard, row in [*chosen.order, *chosen.dev]:
        needed[shard].add(row)
    folder = storage.join(work.output, "resume", "tokens")
    items = [
        {"name": f"tokens-{number:05d}.parquet", "shard": name, "rows": sorted(needed[number])}
        for number, name in enumerate(shard_names(ranked))
        if number in needed
    ]
    todo = [
        item
        for item in items
        if not storage.exists(storage.join(folder, "committed", f"{item['name']}.json"))
    ]
    arguments = {"config": work.config, "ranked": ranked.path, "output": folder}
    map_shards(
        LmTokenWorker,
        arguments,
        todo,
        resources=resources,
        label="lm-ft: tokens",
        unit="shard",
        gpu=False,
    )
    sidecars = [
        storage.read_json(storage.join(folder, "committed", f"{item['name']}.json"))
        for item in items
    ]
    return {
        "files": [storage.join(folder, item["name"]) for item in items],
        "shards": sorted(needed),
        "order": chosen.order,
        "dev": chosen.dev,
        "num_truncated": int(sum(s["stats"]["truncated"] for s in sidecars)),
    }


class LmTokenWorker:
    """Ranked rows -> (prompt ids, answer ids) of each instance."""

    def __init__(self, *, config: LmFtConfig, ranked: str, output: str) -> None:
        self.config, self.ranked, self.output = config, ranked, output
        self.lm = CausalLM.load(local_model(config.lm), eos_token=config.eos_token, weights=False)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        table = read_shard(storage.join(self.ranked, item["shard"])).take(pa.array(item["rows"]))
        made, truncated = [], 0
        for row, example in zip(item["rows"], table.to_pylist(), strict=True):
            for prompt, answer, length, cut in instances_of(example, self.lm, self.config):
                made.append({"row": row, "prompt": prompt, "answer": answer, "length": length})
                truncated += cut > 0
        ids = pa.list_(pa.int32())
        fields = [("row", pa.int64()), ("prompt", ids), ("answer", ids), ("length", pa.int32())]
        table = pa.Table.from_pylist(made, schema=pa.schema(fields))
        return commit_shard(self.output, item["name"], table, truncated=truncated)


def instances_of(
    example: dict[str, Any], lm: CausalLM, config: LmFtConfig
) -> list[tuple[list[int], list[int], int, int]]:
    """(prompt ids, answer ids, tokens with the chunk, background tokens cut) of each of an
    example's instances.

    Train examples: one for each of the first k_train chunks, markers sampled (Table 10). Dev: one,
    top chunk, evaluation template. Without background the length is still that of the prompt with
    it: the plan of steps must be the same.
    """
    template = resolve_template(example)
    answer = lm.answer_ids(gold_answer(example, template), eos=True)
    seq_len = min(config.seq_len, lm.context_length)
    answer = answer[: min(config.max_answer_tokens, seq_len // 2)]
    room = len(answer) + max(0, lm.context_length - config.seq_len)
    pairs = list(zip(example["titles"], example["texts"], strict=True))[: config.k_train]
    found = []
    if example["split"] == "dev":
        prompts = [eval_prompt(example, chunk=chunk) for chunk in (pairs[:1] or [None])]
    else:
        prompts = [
            train_prompt(example, chunk=chunk, seed=config.seed) for chunk in (pairs or [None])
        ]
    for prompt in prompts:
        try:
            ids, cut = lm.prompt_ids(prompt, room=room)
        except InputError as error:
            raise InputError(f"example {example['id']!r}: {error}") from None
        length = len(ids) + len(answer)
        if not config.background and example["category"] not in GOLD_CONTEXT:
            ids, cut = lm.prompt_ids(dataclasses.replace(prompt, background=""), room=room)
        found.append((ids, answer, length, cut))
    return found


def load_plan(
    config: LmFtConfig, tokens: dict[str, Any], context_length: int
) -> tuple[list[Any], list[Any], list[int]]:
    """All instances as (prompt, answer), the steps as sequences of instance numbers, and the dev
    instances.
    """
    pairs: list[tuple[list[int], list[int]]] = []
    planned: list[int] = []
    numbers: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
    for shard, file in zip(tokens["shards"], tokens["files"], strict=True):
        table = read_shard(file)
        columns = [table[name].to_pylist() for name in ("row", "prompt", "answer", "length")]
        for row, prompt, answer, length in zip(*columns, strict=True):
            numbers[shard, row].append(len(pairs))
            pairs.append((prompt, answer))
            planned.append(length)
    order = [i for place in tokens["order"] for i in numbers[tuple(place)]]
    np.random.default_rng(config.seed).shuffle(order)
    lengths = [planned[i] for i in order]
    seq_len = min(config.seq_len, context_length)
    plan = plan_steps(
        lengths, num_steps=config.steps, batch_size=config.batch_size, seq_len=seq_len
    )
    steps = [[[order[i] for i in sequence] for sequence in step] for step in plan]
    return pairs, steps, [i for place in tokens["dev"] for i in numbers[tuple(place)]]
