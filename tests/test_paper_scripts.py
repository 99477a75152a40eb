"""jobs/paper_7b.sh and jobs/paper_65b.sh submit one job a stage with the paper's settings: what
they would submit is read from their --dry-run and goes through the command's own parser. And a
run that stops after a stage (`--until`) leaves what the whole run would have made there.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from own import arguments_of, radit

import radit_ray
from radit_ray import commands
from radit_ray.cli import RecipeArgs, joined
from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import read_manifest
from radit_ray.data.paper_tasks import TRAINING
from radit_ray.data.tasks import parse_task
from radit_ray.engines.resources import Resources
from radit_ray.options import parse
from radit_ray.recipe_checks import check_until, stages_of
from radit_ray.recipes import Recipe, own, paper
from radit_ray.stages.index import IndexConfig

ROOT = Path(radit_ray.__file__).parent.parent
SCRIPTS = ("paper_7b", "paper_65b")
SUBMIT = "ray job submit --address http://127.0.0.1:8265 --working-dir . -- "
GIVEN = {"CORPUS": "/shared/corpus", "STORAGE": "/shared/radit"}


def script(
    name: str, *arguments: str, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """What a script prints, without the variables of whoever runs the tests."""
    return subprocess.run(
        ["bash", str(folder / "jobs" / f"{name}.sh"), *arguments],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def recipes_of(printed: str) -> list[tuple[Recipe, str]]:
    """(recipe, --until) of every submit, as `radit run` would read it."""
    found = []
    for line in printed.splitlines():
        assert line.startswith(SUBMIT)
        words = shlex.split(line.removeprefix(SUBMIT))
        assert words[:3] == ["python", "jobs/pipeline.py", "paper"]
        args = parse(RecipeArgs, joined(words[3:]), "radit run paper")
        assert args.output == GIVEN["STORAGE"]
        found.append((commands.changed(paper(), args), args.until))
    return found


def plain(recipe: Recipe) -> Recipe:
    """Without what changes only the clock."""
    return dataclasses.replace(recipe, resources=Resources())


@pytest.mark.parametrize("name", [*SCRIPTS, "submit"])
def test_scripts_are_well_formed(name: str) -> None:
    file = ROOT / "jobs" / f"{name}.sh"
    subprocess.run(["bash", "-n", str(file)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", str(file)], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", SCRIPTS)
def test_one_submit_a_stage_with_the_settings_of_the_paper(name: str) -> None:
    done = script(name, "--dry-run", **GIVEN)
    assert done.returncode == 0, done.stderr
    found = recipes_of(done.stdout)
    first = found[0][0]
    for recipe, until in found[:-1]:
        check_until(recipe, until)  # it will stop there
    assert [until or "evaluate" for _, until in found] == stages_of(first)
    # all of them make one run: they differ in what changes the clock alone
    assert {repr(plain(recipe)) for recipe, _ in found} == {repr(plain(first))}
    judge = "huggyllama/llama-65b"
    expected = paper(
        lm="huggyllama/llama-7b" if name == "paper_7b" else judge,
        corpus=GIVEN["CORPUS"],
        examples=first.examples,
        index=IndexConfig(num_shards=64),
    )
    batch = {"paper_7b": 64, "paper_65b": 128}[name]  # Table 8
    assert plain(first) == dataclasses.replace(
        expected,
        lm_ft=dataclasses.replace(expected.lm_ft, batch_size=batch),
        score=dataclasses.replace(expected.score, lm=judge),
    )
    for recipe, until in found:
        on_gpus = until not in ("chunk", "index")
        assert (recipe.resources.gpus_per_worker > 0) == on_gpus
        if until in ("lm-ft", "it"):  # AdamW in fp32 takes 16 bytes a parameter
            assert recipe.resources.zero_stage == 3


def test_the_examples_are_the_sets_of_the_paper() -> None:
    found = recipes_of(script("paper_7b", "--dry-run", "chunk", **GIVEN).stdout)
    specs = found[0][0].examples.split(",")
    splits = {task.name: split for task, split in map(parse_task, specs)}
    assert {task.name for task in TRAINING} <= set(splits)
    assert [name for name, split in splits.items() if split == "dev"] == [
        "hotpotqa",
        "fever",
        "aida",
        "zsre",
        "t-rex",
        "wow",
    ]


def test_models_storage_and_stages_are_chosen_by_the_caller() -> None:
    own_models = {"LM": "/m/lm", "SCORE_LM": "/m/judge", "RETRIEVER": "e5", "EXAMPLES": "qa.jsonl"}
    done = script("paper_7b", "--dry-run", "score", "evaluate", **GIVEN, **own_models, GPUS="3")
    (score, until), (whole, nothing) = recipes_of(done.stdout)
    assert (until, nothing) == ("score", "")
    assert (score.lm, score.score.lm, score.retriever) == ("/m/lm", "/m/judge", "e5")
    assert (score.examples, whole.resources.num_workers) == ("qa.jsonl", 3)


def test_bad_input_of_a_script_is_one_line(tmp_path: Path) -> None:
    for arguments, variables, said in (
        (("--dry",), GIVEN, "--dry is neither --dry-run nor a stage"),
        (("--dry-run",), {"CORPUS": "/c"}, "STORAGE is not set"),
    ):
        done = script("paper_65b", *arguments, **variables)
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    # and this test can fail: a field that does not exist is refused by the parser
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "jobs" / "submit.sh"
    file.write_text(file.read_text().replace("r_ft.warmup", "r_ft.warm_up"))
    with pytest.raises(InputError, match="has no 'warm_up'; did you mean 'warmup'"):
        recipes_of(script("paper_7b", "--dry-run", folder=tmp_path, **GIVEN).stdout)


def test_a_stage_that_a_run_never_reaches_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'embed'"):
        check_until(own(examples="qa.jsonl"), "embedd")
    with pytest.raises(InputError, match="that is the whole run"):
        check_until(own(examples="qa.jsonl"), "evaluate")
    with pytest.raises(InputError, match="'embed' is no stage of this run"):
        check_until(own(examples="qa.jsonl", retriever="bm25"), "embed")
    with pytest.raises(InputError, match="'lm-ft' is no stage of this run"):
        check_until(own(), "lm-ft")


@pytest.fixture(scope="module")
def stopped(
    ray_cluster: None,
    own_world: dict[str, str],
    tiny_models: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run that was told to stop after embed, and then to go on and stop after index."""
    folder = tmp_path_factory.mktemp("stopped")
    for until in ("embed", "index"):
        assert radit("run", *arguments_of(own_world, tiny_models, folder), "--until", until) == 0
        assert (folder / until / "manifest.json").exists()
        assert until == "index" or not (folder / "index").exists()
    return folder


@pytest.mark.ray
def test_a_run_stops_after_a_stage_and_goes_on_from_there(stopped: Path) -> None:
    made = [path.name.rpartition("-")[0] for path in (stopped / "artifacts").iterdir()]
    assert sorted(made) == ["chunk", "embed", "index"]  # each once
    assert not (stopped / "results.json").exists()


@pytest.mark.ray
def test_what_a_stopped_run_made_is_what_the_whole_run_makes(stopped: Path, own_run: Path) -> None:
    names = stages_of(own(examples="qa.jsonl"))
    assert all((own_run / name / "manifest.json").exists() for name in names)
    for name in ("chunk", "embed", "index"):
        here, whole = read_manifest(str(stopped / name)), read_manifest(str(own_run / name))
        assert here is not None
        assert whole is not None
        assert here["fingerprint"] == whole["fingerprint"]
