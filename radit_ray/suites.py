"""Running a suite: which model pair plays which role, what each task reads, and the table that
comes out.

    pairs = read_pairs("runs/x")                       # or a variants file, or several
    results = run_suite(suite_named("paper-table-6"), pairs, output="suites/6", limit=500)

<output>/artifacts/       ranked rows (one set for each query encoder and index) and the evaluation
<output>/suite.json       ours beside the paper's, with intervals and paired differences
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.examples import read_examples
from radit_ray.data.suites import Suite, SuiteRow
from radit_ray.data.tasks import DEV_SAMPLE, local_files, notes, parse_task
from radit_ray.data.work import FINGERPRINT
from radit_ray.engines.doctor import environment
from radit_ray.engines.measuring import Rows, questions_cut, read_predictions
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import TRUNCATION, Variant
from radit_ray.pairs import Pair
from radit_ray.report.suites import suite_entries
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

FEW_SHOT = "radit-64shot"  # the role
POOL = 64  # demonstrations are drawn from so many examples, those of the 64-shot stage
WHOLE_POOL = ("mmlu",)  # its dev split holds five examples for each subject


@dataclasses.dataclass(frozen=True)
class Asking:
    """How all rows are asked, whatever their models."""

    max_new_tokens: int = 0  # of every decoded answer, long ones too; 0 = each pair's own
    seed: int = 0  # draws the demonstrations
    shot_chunks: bool = True  # each with its own top chunk


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskPlan:
    """What a task of a suite reads."""

    name: str  # of the task, as in its rows
    spec: str  # of the questions and demonstrations, as examples
    num_questions: int
    num_demonstrations: int
    missing: str = ""  # why it cannot be read here


def plan_task(task: str, *, limit: int, shots: int) -> TaskPlan:
    """The questions of a task, at most `limit`, and the demonstrations for `shots`: from another
    split that lies here, else from its own one behind the questions.
    """
    spec, split = parse_task(f"task:{task}")
    limit = limit or (DEV_SAMPLE if split == "dev" else 0)
    questions = f"eval=task:{task}" + (f"@{limit}" if limit else "")
    try:
        num_questions = len(read_examples(questions))
    except InputError as error:
        return TaskPlan(
            name=spec.name, spec="", num_questions=0, num_demonstrations=0, missing=str(error)
        )
    source = demonstrations(task, limit) if shots else ""
    try:
        found = len(read_examples(source)) if source else 0
    except InputError:
        found = 0
    return TaskPlan(
        name=spec.name,
        spec=f"{questions},{source}" if found else questions,
        num_questions=num_questions,
        num_demonstrations=found,
    )


def demonstrations(task: str, limit: int) -> str:
    """Where the demonstrations of a task come from, as a spec of examples; "" for nowhere. `limit`
    is that of its questions, 0 for all.
    """
    spec, asked = parse_task(f"task:{task}")
    measured = asked or spec.split
    amount = "" if spec.name in WHOLE_POOL else f"@{POOL}"
    for split in ("train", "dev"):
        if split != measured and local_files(spec, split):
            return f"train=task:{spec.name}:{split}{amount}"
    for split in ("train", "dev"):
        if split != measured and split in spec.hub_splits and not spec.files_of(measured)[0]:
            return f"train=task:{spec.name}:{split}{amount}"
    # those behind the questions in the seeded order; none behind a whole set
    after = limit or (DEV_SAMPLE if measured == "dev" and not asked else 0)
    return f"train=task:{spec.name}:{measured}@{after}+{POOL}" if after else ""


def run_suite(
    suite: Suite,
    pairs: Mapping[str, Pair],
    *,
    output: str,
    limit: int = 0,
    tasks: Sequence[str] = (),
    asking: Asking = Asking(),
    resources: Resources = Resources(),
) -> dict[str, Any]:
    """Evaluates every row whose role is given on every task that can be read, writes suite.json and
    returns it. `limit`: questions of a task, a seeded choice; 0 = all (official dev sets: 2,500).

    InputError where no row's role is given, or no task can be read.
    """
    tasks = tasks_of(suite, tasks)
    given = [row for row in suite.rows if row.role in pairs]
    if not given:
        needed = ", ".join(dict.fromkeys(row.role for row in suite.rows if row.role))
        raise InputError(
            f"suite {suite.name!r} needs one of the roles {needed}; given: {', '.join(pairs)}"
        )
    shots = max(row.shots for row in given)
    plans = {task: plan_task(task, limit=limit, shots=shots) for task in (tasks or suite.tasks)}
    readable = [plan for plan in plans.values() if not plan.missing]
    if any(row.role == FEW_SHOT for row in given):
        for task, plan in plans.items():
            _check_unseen(task, plan)
    if not readable:
        raise InputError(
            f"no task of suite {suite.name!r} can be read: {next(iter(plans.values())).missing}"
        )
    for task, plan in plans.items():
        if plan.missing:
            print(f"radit: {task} is left out: {plan.missing}", file=sys.stderr)
    most = max(plan.num_demonstrations for plan in readable)
    short = [row for row in given if row.shots > most]
    given = [row for row in given if row not in short]
    lacking = f"no task that can be read has {shots} demonstrations"
    if not given:
        raise InputError(f"suite {suite.name!r}: {lacking}; give --tasks others, or a limit")
    ranked = _retrieve(given, pairs, readable, output, resources)
    variants = tuple(
        _variant(row, pairs[row.role], ranked[_searched(pairs[row.role])], asking) for row in given
    )
    print(f"radit evaluate: {len(variants)} rows, {len(readable)} tasks", file=sys.stderr)
    evaluated = evaluate(
        EvaluateConfig(variants=variants, seed=asking.seed),
        ranked=variants[0].ranked,
        output=storage.join(output, "artifacts", f"evaluate-{FINGERPRINT}"),
        resources=resources,
    )
    ours = {
        row.label: _by_task(read_predictions(evaluated.path, variant.name), row, plans)
        for row, variant in zip(given, variants, strict=True)
    }
    results = {
        "suite": suite.name,
        "title": suite.title,
        "trust": suite.trust,
        "note": suite.note,
        "limit": limit,
        "asking": dataclasses.asdict(asking),
        "pairs": {role: dataclasses.asdict(pair) for role, pair in pairs.items()},
        "tasks": {
            task: _task_entry(task, plan, [rows[task] for rows in ours.values() if task in rows])
            for task, plan in plans.items()
        },
        "rows": suite_entries(suite, ours, {row.label: lacking for row in short}),
        "environment": environment(),
    }
    storage.write_json(storage.join(output, "suite.json"), results)
    return results


def tasks_of(suite: Suite, names: Sequence[str]) -> list[str]:
    """A suite's tasks by their names, with or without the split; InputError for one it lacks."""
    found = []
    for name in names:
        fitting = [task for task in suite.tasks if name in (task, task.partition(":")[0])]
        if not fitting:
            raise InputError(
                f"suite {suite.name!r} has no task {name!r}{nearest(name, suite.tasks)}"
            )
        found += fitting[:1]
    return found


