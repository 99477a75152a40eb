"""`ray job submit --working-dir . -- python jobs/pipeline.py ...` does what `radit run` does: same
stages, same fingerprints, on a cluster that refuses whoever lacks its token; and only code is
uploaded. `serve deploy jobs/serve.yaml` serves its run. The cluster is a real one of two CPUs with
ports, token and folder of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from client import Client
from head import BIN, START_S, clean_environment, free_ports, ray, stop, wait_for_port
from own import arguments_of

import radit_ray

pytestmark = pytest.mark.ray
ROOT = Path(radit_ray.__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running head: where its dashboard listens, and the environment of its clients."""

    url: str
    folder: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """`ray start --head` with its own token; in a short folder, as socket paths are limited."""
    folder = Path(tempfile.mkdtemp(prefix="rj-"))
    gcs, dashboard, agent, client = free_ports(4)
    environment = clean_environment() | {"HOME": str(folder), "RAY_AUTH_MODE": "token"}
    log = (folder / "start.log").open("w")
    head = None
    try:
        ray(["get-auth-token", "--generate"], environment)
        options = [f"--port={gcs}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"]
        options += [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
        options += [f"--temp-dir={folder}/r", "--num-cpus=2", "--disable-usage-stats"]
        command = [str(BIN / "ray"), "start", "--head", "--block", *options]
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_for_port(dashboard, head)
        yield Cluster(f"http://127.0.0.1:{dashboard}", folder, environment)
    finally:
        if head is not None:
            stop(head)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster: Cluster, folder: Path, entry: list[str]) -> str:
    """Submits from a folder as the README says; a young cluster has no agent for jobs yet."""
    command = ["job", "submit", "--address", cluster.url, "--working-dir", ".", "--", *entry]
    deadline = time.monotonic() + START_S
    while True:
        done = ray(command, cluster.environment, cwd=folder, timeout=500)
        if "No available agent" not in done.stdout or time.monotonic() > deadline:
            assert done.returncode == 0, done.stdout[-3000:]
            return done.stdout
        time.sleep(1)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as a user has it, beside an environment and finished runs that must stay at home."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("radit_ray", "jobs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in (".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in (".venv/lib/large.so", "runs/demo/artifacts/large.bin", "build/large.bin"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(os.urandom(1 << 20))
    return folder


@pytest.fixture(scope="module")
def job(
    cluster: Cluster,
    checkout: Path,
    own_world: dict[str, str],
    tiny_models: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The run folder of a job that has succeeded."""
    output = tmp_path_factory.mktemp("there")
    entry = ["python", "jobs/pipeline.py", *arguments_of(own_world, tiny_models, output)]
    assert "results.json written" in submit(cluster, checkout, entry)
    return output


def test_the_cluster_refuses_requests_without_the_token(cluster: Cluster) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{cluster.url}/api/jobs/", timeout=10)
    assert refused.value.code == 401
    refused.value.close()
    token = (cluster.folder / ".ray" / "auth_token").read_text().strip()
    request = urllib.request.Request(f"{cluster.url}/api/jobs/")
    request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def test_doctor_asks_the_cluster_with_and_without_the_token(job: Path, cluster: Cluster) -> None:
    """Behind the job: a head that has just started lists its node only seconds later."""
    command = [sys.executable, "-m", "radit_ray.cli", "doctor", "--json", "--address", cluster.url]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "cwd": ROOT}
    done = subprocess.run(command, env=cluster.environment, **options)
    found = {(one["name"], one["level"]): one["state"] for one in json.loads(done.stdout)}
    assert found["cluster token", "ok"] == "requests without it are refused (401)"
    assert found["cluster Ray", "ok"].endswith("as here")
    assert found["nodes", "ok"] == "1 alive, 2 CPUs, 0 GPUs"
    stranger = cluster.environment | {"RAY_AUTH_TOKEN": "of another cluster"}
    done = subprocess.run(command, env=stranger, **options)
    assert done.returncode == 1
    found = {(one["name"], one["level"]): one["fix"] for one in json.loads(done.stdout)}
    assert "copy the head's ~/.ray/auth_token" in found["cluster token", "fail"]


def test_a_submitted_job_makes_the_artifacts_of_radit_run(job: Path, own_run: Path) -> None:
    here, there = fingerprints(own_run), fingerprints(job)
    stages = {"chunk", "embed", "index", "retrieve", "lm-ft", "it", "score", "r-ft"}
    assert set(here) == stages | {"retrieve-tuned", "evaluate"}
    assert there == here
    made, expected = (read_results(run)["variants"] for run in (job, own_run))
    for name, values in expected.items():
        for metric, cell in values.items():
            assert made[name][metric]["value"] == pytest.approx(cell["value"], abs=1e-3)


def read_results(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text()))


def fingerprints(run: Path) -> dict[str, str]:
    """Stage -> fingerprint of its artifact."""
    return {name: stage["fingerprint"] for name, stage in read_results(run)["stages"].items()}


def test_only_code_was_uploaded(job: Path, cluster: Cluster) -> None:
    packages = "r/session_2*/runtime_resources/working_dir_files/_ray_pkg_*/"
    (uploaded,) = cluster.folder.glob(packages)
    names = {path.name for path in uploaded.iterdir()}
    assert {"radit_ray", "jobs"} <= names
    assert not {".venv", "runs", "build"} & names
    # the link to jobs/pipeline.py arrives as a file
    copied = uploaded / "radit_ray" / "pipeline.py"
    assert copied.read_bytes() == (ROOT / "jobs" / "pipeline.py").read_bytes()
    size = sum(path.stat().st_size for path in uploaded.rglob("*") if path.is_file())
    code = sum(path.stat().st_size for path in (ROOT / "radit_ray").rglob("*") if path.is_file())
    assert size < code + (1 << 20)


@pytest.mark.slow
def test_the_run_is_served_by_serve_deploy(job: Path, cluster: Cluster, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    described = yaml.safe_load((ROOT / "jobs" / "serve.yaml").read_text())
    described["http_options"]["port"] = port
    (application,) = described["applications"]
    small = {"replicas": 1, "cpus": 0.1}
    application["args"] |= {"run": str(job), "lm": small, "retriever": small}
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(described))

    def command(*words: str) -> str:
        # the command looks for the application's module where it stands
        done = subprocess.run(
            [str(BIN / "serve"), *words, "--address", cluster.url],
            **{"env": cluster.environment, "cwd": ROOT, "text": True, "capture_output": True},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    command("deploy", str(file))
    client = Client(port)
    deadline = time.monotonic() + 2 * START_S
    while not answers(client):
        assert time.monotonic() < deadline, command("status")
        time.sleep(0.5)
    assert [model["id"] for model in client.get("/v1/models").json["data"]] == ["radit", "replug"]
    reply = client.post("/v1/answer", question="Who is the mayor of Arden?")
    assert (reply.status, len(reply.json["chunks"])) == (200, 2), reply.body
    command("shutdown", "-y")
    while answers(client):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def answers(client: Client) -> bool:
    try:
        return client.get("/readyz").status == 200
    except OSError:
        return False
