"""`radit doctor`: every finding is a line with its fix, what fails ends with exit code 1, and a bad
value is one line with exit code 2. Real files, ports and a real cluster; a job API with a token is
asked in tests/test_job.py.
"""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from own import radit

from radit_ray.engines.cluster_checks import address_findings, storage_findings
from radit_ray.engines.machine_checks import (
    Finding,
    disk_findings,
    faiss_findings,
    memory_findings,
    package_findings,
    port_finding,
    token_findings,
)


def levels(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.name: finding.level for finding in findings}


def token_file(home: Path, text: str, mode: int) -> Path:
    file = home / ".ray" / "auth_token"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def test_a_line_says_the_level_and_the_fix() -> None:
    assert str(Finding("disk", "3 GiB free")) == "ok    disk: 3 GiB free"
    assert str(Finding("disk", "3 GiB free", "free some")) == "warn  disk: 3 GiB free; free some"
    assert str(Finding("disk", "full", "free some", failed=True)) == "fail  disk: full; free some"


def test_two_faiss_builds_fail_and_one_of_any_kind_is_well() -> None:
    (both,) = faiss_findings({"faiss-cpu", "faiss-gpu-cu12", "torch"})
    assert both.level == "fail"
    assert "pip uninstall --yes faiss-cpu faiss-gpu-cu12 && pip install" in both.fix
    for one in ("faiss-cpu", "faiss-gpu", "faiss-gpu-cu12"):
        assert levels(faiss_findings({one})) == {"faiss": "ok"}


def test_packages_are_held_against_the_metadata() -> None:
    found = {finding.name: finding for finding in package_findings()}
    assert found["packages"].level == "ok"
    assert "ray 2.60" in found["versions"].state
    # another project's wishes, of which this environment has some and lacks others: jsonschema's
    # are all met, and a name without metadata is said to be not installed
    assert levels(package_findings("jsonschema"))["packages"] == "ok"
    assert levels(package_findings("no-such-project"))["packages"] == "warn"


def test_a_package_out_of_range_fails_with_the_command_that_mends_it(tmp_path: Path) -> None:
    info = tmp_path / "wants_another-1.dist-info"
    info.mkdir()
    wishes = ("ray<2", "no-such-package>=1", "torch>=2", 'pytest<1; extra == "dev"')
    lines = "".join(f"Requires-Dist: {wish}\n" for wish in wishes)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: wants-another\nVersion: 1\n{lines}"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        found = {f.name: f for f in package_findings("wants-another") if f.failed}
    finally:
        sys.path.remove(str(tmp_path))
    assert set(found) == {"ray", "no-such-package"}
    assert found["ray"].fix == "pip install 'ray<2'"
    assert found["no-such-package"].state == "not installed, wanted >=1"


def test_the_token_is_asked_for_present_whole_and_private(tmp_path: Path) -> None:
    mode = {"RAY_AUTH_MODE": "token"}
    assert levels(token_findings({}, tmp_path)) == {"token mode": "warn", "token": "warn"}
    assert levels(token_findings(mode, tmp_path)) == {"token mode": "ok", "token": "fail"}
    off = token_findings({"RAY_AUTH_MODE": "disabled"}, tmp_path)
    assert levels(off)["token mode"] == "fail"
    file = token_file(tmp_path, "secret", 0o600)
    assert levels(token_findings(mode, tmp_path)) == {"token mode": "ok", "token": "ok"}
    token_file(tmp_path, " \n", 0o600)
    assert levels(token_findings(mode, tmp_path))["token"] == "fail"
    elsewhere = mode | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}
    assert levels(token_findings(elsewhere, tmp_path))["token"] == "fail"
    inside = mode | {"RAY_AUTH_TOKEN": "secret"}
    found = list(token_findings(inside, tmp_path))
    assert {one.level for one in found} == {"ok"}
    assert not any("secret" in str(one) for one in found)
    # Ray itself writes 644; in a home that nobody may enter others cannot read it all the same
    token_file(tmp_path, "secret", 0o644)
    tmp_path.chmod(0o700)
    (bad,) = (one for one in token_findings(mode, tmp_path) if one.name == "token")
    assert (bad.level, bad.fix) == ("warn", f"chmod 600 {file}")


@pytest.mark.skipif(os.stat("/tmp").st_mode & 0o001 == 0, reason="/tmp is closed")
def test_a_token_that_others_can_read_fails() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        home = Path(folder)
        home.chmod(0o755)
        token_file(home, "secret", 0o644)
        home.joinpath(".ray").chmod(0o755)
        assert levels(token_findings({"RAY_AUTH_MODE": "token"}, home))["token"] == "fail"


