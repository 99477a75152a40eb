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
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radit_ray.core.errors import InputError, check_bounds, nearest
from radit_ray.curves import CURVES, ROLES, Curve
from radit_ray.data import storage
from radit_ray.data.artifacts import fingerprint_of
from radit_ray.data.examples import read_examples
from radit_ray.data.readers import list_corpus_files
from radit_ray.engines.answering import METRICS
from radit_ray.engines.doctor import environment
from radit_ray.engines.references import model_input, num_parameters, retriever_input
from radit_ray.engines.study import Choices, Space, Study, check_stopper
from radit_ray.engines.sweep import Watch, check_parallel, run_study, trial_resources
from radit_ray.engines.tracking import check_trackers
from radit_ray.recipe_checks import check_recipe
from radit_ray.recipes import Recipe, override
from radit_ray.runs import Run
from radit_ray.stages.chunk import chunk
from radit_ray.trials import SPEED, Trial, digest_of, trial_name

KINDS = {  # kind -> what its --values are
    "chunks": "numbers of chunks shown, k_infer",
    "corpus": "numbers of documents searched, nested parts of the corpus",
    "snapshot": "corpora, each embedded and searched by the same tuned pair (demo: 1,2, its dates)",
    "cycles": "alternations of the two fine-tunings",
    "lms": "base LMs",
    "retrievers": "base retrievers",
    "custom": "(none: give --space field=value,value,...)",
}
FIELDS = {"cycles": "cycles", "lms": "lm", "retrievers": "retriever"}
DEFAULTS = {"chunks": "0,1,3,5,10,20,50,100", "cycles": "0,1,2,3"}
# dev metrics by which a trial is stopped early. R-ft's lie above LM-ft's whatever they are, so that
# a trial's best look is always one of the training at hand
WATCHED = {"lm-ft": "-nll", "r-ft": "mrr"}
MAX_SEED = 40_000  # engines.study multiplies it, and samplers take 32 bits
CHECKED = 500  # combinations of a space that are looked at one by one before any work


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
    stop_early: str = ""  # of `custom`: how trials are found to be behind, see engines.study
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


def check_sweep(sweep: Sweep) -> None:
    """What can be told before any work; InputError."""
    if sweep.kind not in KINDS:
        raise InputError(f"unknown sweep {sweep.kind!r}{nearest(sweep.kind, KINDS)}")
    if sweep.kind == "custom":
        if sweep.values or not sweep.space:
            raise InputError("a custom sweep takes --space field=value,value,... and no --values")
    elif not sweep.values:
        raise InputError(f"a {sweep.kind} sweep needs --values: {KINDS[sweep.kind]}")
    check_bounds(sweep, {"seed": (0, MAX_SEED), "num_trials": (0, None)})
    if len(set(sweep.values)) != len(sweep.values):
        raise InputError(f"--values {','.join(sweep.values)} holds a value twice; give it once")
    if not sweep.recipe.examples:
        raise InputError("a sweep measures answers; give --examples")
    curve = sweep.curve()
    if curve is not None:
        curve.check()
        if not set(sweep.recipe.variants) & set(ROLES):
            raise InputError(f"a {sweep.kind} sweep needs one of the variants {', '.join(ROLES)}")
    check_trackers(sweep.trackers)
    space = sweep.whole_space()
    _check_stopping(sweep)
    for name in CURVES.get(sweep.kind, ()):
        if name in space:
            raise InputError(
                f"--space {name}: a {sweep.kind} sweep changes it itself; use --values"
            )
    for values in _combinations(space):
        check_recipe(override(sweep.recipe, values))
    variants = [v for v in sweep.recipe.variants if curve is None or v in ROLES]
    metrics = [*METRICS, *([] if curve else [SPEED])]
    for name in sweep.objectives:
        variant, _, metric = name.rpartition(".")
        if variant not in variants or metric not in metrics:
            raise InputError(
                f"objective {name!r}, expected VARIANT.METRIC such as radit.em with a variant of "
                f"{', '.join(variants)} and a metric of {', '.join(metrics)}"
            )


def _combinations(space: Space) -> list[dict[str, Any]]:
    """What a space is checked by: all combinations of a few choices, else each value by itself."""
    fields = {
        name: field.values if isinstance(field, Choices) else (field.low, field.high)
        for name, field in space.items()
    }
    whole = all(isinstance(field, Choices) for field in space.values())
    if whole and math.prod(map(len, fields.values())) <= CHECKED:
        points = itertools.product(*fields.values())
        return [dict(zip(fields, point, strict=True)) for point in points]
    return [{name: value} for name, values in fields.items() for value in values]


