"""A study's trials on Ray Tune: each holds a sliver of a CPU and starts what it measures outside of
its own placement group.

Tune captures what a trial starts into the trial's placement group, where Ray Data and Ray Train
would never fit ("cannot fit"). So a trial calls one task of 0 CPUs with `placement_group=None`;
that one runs the stages. The stages need the cluster: on few CPUs one trial at a time, since two
would starve each other's read tasks and wait for ever.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.engines.connect import quiet
from radit_ray.engines.failures import input_error, root_cause
from radit_ray.engines.resources import Resources
from radit_ray.engines.study import Study
from radit_ray.engines.told import shown, telling
from radit_ray.engines.tracking import tracking

TRIAL_CPUS = 0.1
STRIDE = 1_000_000  # more than the steps of a training; a study counts through all of a trial's
LOOK_S = 1.0  # between two looks at what a trial's trainings have shown
# values of a trial -> its metrics; with a "note" it may lack objectives, and is not tried again
Objective = Callable[[dict[str, Any]], dict[str, Any]]


def trial_resources(resources: Resources) -> Resources:
    """Resources whose workers fit beside the trial that started them: 0.9 CPUs instead of 1."""
    cpus = resources.cpus_per_worker
    return dataclasses.replace(
        resources,
        cpus_per_worker=cpus - TRIAL_CPUS if cpus > TRIAL_CPUS else cpus,
        reserved_cpus=TRIAL_CPUS,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watch:
    """Where the trainings of a trial show their looks at dev, and what of those counts."""

    folder: Callable[[Mapping[str, Any]], str]  # of the trial with these values
    metrics: Mapping[str, str]  # training, in their order -> dev metric; "-": smaller is better

    def value(self, training: str, dev: Mapping[str, float]) -> float:
        """How good a look is."""
        metric = self.metrics[training]
        return dev[metric.lstrip("-")] * (-1 if metric.startswith("-") else 1)

    def new(self, folder: str, told: set[tuple[str, int]]) -> Iterator[dict[str, Any]]:
        """What has been shown and is not among `told`, which grows; step 0 is no training yet."""
        for place, training in enumerate(self.metrics):
            file = storage.join(folder, f"{training}.json")
            for entry in storage.read_json(file) if storage.exists(file) else ():
                if entry["step"] and (training, entry["step"]) not in told:
                    told.add((training, entry["step"]))
                    yield {
                        "look": place * STRIDE + entry["step"],
                        "look_value": self.value(training, entry["dev"]),
                        "training": training,
                        "step": entry["step"],
                        # not as the metrics of a variant of that name
                        **{f"dev.{training}.{name}": v for name, v in entry["dev"].items()},
                    }


def run_study(
    study: Study,
    objective: Objective,
    objectives: Sequence[str],
    *,
    output: str,
    watch: Watch | None = None,
    trackers: Sequence[str] = (),
    num_parallel: int = 1,
    after_each: Callable[[], object] = lambda: None,
) -> None:
    """Tries what the study asks for until it asks no more. `objectives`: names of the metrics that
    the study is told, in its order. A lost trial is started again once; what fails then is left to
    the next start. `watch`: trials that the study finds behind in what they show are stopped.
    `after_each`: called whenever the study was told of a trial.

    Events for TensorBoard lie in `<output>/tune`. KeyboardInterrupt where Tune was interrupted.
    """
    name = f"start-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}"
    if storage.is_local(output):
        os.makedirs(storage.local(output), exist_ok=True)
        place = storage.join(storage.absolute(output), "tune")
    else:  # not every file system of ours is one of Tune's
        place = tempfile.mkdtemp(prefix="radit-tune-")
        print(f"radit: TensorBoard's events lie in {place}", file=sys.stderr)
    searcher = StudySearcher(study, objectives)
    lines = Lines(searcher, after_each)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # the study is the state
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `Lines` says what happens
    with shown(lines.on_told) as board:
        tried = tune.with_parameters(_trial, objective=objective, watch=watch, board=board)
        tuner = tune.Tuner(
            tune.with_resources(tried, {"cpu": TRIAL_CPUS}),
            tune_config=TuneConfig(
                search_alg=searcher,
                scheduler=Stopper(searcher),
                num_samples=-1,
                max_concurrent_trials=num_parallel,
            ),
            run_config=RunConfig(
                name=name,
                storage_path=place,
                failure_config=FailureConfig(max_failures=1),
                callbacks=[lines, *tracking(trackers, output=output, name=name)],
                verbose=0,
            ),
        )
        tuner.fit()
    if searcher.running:  # Tune itself only stops, as if it were done
        raise KeyboardInterrupt


def check_parallel(
    num_parallel: int, resources: Resources, num_shards: Sequence[int] = (0,)
) -> None:
    """InputError where so many trials at once would take each other's CPUs or GPUs and wait for
    ever: each needs its workers, itself, and one CPU for the tasks that read; and `trial_gpus` of
    any of `num_shards`, the index shards that trials search on GPUs.
    """
    if num_parallel == 1:
        return
    cpus = float(ray.cluster_resources().get("CPU", 1))
    each = resources.num_workers * resources.cpus_per_worker + TRIAL_CPUS + 1
    if num_parallel < 1 or not resources.num_workers or num_parallel * each > cpus:
        raise InputError(
            f"num_parallel={num_parallel} on {cpus:g} CPUs; trials at once need a set "
            f"resources.num_workers (it is {resources.num_workers}, 0 = all) and, each, {each:g} "
            "CPUs: its workers and 1.1 beside them"
        )
    gpus = float(ray.cluster_resources().get("GPU", 0))
    needed = max(trial_gpus(resources, number, gpus) for number in num_shards)
    if num_parallel * needed > gpus:
        raise InputError(
            f"num_parallel={num_parallel} on {gpus:g} GPUs; each trial at once needs {needed:g}: "
            "its workers' and as much for each index shard; lower resources.gpus_per_worker or "
            "--num-parallel"
        )


def trial_gpus(resources: Resources, num_shards: int, gpus: float) -> float:
    """GPUs that a trial holds at most: its workers' and its index shards', which search on CPUs
    where both do not fit a cluster of `gpus` (`stages.retrieve.shard_gpus`).
    """
    workers = resources.num_workers * resources.gpus_per_worker
    both = workers + resources.gpus_per_worker * num_shards * resources.index_replicas
    return both if both <= gpus else workers


def _trial(values: dict[str, Any], objective: Objective, watch: Watch | None, board: Any) -> None:
    """What Tune runs: the objective in a task outside of the trial's placement group; meanwhile it
    reports what the trial's trainings show.
    """
    outside = PlacementGroupSchedulingStrategy(placement_group=None)  # type: ignore[arg-type]
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=outside)(_heard)
    running = task.remote(objective, values, board, tune.get_context().get_trial_id())
    try:
        if watch is not None:
            _report_looks(running, watch, values)
        found = ray.get(running)
    finally:
        # Tune ends a stopped trial inside `tune.report`; the stage under way goes as by a kill,
        # unfinished and resumable. What has ended is not touched.
        ray.cancel(running, force=True)
    if "traceback" in found:
        folder = tune.get_context().get_trial_dir() or "."
        os.makedirs(folder, exist_ok=True)  # of the driver, which may be another machine
        file = os.path.join(folder, "traceback.txt")
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(found.pop("traceback"))
        found["failed"] += f" (traceback in {file}, on {socket.gethostname()})"
    tune.report(found)


def _report_looks(running: Any, watch: Watch, values: dict[str, Any]) -> None:
    """Reports looks at dev as they come, until the trial's task has ended."""
    folder, told = watch.folder(values), set[tuple[str, int]]()
    while not ray.wait([running], timeout=LOOK_S)[0]:
        for look in watch.new(folder, told):
            tune.report(look)
    for look in watch.new(folder, told):
        tune.report({**look, "ended": True})  # for the others to be compared with