def test_ports_are_free_or_taken() -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        taken = port_finding(port, "radit serve", "radit serve RUN --port N")
        assert (taken.level, taken.state) == ("warn", "taken")
        assert "--port N" in taken.fix
    assert port_finding(port, "radit serve", "").level == "ok"


def test_disks_and_memory(tmp_path: Path) -> None:
    (here,) = disk_findings("disk here", str(tmp_path / "not" / "yet" / "there"))
    assert here.state.startswith(f"{tmp_path}: ")  # the nearest folder that exists
    found = {finding.name: finding for finding in memory_findings(str(tmp_path))}
    assert set(found) == {"memory", str(tmp_path), "open files"}


def test_a_storage_is_written_read_and_left_empty(tmp_path: Path) -> None:
    assert levels(storage_findings(str(tmp_path / "runs"))) == {"storage": "ok"}
    assert list((tmp_path / "runs").iterdir()) == []
    assert levels(storage_findings("memory://runs")) == {"storage": "ok", "storage locks": "warn"}
    (tmp_path / "file").write_text("")
    (bad,) = storage_findings(str(tmp_path / "file" / "runs"))
    assert bad.level == "fail"


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, said in (
        (("--storage", "nowhere://x"), "expected a folder or a URI"),
        (("--address", "ftp://x"), "expected http://HOST:8265"),
        (("--address", "head"), "expected http://HOST:8265"),
        (("--adress", "auto"), "--adress"),
        (("now",), "now"),
    ):
        assert radit("doctor", *arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert said in lines[0]


def test_what_fails_ends_with_1_and_json_holds_every_finding(tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        nowhere = f"127.0.0.1:{one.getsockname()[1]}"
    environment = {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "token"}
    environment.pop("RAY_AUTH_TOKEN", None)
    command = [sys.executable, "-m", "radit_ray.cli", "doctor", "--address", nowhere, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert (found["token"]["level"], found["token"]["failed"]) == ("fail", True)
    assert found["token"]["fix"] == "ray get-auth-token --generate"
    assert found["cluster"]["level"] == "fail"
    assert found["cluster"]["state"].startswith(f"no Ray at {nowhere} (")
    assert f" of {len(found)} findings fail" in done.stderr
    token_file(tmp_path, "0123456789abcdef", 0o600)
    command = [*command[:4], "--storage", str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = {line[6:].partition(":")[0]: line[:4].strip() for line in done.stdout.splitlines()}
    assert lines["token"] == "ok"
    assert set(lines) == set(found) - {"cluster"} | {"storage"}
    assert done.returncode == ("fail" in lines.values())  # a disk of this machine may be full


class Open(http.server.BaseHTTPRequestHandler):
    """A job API that takes whoever comes."""

    states: tuple[str, ...] = ("ALIVE", "DEAD")  # of its nodes

    def do_GET(self) -> None:
        body: dict[str, object] = {"ray_version": "2.9.0"}
        if "nodes" in self.path:
            nodes = [{"state": s, "resources_total": {"CPU": 4.0}} for s in self.states]
            body = {"data": {"result": {"result": nodes}}}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        pass


class Bare(Open):
    """The head alone, which has not listed itself yet."""

    states = ()


def asked(handler: type[Open]) -> tuple[str, dict[str, Finding]]:
    """(where a job API stood, what was found there)."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        return url, {finding.name: finding for finding in address_findings(url)}
    finally:
        server.shutdown()
        server.server_close()


def test_a_cluster_without_a_node_is_no_good_one() -> None:
    _, found = asked(Bare)
    assert (found["nodes"].level, found["nodes"].state) == ("warn", "0 alive, 0 CPUs, 0 GPUs")
    assert found["nodes"].fix.startswith("no node has joined")


def test_an_open_cluster_of_another_ray_with_a_lost_node_is_told() -> None:
    url, found = asked(Open)
    assert found["cluster token"].level == "fail"
    assert found["cluster Ray"].level == "fail"
    assert (found["nodes"].level, found["nodes"].state) == ("warn", "1 alive, 4 CPUs, 0 GPUs")
    (closed,) = address_findings(url)
    assert (closed.name, closed.level) == ("cluster", "fail")


@pytest.mark.ray
def test_every_node_of_a_cluster_looks_at_itself(ray_cluster: None, tmp_path: Path) -> None:
    found = {finding.name: finding for finding in address_findings("auto", str(tmp_path))}
    assert found["versions on the nodes"].state == "1 of 1 nodes agree"
    (node,) = (name for name in found if name.startswith("node ") and name.count(": ") == 0)
    assert found[node].state == "2 CPUs, 0 GPUs"
    assert list(tmp_path.iterdir()) == []
