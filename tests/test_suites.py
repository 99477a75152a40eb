"""Contract of `radit evaluate --suite`: the rows whose roles are given, on the tasks that can be
read, through the stages; and of 64-shot tuning.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chain import Chain

from radit_ray.cli import _dispatch, _guarded
from radit_ray.core.errors import InputError
from radit_ray.data.examples import read_examples
from radit_ray.pairs import read_pairs
from radit_ray.suites import TaskPlan, _check_unseen, demonstrations, plan_task

PLACES = ("Arden", "Belden", "Corden", "Dunden", "Elsden", "Falden")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with nq, test and dev, in its native formats."""
    root = tmp_path_factory.mktemp("data")
    rows = [
        {"question": f"Who is the mayor of {place}? {n}", "answer": [f"Anna {place}"]}
        for n, place in enumerate(PLACES * 20)
    ]
    (root / "qa" / "nq_open").mkdir(parents=True)
    test = "\n".join(map(json.dumps, rows[:12])).encode()
    (root / "qa" / "nq_open" / "NQ-open.dev.jsonl.xz").write_bytes(lzma.compress(test))
    dev = "".join(f"{r['question']}\t{r['answer']}\n" for r in rows[12:]).encode()
    (root / "qa" / "nq_open" / "topics.dpr.nq.dev.txt.xz").write_bytes(lzma.compress(dev))
    before = os.environ.get("RADIT_DATA")
    os.environ["RADIT_DATA"] = str(root)
    yield root
    os.environ.pop("RADIT_DATA")
    if before is not None:
        os.environ["RADIT_DATA"] = before


