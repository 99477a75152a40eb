"""cluster.yaml runs: Ray's autoscaler reads it, starts the workers it names with the provider that
plays several nodes on one machine, and a run goes through the head that has no CPU of its own.

What differs from the file: the provider, and how much each node claims to have; nothing here can
show what AWS does.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from head import BIN, START_S, clean_environment, free_ports, ray, stop, wait_for_port
from own import arguments_of
from ray.autoscaler._private.util import prepare_config
from ray.util import get_node_ip_address

import radit_ray

ROOT = Path(radit_ray.__file__).parent.parent
WORKERS = 2
HEAD = "ray.head.default"  # what Ray's fake provider calls it
STORE = 150_000_000  # bytes of each node's object store


def cluster_file() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def schema() -> dict[str, Any]:
    """Ray's own, as it is installed."""
    import ray.autoscaler

    file = Path(ray.autoscaler.__file__).with_name("ray-schema.json")
    return dict(json.loads(file.read_text()))


def test_cluster_yaml_passes_rays_schema_and_a_wrong_one_does_not() -> None:
    jsonschema.validate(prepare_config(cluster_file()), schema())
    for path, value in (
        (("max_workers",), "four"),
        (("docker", "images"), "x"),
        (("available_node_types", "gpu_worker", "min_worker"), 4),
        (("worker_start_commands",), []),
    ):
        wrong = cluster_file()
        node = wrong
        for part in path[:-1]:
            node = node[part]
        node[path[-1]] = value
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(prepare_config(wrong), schema())


@dataclasses.dataclass(frozen=True)
class Nodes:
    """A running cluster: where its head listens, and the environment of its clients."""

    address: str
    environment: dict[str, str]


def played(gcs: str) -> dict[str, Any]:
    """cluster.yaml on one machine, with the defaults that `ray up` fills in for its head."""
    config = dict(prepare_config(cluster_file()))
    config["provider"] = {
        "type": "fake_multinode",
        "gcs_address": gcs,
        "disable_node_updaters": True,  # there is nothing to install and no ssh
        "disable_launch_config_check": True,
    }
    types = config["available_node_types"]
    types[HEAD] = types.pop(config["head_node_type"])
    config["head_node_type"] = HEAD
    worker = types["gpu_worker"]
    assert types[HEAD]["resources"] == {"CPU": 0}
    assert worker["min_workers"] == worker["max_workers"] == config["max_workers"]
    worker |= {"min_workers": WORKERS, "max_workers": WORKERS, "node_config": {}}
    worker["resources"] = {"CPU": 1, "object_store_memory": STORE}
    types[HEAD] = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    return config | {"max_workers": WORKERS}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """`ray start` as the file's head does, with ports, token and folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="rc-"))
    gcs, dashboard, agent, client = free_ports(4)
    environment = clean_environment() | {"HOME": str(folder), "RAY_AUTH_MODE": "token"}
    environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    address = f"{get_node_ip_address()}:{gcs}"
    log = (folder / "start.log").open("w")
    head = None
    try:
        ray(["get-auth-token", "--generate"], environment)
        (folder / "cluster.yaml").write_text(yaml.safe_dump(played(address)))
        (start,) = (c for c in cluster_file()["head_start_ray_commands"] if "ray start" in c)
        options = [word for word in start.split()[2:] if not word.startswith(("--port", "--auto"))]
        assert options == ["--head", "--dashboard-host=127.0.0.1"]
        options += [f"--port={gcs}", f"--autoscaling-config={folder}/cluster.yaml"]
        options += [f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
        options += [f"--ray-client-server-port={client}", f"--temp-dir={folder}/r"]
        options += ["--num-cpus=0", f"--object-store-memory={STORE}", "--disable-usage-stats"]
        command = [str(BIN / "ray"), "start", "--block", *options]
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        wait_for_port(dashboard, head)
        yield Nodes(address, environment)
    finally:
        if head is not None:
            stop(head)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def radit(nodes: Nodes, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "radit_ray.cli", *arguments]
    environment = nodes.environment | {"RAY_ADDRESS": nodes.address, "PYTHONPATH": str(ROOT)}
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.ray
def test_the_nodes_of_the_file_come_up_and_a_run_goes_through_them(
    nodes: Nodes, own_world: dict[str, str], tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    deadline = time.monotonic() + START_S
    while True:  # the autoscaler starts one node after the other
        done = radit(
            nodes, "doctor", "--json", "--address", nodes.address, "--storage", str(tmp_path)
        )
        found = {one["name"]: one for one in json.loads(done.stdout)}
        agreed = found.get("versions on the nodes", {}).get("state", "")
        if agreed == f"{WORKERS + 1} of {WORKERS + 1} nodes agree":
            break
        assert time.monotonic() < deadline, done.stdout + done.stderr
    assert not any(one["failed"] and one["name"].startswith("node") for one in found.values())
    arguments = arguments_of(own_world, tiny_models, tmp_path / "run")
    done = radit(
        nodes, "run", *arguments, "--set", f"resources.num_workers={WORKERS}", "--until", "embed"
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "embed").exists()
