"""Sweeps over a recipe: one finished pipeline a trial, artifacts shared by what they hold.

    sweep = Sweep(kind="cycles", recipe=demo(), output="runs/cycles", space={...})
    results = run_sweep(sweep)

<output>/artifacts/       every artifact, by content: what two trials share is made once
<output>/trial-<digest>/  a run's folder for each trial, and its trial.json
<output>/study.db         the Optuna study, the only state of the sweep
<output>/sweep.json       one point a trial and view, with intervals
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.curves import CURVES, ROLES, Curve, answer_views, points, views
from radit_ray.data import storage
from radit_ray.data.artifacts import fingerprint_of
from radit_ray.data.examples import read_examples
from radit_ray.data.readers import list_corpus_files
from radit_ray.engines.answering import METRICS
from radit_ray.engines.doctor import environment
from radit_ray.engines.references import model_input, num_parameters, retriever_input
from radit_ray.engines.study import Choices, Space, Study
from radit_ray.engines.sweep import check_parallel, check_trackers, run_study, trial_resources
from radit_ray.pipeline import pipeline
from radit_ray.recipes import Recipe, override
from radit_ray.runs import check_recipe, merge_seeds, seeded

KINDS = {  # kind -> what its --values are
    "chunks": "numbers of chunks shown, k_infer",
    "corpus": "numbers of documents searched, nested parts of the corpus",
    "snapshot": "corpora, each embedded and searched by the same tuned pair",
    "cycles": "alternations of the two fine-tunings",
    "lms": "base LMs",
    "retrievers": "base retrievers",
    "custom": "(none: give --space field=value,value,...)",
}
FIELDS = {"cycles": "cycles", "lms": "lm", "retrievers": "retriever"}
DEFAULTS = {"chunks": "0,1,3,5,10,20,50,100", "cycles": "0,1,2,3"}
SPEED = "s_per_question"  # of a variant: device seconds
UNTUNED = {"lm-ft": "replug", "r-ft": "replug", "radit": "replug"}  # what they are without a cycle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept, and how."""

    kind: str
    recipe: Recipe  # complete: corpus, examples and models are given
    output: str
    values: tuple[str, ...] = ()  # of the kind, see KINDS
    space: Space = dataclasses.field(default_factory=dict)  # further fields of the recipe
    objectives: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"radit.em": "max"})
    sampler: str = "grid"
    num_trials: int = 0  # finished trials; a grid tries all
    seed: int = 0
    storage: str = ""  # SQLAlchemy URL; "" = SQLite in the output's folder
    trackers: tuple[str, ...] = ()
    num_parallel: int = 1

    def whole_space(self) -> dict[str, Any]:
        """The fields that a trial sets."""
        if self.kind not in FIELDS:
            return dict(self.space)
        if FIELDS[self.kind] in self.space:
            raise InputError(f"--space {FIELDS[self.kind]} and --values say the same; give one")
        return {FIELDS[self.kind]: Choices(self.values), **self.space}

    def curve(self) -> Curve | None:
        """What is changed within a trial."""
        return Curve(kind=self.kind, values=self.values) if self.kind in CURVES else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial does; it travels to a worker."""

    recipe: Recipe
    output: str
    curve: Curve | None
    study: str  # digest of what the sweep is; two sweeps never share a trial's folder
    folder: str  # where relative paths of the recipe start
    command: str  # of the process that started the sweep

    def __call__(self, values: Mapping[str, Any]) -> dict[str, float]:
        """Runs the pipeline with `values`, writes trial.json, and returns `variant.metric` of its
        last point, with wall_s and each variant's s_per_question.
        """
        os.chdir(self.folder)
        recipe = override(self.recipe, values)
        folder = storage.join(self.output, trial_name(self.study, values))
        runs, found = [], []
        for one, run in seeded(recipe, folder, artifacts="../artifacts"):
            run.command = self.command
            found.append(pipeline(one, run))
            runs.append(run)
        results = merge_seeds(runs, found) if len(runs) > 1 else found[0]
        kept = ("num_questions", "variants", "contrasts")
        made = [{"values": {}, **{name: results[name] for name in kept}}]
        if not recipe.cycles:
            given = results["variants"]
            missing = {
                n: given[u] for n, u in UNTUNED.items() if n in recipe.variants and u in given
            }
            made[0]["variants"] = {**given, **missing}
        if self.curve is not None:
            asked = [views(run, self.curve) for run in runs]
            answered = [answer_views(run, seen) for run, seen in zip(runs, asked, strict=True)]
            made = points(asked[0], answered, runs[0].evaluation())
        for point in made:
            point["values"] = {**values, **point["values"]}
        metrics = _flat(made[-1])
        if self.curve is None:
            for name in results["cost"]:
                costs = [result["cost"][name] for result in found]
                seconds = sum(cost["device_s"] for cost in costs)
                metrics[f"{name}.{SPEED}"] = seconds / sum(cost["questions"] for cost in costs)
            for name, untuned in UNTUNED.items() if not recipe.cycles else ():
                if f"{untuned}.{SPEED}" in metrics:
                    metrics.setdefault(f"{name}.{SPEED}", metrics[f"{untuned}.{SPEED}"])
        metrics["wall_s"] = results["wall_s"]
        record = {"values": dict(values), "points": made, "metrics": metrics}
        storage.write_json(storage.join(folder, "trial.json"), record)
        return metrics


def trial_name(study: str, values: Mapping[str, Any]) -> str:
    """The folder of a trial: by its sweep and values, so that it is found again whatever its
    number.
    """
    return f"trial-{_digest([study, dict(values)])}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def check_sweep(sweep: Sweep) -> None:
    """What can be told before any work; InputError."""
    if sweep.kind not in KINDS:
        raise InputError(f"unknown sweep {sweep.kind!r}{nearest(sweep.kind, KINDS)}")
    if sweep.kind == "custom":
        if sweep.values or not sweep.space:
            raise InputError("a custom sweep takes --space field=value,value,... and no --values")
    elif not sweep.values:
        raise InputError(f"a {sweep.kind} sweep needs --values: {KINDS[sweep.kind]}")
    if not sweep.recipe.examples:
        raise InputError("a sweep measures answers; give --examples")
    curve = sweep.curve()
    if curve is not None:
        curve.check()
        if not set(sweep.recipe.variants) & set(ROLES):
            raise InputError(f"a {sweep.kind} sweep needs one of the variants {', '.join(ROLES)}")
    check_trackers(sweep.trackers)
    space = sweep.whole_space()
    for name in CURVES.get(sweep.kind, ()):
        if name in space:
            raise InputError(
                f"--space {name}: a {sweep.kind} sweep changes it itself; use --values"
            )
    for name, field in space.items():
        ends = field.values if isinstance(field, Choices) else (field.low, field.high)
        for value in ends:
            check_recipe(override(sweep.recipe, {name: value}))
    variants = [v for v in sweep.recipe.variants if curve is None or v in ROLES]
    metrics = [*METRICS, *([] if curve else [SPEED])]
    for name in sweep.objectives:
        variant, _, metric = name.rpartition(".")
        if variant not in variants or metric not in metrics:
            raise InputError(
                f"objective {name!r}, expected VARIANT.METRIC such as radit.em with a variant of "
                f"{', '.join(variants)} and a metric of {', '.join(metrics)}"
            )


def run_sweep(sweep: Sweep) -> dict[str, Any]:
    """Runs or continues a sweep; writes sweep.json and returns it.

    InputError as `check_sweep`, where the study's storage holds another sweep, or where no trial
    came to an end.
    """
    check_sweep(sweep)
    recipe = dataclasses.replace(sweep.recipe, resources=trial_resources(sweep.recipe.resources))
    check_parallel(sweep.num_parallel, recipe.resources)
    url = sweep.storage or f"sqlite:///{_local(sweep.output)}/study.db"
    with _alone(sweep.output):
        about = _about(sweep)
        study = Study.open(
            url,
            sweep.whole_space(),
            sweep.objectives,
            sampler=sweep.sampler,
            num_trials=sweep.num_trials,
            seed=sweep.seed,
            about=about,
        )
        trial = Trial(
            recipe=recipe,
            output=storage.absolute(sweep.output),
            curve=sweep.curve(),
            study=_digest(about),
            folder=os.getcwd(),
            command=environment()["command"],
        )
        run_study(
            study,
            trial,
            list(sweep.objectives),
            output=sweep.output,
            trackers=sweep.trackers,
            num_parallel=sweep.num_parallel,
        )
        return _collect(sweep, study, trial.study)


def _about(sweep: Sweep) -> dict[str, Any]:
    """What decides the numbers beside the space: content, not names, where a file may change."""
    recipe = sweep.recipe
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))
    del plain["resources"]  # what changes only the clock may change between two starts
    shares = {name: getattr(recipe.retrieve, name) for name in ("seed", "dev_share", "eval_share")}
    examples = read_examples(recipe.examples, **shares)
    corpora = [recipe.corpus, *(sweep.values if sweep.kind == "snapshot" else ())]
    return {
        "output": storage.absolute(sweep.output),
        "kind": sweep.kind,
        "values": list(sweep.values),
        "recipe": plain,
        "examples": fingerprint_of(examples),
        "corpus": [_stamp(corpus) for corpus in corpora],
        "lm": model_input(recipe.lm, what="lm").fingerprint,
        "retriever": retriever_input(recipe.retriever, recipe.preset).fingerprint,
    }


def _stamp(corpus: str) -> list[int]:
    """Sizes of a corpus' files: its content is hashed by the trials' first stage."""
    return [storage.size_of(file) for file in list_corpus_files(corpus) if storage.exists(file)]


@contextlib.contextmanager
def _alone(output: str) -> Iterator[None]:
    """One process a sweep: a second one would take the first one's running trials for lost."""
    if not storage.is_local(output):
        yield
        return
    folder = storage.local(output)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, ".lock"), "a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another process runs the sweep in {output}; wait for it, or choose another "
                "--output"
            ) from None
        yield