@pytest.fixture(scope="module")
def variants(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A variants file with two roles on the same models."""
    pair = f'lm = "{chain.lm}"\nquery_encoder = "{chain.retriever}"\nindex = "{chain.index}"\n'
    rest = "k = 2\nmax_new_tokens = 4\n"
    file = tmp_path_factory.mktemp("variants") / "variants.toml"
    file.write_text(f"[replug]\n{pair}{rest}[radit]\n{pair}{rest}")
    return str(file)


def radit(*arguments: str) -> int:
    return _guarded(lambda: _dispatch(arguments))


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_demonstrations_are_no_questions(data: Path) -> None:
    plan = plan_task("nq", limit=4, shots=5)
    assert (plan.num_questions, plan.num_demonstrations, plan.missing) == (4, 64, "")
    rows = read_examples(plan.spec)
    assert {row["split"] for row in rows} == {"eval", "train"}
    assert plan_task("nq", limit=4, shots=0).spec == "eval=task:nq@4"
    # no other split lies here: those behind the questions, and none behind a whole set
    own = plan_task("nq:dev", limit=50, shots=5)
    assert own.num_demonstrations == 108 - 50
    asked = [row["question"] for row in read_examples(own.spec)]
    assert len(set(asked)) == 108
    assert plan_task("nq:dev", limit=0, shots=5).num_demonstrations == 0
    assert "eli5" in plan_task("eli5", limit=4, shots=5).missing


@pytest.mark.ray
def test_the_rows_of_a_suite_are_evaluated(
    data: Path, variants: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "--suite", "paper-table-2", "--variants", variants, "--limit", "4"]
    words += ["--tasks", "nq,eli5", "--output", str(tmp_path / "out")]
    assert radit(*words, "--resources.num-workers", "1") == 0
    results = read(tmp_path / "out" / "suite.json")
    assert results["tasks"]["nq"]["num_questions"] == 4
    assert "eli5" in results["tasks"]["eli5"]["missing"]
    rows = {row["label"]: row for row in results["rows"]}
    for label in ("0-shot REPLUG", "0-shot RA-DIT", "5-shot REPLUG", "5-shot RA-DIT"):
        assert set(rows[label]["ours"]) == {"nq"}
    # the same models under two names
    same = rows["0-shot RA-DIT"]["comparisons"][0]
    assert same["against"] == "0-shot REPLUG"
    assert same["differences"]["nq"] == {"value": 0, "low": 0, "high": 0}
    assert rows["0-shot RA-DIT"]["paper"]["nq"]["value"] == 35.2
    assert rows["0-shot LLaMA-65B"]["missing"].startswith("radit run own")
    out = capsys.readouterr().out
    assert "5-shot RA-DIT" in out
    assert radit("report", str(tmp_path / "out")) == 0
    assert capsys.readouterr().out == (tmp_path / "out" / "suite.md").read_text()
    # a second call reads what is there
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("artifacts/*/manifest.json")}
    assert len(stamps) == 2
    assert radit(*words, "--resources.num-workers", "1") == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


@pytest.mark.ray
@pytest.mark.slow
def test_64_shot_tuning_adds_a_role(data: Path, variants: str, tmp_path: Path) -> None:
    words = ["few-shot", variants, "--output", str(tmp_path), "--tasks", "nq", "--steps", "4"]
    words += ["--seq-len", "128", "--batch-size", "2", "--eval-every", "2"]
    assert radit(*words, "--resources.num-workers", "1") == 0
    pair = read_pairs(f"{variants},{tmp_path}/variants.json")["radit-64shot"]
    assert Path(pair.lm, "model.safetensors").exists()
    assert pair.query_encoder == read_pairs(variants)["radit"].query_encoder


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[replag]\n", "unknown role 'replag'; did you mean 'replug'"),
        ("[replug]\nlm = 'x'\n", "role 'replug' needs lm, query_encoder, index"),
        ("[replug]\nlmm = 'x'\n", "unknown field replug.lmm; did you mean 'lm'"),
        ("replug = 3\n", "role 'replug' needs lm, query_encoder, index"),
        ("[replug\n", "expected TOML with one table a role"),
        (
            "[replug]\nlm = 'x'\nquery_encoder = 'x'\nindex = 'x'\nk = 'ten'\n",
            "replug.k='ten', expected int",
        ),
    ],
)
def test_bad_variants_files(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "v.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        read_pairs(str(file))
    assert message in str(error.value)
    assert str(file) in str(error.value)


def test_a_json_file_without_tables(tmp_path: Path) -> None:
    file = tmp_path / "v.json"
    for text in ("[1]", "3"):
        file.write_text(text)
        with pytest.raises(InputError, match="holds no table; expected one table a role"):
            read_pairs(str(file))


def runs(root: Path) -> tuple[str, str]:
    """Two finished runs, as far as run.json tells."""
    for name in ("a", "b"):
        pair = {"lm": f"/{name}", "query_encoder": f"/q-{name}", "index": "/i", "k": 3}
        record = {"variants": dict.fromkeys(("replug", "replug-5shot", "lm-ft"), pair)}
        (root / name).mkdir()
        (root / name / "run.json").write_text(json.dumps(record))
    return str(root / "a"), str(root / "b")


def test_a_second_run_plays_the_roles_that_it_is_named_for(tmp_path: Path) -> None:
    a, b = runs(tmp_path)
    assert set(read_pairs(a)) == {"replug", "lm-ft"}
    found = read_pairs(f"{a},replug-contriever={b}, lm-ft-7b={b}:lm-ft,lm-ft={b}")
    assert {role: pair.lm for role, pair in found.items()} == {
        "replug": "/a",
        "replug-contriever": "/b",
        "lm-ft-7b": "/b",
        "lm-ft": "/b",
    }
    assert read_pairs(f"replug-cc={a}:replug-5shot")["replug-cc"].k == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{a},{b}", "role 'replug' is in {a} and in {b}; say which one with --variants"),
        ("replag={a}", "unknown role 'replag'; did you mean 'replug'"),
        ("r-ft-tasks={a}", "has no variant 'r-ft-tasks'; it has: replug, replug-5shot, lm-ft"),
        ("replug={a}:radit", "has no variant 'radit'"),
        ("replug={a}x", "{a}x' is no finished run (no run.json)"),
        ("replug={a},replug={b}", "names role 'replug' twice"),
    ],
)
def test_roles_that_cannot_be_taken(tmp_path: Path, spec: str, message: str) -> None:
    a, b = runs(tmp_path)
    with pytest.raises(InputError) as error:
        read_pairs(spec.format(a=a, b=b))
    assert message.format(a=a, b=b) in str(error.value)
    assert "\n" not in str(error.value)


def test_64_shots_are_not_asked_again() -> None:
    """Sets with one split lend the 64-shot stage what stands behind the first 2,500 questions."""
    assert demonstrations("hotpotqa", 0) == "train=task:hotpotqa:dev@2500+64"
    plan = TaskPlan(name="hotpotqa", spec="", num_questions=2501, num_demonstrations=64)
    with pytest.raises(InputError, match=r"2501 questions of hotpotqa .* ask 2500 at most"):
        _check_unseen("hotpotqa", plan)
    _check_unseen("hotpotqa", dataclasses.replace(plan, num_questions=2500))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--suite", "paper-table-1"], "unknown suite 'paper-table-1'"),
        (
            ["--suite", "paper-table-2", "--variants", "nowhere"],
            "expected the folder of a finished",
        ),
        (["--suite", "paper-table-2", "--tasks", "nqq"], "unknown task 'nqq'; did you mean 'nq'"),
        (
            ["--suite", "paper-table-2", "--tasks", "popqa"],
            "suite 'paper-table-2' has no task 'popqa'",
        ),
        (["--suite", "paper-table-2", "--limit", "-1"], "limit=-1, expected 0 (all"),
        (["--suite="], "--suite is missing"),
    ],
)
def test_bad_options_are_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "v.toml"
    file.write_text('[radit]\nlm = "a"\nquery_encoder = "b"\nindex = "c"\n')
    rest = [] if "--variants" in words else ["--variants", str(file)]
    assert radit("evaluate", *words, *rest, "--output", "out") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
