"""What the open questions share: one store of artifacts, the trained pairs, tables that are
compared over subjects and seeds, and what is made anew.

    job = Job(recipe=demo(seeds=(0, 1, 2, 3, 4)), output="runs/oq")
    runs = trained(job)              # the ablation of every seed; cycle 1 of every open question

<output>/artifacts/              every artifact, by content, of all questions and recipes; with
                                 --artifacts a link to the store of an earlier run
<output>/<recipe>/base/          the recipe itself, one run a seed: trained once for all questions
<output>/<recipe>/oq1.json ...   what came out
"""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, finished_artifacts, read_manifest, spent
from radit_ray.data.examples import read_examples
from radit_ray.data.rows import seeded_order
from radit_ray.engines.doctor import environment
from radit_ray.engines.measuring import (
    Rows,
    read_predictions,
)
from radit_ray.engines.variants import Variant
from radit_ray.open_questions.contrasts import foreseen, of_tasks
from radit_ray.pipeline import pipeline
from radit_ray.recipes import Recipe
from radit_ray.runs import Run, merge_seeds, seeded
from radit_ray.stages.evaluate import evaluate

NAMES = ("oq1", "oq2", "oq3", "sizes")
STORE = "../../artifacts"  # relative to <output>/<recipe>/<what>
SHARD = 64  # questions of one evaluated shard: what a kill repeats at most, for each worker


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """What an open question is asked of."""

    recipe: Recipe  # complete: corpus, examples and models are given
    output: str  # of all open questions
    num_questions: int = 0  # asked, a seeded choice; 0 = all of the evaluated tasks
    roles: tuple[str, ...] = ("replug", "radit")  # variants that question 1 looks at
    command: str = ""  # of the process, as the result names it

    @property
    def folder(self) -> str:
        """Of this recipe's part."""
        return storage.join(self.output, self.recipe.name)

    @property
    def store(self) -> str:
        """Where all artifacts lie."""
        return storage.join(self.output, "artifacts")


def share_artifacts(output: str, artifacts: str) -> None:
    """Makes <output>/artifacts a link to the store of an earlier run, so that what that one made is
    found here. InputError where a store of its own is there, or `artifacts` is none.
    """
    if not (storage.is_local(output) and storage.is_local(artifacts)):
        raise InputError("--artifacts needs local folders; on an object store give one --output")
    if not os.path.isdir(storage.local(artifacts)):
        raise InputError(
            f"--artifacts {artifacts} is no folder; expected that of a run, such as "
            "runs/demo/artifacts"
        )
    place, target = f"{storage.local(output)}/artifacts", os.path.realpath(storage.local(artifacts))
    if os.path.lexists(place):
        if os.path.realpath(place) != target:
            raise InputError(f"{place} is there already and another store; use another --output")
        return
    os.makedirs(storage.local(output), exist_ok=True)
    os.symlink(target, place)


def runs_of(job: Job, name: str, recipe: Recipe) -> list[Run]:
    """Finished runs of a recipe, one a seed, in <output>/<recipe>/<name>; artifacts that are there
    are reused.
    """
    runs, found = [], []
    for one, run in seeded(recipe, storage.join(job.folder, name), artifacts=STORE):
        found.append(pipeline(one, run))
        runs.append(run)
    if len(runs) > 1:
        merge_seeds(runs, found)
    return runs


def trained(job: Job) -> list[Run]:
    """The recipe as it is: the pairs that every open question starts from."""
    return runs_of(job, "base", job.recipe)


def looking(run: Run, **changes: Any) -> Run:
    """A finished run with some fields of its recipe changed: to be looked at, not to be run."""
    other = copy.copy(run)
    other.recipe = dataclasses.replace(run.recipe, **changes)
    other.done = [dataclasses.replace(cycle, run=other) for cycle in run.done]
    return other


def asking(run: Run, file: str, **changes: Any) -> Run:
    """A finished run with a file of evaluated questions instead of its own; `changes` of retrieve.
    The file has no train split that others could be cut from.
    """
    retrieve = dataclasses.replace(
        run.recipe.retrieve, dev_share=0.0, eval_share=0.0, limit=0, **changes
    )
    return looking(run, examples=f"{run.recipe.evaluate.split}={file}", retrieve=retrieve)