def _collect(sweep: Sweep, study: Study, digest: str) -> dict[str, Any]:
    """Every finished trial's points, in the order of the values."""
    finished = study.finished()
    if not finished:
        raise InputError("no trial came to an end; the lines above say why")
    order = {json.dumps(values, sort_keys=True): values for values in finished}
    records = [
        storage.read_json(storage.join(sweep.output, trial_name(digest, values), "trial.json"))
        for values in order.values()
    ]
    if sweep.sampler == "grid":  # whatever was tried first, after a kill or not
        places = {
            name: {value: number for number, value in enumerate(field.values)}
            for name, field in sweep.whole_space().items()
            if isinstance(field, Choices)
        }
        records.sort(key=lambda r: [places[name][r["values"][name]] for name in places])
    results = {
        "kind": sweep.kind,
        "recipe": sweep.recipe.name,
        "space": {name: dataclasses.asdict(field) for name, field in sweep.whole_space().items()},
        "objectives": dict(sweep.objectives),
        "sampler": sweep.sampler,
        "seeds": list(sweep.recipe.seeds) or [sweep.recipe.lm_ft.seed],
        "points": [point for record in records for point in record["points"]],
        "trials": [{name: record[name] for name in ("values", "metrics")} for record in records],
        "best": study.best(),
        "failed": study.given_up,
        "parameters": _sizes(finished),
        "environment": environment(),
    }
    storage.write_json(storage.join(sweep.output, "sweep.json"), results)
    for values in study.given_up:
        print(f"radit: a trial failed and has no point: {values}", file=sys.stderr)
    return results


def _sizes(finished: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """{model: parameters} of the models that the trials changed, where their folders are here."""
    fields = ("lm", "retriever")
    named = {values[field] for values in finished for field in fields if field in values}
    return {name: num_parameters(name) for name in sorted(named)}


def _flat(point: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{name}.{metric}": float(cell["value"])
        for name, cells in point["variants"].items()
        for metric, cell in cells.items()
    }


def _local(output: str) -> str:
    if not storage.is_local(output):
        raise InputError(
            f"the study of a sweep in {output} needs --storage, an SQLAlchemy URL; SQLite needs a "
            "local folder"
        )
    folder = storage.local(storage.absolute(output))
    os.makedirs(folder, exist_ok=True)
    return folder