def _heard(
    objective: Objective, values: dict[str, Any], board: Any, trial_id: str
) -> dict[str, Any]:
    """`_measured`, and what it says meanwhile is told."""
    with telling(board, trial_id):
        return _measured(objective, values)


def _measured(objective: Objective, values: dict[str, Any]) -> dict[str, Any]:
    """The metrics, or why there are none: only a lost process is worth a second start."""
    quiet()
    try:
        return dict(objective(values))
    except Exception as error:
        refused = input_error(error)  # also where a worker raised it
        if refused is not None:
            return {"failed": refused}
        return {"failed": root_cause(error), "traceback": traceback.format_exc()}


class StudySearcher(Searcher):
    """Tune's view of a `Study`. Nothing of it is saved: the study's storage is the state."""

    def __init__(self, study: Study, objectives: Sequence[str]) -> None:
        super().__init__()
        self.study, self.objectives = study, objectives
        self.numbers: dict[str, int] = {}
        self.notes: dict[str, str] = {}  # why a trial was stopped
        self.running: set[str] = set()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The values of the next trial."""
        asked = self.study.ask()
        if asked is None:
            return str(Searcher.FINISHED)
        self.numbers[trial_id], values = asked
        self.running.add(trial_id)
        return values

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tells the study what the trial came to; once, since a stopped one may report again before
        it hears of it.
        """
        if trial_id not in self.running:
            return
        number = self.numbers[trial_id]
        self.running.discard(trial_id)
        found = result or {}
        stopped, left_out = self.notes.get(trial_id), found.get("note")
        values = [float(found.get(name, math.nan)) for name in self.objectives]
        if stopped and not error:
            self.study.settle(number, stopped)
        elif not error and all(map(math.isfinite, values)):
            self.study.tell(number, values)
        elif left_out and not error:
            self.study.settle(number, left_out)
        else:
            self.study.fail(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher with the experiment


class Stopper(FIFOScheduler):
    """Stops a trial as soon as the study finds it behind."""

    def __init__(self, searcher: StudySearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tells the study each look at dev."""
        if trial.trial_id not in self.searcher.running:  # stopped, and has not heard of it
            return str(self.STOP)
        if "look" in result:
            number = self.searcher.numbers[trial.trial_id]
            behind = self.searcher.study.look(number, result["look"], result["look_value"])
            if behind and "ended" not in result:
                note = f"stopped early at step {result['step']} of {result['training']}"
                self.searcher.notes[trial.trial_id] = note
                return str(self.STOP)
        return str(self.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Lines(Callback):
    """Lines on stderr: a trial starts or ends, and what it says of itself meanwhile."""

    def __init__(self, searcher: StudySearcher, after_each: Callable[[], object]) -> None:
        self.searcher, self.after_each = searcher, after_each
        self.started: dict[str, float] = {}
        self.ended = False  # since the last step of Tune

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Not within a step, which would hold up the end of a stopped trial."""
        if self.ended:
            self.ended = False
            self.after_each()

    def on_told(self, trial_id: str, line: str) -> None:
        """What a trial's own process said."""
        number = self.searcher.numbers.get(trial_id, -1)
        print(f"radit sweep: trial {number}: {line}", file=sys.stderr, flush=True)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The values that are tried."""
        self.started[trial.trial_id] = time.monotonic()
        study = self.searcher.study
        done, total = len(study.finished()) + len(study.settled()), study.total()
        self._say(trial, f"started{f', {done} of {total} done' * (total > 1)}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """What the objectives came to."""
        if trial.trial_id not in self.started:
            return
        self.ended = True
        result = trial.last_result or {}
        shown = [f"{n} {result[n]:.4g}" for n in self.searcher.objectives if n in result]
        seconds = time.monotonic() - self.started.pop(trial.trial_id)
        failed = f"failed: {result.get('failed', 'its objectives are not among its metrics')}"
        words = ", ".join(shown)
        if len(shown) < len(self.searcher.objectives):
            words = self.searcher.notes.get(trial.trial_id) or result.get("note", failed)
        self._say(trial, f"{words} ({seconds:.0f} s)")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Lost twice, by a kill or for want of memory."""
        self.ended = True
        reason = "its process was lost twice"
        if trial.error_file and os.path.exists(trial.error_file):
            with open(trial.error_file, encoding="utf-8") as stream:
                reason = ([line for line in stream.read().splitlines() if line] or [reason])[-1]
        self._say(trial, f"failed: {reason}")

    def _say(self, trial: Any, words: str) -> None:
        number = self.searcher.numbers.get(trial.trial_id, -1)
        values = ", ".join(f"{name}={value}" for name, value in trial.config.items())
        print(f"radit sweep: trial {number} ({values or 'as it is'}): {words}", file=sys.stderr)

    def __getstate__(self) -> dict[str, Any]:
        return {}
