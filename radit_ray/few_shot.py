"""64-shot fine-tuning (paper, section 5 and Table 9): one model over the pooled tasks.

A finished RA-DIT pair is tuned further on 64 examples of each evaluation task but MMLU: the chunks
come from its own query encoder, the loss is LM-ft's. Out: `<output>/lm-ft/` and
`<output>/variants.json`, a variants file with the role radit-64shot.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import make_link
from radit_ray.data.examples import read_examples
from radit_ray.data.suites import suite_named
from radit_ray.data.tasks import TASKS
from radit_ray.data.work import FINGERPRINT
from radit_ray.engines.resources import Resources
from radit_ray.pairs import Pair
from radit_ray.stages.lm_ft import LmFtConfig, lm_ft
from radit_ray.stages.retrieve import RetrieveConfig, retrieve
from radit_ray.suites import FEW_SHOT, POOL, demonstrations

TABLE_9 = LmFtConfig(  # RA-DIT 65B's row; 13B stops at step 50 with batch 32
    steps=100,
    batch_size=8,
    seq_len=2048,
    lr=1e-5,
    end_lr=1e-6,
    warmup=0,
    schedule="linear",
    eval_every=50,
)


def few_shot(
    pair: Pair,
    *,
    output: str,
    tasks: Sequence[str] = (),
    config: LmFtConfig = TABLE_9,
    resources: Resources = Resources(),
) -> Pair:
    """Tunes the pair's LM on 64 examples of each task (default: those of Table 2 but mmlu, as far
    as they can be read here) and returns the new pair. Dev, to choose the step by: 16 more.

    InputError on an unknown task, or where none can be read.
    """
    for task in tasks:
        if task not in TASKS:
            raise InputError(f"unknown task {task!r}{nearest(task, TASKS)}")
    wanted = tasks or [task for task in suite_named("paper-table-2").tasks if task != "mmlu"]
    specs = [spec for task in wanted for spec in _read(task)]
    if not specs:
        raise InputError(f"none of the tasks {', '.join(wanted)} can be read; set RADIT_DATA")
    searching = RetrieveConfig(
        retriever=pair.query_encoder,
        preset=pair.preset,
        nprobe=pair.nprobe,
        k=config.k_train,
        dev_share=0.0,
    )
    ranked = retrieve(
        searching,
        examples=",".join(specs),
        index=pair.index,
        output=storage.join(output, "artifacts", f"retrieve-{FINGERPRINT}"),
        resources=resources,
    )
    tuned = lm_ft(
        dataclasses.replace(config, lm=pair.lm, eos_token=pair.eos_token),
        ranked=ranked.path,
        output=storage.join(output, "artifacts", f"lm-ft-{FINGERPRINT}"),
        resources=resources,
    )
    make_link(storage.join(output, "lm-ft"), tuned.path)
    made = dataclasses.replace(pair, lm=f"{tuned.path}/model")
    storage.write_json(storage.join(output, "variants.json"), {FEW_SHOT: dataclasses.asdict(made)})
    return made


def _read(task: str) -> list[str]:
    """The training and dev examples of a task; none where it cannot be read."""
    train = demonstrations(task, 0)
    name, _, amount = train.partition("@")
    if not train or amount.rpartition("+")[2] != str(POOL):
        print(f"radit: {task} has no split to take {POOL} examples from", file=sys.stderr)
        return []
    skip = int(amount.partition("+")[0]) if "+" in amount else 0
    dev = f"{name.replace('train=', 'dev=', 1)}@{skip + POOL}+16"
    try:
        read_examples(f"{train},{dev}")
    except InputError as error:
        print(f"radit: {task} is left out: {error}", file=sys.stderr)
        return []
    return [train, dev]
