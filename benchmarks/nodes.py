"""Ray clusters of several nodes on this machine: each node is a `ray start` of its own, with ports,
addresses, folder and token that no other Ray shares, and can be lost by itself.

Nodes have addresses of the loopback network (127.0.0.2, ...), so that Ray takes them for machines;
the head, where drivers run, has no CPU unless asked for.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from ray.util import get_node_ip_address

from benchmarks.publish import ROOT
from tests.head import BIN, clean_environment, free_ports, ray, stop, wait_for_port

SECONDS = 1800.0  # for nodes to come and go on a machine with other work to do
STORE = 150_000_000  # bytes of each node's object store


class Nodes:
    """A running cluster: the environment of its drivers, and its nodes by number."""

    def __init__(self, folder: Path, head_cpus: int, variables: Mapping[str, str]) -> None:
        self.folder = folder
        gcs, self.dashboard, agent, client = free_ports(4)
        self.address = f"{get_node_ip_address()}:{gcs}"
        own = {"HOME": str(folder), "RAY_AUTH_MODE": "token", "PYTHONPATH": str(ROOT)}
        own |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        # the compiled operators of DeepSpeed stay where they are
        own |= {"TORCH_EXTENSIONS_DIR": str(Path.home() / ".cache" / "torch_extensions")}
        self.environment = clean_environment() | own | dict(variables)
        self.workers: dict[int, subprocess.Popen[bytes]] = {}
        self.number = 1
        ray(["get-auth-token", "--generate"], self.environment)
        options = ["--head", f"--port={gcs}", f"--num-cpus={head_cpus}"]
        options += [f"--dashboard-port={self.dashboard}", f"--ray-client-server-port={client}"]
        options += ["--dashboard-host=127.0.0.1", f"--temp-dir={folder}/r"]
        self.head = self._start(options, agent, "head")
        self.driver = self.environment | {"RAY_ADDRESS": self.address}

    def _start(self, options: list[str], agent: int, name: str) -> subprocess.Popen[bytes]:
        """Workers take random ports: nodes of one machine share its range."""
        options += [f"--dashboard-agent-listen-port={agent}", f"--object-store-memory={STORE}"]
        options += ["--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats"]
        with (self.folder / f"{name}.log").open("w") as log:
            command = [str(BIN / "ray"), "start", "--block", *options]
            return subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def add(self, cpus: int = 1) -> int:
        """Starts another node; its number."""
        self.number += 1
        options = [f"--address={self.address}", f"--num-cpus={cpus}"]
        options += [f"--node-ip-address=127.0.0.{self.number}"]
        (agent,) = free_ports(1)
        self.workers[self.number] = self._start(options, agent, f"node-{self.number}")
        return self.number

    def lose(self, number: int) -> None:
        """kill -9 of all that runs on a node, as if it lost power."""
        node = self.workers.pop(number)
        family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        node.wait()
        psutil.wait_procs(family, timeout=30)

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Ray's worker processes by node ("head" or a number) that do something."""
        found = {}
        for name, node in {"head": self.head, **self.workers}.items():
            found[str(name)] = [
                child for child in _children(node.pid) if _title(child).startswith("ray::")
            ]
        return found

    def wait(self, count: int, seconds: float = SECONDS) -> None:
        """Returns once so many nodes, the head included, are alive; RuntimeError after that."""
        end = time.monotonic() + seconds
        while (alive := self.alive()) != count:
            if self.head.poll() is not None or time.monotonic() > end:
                logs = (f"{log.name}: {log.read_text()[-800:]}" for log in self.logs())
                raise RuntimeError(f"{alive} nodes are alive, not {count}; {' '.join(logs)}")
            time.sleep(1)

    def logs(self) -> list[Path]:
        """What each `ray start` has said."""
        return sorted(self.folder.glob("*.log"))

    def alive(self) -> int:
        """How many nodes the head counts."""
        code = "import ray; ray.init(logging_level=50)\nalive = [n['Alive'] for n in ray.nodes()]"
        command = [str(BIN / "python"), "-c", f"{code}\nprint('ALIVE', sum(alive))"]
        done = subprocess.run(command, env=self.driver, capture_output=True, text=True)
        found = re.findall(r"ALIVE (\d+)", done.stdout)
        return int(found[0]) if found else 0


def _children(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def stage_workers(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that work for a stage: shard workers, index shards, training workers, trials."""
    kinds = ("MapWorker", "RayTrainWorker", "Guard", "ImplicitFunc", "_measured", "_call")
    return [one for one in processes if any(kind in _title(one) for kind in kinds)]


@contextlib.contextmanager
def cluster(
    num_nodes: int = 0,
    *,
    cpus: int = 1,
    head_cpus: int = 0,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Nodes]:
    """A cluster of a head and `num_nodes` others, ended with all it started; `variables` are in the
    environment of all its processes.
    """
    folder = Path(tempfile.mkdtemp(prefix="rn-"))  # short: the paths of sockets are limited
    nodes: Any = None
    try:
        nodes = Nodes(folder, head_cpus, variables)
        wait_for_port(nodes.dashboard, nodes.head, SECONDS)
        for _ in range(num_nodes):
            nodes.add(cpus)
        nodes.wait(num_nodes + 1)
        yield nodes
    finally:
        if nodes is not None:
            for process in [*nodes.workers.values(), nodes.head]:
                stop(process)
        shutil.rmtree(folder, ignore_errors=True)
