"""What `radit doctor --storage URI` and `--address ADDRESS` look at: a place for runs, a cluster.

In: a folder or URI; `http://HOST:8265` (its job API is asked, nothing is started there) or what
`ray.init` takes ("auto", HOST:PORT), and then every node looks at itself. Out: findings, as in
`machine_checks`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.versions import versions
from radit_ray.engines.connect import connect
from radit_ray.engines.machine_checks import Finding, machine_findings

PAYLOAD = b"radit doctor\n" * 80_000  # a megabyte, so that it takes a measurable time
ANSWER_S, NODE_S = 10.0, 120.0  # waiting for the dashboard, and for a node's own look
SCHEMES = ("http://", "https://")
Answer = tuple[int, Any]  # HTTP status, JSON


def storage_findings(uri: str) -> Iterator[Finding]:
    """Writes, reads, lists and removes a file as a stage would. InputError on a URI of no kind."""
    name = storage.join(uri, f"radit-doctor-{uuid.uuid4().hex[:8]}")
    started = time.perf_counter()
    try:
        storage.write_bytes(name, PAYLOAD)
        whole = storage.read_bytes(name) == PAYLOAD
        listed = name.rpartition("/")[2] in storage.list_files(uri.rstrip("/"))
        if storage.is_local(uri):
            with open(storage.local(name), "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        storage.remove(name)
    except ImportError as error:
        package = f"pip install {error.name}" if error.name else "install what it names"
        yield Finding("storage", f"{uri}: {error}", f"{package}, on every node", failed=True)
        return
    except ValueError as error:
        raise InputError(
            f"--storage {uri}: {error}; expected a folder or a URI such as s3://BUCKET/runs"
        ) from None
    except Exception as error:  # each store has errors of its own
        reason = f"{type(error).__name__}: {error}"
        fix = "look at the path, its permissions, the credentials and the free space"
        yield Finding("storage", f"{uri} cannot be used ({reason})", fix, failed=True)
        return
    if not (whole and listed):
        fix = "a run needs a store that shows at once what was written"
        yield Finding("storage", f"{uri} does not give back what was written", fix, failed=True)
        return
    took = time.perf_counter() - started
    yield Finding("storage", f"{uri} can be written, read, listed and cleared ({took:.2f} s)")
    if not storage.is_local(uri):
        state = "an object store has no locks"
        yield Finding("storage locks", state, "give two runs at once two --outputs there")


def address_findings(address: str, shared: str = "") -> Iterator[Finding]:
    """A running cluster, through its job API or by joining it; `shared`: the storage its nodes must
    all see.
    """
    check_address(address)
    if address.startswith(SCHEMES):
        yield from job_api_findings(address.rstrip("/"))
    else:
        yield from node_findings(address, shared)


def check_address(address: str) -> None:
    """InputError where it is none of the three forms."""
    if address.startswith(SCHEMES):
        return
    if address != "auto" and not re.fullmatch(r"[\w.\-\[\]:]+:\d{1,5}", address):
        raise InputError(f"--address {address}: expected http://HOST:8265, HOST:6379 or auto")


def job_api_findings(url: str) -> Iterator[Finding]:
    """Who is let in, the cluster's Ray, its nodes."""
    try:
        status, _ = _get(f"{url}/api/jobs/", token="")
        inside, _ = _get(f"{url}/api/jobs/", token=_token())
        _, version = _get(f"{url}/api/version", token=_token())
        _, nodes = _get(f"{url}/api/v0/nodes?limit=10000", token=_token())
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        fix = "is the cluster up? `ray dashboard cluster.yaml` brings its port here"
        yield Finding("cluster", f"{url} does not answer as Ray does ({reason})", fix, failed=True)
        return
    if status == 200:
        state = "takes jobs from whoever reaches it"
        fix = "start all its nodes again with RAY_AUTH_MODE=token (docs/security.md)"
        yield Finding("cluster token", state, fix, failed=True)
    else:
        yield Finding("cluster token", f"requests without it are refused ({status})")
    if inside != 200:
        fix = "copy the head's ~/.ray/auth_token here (mode 600) and export RAY_AUTH_MODE=token"
        state = f"the one of this machine is refused ({inside})"
        yield Finding("cluster token", state, fix, failed=True)
        return
    theirs = str(version.get("ray_version"))
    yield _same_ray({"": theirs})
    found = nodes["data"]["result"]["result"]
    alive = [node for node in found if node["state"] == "ALIVE"]
    total = {
        kind: sum(node["resources_total"].get(kind, 0) for node in alive) for kind in ("CPU", "GPU")
    }
    state = f"{len(alive)} alive, {total['CPU']:g} CPUs, {total['GPU']:g} GPUs"
    gone = len(found) - len(alive)
    fix = f"{gone} were lost: `ray status` and the head's logs say why" if gone else ""
    if not alive:
        fix = "no node has joined: wait, a head lists itself some seconds after its start, or see "
        fix += "`ray status`"
    yield Finding("nodes", state, fix)


