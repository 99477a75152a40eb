"""`radit evaluate --suite` and `radit few-shot`: their options, and what they print."""

from __future__ import annotations

import dataclasses
import json
import sys

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.engines.resources import Resources


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteArgs:
    """Options of `radit evaluate --suite NAME`."""

    suite: str = ""  # paper-table-2 ... paper-table-14, paper-figure-2, open-domain, ...
    # folder of a run, a variants file (.toml, .json) with one table a role, or ROLE=RUN[:VARIANT],
    # which takes one role from a run; several by commas
    variants: str = ""
    output: str = ""  # folder of the suite
    tasks: str = ""  # only these tasks of the suite, by commas
    limit: int = 0  # questions of a task, a seeded choice; 0 = all
    max_new_tokens: int = 0  # of every decoded answer; 0 = each pair's own, more for long ones
    seed: int = 0  # draws the demonstrations
    shot_chunks: bool = True  # demonstrations with their own top chunk; else without
    num_cpus: int = 0  # CPUs of the private cluster; 0 = all
    json: bool = False  # print suite.json instead of the table
    resources: Resources = Resources()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotArgs:
    """Options of `radit few-shot RUN`."""

    output: str  # folder of the tuned LM and of variants.json
    variant: str = "radit"  # whose LM and query encoder it starts from
    tasks: str = ""  # by commas; without them those of paper-table-2 but mmlu
    steps: int = 100  # optimiser steps
    batch_size: int = 8  # packed sequences of one step
    seq_len: int = 2048  # tokens of a packed sequence; the LM's context bounds it
    lr: float = 1e-5  # falls to a tenth
    eval_every: int = 50  # steps between two looks at dev
    num_cpus: int = 0  # CPUs of the private cluster; 0 = all
    json: bool = False  # print the variants file instead of a summary
    resources: Resources = Resources()


def suite(args: SuiteArgs) -> None:
    """Runs a suite, prints its table and writes `<output>/suite.md`."""
    from radit_ray.data.suites import suite_named
    from radit_ray.data.tasks import parse_task
    from radit_ray.engines.connect import connect
    from radit_ray.pairs import read_pairs
    from radit_ray.report.suites import suite_page
    from radit_ray.suites import Asking, run_suite, tasks_of

    for name in ("suite", "variants", "output"):
        if not getattr(args, name):
            raise InputError(f"--{name} is missing; see radit evaluate --suite NAME --help")
    if args.limit < 0:
        raise InputError(f"limit={args.limit}, expected 0 (all questions) or more")
    chosen = suite_named(args.suite)
    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
    for task in tasks:
        parse_task(f"task:{task}")
    tasks_of(chosen, tasks)  # before anything starts
    pairs = read_pairs(args.variants)
    connect(num_cpus=args.num_cpus or None)
    results = run_suite(
        chosen,
        pairs,
        output=args.output,
        limit=args.limit,
        tasks=tasks,
        asking=Asking(args.max_new_tokens, args.seed, args.shot_chunks),
        resources=args.resources,
    )
    file = storage.join(args.output, "suite.md")
    storage.write_bytes(file, suite_page(results, markdown=True).encode() + b"\n")
    if args.json:
        print(json.dumps(results))
        return
    print(f"\n{suite_page(results)}\n")
    print(f"radit: {file}", file=sys.stderr)


def few_shot(run: str, args: FewShotArgs) -> None:
    """Tunes a run's LM on 64 examples of each task."""
    from radit_ray.engines.connect import connect
    from radit_ray.few_shot import FEW_SHOT, TABLE_9
    from radit_ray.few_shot import few_shot as tune
    from radit_ray.pairs import read_pairs

    pairs = read_pairs(run)
    if args.variant not in pairs:
        raise InputError(f"{run} has no variant {args.variant!r}{nearest(args.variant, pairs)}")
    config = dataclasses.replace(
        TABLE_9,
        steps=args.steps,
        batch_size=args.batch_size,
        seq_len=args.seq_len,
        lr=args.lr,
        end_lr=args.lr / 10,
        eval_every=args.eval_every,
    )
    connect(num_cpus=args.num_cpus or None)
    tasks = [name.strip() for name in args.tasks.split(",") if name.strip()]
    made = tune(
        pairs[args.variant],
        output=args.output,
        tasks=tasks,
        config=config,
        resources=args.resources,
    )
    file = storage.join(args.output, "variants.json")
    if args.json:
        print(json.dumps({FEW_SHOT: dataclasses.asdict(made)}))
        return
    print(f"{file}: role {FEW_SHOT}; radit evaluate --suite paper-table-2 --variants {run},{file}")
