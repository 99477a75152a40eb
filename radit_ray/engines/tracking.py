"""Trackers of a sweep: Ray's own callbacks for MLflow and Weights & Biases, tamed.

They see the values of a trial and its metrics and nothing else: no environment, command line,
console or host. One that cannot be had or reached costs one line, and the sweep goes on without it.

MLflow writes to $MLFLOW_TRACKING_URI, else to `<output>/mlflow.db`. W&B needs `wandb login` or
$WANDB_API_KEY, or WANDB_MODE=offline, and writes to `<output>/wandb`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune import Callback
from ray.tune.result import AUTO_RESULT_KEYS, TRAINING_ITERATION

from radit_ray.core.errors import InputError, nearest, redacted
from radit_ray.data import storage

TRACKERS = ("mlflow", "wandb")
EXPERIMENT = "radit"  # MLflow's experiment, W&B's project
REACH_S = 10  # seconds in which a server must answer
UPLOAD_S = 300  # seconds that the end of a sweep waits for W&B
BOOKKEEPING = {*AUTO_RESULT_KEYS, "done", "ended", "look", "look_value"} - {TRAINING_ITERATION}
# what W&B would note of the machine and the process beside the metrics
NOTHING_ELSE = {
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "silent": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}


class Careful(Callback):
    """Passes trials on to a tracker; one that fails costs a warning and is asked no more."""

    def __init__(self, name: str, inner: Any) -> None:
        self.name, self.inner = name, inner

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """The tracker's own start."""
        self._pass("setup", *args, **kwargs)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A run of the tracker begins."""
        self._pass("on_trial_start", iteration, trials, trial, **info)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """The metrics."""
        self._pass("on_trial_result", iteration, trials, trial, metrics_of(result), **info)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its end; one that failed has come to its end for Tune, but is no success."""
        failed = "failed" in (trial.last_result or {})
        ended = "on_trial_error" if failed else "on_trial_complete"
        self._pass(ended, iteration, trials, trial, **info)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its end, where the trial failed."""
        self._pass("on_trial_error", iteration, trials, trial, **info)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """The tracker's own end."""
        self._pass("on_experiment_end", trials, **info)

    def _pass(self, method: str, *args: Any, **kwargs: Any) -> None:
        if self.inner is None:
            return
        try:
            getattr(self.inner, method)(*args, **kwargs)
        except Exception as error:
            print(f"radit: {_no_tracker(self.name, error)}", file=sys.stderr)
            self.inner = None

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _no_tracker(name: str, error: Exception) -> str:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"no {name}: {redacted(reason)}; the sweep goes on without it"


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a trial's result that are ours, and Tune's count of its results. MLflow knows
    no "@" in a name.
    """
    return {
        name.replace("@", "_at_"): value
        for name, value in result.items()
        if isinstance(value, int | float) and name not in BOOKKEEPING
    }


def check_trackers(names: Sequence[str]) -> None:
    """InputError on an unknown tracker."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"unknown tracker {name!r}{nearest(name, TRACKERS)}")


def tracking(names: Sequence[str], *, output: str, name: str) -> list[Any]:
    """The callbacks of these trackers; one that cannot be had or reached costs a warning. `name`:
    of this start of the sweep.
    """
    check_trackers(names)
    makers = {"mlflow": _mlflow, "wandb": _wandb}
    found: list[Any] = []
    for tracker in names:
        try:
            found.append(Careful(tracker, makers[tracker](output, name)))
        except Exception as error:
            print(f"radit: {_no_tracker(tracker, error)}", file=sys.stderr)
    return found


def _folder(output: str) -> str:
    """Where a tracker may write beside the sweep; "" on an object store."""
    return storage.local(storage.absolute(output)) if storage.is_local(output) else ""


def _mlflow(output: str, name: str) -> Any:
    import mlflow
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # its own patience with a server that is not there is minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REACH_S))
    given, here = os.environ.get("MLFLOW_TRACKING_URI"), _folder(output)
    if not given and not here:
        raise InputError(f"{output} is no local folder; set MLFLOW_TRACKING_URI")
    uri = given or f"sqlite:///{here}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    if mlflow.get_experiment_by_name(EXPERIMENT) is None:  # says now whether it can be reached
        place = None if given else f"{here}/mlruns"  # else in the working directory
        mlflow.create_experiment(EXPERIMENT, artifact_location=place)
    return MLflowLoggerCallback(tracking_uri=uri, experiment_name=EXPERIMENT, tags={"sweep": name})


def _wandb(output: str, name: str) -> Any:
    import wandb
    from ray.air.integrations.wandb import WandbLoggerCallback

    class Discreet(WandbLoggerCallback):
        """Ray's puts the key into the environment of an actor, and Ray logs that environment; here
        it travels among the settings.
        """

        def log_trial_start(self, trial: Any) -> None:
            key = os.environ.pop("WANDB_API_KEY", None)
            try:
                super().log_trial_start(trial)
            finally:
                if key is not None:
                    os.environ["WANDB_API_KEY"] = key

    mode = os.environ.get("WANDB_MODE", "online")
    if mode == "online":
        _reach(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
    made = Discreet(
        project=EXPERIMENT,
        group=name,
        upload_timeout=UPLOAD_S,
        dir=_folder(output) or None,
        mode=mode,  # an actor of a cluster has another environment
        settings=wandb.Settings(api_key=os.environ.get("WANDB_API_KEY"), **NOTHING_ELSE),
    )
    made.setup()  # says now whether there is a key
    return made


def _reach(url: str) -> None:
    """OSError where no server answers there, whatever it answers."""
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(url, timeout=REACH_S).close()
