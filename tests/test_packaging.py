"""What is delivered beside the code: the wheel holds the whole package as real files and its
command runs without the checkout; cluster.yaml passes Ray's own loader and stays closed; the
Makefile names the tiers; the change log knows the version.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

import radit_ray

ROOT = Path(radit_ray.__file__).parent.parent
CLUSTER = ROOT / "cluster.yaml"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that the checkout gets no build folder; without isolation
    nothing is downloaded.
    """
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("radit_ray", "jobs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, source)
    (built,) = out.glob("*.whl")
    return built


def run(*arguments: object, **options: object) -> str:
    """What this Python prints when run with these arguments."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        modes = [info.external_attr >> 16 for info in archive.infolist()]
        pipeline = archive.read("radit_ray/pipeline.py")
        (licence,) = [name for name in archive.namelist() if name.endswith("/LICENSE")]
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "radit_ray").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"radit_ray/py.typed", "radit_ray/pipeline.py"} <= expected
    assert names == expected
    # radit_ray/pipeline.py is a link to jobs/pipeline.py here, and a file of its own in the wheel
    assert pipeline == (ROOT / "jobs" / "pipeline.py").read_bytes()
    assert not any(stat.S_ISLNK(mode) for mode in modes)


def test_the_command_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel)
    # PYTHONPATH stands before the editable installation of the checkout
    alone = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(site)}}
    assert run("-c", "import radit_ray; print(radit_ray.__file__)", **alone).startswith(str(site))
    assert run(site / "bin" / "radit", "--help", **alone).startswith("radit: Retrieval-Augmented")
    assert run(site / "bin" / "radit", "--version", **alone).strip() == radit_ray.__version__


def test_the_cluster_file_is_valid_closed_and_of_the_version_that_is_required() -> None:
    cluster = yaml.safe_load(CLUSTER.read_text())
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert sum(t["resources"].get("GPU", 0) for t in prepared["available_node_types"].values()) == 1
    # every process refuses requests without the token, every node has it, the dashboard stays local
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert "/home/ray/.ray/auth_token" in prepared["file_mounts"]
    (head,) = [c for c in prepared["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in head
    assert "SecurityGroup" not in CLUSTER.read_text()
    assert not re.search(r"0\.0\.0\.0|--network|-p \d", CLUSTER.read_text())
    image = re.search(r"rayproject/ray:([\d.]+)-py(\d+)", prepared["docker"]["image"])
    assert image is not None
    requirement = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray")
    assert image[1] in requirement.specifier
    assert image[2] == "311"


def test_the_extras_of_the_cluster_and_of_the_makefile_exist() -> None:
    extras = set(PROJECT["optional-dependencies"])
    named = re.findall(r"\[([\w,]+)\]'", CLUSTER.read_text() + (ROOT / "Makefile").read_text())
    # lm-eval is asked for by name: docs/evaluation.md
    assert {name for group in named for name in group.split(",")} == extras - {"lm-eval", "track"}


def test_the_test_tiers_leave_no_test_out_and_the_plain_one_needs_nothing() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert "TIER = not slow and not data and not gpu" in makefile
    for marker in ("data", "slow"):
        assert f'-m "{marker} and not gpu"' in makefile
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_change_log_knows_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[([^\]]+)\]", text, re.MULTILINE)
    assert versions[0] == "Unreleased"
    assert radit_ray.__version__ in versions
