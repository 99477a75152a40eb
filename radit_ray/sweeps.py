"""Sweeps over a recipe: one finished pipeline a trial, artifacts shared by what they hold.

    sweep = Sweep(kind="cycles", recipe=demo(), output="runs/cycles", space={...})
    results = run_sweep(sweep)

<output>/artifacts/       every artifact, by content: what two trials share is made once
<output>/trial-<digest>/  a run's folder for each trial, and its trial.json
<output>/study.db         the Optuna study, the only state of the sweep
<output>/sweep.json       one point a trial and view, with intervals
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.errors import IncompleteError, InputError
from radit_ray.curves import CURVES, Curve
from radit_ray.data import storage
from radit_ray.data.artifacts import fingerprint_of, finished_artifacts, spent
from radit_ray.data.examples import read_examples
from radit_ray.data.readers import list_corpus_files
from radit_ray.engines.alone import alone
from radit_ray.engines.doctor import environment
from radit_ray.engines.references import model_input, num_parameters, retriever_input
from radit_ray.engines.study import Choices, Range, Space, Study
from radit_ray.engines.sweep import Watch, check_parallel, run_study, trial_resources
from radit_ray.models.faiss_shard import gpu_kinds
from radit_ray.models.presets import LEXICAL
from radit_ray.recipes import Recipe, override
from radit_ray.runs import Run
from radit_ray.stages.chunk import chunk
from radit_ray.sweep_checks import BEHIND, check_sweep, combinations
from radit_ray.trials import Trial, digest_of, trial_name

FIELDS = {"cycles": "cycles", "lms": "lm", "retrievers": "retriever"}
DEFAULTS = {"chunks": "0,1,3,5,10,20,50,100", "cycles": "0,1,2,3"}
# dev metrics by which a trial is stopped early. R-ft's lie above LM-ft's whatever they are, so that
# a trial's best look is always one of the training at hand
WATCHED = {"lm-ft": "-nll", "r-ft": "mrr"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept, and how."""

    kind: str
    recipe: Recipe  # complete: corpus, examples and models are given
    output: str
    values: tuple[str, ...] = ()  # of the kind, see KINDS
    dated: tuple[str, ...] = ()  # of "snapshot": a file of questions for each value, "" = as it is
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
        space = {
            name: field.of(_plain(self.recipe, name)) if isinstance(field, Range) else field
            for name, field in self.space.items()
        }
        if self.kind not in FIELDS:
            return space
        if FIELDS[self.kind] in self.space:
            raise InputError(f"--space {FIELDS[self.kind]} and --values say the same; give one")
        return {FIELDS[self.kind]: Choices(self.values), **space}

    def swept(self, name: str) -> Sequence[Any]:
        """What trials have in a field: its values, the recipe's own where it is not swept."""
        field = self.whole_space().get(name)
        if isinstance(field, Range):
            ends = (field.low, field.high)
            return range(int(field.low), int(field.high) + 1) if field.whole else ends
        return field.values if field is not None else (_plain(self.recipe, name),)

    def curve(self) -> Curve | None:
        """What is changed within a trial."""
        if self.kind not in CURVES:
            return None
        return Curve(kind=self.kind, values=self.values, examples=self.dated)


def _plain(recipe: Recipe, name: str) -> Any:
    """What the recipe has in a field, or under a key of one; None where it has no such field."""
    value: Any = recipe
    for part in name.split(".", 2):
        # a task that lm_ft.shares does not name has no share
        value = value.get(part, 0.0) if isinstance(value, dict) else getattr(value, part, None)
    return value


def run_sweep(sweep: Sweep) -> dict[str, Any]:
    """Runs or continues a sweep; writes sweep.json, after every trial, and returns it.

    InputError as `check_sweep`, or where the study's storage holds another sweep; IncompleteError
    where no trial came to an end.
    """
    check_sweep(sweep)
    recipe = dataclasses.replace(sweep.recipe, resources=trial_resources(sweep.recipe.resources))
    check_parallel(sweep.num_parallel, recipe.resources, gpu_shards(sweep))
    url = sweep.storage or f"sqlite:///{_local(sweep.output)}/study.db"
    with alone(sweep.output):
        _check_sizes(sweep, recipe)
        about = about_of(sweep)
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
        records_of(sweep, study, trial.study)  # what is gone is said before any work
        collected = functools.partial(_collect, sweep, study, trial.study)
        run_study(
            study,
            trial,
            list(sweep.objectives),
            output=sweep.output,
            watch=watch_of(sweep, trial) if sweep.stop_early else None,
            trackers=sweep.trackers,
            num_parallel=sweep.num_parallel,
            # on an object store it would read each artifact's manifest again every time
            after_each=collected if storage.is_local(sweep.output) else lambda: None,
        )
        results = collected()
    if results is None:
        raise IncompleteError("no trial came to an end, the lines above say why")
    for values in study.given_up:
        print(f"radit: a trial failed and has no point: {values}", file=sys.stderr)
    return results


def watch_of(sweep: Sweep, trial: Trial) -> Watch:
    """The trainings that decide the objective: the other half may be behind as it likes."""
    (objective,) = sweep.objectives
    trainings = BEHIND[objective.rpartition(".")[0]]
    return Watch(folder=trial.history, metrics={name: WATCHED[name] for name in trainings})


