"""Contract of a study on Ray Tune: a trial runs stages on two CPUs although Tune holds it in a
placement group, a refused trial leaves the others alone, and a second start tries only what failed.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray.cloudpickle import register_pickle_by_value
from tiny import documents, write_jsonl

from radit_ray.core.errors import InputError
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import num_workers
from radit_ray.engines.study import Choices, Range, Study
from radit_ray.engines.sweep import (
    Watch,
    check_parallel,
    run_study,
    trial_gpus,
    trial_resources,
)
from radit_ray.stages.chunk import ChunkConfig, chunk


def chunked(values: dict[str, Any]) -> dict[str, float]:
    """Ray Data actors inside a trial; a file counts the calls."""
    folder = values["folder"]
    with open(f"{folder}/calls", "a") as file:
        file.write(f"{values['max_words']}\n")
    artifact = chunk(
        ChunkConfig(max_words=int(values["max_words"]), docs_per_shard=10),
        corpus=f"{folder}/corpus.jsonl",
        output=f"{folder}/{values['max_words']}",
        resources=trial_resources(Resources(num_workers=2)),
    )
    return {"rows": float(artifact.rows)}


@pytest.mark.ray
def test_trials_run_stages_and_a_refused_one_leaves_the_others(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    register_pickle_by_value(sys.modules[__name__])  # a worker cannot import tests
    write_jsonl(tmp_path / "corpus.jsonl", documents())
    space = {"folder": Choices((str(tmp_path),)), "max_words": Choices(("-1", "50"))}
    url = f"sqlite:///{tmp_path}/study.db"
    for calls in (["-1", "50"], ["-1", "50", "-1"]):
        study = Study.open(url, space, {"rows": "max"})
        run_study(study, chunked, ["rows"], output=str(tmp_path / "out"))
        assert [values["max_words"] for values in study.finished()] == ["50"]
        assert [values["max_words"] for values in study.given_up] == ["-1"]
        # a trial whose process Ray lost (docs/LOG.md, "Ray's own check") is called again at once
        made = (tmp_path / "calls").read_text().split()
        assert [call for call, _ in itertools.groupby(made)] == calls
        assert "max_words=-1): failed: max_words" in capfd.readouterr().err
    assert list((tmp_path / "out" / "tune").rglob("events.out.tfevents*"))  # TensorBoard


def shown(values: dict[str, Any]) -> dict[str, float]:
    """A trial that shows its looks at dev and, where it is bad, would go on for ever."""
    folder = Path(values["folder"])
    with (folder / "calls").open("a") as file:
        file.write(f"{values['nll']} {os.getpid()}\n")
    nll = float(values["nll"])
    looks = [{"step": step, "dev": {"nll": nll}} for step in (0, 10)]
    history = folder / values["nll"]
    history.mkdir(exist_ok=True)
    (history / "lm-ft.json").write_text(json.dumps(looks))
    time.sleep(3600 if nll > 8 else 0)
    return {"em": -nll}


def history_of(values: Mapping[str, Any]) -> str:
    return f"{values['folder']}/{values['nll']}"


@pytest.mark.ray
def test_a_trial_behind_is_ended_with_all_it_started(
    ray_cluster: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    register_pickle_by_value(sys.modules[__name__])
    values = ("1", "2", "3", "4", "9", "5")
    space = {"folder": Choices((str(tmp_path),)), "nll": Choices(values)}
    watch = Watch(folder=history_of, metrics={"lm-ft": "-nll", "r-ft": "mrr"})
    ended: list[int] = []
    for _ in range(2):  # the second start has nothing to do
        url = f"sqlite:///{tmp_path}/study.db"
        study = Study.open(url, space, {"em": "max"}, stop_early="median")
        run_study(
            study,
            shown,
            ["em"],
            output=str(tmp_path / "out"),
            watch=watch,
            after_each=lambda: ended.append(len(study.finished())),  # noqa: B023 - called within
        )
        assert [found["nll"] for found in study.finished()] == ["1", "2", "3", "4", "5"]
        ((stopped, note),) = study.settled()
        assert (stopped["nll"], note) == ("9", "stopped early at step 10 of lm-ft")
        calls = [line.split() for line in (tmp_path / "calls").read_text().splitlines()]
        assert [nll for nll, _ in calls] == list(values)
    assert ended == sorted(ended)
    assert ended[0] == 1  # whoever collects need not wait for the last trial
    assert "nll=9): stopped early at step 10 of lm-ft (" in capfd.readouterr().err
    (process,) = (int(pid) for nll, pid in calls if nll == "9")
    assert not psutil.pid_exists(process) or psutil.Process(process).status() == "zombie"


def nothing(values: dict[str, Any]) -> dict[str, float]:
    return {"em": float(values["x"])} | {f"metric-{n}": 0.5 for n in range(100)}


@pytest.mark.slow
@pytest.mark.ray
def test_the_driver_does_not_grow_with_trials(ray_cluster: None, tmp_path: Path) -> None:
    """Whatever a trial leaves in the driver (Tune's record of it, Optuna's) is far below a model:
    the limit is half a megabyte a trial.
    """
    register_pickle_by_value(sys.modules[__name__])
    space = {"x": Range(0.0, 1.0)}
    sizes = []
    for count in (10, 50):
        url = f"sqlite:///{tmp_path}/study.db"
        study = Study.open(url, space, {"em": "max"}, sampler="random", num_trials=count)
        run_study(study, nothing, ["em"], output=str(tmp_path / "out"))
        assert len(study.finished()) == count
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[1] - sizes[0] < 40 * 2**19, sizes


@pytest.mark.ray
def test_trials_that_would_starve_each_other_are_refused(ray_cluster: None) -> None:
    check_parallel(1, Resources())
    with pytest.raises(InputError, match="num_parallel=2 on 2 CPUs"):
        check_parallel(2, Resources(num_workers=1))
    inside = trial_resources(Resources())
    assert trial_gpus(Resources(num_workers=4, gpus_per_worker=1.0), num_shards=1, gpus=8) == 5
    assert trial_gpus(Resources(num_workers=1, gpus_per_worker=0.5), num_shards=4, gpus=8) == 2.5
    whole = Resources(num_workers=1, gpus_per_worker=1.0)
    assert trial_gpus(whole, num_shards=8, gpus=8) == 1  # its shards search on CPUs
    assert (inside.cpus_per_worker, inside.reserved_cpus) == (pytest.approx(0.9), 0.1)
    assert num_workers(inside, 10) == 2  # 2 x 0.9 and the trial's 0.1
    whole = trial_resources(Resources(cpus_per_worker=2))
    assert num_workers(whole, 10) == 1  # 1.9 and 0.1