def _check_unseen(task: str, plan: TaskPlan) -> None:
    """InputError where a task would ask examples that the 64-shot stage was tuned on: those behind
    the first 2,500, of a set that has one split here.
    """
    _, _, amount = demonstrations(task, 0).partition("@")
    if "+" in amount and plan.num_questions > int(amount.partition("+")[0]):
        raise InputError(
            f"limit: {plan.num_questions} questions of {task} hold examples that role {FEW_SHOT!r} "
            f"was tuned on; ask {amount.partition('+')[0]} at most, or leave that role out"
        )


def _by_task(table: Rows, row: SuiteRow, plans: Mapping[str, TaskPlan]) -> dict[str, Rows]:
    """The predictions of each task that has enough demonstrations for the row."""
    return {
        task: [prediction for prediction in table if prediction["task"] == plan.name]
        for task, plan in plans.items()
        if not plan.missing and plan.num_demonstrations >= row.shots
    }


def _task_entry(task: str, plan: TaskPlan, answered: Sequence[Rows]) -> dict[str, Any]:
    spec, _ = parse_task(f"task:{plan.name}")
    lost = [questions_cut(rows) for rows in answered]
    return {
        "num_questions": plan.num_questions,
        "num_demonstrations": plan.num_demonstrations,
        "metric": spec.metric,
        "missing": plan.missing,
        "notes": [] if plan.missing else notes(f"task:{task}"),
        # in the row that lost most
        **{name: max((cut[name] for cut in lost), default=0) for name in TRUNCATION},
    }


def _searched(pair: Pair) -> tuple[str, str, str, int]:
    return pair.query_encoder, pair.preset, pair.index, pair.nprobe


def _retrieve(
    rows: Sequence[SuiteRow],
    pairs: Mapping[str, Pair],
    plans: Sequence[TaskPlan],
    output: str,
    resources: Resources,
) -> dict[tuple[str, str, str, int], str]:
    """Ranked rows of all tasks, once for each query encoder and index."""
    depth: dict[tuple[str, str, str, int], int] = {}
    for row in rows:
        pair = pairs[row.role]
        k = pair.k if row.k < 0 else row.k
        depth[_searched(pair)] = max(depth.get(_searched(pair), 1), k)
    examples = ",".join(plan.spec for plan in plans)
    found = {}
    for searched, k in depth.items():
        encoder, preset, index, nprobe = searched
        print(f"radit retrieve: the chunks of {encoder}", file=sys.stderr)
        config = RetrieveConfig(
            retriever=encoder,
            preset=preset,
            nprobe=nprobe,
            k=k,
            dev_share=0.0,
            examples_per_shard=128,  # few questions, several workers
        )
        artifact = retrieve(
            config,
            examples=examples,
            index=index,
            output=storage.join(output, "artifacts", f"retrieve-{FINGERPRINT}"),
            resources=resources,
        )
        found[searched] = artifact.path
    return found


def variant_name(row: SuiteRow) -> str:
    """The folder of a row's predictions."""
    k = "" if row.k < 0 else f"-k{row.k}"
    ensemble = f"-{row.ensemble}" if row.ensemble else ""
    return f"{row.role}-{row.shots}shot{k}{ensemble}"


def _variant(row: SuiteRow, pair: Pair, ranked: str, asking: Asking) -> Variant:
    return Variant(
        name=variant_name(row),
        lm=pair.lm,
        ranked=ranked,
        k=pair.k if row.k < 0 else row.k,
        ensemble=row.ensemble or pair.ensemble,
        t_r=pair.t_r,
        shots=row.shots,
        shot_chunks=asking.shot_chunks,
        max_new_tokens=asking.max_new_tokens or pair.max_new_tokens,
        long_new_tokens=asking.max_new_tokens or pair.long_new_tokens,
        max_answers=pair.max_answers,
        eos_token=pair.eos_token,
    )