def gpu_shards(sweep: Sweep) -> list[int]:
    """Numbers of index shards that trials search on GPUs; 0 where they do not."""
    dense = any(retriever != LEXICAL for retriever in sweep.swept("retriever"))
    if not dense or not set(sweep.swept("index.kind")) & set(gpu_kinds()):
        return [0]
    return [int(number) for number in sweep.swept("index.num_shards")]


def _check_sizes(sweep: Sweep, recipe: Recipe) -> None:
    """InputError where a value asks for more than a corpus has, or for a part of it that holds
    fewer chunks than are shown; cut into chunks, which all trials share, it says how much that is.
    """
    sizes = {"corpus": "num_documents", "chunks": "num_chunks"}
    if sweep.kind not in sizes:
        return
    least = min(map(int, sweep.values))
    fewest = min(map(int, sweep.swept("k_infer"))) if sweep.kind == "corpus" else 0
    first = combinations(sweep.whole_space())[0]
    for corpus in sweep.swept("corpus"):
        # "auto" and seeds play no part in it: the artifact is the one that the trials read
        run = Run(override(recipe, {**first, "corpus": corpus}), sweep.output)
        made = run.artifact(chunk, run.recipe.chunk, corpus=corpus)
        count = made.metrics[sizes[sweep.kind]]
        chunks = made.metrics["num_chunks"] / max(1, made.metrics["num_documents"]) * least
        if sweep.kind == "corpus" and chunks < fewest:
            raise InputError(
                f"value '{least}' of a corpus sweep: about {chunks:.0f} chunks of {corpus}, fewer "
                f"than the k_infer={fewest} that are shown; give larger --values"
            )
        for value in sweep.values:
            if int(value) > count:
                what = sizes[sweep.kind].removeprefix("num_")
                raise InputError(
                    f"value {value!r} of a {sweep.kind} sweep: the corpus {corpus} has {count} "
                    f"{what}; give --values up to that"
                )


def about_of(sweep: Sweep) -> dict[str, Any]:
    """What decides the numbers beside the space: content, not names, where a file may change."""
    recipe = sweep.recipe
    plain = json.loads(json.dumps(dataclasses.asdict(recipe)))
    del plain["resources"], plain["reuse"]  # the clock's alone: may change between two starts
    shares = {name: getattr(recipe.retrieve, name) for name in ("seed", "dev_share", "eval_share")}
    dated = [fingerprint_of(read_examples(f"eval={file}")) for file in sweep.dated if file]
    swept = sweep.swept
    corpora = [*swept("corpus"), *(sweep.values if sweep.kind == "snapshot" else ())]
    judges = [lm for lm in swept("score.lm") if lm]  # "" = the base LM

    return {
        "output": storage.absolute(sweep.output),
        "kind": sweep.kind,
        "values": list(sweep.values),
        "recipe": plain,
        "examples": [fingerprint_of(read_examples(x, **shares)) for x in swept("examples")],
        "dated": dated,
        "corpus": [_stamp(corpus) for corpus in corpora],
        "lm": [model_input(lm, what="lm").fingerprint for lm in (*swept("lm"), *judges)],
        "retriever": [
            retriever_input(name, recipe.preset).fingerprint for name in swept("retriever")
        ],
    }


def _stamp(corpus: str) -> list[int]:
    """Sizes of a corpus' files: its content is hashed by the trials' first stage."""
    return [storage.size_of(file) for file in list_corpus_files(corpus) if storage.exists(file)]


def _collect(sweep: Sweep, study: Study, digest: str) -> dict[str, Any] | None:
    """Every finished trial's points, in the order of the values, into sweep.json; None without a
    trial that has ended.
    """
    found = records_of(sweep, study, digest)
    if not found:
        return None
    records = in_order(found, sweep.whole_space())
    results = {
        "kind": sweep.kind,
        "recipe": sweep.recipe.name,
        "space": {name: dataclasses.asdict(field) for name, field in sweep.whole_space().items()},
        "objectives": dict(sweep.objectives),
        "split": sweep.recipe.evaluate.split,
        "sampler": sweep.sampler,
        "seeds": list(sweep.recipe.seeds) or [sweep.recipe.lm_ft.seed],
        "points": [point for record in records for point in record["points"]],
        "trials": [{name: record[name] for name in ("values", "metrics")} for record in records],
        "stages": spent(finished_artifacts(storage.join(sweep.output, "artifacts"))),
        "best": study.best(),
        "failed": study.given_up,
        "parameters": _sizes([record["values"] for record in records]),
        "environment": environment(),
    }
    storage.write_json(storage.join(sweep.output, "sweep.json"), results)
    return results


def records_of(sweep: Sweep, study: Study, digest: str) -> list[dict[str, Any]]:
    """What each trial that has ended came to; InputError where its folder is gone."""
    found: dict[str, dict[str, Any]] = {}
    for values, note in [*((values, "") for values in study.finished()), *study.settled()]:
        file = storage.join(sweep.output, trial_name(digest, values), "trial.json")
        there = storage.exists(file)
        if not there and not note:
            raise InputError(
                f"{file} is not there, and the study says that {values} is finished; put it back, "
                "or begin again with another --output"
            )
        made = storage.read_json(file) if there else _stopped(values, note)
        found.setdefault(json.dumps(values, sort_keys=True), made)
    return list(found.values())


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