def seeds_of(recipe: Recipe) -> list[int]:
    return list(recipe.seeds) or [recipe.lm_ft.seed]


# --- questions and answers ---


def asked(job: Job) -> str:
    """The evaluated questions as a file of their own: those of the recipe's tasks, at
    most `num_questions`. A search 100 deep, or 100 prompts a question, are not spent on others.
    """
    recipe = job.recipe
    config = recipe.retrieve
    shares = {name: getattr(config, name) for name in ("seed", "dev_share", "eval_share")}
    rows = [
        row
        for row in read_examples(recipe.examples, **shares, limit=config.limit or None)
        if row["split"] == recipe.evaluate.split
        and (not recipe.evaluate.tasks or row["task"] in recipe.evaluate.tasks)
    ]
    rows.sort(key=lambda row: seeded_order(recipe.evaluate.seed, row["id"]))
    rows = rows[: job.num_questions or None]
    if not rows:
        raise InputError(f"no question of split {recipe.evaluate.split!r} to ask")
    path = storage.join(job.folder, "asked.jsonl")
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(path, text.encode())
    return path


def answered(run: Run, variants: Sequence[Variant], *, limit: int = 0) -> Artifact:
    """One evaluate call; its artifact."""
    config = dataclasses.replace(
        run.recipe.evaluate,
        variants=tuple(variants),
        contrasts=(),
        tasks=(),
        probes=(),
        limit=limit,
    )
    return run.artifact(evaluate, config, ranked=variants[0].ranked)


def predictions(made: Artifact, names: Iterable[str]) -> dict[str, Rows]:
    """{variant: prediction rows} of an evaluate artifact."""
    return {name: read_predictions(made.path, name) for name in names}


# --- cost ---


def unit_costs(run: Run) -> dict[str, float]:
    """Wall seconds of one artifact of each stage, from the manifests of a finished run, and
    `evaluate_token`: of one LM token of its evaluation.
    """
    results = storage.read_json(storage.join(run.folder, "results.json"))
    found = {name: stage["cost"]["wall_s"] for name, stage in results["stages"].items()}
    manifest = read_manifest(run.evaluated)
    assert manifest is not None
    cost = manifest["cost"]  # answers that another evaluation had already count as they did there
    found["evaluate"] = cost["wall_s"] + cost.get("reused_wall_s", 0.0)
    tokens = cost.get("tokens", 0.0) + cost.get("reused_tokens", 0.0)
    found["evaluate_token"] = found["evaluate"] / max(1.0, tokens)
    return found


def tokens_of(run: Run, variant: str) -> float:
    """LM tokens of one question of a variant in the run's own evaluation."""
    manifest = read_manifest(run.evaluated)
    assert manifest is not None
    cost = manifest["metrics"]["cost"][variant]
    return float(cost["tokens"]) / max(1.0, cost["questions"])


def untrained(job: Job, run: Run) -> int:
    """How many of the recipe's seeds have no finished pair in the store yet; `run` is one's."""
    first = read_manifest(storage.join(run.folder, "r-ft"))
    assert first is not None
    there = set()
    for path in finished_artifacts(job.store):
        manifest = read_manifest(path) if "/r-ft-" in path else None
        if manifest and _apart_from_seed(manifest) == _apart_from_seed(first):
            there.add(manifest["config"]["seed"])
    return len(set(seeds_of(job.recipe)) - there)


def _apart_from_seed(manifest: Mapping[str, Any]) -> Any:
    config = {name: value for name, value in manifest["config"].items() if name != "seed"}
    return config, {name: value["fingerprint"] for name, value in manifest["inputs"].items()}


Lines = list[tuple[str, float, float]]  # what is made anew, how many, seconds of each


