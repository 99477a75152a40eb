"""Contract: README and docs/results show what the result files hold, and nothing typed by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import kill, multinode, scale, streaming
from benchmarks.challenges import challenges_page
from benchmarks.defaults import published
from benchmarks.open_questions import NAMES
from benchmarks.publish import BELOW, between, brief, publish
from benchmarks.suites import suites_page
from radit_ray.report.open_questions import page as open_question_page
from radit_ray.report.table import page

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["demo", "squad_open"])
def test_the_pages_are_those_of_the_result_files(name: str) -> None:
    results = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    text = (ROOT / "docs" / "results" / f"{name}.md").read_text()
    assert text.partition(BELOW)[2].strip() == page(results).partition("\n")[2].strip()
    readme = (ROOT / "README.md").read_text()
    assert between(readme, name, brief(results, name)) == readme


@pytest.mark.parametrize("name", ["defaults", "directions"])
def test_the_tables_of_defaults_are_those_of_their_files(name: str) -> None:
    method = (ROOT / "docs" / "method.md").read_text()
    assert between(method, name, published(name)) == method


def test_the_page_of_suites_is_that_of_its_file() -> None:
    results = json.loads((ROOT / "docs" / "results" / "suites.json").read_text())
    text = (ROOT / "docs" / "results" / "suites.md").read_text()
    assert text.partition(BELOW)[2].strip() == suites_page(results)


def test_the_page_of_challenges_is_that_of_its_file() -> None:
    results = json.loads((ROOT / "docs" / "results" / "challenge.json").read_text())
    text = (ROOT / "docs" / "results" / "challenge.md").read_text()
    assert text.partition(BELOW)[2].strip() == challenges_page(results)


def test_the_pages_of_open_questions_are_those_of_their_files() -> None:
    for name in NAMES:
        file = ROOT / "docs" / "results" / f"{name}.json"
        if file.exists():
            body = open_question_page(name, json.loads(file.read_text()))
            assert body in file.with_suffix(".md").read_text().partition(BELOW)[2], name


@pytest.mark.parametrize("script", [scale, streaming])
def test_the_tables_of_scale_are_those_of_their_files(script: ModuleType) -> None:
    text, name = script.PAGE.read_text(), script.FILE.stem
    assert between(text, name, script.page(json.loads(script.FILE.read_text()))) == text


@pytest.mark.parametrize("script", [kill, multinode])
def test_the_logs_of_durability_are_those_of_their_files(script: ModuleType) -> None:
    body = script.page(json.loads(script.FILE.read_text()))
    assert script.PAGE.read_text().partition(BELOW)[2].strip() == body.strip()


def test_publishing_again_with_other_numbers_changes_all_three(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    for name in ("README.md", "docs/results/demo.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    results = json.loads((ROOT / "docs" / "results" / "demo.json").read_text())
    results["variants"]["radit"]["em"]["value"] = 0.12345
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    publish(str(tmp_path / "run"), "demo", root=tmp_path)
    assert json.loads((folder / "demo.json").read_text()) == results
    for name in ("README.md", "docs/results/demo.md"):
        changed = (tmp_path / name).read_text()
        assert "| 0.123 [" in changed
        before = (ROOT / name).read_text()
        assert changed.partition("publish.py")[0] == before.partition("publish.py")[0]
    with pytest.raises(ValueError, match="lacks <!-- other"):
        between("text", "other", "x")