def _get(url: str, *, token: str) -> Answer:
    """The answer of a request, with its status; no proxy of the environment stands between."""
    request = urllib.request.Request(url)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=ANSWER_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code, {}


def _token() -> str:
    """The token a client of this machine sends; "" without one."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token"
    path = Path(path).expanduser()
    return path.read_text().strip() if path.is_file() else ""


def _same_ray(theirs: dict[str, str]) -> Finding:
    """Clients and nodes speak one version's protocol."""
    wrong = {where: version for where, version in theirs.items() if version != ray.__version__}
    if not wrong:
        return Finding("cluster Ray", f"{ray.__version__}, as here")
    state = ", ".join(f"{version} {where}".strip() for where, version in wrong.items())
    fix = f"pip install ray=={next(iter(wrong.values()))} here, or this version there"
    return Finding("cluster Ray", f"{state}, here {ray.__version__}", fix, failed=True)


def node_findings(address: str, shared: str) -> Iterator[Finding]:
    """Joins the cluster and lets every node look at itself; what is well is one line a node."""
    if not ray.is_initialized():
        host, colon, port = address.rpartition(":")
        try:
            if colon:  # a closed port is known at once; Ray itself would try for a minute
                socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
            os.environ["RAY_ADDRESS"] = address
            connect()
        except (OSError, ValueError, RuntimeError, OverflowError, RayError) as error:
            reason = " ".join(str(error).split())[:200]
            fix = "start one (`ray start --head`), or name one that runs"
            yield Finding("cluster", f"no Ray at {address} ({reason})", fix, failed=True)
            return
    nodes = [node for node in ray.nodes() if node["Alive"]]
    marker = storage.join(shared, f"radit-doctor-{uuid.uuid4().hex[:8]}") if shared else ""
    if marker:
        storage.write_bytes(marker, b"here")
    look = ray.remote(num_cpus=0)(_look)
    asked = {
        node["NodeID"]: look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(marker)
        for node in nodes
    }
    seen = {}
    for node in nodes:
        # several nodes may stand on one machine: an address alone does not name one
        name = f"node {node['NodeManagerAddress']} ({node['NodeID'][-6:]})"
        try:
            found = ray.get(asked[node["NodeID"]], timeout=NODE_S)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
            fix = "look at that node's logs (/tmp/ray/session_latest/logs)"
            yield Finding(name, f"cannot run a task ({reason})", fix, failed=True)
            continue
        seen[name] = found["versions"]
        has = node["Resources"]
        yield Finding(name, f"{has.get('CPU', 0):g} CPUs, {has.get('GPU', 0):g} GPUs")
        if marker and not found["sees"]:
            state, fix = f"does not see what was written to {shared}", "mount it on every node"
            yield Finding(name, state, fix, failed=True)
        for one in found["findings"]:
            if one.fix:
                yield Finding(f"{name}: {one.name}", one.state, one.fix, one.failed)
    if marker:
        storage.remove(marker)
    yield from _same_packages(seen)


def _look(marker: str) -> dict[str, Any]:
    """What a node finds at itself."""
    return {
        "versions": versions(),
        "findings": list(machine_findings(ports=False)),
        "sees": bool(marker) and storage.exists(marker),
    }


def _same_packages(seen: dict[str, dict[str, str]]) -> Iterator[Finding]:
    """A model or a shard that two nodes read with two versions is a result nobody can repeat."""
    names = sorted({name for found in seen.values() for name in found} - {"commit"})
    different = [n for n in names if len({found.get(n, "none") for found in seen.values()}) > 1]
    for name in different:
        state = ", ".join(f"{node} {found.get(name, 'none')}" for node, found in seen.items())
        yield Finding(f"{name} on the nodes", state, "install one version everywhere", failed=True)
    if seen and not different:
        yield Finding("versions on the nodes", f"{len(seen)} of {len(seen)} nodes agree")
