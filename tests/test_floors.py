"""The house keeps its floors (docs/design.md): each one is imported in a fresh process and must not
bring in what stands above it or what it may not know, and no file imports a forbidden package, not
even inside a function.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import radit_ray

PACKAGE = Path(radit_ray.__file__).parent
FLOORS = ("core", "data", "models", "engines", "stages", "serving", "report")
TOP = {"cli", "cli_results", "commands", "cycles", "demo_world", "options", "pairs", "pipeline"}
TOP |= {"curves", "overlap_command", "recipe_checks", "sweeps", "sweep_commands", "trials"}
TOP |= {"challenge", "few_shot", "harness", "index_plan", "plan", "plan_like", "recipes"}
TOP |= {"runs", "suite_commands", "suites", "sweep_checks"}
ABOVE = {"open_questions"}  # a folder of whole runs, as the modules of TOP
FRAMEWORKS = {"transformers", "sentence_transformers", "peft", "faiss", "deepspeed"}
# floor -> what it may import of ours; what it may never import; what its import may not even load
ALLOWED = {
    "core": {"core"},
    "data": {"core", "data"},
    "models": {"core", "models"},
    "engines": {"core", "data", "models", "engines"},
    "stages": {"core", "data", "models", "engines", "stages"},  # stages: of its own only, see below
    "serving": {"core", "data", "models", "engines", "report", "serving"},
    "report": {"core", "data", "models", "engines", "report"},
}
FORBIDDEN = {
    "core": FRAMEWORKS | {"ray", "pyarrow", "datasets", "fsspec", "tokenizers"},
    "data": FRAMEWORKS | {"ray"},
    "models": {"ray", "pyarrow", "datasets", "deepspeed"},
    "engines": {"tyro"},
    "stages": {"tyro"},
    "serving": {"tyro"},
    "report": {"tyro"},
}
NOT_LOADED = {
    "core": FORBIDDEN["core"] | {"rouge"},
    "data": FORBIDDEN["data"] | {"datasets"},
    "models": {"ray", "deepspeed"},
    "engines": {"tyro", "deepspeed", "optuna"},
    "stages": {"tyro", "deepspeed", "optuna"},
}


def files(floor: str) -> list[Path]:
    """The Python files of one floor; an empty list for a floor that is not built yet."""
    return sorted((PACKAGE / floor).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever the statement stands; `from a import b` is a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """The first name below radit_ray of every import of our own: a floor or a module of the top."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("radit_ray.")}


@pytest.mark.parametrize("floor", sorted(NOT_LOADED))
def test_importing_a_floor_loads_nothing_from_above_and_nothing_forbidden(floor: str) -> None:
    names = [
        ".".join(("radit_ray", *path.relative_to(PACKAGE).with_suffix("").parts))
        for path in files(floor)
        if path.stem != "__init__"
    ]
    assert names
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert set(names) <= loaded
    below = {name.split(".")[1] for name in loaded if name.startswith("radit_ray.")}
    assert below <= ALLOWED[floor] | {floor}
    assert not NOT_LOADED[floor] & loaded


@pytest.mark.parametrize("floor", FLOORS)
def test_no_file_of_a_floor_imports_a_forbidden_floor_or_package(floor: str) -> None:
    for path in files(floor):
        assert ours(path) <= ALLOWED[floor], path
        packages = {name.split(".")[0] for name in imports(path)}
        assert not FORBIDDEN[floor] & packages, path


def test_no_stage_imports_another() -> None:
    """A stage in two files, lm_ft.py and lm_ft_instances.py, is one stage."""
    stems = {path.stem for path in files("stages")} - {"__init__"}
    stage_of = {
        s: min((t for t in stems if s == t or s.startswith(f"{t}_")), key=len) for s in stems
    }
    assert len(set(stage_of.values())) == 9
    for path in files("stages"):
        found = {
            name.split(".")[2] for name in imports(path) if name.startswith("radit_ray.stages.")
        }
        assert {stage_of[name] for name in found} <= {stage_of.get(path.stem)}, path


def test_core_needs_only_the_standard_library_numpy_and_torch() -> None:
    for path in files("core"):
        outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        extra = {"rouge"} if path.stem == "metrics" else set()
        assert outside <= {"numpy", "torch", "radit_ray"} | extra, path


def test_every_folder_of_the_package_is_a_known_floor() -> None:
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {"core", "data", "models", "engines", "stages"} <= folders <= {*FLOORS, *ABOVE}
    assert {path.stem for path in PACKAGE.glob("*.py")} <= TOP | {"__init__"}


def test_stages_read_neither_arguments_nor_the_environment_and_never_start_ray() -> None:
    forbidden = {"os.environ", "os.getenv", "sys.argv", "ray.init"}
    for path in files("stages"):
        assert not forbidden & {text for _, text in attributes(path)}, path
    users = {p.name for p in PACKAGE.rglob("*.py") if "ray.init" in {t for _, t in attributes(p)}}
    assert users == {"connect.py"}


def test_only_the_command_line_parses_arguments_or_imports_by_a_computed_name() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    tyro = {path.name for path in paths if "tyro" in {name.split(".")[0] for name in imports(path)}}
    assert tyro == {"cli.py", "options.py"}
    computed = {p.name for p in paths if "importlib.import_module" in {t for _, t in attributes(p)}}
    assert computed <= {"cli.py"}


def test_only_the_harness_model_imports_the_harness_and_nobody_imports_it() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert [p.name for p in paths if any(n.split(".")[0] == "lm_eval" for n in imports(p))] == [
        "harness.py"
    ]
    assert not [p for p in paths if "harness" in ours(p)]


def test_the_command_line_is_light_until_it_knows_the_command() -> None:
    code = "import sys, radit_ray.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "transformers", "tyro", "numpy"} & set(done.stdout.split())


def test_no_pickle_no_torch_load_no_remote_code() -> None:
    serializers = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for path in [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "jobs").glob("*.py")]:
        parts = {part for name in imports(path) for part in name.split(".")}
        assert not serializers & parts, path
        for line, text in attributes(path):
            assert text not in ("torch.load", "ray.cloudpickle"), f"{path}:{line}"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                fixed = isinstance(node.value, ast.Constant) and node.value.value
                assert not fixed, f"{path}:{node.value.lineno}"


def attributes(path: Path) -> Iterator[tuple[int, str]]:
    """Every `name.attribute` a file uses, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield node.lineno, f"{node.value.id}.{node.attr}"
