"""Contract: a number outside its range is refused in one line with exit code 2, before a cluster is
started and before any work; nan and inf are outside every range. So is an --output that says
nothing, and a file of fields that is not UTF-8.
"""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import pytest

from radit_ray.cli import _dispatch, _guarded
from radit_ray.core.errors import InputError, check_bounds
from radit_ray.engines import connect
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import num_workers
from radit_ray.pairs import read_pairs
from radit_ray.recipes import override, own
from radit_ray.runs import check_recipe
from radit_ray.serving.config import Limits, Scale, ServeConfig
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.dedup import DedupConfig, dedup
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.lm_ft import LmFtConfig, check_lm_ft
from radit_ray.stages.r_ft import RFtConfig, check_r_ft
from radit_ray.stages.retrieve import RetrieveConfig, retrieve
from radit_ray.stages.score import ScoreConfig, score

CONFIGS: tuple[Any, ...] = (
    *(
        ChunkConfig(),
        DedupConfig(),
        RetrieveConfig(),
        IndexConfig(),
        ScoreConfig(),
        EvaluateConfig(),
    ),
    *(LmFtConfig(), RFtConfig(), Resources(), own()),
    *(ServeConfig(run="run"), Scale(), Limits()),
)
RUN = ("run", "own", "--output", "x", "--lm", "x", "--retriever", "x", "--corpus", "x")


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def started(**_: Any) -> None:
        raise AssertionError("a cluster was started for nothing")

    monkeypatch.setattr(connect, "connect", started)
    monkeypatch.chdir(tmp_path)


def radit(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that is refused."""
    code = _guarded(lambda: _dispatch(arguments))
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("radit: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_defaults_lie_inside_and_nothing_else_does(config: Any) -> None:
    check_bounds(config, config.BOUNDS)
    for field, (low, high) in config.BOUNDS.items():
        outside = [low - 1, float("nan"), float("inf"), *([] if high is None else [high + 1])]
        for value in outside:
            with pytest.raises(InputError, match=rf"{field}={value} of .*: change {field}"):
                check_bounds(dataclasses.replace(config, **{field: value}), config.BOUNDS)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_bounds_are_no_part_of_what_a_config_says(config: Any) -> None:
    """Fingerprints are made of the fields, and configs travel to other processes."""
    assert "BOUNDS" not in dataclasses.asdict(config)
    assert pickle.loads(pickle.dumps(config)) == config


def test_every_stage_refuses_them_when_called_from_python() -> None:
    nowhere = {"output": "out"}
    calls = [
        lambda: chunk(ChunkConfig(limit=-1), corpus="c", **nowhere),
        lambda: dedup(DedupConfig(ngram=0), chunks="c", **nowhere),
        lambda: retrieve(RetrieveConfig(limit=-1), examples="", index="i", **nowhere),
        lambda: index(IndexConfig(hnsw_links=1), embeddings="e", **nowhere),
        lambda: score(ScoreConfig(seed=-1), ranked="r", **nowhere),
        lambda: evaluate(EvaluateConfig(bootstrap=0), ranked="r", **nowhere),
        lambda: check_lm_ft(LmFtConfig(lr=float("nan"))),
        lambda: check_r_ft(RFtConfig(epochs=float("nan"))),
        lambda: num_workers(Resources(num_workers=-1), 1),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"=(-1|0|1|nan) of \w+; expected .*: change "):
            call()
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("chunk", "--corpus", "c", "--output", "o", "--limit", "-1"), "limit=-1 of ChunkConfig"),
        (("index", "--embeddings", "e", "--output", "o", "--hnsw-links", "1"), "2 to 1024"),
        (("lm-ft", "--ranked", "r", "--output", "o", "--lr", "nan"), "lr=nan of LmFtConfig"),
        (
            ("score", "--ranked", "r", "--output", "o", "--resources.num-workers", "-1"),
            "num_workers=-1 of Resources; expected at least 0",
        ),
        ((*RUN, "--limit", "-1"), "--limit -1; expected at least 1, or 0 for all"),
        ((*RUN, "--set", "lm_ft.lr=nan"), "lm_ft.lr='nan', expected a value of type float, a fin"),
        ((*RUN, "--set", "r_ft.tau=inf"), "r_ft.tau='inf', expected a value of type float, a fin"),
        ((*RUN, "--set", "lm_ft.shares.nq=nan"), "lm_ft.shares.nq='nan', expected a value of"),
        ((*RUN, "--set", "lm_ft.seed=-1"), "seed=-1 of LmFtConfig; expected 0 to 4294967295"),
        ((*RUN, "--set", "index.hnsw_links=0"), "hnsw_links=0 of IndexConfig; expected 2 to 1024"),
        ((*RUN, "--set", "resources.num_workers=-2"), "num_workers=-2 of Resources"),
        ((*RUN, "--set", "k_infer=-1"), "k_infer=-1 of Recipe; expected at least 0"),
        ((*RUN, "--seeds", "0,-1"), "seeds=(0, -1), expected each from 0"),
        (("world-lm", "--output", "o", "--seed", "-1"), "seed=-1 of the LM; expected 0 to"),
        (("world-lm", "--output", "o", "--world.chunks-per-subject", "9999"), "4 to 1000"),
    ],
)
def test_the_command_line_refuses_them_in_one_line(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in radit(arguments, capsys)
    assert not list(Path().iterdir())


def test_a_toml_number_that_is_none_is_refused_too() -> None:
    with pytest.raises(InputError, match=r"lm_ft.lr=nan, expected .*a finite one"):
        override(own(), {"lm_ft.lr": float("nan")})
    recipe = override(own(lm="x", retriever="x", corpus="x"), {"retrieve.limit": -1})
    with pytest.raises(InputError, match=r"limit=-1 of RetrieveConfig"):
        check_recipe(recipe)


@pytest.mark.parametrize("empty", [("--output", ""), ("--output", " "), ("--output=",)])
@pytest.mark.parametrize(
    "command",
    [
        ("demo",),
        ("run", "own"),
        ("chunk", "--corpus", "c"),
        ("evaluate", "--ranked", "r"),
        ("world-lm",),
        ("challenge", "run"),
        ("predictions", "run", "radit"),
        ("few-shot", "run"),
    ],
)
def test_an_empty_output_is_refused(
    command: tuple[str, ...], empty: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert '--output is ""; expected a folder or file' in radit((*command, *empty), capsys)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lm = 'caf\xe9'\n".encode("latin-1"), "not UTF-8 (byte 0xe9); convert it with `iconv"),
        ("lm = 'x'\n".encode("utf-16"), "not UTF-8 but UTF-16; convert it with `iconv -f UTF-16 "),
    ],
)
def test_a_file_of_fields_that_is_not_utf_8(
    content: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("fields.toml", "pairs.toml", "pairs.json"):
        (tmp_path / name).write_bytes(content)
    file = str(tmp_path / "fields.toml")
    assert f"{file}: {message}" in radit((*RUN, "--config", file), capsys)
    for name in ("pairs.toml", "pairs.json"):
        with pytest.raises(InputError) as caught:
            read_pairs(str(tmp_path / name))
        assert f"{name}: {message}" in str(caught.value)
