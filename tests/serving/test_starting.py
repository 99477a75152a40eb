"""Contract of how an endpoint starts: jobs/serve.yaml gives an application, bad values are refused
before Ray does anything, only what was started is stopped, and a start that cannot end is none.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from ray import serve

from radit_ray.cli import _dispatch, _guarded
from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import FORMAT_VERSION, MANIFEST
from radit_ray.engines import connect
from radit_ray.engines.asking import variant_parts
from radit_ray.serving import command
from radit_ray.serving.config import Limits, Scale, ServeConfig
from radit_ray.serving.gateway import deploy, plan

YAML = Path(__file__).parents[2] / "jobs" / "serve.yaml"
FIELDS: dict[str, Any] = {
    **{"preset": "auto", "nprobe": 0, "t_r": 0.05, "template": "auto", "k": 3, "shots": 0},
    **{"ensemble": "answers", "scoring": "nll_char", "max_new_tokens": 6, "max_answers": 0},
    "eos_token": "",
}


@pytest.fixture
def run(tmp_path: Path) -> str:
    """A run with two variants whose LMs differ, on an index of two shards; nothing to load."""
    paths = {name: tmp_path / name for name in ("lm", "other", "encoder", "index", "ranked")}
    for path in paths.values():
        path.mkdir()
    shards = [{"rows": 5, "faiss": f"{n}.faiss", "arrow": f"{n}.arrow"} for n in range(2)]
    files = [{"name": one["faiss"], "bytes": 1, "sha256": "0" * 64} for one in shards]
    manifest: dict[str, Any] = dict.fromkeys(MANIFEST, "")
    manifest |= {"format_version": FORMAT_VERSION, "stage": "index"}
    manifest |= {"fingerprint": "f", "files": files, "metrics": {"dimension": 4, "shards": shards}}
    (paths["index"] / "manifest.json").write_text(json.dumps(manifest))
    base = {**FIELDS, "lm": str(paths["lm"]), "query_encoder": str(paths["encoder"])}
    base |= {"index": str(paths["index"]), "ranked": str(paths["ranked"])}
    variants = {"replug": base, "radit": {**base, "lm": str(paths["other"])}}
    (tmp_path / "run.json").write_text(json.dumps({"variants": variants}))
    return str(tmp_path)


def arguments(run: str, **changed: Any) -> dict[str, Any]:
    """`args` of jobs/serve.yaml as it stands, but for the run."""
    (application,) = yaml.safe_load(YAML.read_text())["applications"]
    return {**application["args"], "run": run, **changed}


def test_the_job_gives_an_application(run: str) -> None:
    assert isinstance(deploy(arguments(run)), serve.Application)
    planned = plan(ServeConfig(run=run))
    assert planned.variants == ("radit", "replug")
    # an encoder and an index for both, an LM for each
    names = {"retriever-0", "index-0-shard-0", "index-0-shard-1", "lm-0", "lm-1"}
    assert set(planned.sizes) == names


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lmx": {}}, "args of the application: lmx: "),
        ({"lm": {"replica": 2}}, "args of the application: lm.replica: "),
        ({"limits": {"in_flght": 2}}, "args of the application: limits.in_flght: "),
        ({"lm": {"cpus": "many"}}, "args of the application: lm.cpus: "),
        ({"lm": {"replicas": 0}}, "replicas=0 of Scale; expected at least 1"),
        ({"lm": {"replicas": 4, "max_replicas": 2}}, "lm: max_replicas=2 is below replicas=4"),
        ({"precision": "foo"}, "precision 'foo' is unknown"),
    ],
)
def test_a_field_of_the_job_that_is_wrong_is_named(
    run: str, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        deploy(arguments(run, **changed))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--max-batch", "0"), "max_batch=0 of ServeConfig; expected at least 1"),
        (("--batch-tokens", "0"), "batch_tokens=0 of ServeConfig"),
        (("--threads", "-1"), "threads=-1 of ServeConfig"),
        (("--limits.in-flight", "0"), "in_flight=0 of Limits"),
        (("--limits.request-s", "-1"), "request_s=-1.0 of Limits"),
        (("--limits.body-s", "nan"), "body_s=nan of Limits"),
        (("--lm.replicas", "0"), "replicas=0 of Scale"),
        (("--lm.cpus", "-1"), "cpus=-1.0 of Scale"),
        (("--precision", "foo"), "precision 'foo' is unknown"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(
    run: str,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connect, "connect", lambda **_: pytest.fail("Ray was started for nothing"))
    assert _guarded(lambda: _dispatch(("serve", run, *options))) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_variant_scores_choices_as_its_run_says(run: str) -> None:
    assert variant_parts(run, "replug").variant.scoring == "nll_char"


@dataclasses.dataclass
class Cluster:
    """What `serve_run` did to Ray and Serve, which are not there."""

    calls: list[str] = dataclasses.field(default_factory=list)
    loading: Any = lambda: None  # while models load

    def run(self, bound: Any, **_: Any) -> Any:
        self.calls.append("serve.run")
        self.loading()
        drained = SimpleNamespace(result=lambda timeout_s: None)
        return SimpleNamespace(drain=SimpleNamespace(remote=lambda: drained))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Two CPUs, where no Serve runs."""
    made = Cluster()

    def absent(*_: Any, **__: Any) -> None:
        raise ValueError

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(connect, "connect", lambda **_: None)
    monkeypatch.setattr(command.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(command.ray, "get_actor", absent)
    monkeypatch.setattr(command.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    monkeypatch.setattr(command.ray, "shutdown", lambda: made.calls.append("ray.shutdown"))
    monkeypatch.setattr(serve, "start", lambda **_: made.calls.append("serve.start"))
    monkeypatch.setattr(serve, "run", made.run)
    monkeypatch.setattr(serve, "shutdown", lambda: made.calls.append("serve.shutdown"))
    return made


def serve_run(run: str, **fields: Any) -> None:
    from process import free_port

    command.serve_run(ServeConfig(run=run, **fields), port=free_port())


def test_a_serve_that_runs_already_is_left_alone(
    run: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.ray, "get_actor", lambda *_, **__: object())
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(InputError, match="Ray Serve runs already"):
        serve_run(run)
    assert cluster.calls == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lm": Scale(gpus=1)}, "a replica of lm-0 asks for 1 GPUs, the largest node has 0"),
        ({"lm": Scale(cpus=3)}, "a replica of lm-0 asks for 3 CPUs, the largest node has 2"),
        ({"lm": Scale(cpus=1, replicas=2)}, "4.1 CPUs together, the cluster has 2"),
    ],
)
def test_more_than_the_cluster_has_is_refused(
    run: str, cluster: Cluster, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        serve_run(run, **fields)
    assert cluster.calls == ["ray.shutdown"]  # it was started for this


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_start_at_once(
    run: str, cluster: Cluster, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def for_ever() -> None:
        os.kill(os.getpid(), number)
        assert threading.Event().wait(30), "the signal was not heard"

    cluster.loading = for_ever
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        serve_run(run)
    assert stopped.value.code == 128 + number
    assert cluster.calls == ["serve.start", "serve.run", "serve.shutdown", "ray.shutdown"]
    assert "stopped before it answered" in capsys.readouterr().err
    assert signal.getsignal(number) is before


def test_a_signal_once_it_answers_stops_in_order(
    run: str, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    cluster.loading = timer.start
    serve_run(run, limits=Limits(request_s=1))
    assert cluster.calls[-2:] == ["serve.shutdown", "ray.shutdown"]
    assert "what runs is finished first" in capsys.readouterr().err