def _check_stopping(sweep: Sweep) -> None:
    check_stopper(sweep.stop_early, sweep.objectives)
    if sweep.stop_early and sweep.kind != "custom":
        raise InputError(
            f"--stop-early in a {sweep.kind} sweep, whose every point is wanted; it is for custom"
        )
    if sweep.stop_early and not sweep.recipe.cycles and "cycles" not in sweep.space:
        raise InputError("--stop-early with cycles=0: there is no training to stop")


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
        _check_sizes(sweep, recipe)
        about = _about(sweep)
        study = Study.open(
            url,
            sweep.whole_space(),
            sweep.objectives,
            sampler=sweep.sampler,
            num_trials=sweep.num_trials,
            seed=sweep.seed,
            stop_early=sweep.stop_early,
            about=about,
        )
        trial = Trial(
            recipe=recipe,
            output=storage.absolute(sweep.output),
            curve=sweep.curve(),
            study=digest_of(about),
            folder=os.getcwd(),
            command=environment()["command"],
            watched=bool(sweep.stop_early),
        )
        run_study(
            study,
            trial,
            list(sweep.objectives),
            output=sweep.output,
            watch=Watch(folder=trial.history, metrics=WATCHED) if sweep.stop_early else None,
            trackers=sweep.trackers,
            num_parallel=sweep.num_parallel,
        )
        return _collect(sweep, study, trial.study)


def _check_sizes(sweep: Sweep, recipe: Recipe) -> None:
    """InputError where a value asks for more than the corpus has; cut into chunks, which all trials
    share, it says how much that is.
    """
    sizes = {"corpus": "num_documents", "chunks": "num_chunks"}
    if sweep.kind not in sizes or "corpus" in sweep.space:
        return
    # "auto" and seeds play no part in it: the artifact is the one that the trials read
    made = Run(recipe, sweep.output).artifact(chunk, recipe.chunk, corpus=recipe.corpus)
    count = made.metrics[sizes[sweep.kind]]
    for value in sweep.values:
        if int(value) > count:
            what = sizes[sweep.kind].removeprefix("num_")
            raise InputError(
                f"value {value!r} of a {sweep.kind} sweep: the corpus has {count} {what}; give "
                "--values up to that"
            )


def _about(sweep: Sweep) -> dict[str, Any]:
    """What decides the numbers beside the space: content, not names, where a file may change."""
    recipe = sweep.recipe
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))
    del plain["resources"], plain["reuse"]  # the clock's alone: may change between two starts
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
    found: dict[str, dict[str, Any]] = {}
    for values, note in [*((values, "") for values in study.finished()), *study.settled()]:
        file = storage.join(sweep.output, trial_name(digest, values), "trial.json")
        stopped = note and not storage.exists(file)
        made = _stopped(values, note) if stopped else storage.read_json(file)
        found.setdefault(json.dumps(values, sort_keys=True), made)
    if not found:
        raise InputError("no trial came to an end; the lines above say why")
    records = in_order(list(found.values()), sweep.whole_space())
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
        "parameters": _sizes([record["values"] for record in records]),
        "environment": environment(),
    }
    storage.write_json(storage.join(sweep.output, "sweep.json"), results)
    for values in study.given_up:
        print(f"radit: a trial failed and has no point: {values}", file=sys.stderr)
    return results


def in_order(records: Sequence[dict[str, Any]], space: Space) -> list[dict[str, Any]]:
    """Trials by their values, whatever was tried first: numbers as they grow, choices as they were
    given, the last field changing fastest.
    """

    def place(record: dict[str, Any]) -> list[float]:
        values = record["values"]
        return [
            field.values.index(values[name]) if isinstance(field, Choices) else values[name]
            for name, field in space.items()
        ]

    return sorted(records, key=place)


def _stopped(values: Mapping[str, Any], note: str) -> dict[str, Any]:
    """What is kept of a trial that was stopped: its values, and a point without numbers."""
    point = {"values": dict(values), "num_questions": 0, "variants": {}, "contrasts": {}}
    return {"values": dict(values), "points": [{**point, "note": note}], "metrics": {}}


def _sizes(finished: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """{model: parameters} of the models that the trials changed, where their folders are here."""
    fields = ("lm", "retriever")
    named = {values[field] for values in finished for field in fields if field in values}
    return {name: num_parameters(name) for name in sorted(named)}


def _local(output: str) -> str:
    if not storage.is_local(output):
        raise InputError(
            f"the study of a sweep in {output} needs --storage, an SQLAlchemy URL; SQLite needs a "
            "local folder"
        )
    folder = storage.local(storage.absolute(output))
    os.makedirs(folder, exist_ok=True)
    return folder