def estimate_text(lines: Lines) -> str:
    """What will be made, with the seconds that the base run took for the same.

    >>> print(estimate_text([("lm-ft", 2, 90.0)]))
    made anew: 2 x lm-ft (90 s); together about 3 min
    """
    parts = [f"{count:g} x {what} ({each:.0f} s)" for what, count, each in lines if count]
    total = sum(count * each for _, count, each in lines)
    return f"made anew: {', '.join(parts) or 'nothing'}; together about {total / 60:.0f} min"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What one open question does, and what it tells of itself once the first pair is there."""

    estimate: Callable[[Job, Run], Lines]
    power: Callable[[Job, Run], str]  # what its questions would find
    work: Callable[[Job], dict[str, Any]]


def answer(
    job: Job, name: str, question: Question, *, only_estimate: bool = False
) -> dict[str, Any]:
    """Runs one question: the first seed's pair, the estimate of all the rest and its power, then
    the work, whose result goes to <output>/<recipe>/<name>.json with what was made anew for it.
    """
    before = found_before(job, name)
    run = trained(dataclasses.replace(job, recipe=first_seed(job.recipe)))[0]
    unit, pairs = unit_costs(run), untrained(job, run)
    each = sum(unit.get(n, 0.0) for n in ("lm-ft", "it", "score", "r-ft", "retrieve-tuned"))
    lines = [
        ("pair of another seed", float(pairs), each + unit["evaluate"]),
        *question.estimate(job, run),
    ]
    text = estimate_text(lines)
    power = question.power(job, run)
    print(f"radit {name}: {text}", file=sys.stderr, flush=True)
    print(f"radit {name}: power: {power}", file=sys.stderr, flush=True)
    if only_estimate:
        return {"estimate": text, "foreseen": power}
    found = question.work(job)
    result = {
        "question": name,
        "recipe": job.recipe.name,
        "seeds": seeds_of(job.recipe),
        **found,
        "estimate": text,
        "foreseen": power,
        "environment": environment(job.command),
    }
    file = storage.join(job.folder, f"{name}.json")
    made = [path for path in finished_artifacts(job.store) if path not in before]
    if storage.exists(file) and not made:  # all was there: what the first call said stays
        old = storage.read_json(file)
        result |= {key: old[key] for key in ("estimate", "made", "environment")}
    else:
        result["made"] = spent(made)
    storage.write_json(file, result)
    storage.remove(_before_file(job, name))
    not_of_others(job, made)
    return result


def power_text(job: Job, run: Run, num_asked: int | None = None, *, num_gains: int = 1) -> str:
    """What the planned questions (None = those evaluated) would find, from the answers of the first
    seed's pair; of the difference of two such gains where `num_gains` is 2.
    """
    untuned, tuned = job.roles[0], job.roles[-1]
    evaluated = {variant.name for variant in run.evaluation().variants}
    if num_asked == 0:
        return "not told, no question can be asked"
    if untuned == tuned or not {untuned, tuned} <= evaluated:
        return "not told, it takes two roles that the recipe evaluates"
    sides = of_tasks(
        [read_predictions(run.evaluated, name) for name in (tuned, untuned)], job.recipe
    )
    most = len(sides[0])  # no question asks more than there are
    count = min(most if num_asked is None else num_asked, most)
    told = foreseen(*sides, count, num_gains=num_gains)
    of_two = " in one LM, and another LM by as much in other questions" if num_gains > 1 else ""
    return f"{told}, if all differ as {tuned} from {untuned}{of_two}"


def found_before(job: Job, name: str) -> set[str]:
    """The finished artifacts before the first start of a question that a kill may have broken, and
    what other questions have made since.
    """
    file = _before_file(job, name)
    if not storage.exists(file):
        storage.write_json(file, sorted(finished_artifacts(job.store)))
    return set(storage.read_json(file))


def not_of_others(job: Job, made: Sequence[str]) -> None:
    """What one question made is not what another one, begun earlier and not ended, will have."""
    for recipe in storage.list_folders(job.output):  # whose questions share the store
        for other in NAMES:
            file = storage.join(job.output, recipe, f".{other}-before.json")
            if storage.exists(file):
                storage.write_json(file, sorted({*storage.read_json(file), *made}))


def _before_file(job: Job, name: str) -> str:
    return storage.join(job.folder, f".{name}-before.json")


def first_seed(recipe: Recipe) -> Recipe:
    """The recipe with the first of its training seeds alone."""
    return dataclasses.replace(recipe, seeds=recipe.seeds[:1])
