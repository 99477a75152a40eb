"""Contract of `radit run own`: one command from documents and questions to a table and a run that
answers; the rerun does nothing again; a second cycle builds on the first.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from own import arguments_of, radit
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM

from radit_ray.data.artifacts import read_manifest

pytestmark = pytest.mark.ray
VARIANTS = ("closed-book", "replug", "it", "it-retrieval", "lm-ft", "r-ft", "radit")
METRICS = ("em", "f1", "nll", "recall@1", "recall@5", "answer_recall@1", "answer_recall@5")
BARE = ("closed-book", "it")  # shown no chunk: nothing to recall


@pytest.fixture
def run(own_run: Path) -> Path:
    """A finished run of one cycle."""
    return own_run


@pytest.fixture
def world(own_world: dict[str, str]) -> dict[str, str]:
    return own_world


def stamps(run: Path) -> dict[str, int]:
    """{artifact: when its manifest was written}."""
    found = run.glob("artifacts/*/manifest.json")
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def test_results_have_the_pinned_shape(run: Path) -> None:
    results = read(run / "results.json")
    assert set(results) >= {"variants", "contrasts", "num_questions", "seeds", "wall_s"}
    assert results["num_questions"] == 12
    assert tuple(results["variants"]) == VARIANTS
    for name, values in results["variants"].items():
        assert tuple(values) == (METRICS[:3] if name in BARE else METRICS)
        for cell in values.values():
            assert set(cell) == {"value", "low", "high"}
            assert cell["low"] <= cell["value"] <= cell["high"]
    assert set(results["contrasts"]) == {
        "lm-ft-minus-it-retrieval",
        "lm-ft-minus-replug",
        "r-ft-minus-replug",
        "radit-minus-lm-ft",
        "radit-minus-r-ft",
        "radit-minus-replug",
    }
    for values in results["contrasts"].values():
        for cell in values.values():
            assert set(cell) == {"diff", "low", "high", "mde"}
    # the base encoder's variants share their ranked rows, the tuned one's share theirs
    shown = [name for name in VARIANTS if name not in BARE]
    recall = {name: results["variants"][name]["recall@1"]["value"] for name in shown}
    assert recall["replug"] == recall["lm-ft"] == recall["it-retrieval"]
    assert recall["r-ft"] == recall["radit"]


def test_run_json_names_what_each_variant_is_made_of(
    run: Path, tiny_models: tuple[str, str]
) -> None:
    record = read(run / "run.json")
    assert set(record["variants"]) == {*VARIANTS, "lm-ft-closed-book"}
    base_lm, base_retriever = (os.path.realpath(path) for path in tiny_models)
    for name, variant in record["variants"].items():
        assert set(variant) >= {"lm", "query_encoder", "index", "template", "k", "t_r"}
        assert (run / variant["index"] / "manifest.json").exists()
        tuned_lm = name in ("it", "it-retrieval", "lm-ft", "lm-ft-closed-book", "radit")
        assert variant["lm"].startswith("artifacts/lm-ft-") == tuned_lm
        tuned_retriever = name in ("r-ft", "radit")
        assert variant["query_encoder"].startswith("artifacts/r-ft-") == tuned_retriever
        assert variant["k"] == (0 if name in (*BARE, "lm-ft-closed-book") else 2)
        if not tuned_lm:
            assert os.path.realpath(variant["lm"]) == base_lm
        if not tuned_retriever:
            assert os.path.realpath(variant["query_encoder"]) == base_retriever
    t_r = {variant["t_r"] for variant in record["variants"].values()}
    assert len(t_r) == 1  # R-ft must not win by sharpening alone
    assert record["variants"]["it"]["lm"] != record["variants"]["lm-ft"]["lm"]


def test_artifacts_are_linked_by_role(run: Path) -> None:
    roles = ["chunk", "embed", "index", "retrieve", "lm-ft", "it"]
    roles += ["score", "r-ft", "retrieve-tuned", "evaluate"]
    for role in roles:
        manifest = read_manifest(str(run / role))
        assert manifest is not None, role
        real = (run / role).resolve()
        assert real.parent == (run / "artifacts").resolve()
        assert real.name == f"{manifest['stage']}-{manifest['fingerprint'][:12]}"
    assert len(stamps(run)) == len(roles)
    for name in VARIANTS:
        assert list((run / "evaluate" / name).glob("part-*.parquet"))


def test_what_comes_out_loads_in_plain_libraries(run: Path) -> None:
    AutoModelForCausalLM.from_pretrained(run / "lm-ft" / "model")
    encoder = SentenceTransformer(str(run / "r-ft" / "query_encoder"), device="cpu")
    router = SentenceTransformer(str(run / "r-ft" / "retriever"), device="cpu")
    a, b = encoder.encode(["Who?"]), router.encode_query(["Who?"])
    assert (a == b).all()


def test_a_rerun_does_nothing_again(
    run: Path, world: dict[str, str], tiny_models: tuple[str, str]
) -> None:
    before, results = stamps(run), read(run / "results.json")
    assert radit("run", *arguments_of(world, tiny_models, run)) == 0
    assert stamps(run) == before
    again = read(run / "results.json")
    for name in ("variants", "contrasts", "num_questions", "seeds"):
        assert again[name] == results[name]
    # whoever renames the inputs gets the same artifacts
    moved = {**world, "corpus": str(shutil.copy(world["corpus"], run.parent / "corpus.jsonl"))}
    assert radit("run", *arguments_of(moved, tiny_models, run)) == 0
    assert stamps(run) == before


def test_ask_answers_also_after_the_run_was_moved(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "Who is the mayor of Arden?"
    assert radit("ask", str(run), question, "--json") == 0
    here = json.loads(capsys.readouterr().out)
    assert here["question"] == question
    assert len(here["chunk_ids"]) == len(here["texts"]) == len(here["p_r"]) == 2
    assert sum(here["p_r"]) == pytest.approx(1)
    moved = run.with_name("moved")
    run.rename(moved)
    try:
        assert radit("ask", str(moved), question, "--variant", "radit") == 0
        shown = capsys.readouterr().out
        assert shown.startswith(here["prediction"])
        assert "p_R" in shown
        assert radit("ask", str(moved), question, "--variant", "closed-book", "--json") == 0
        assert json.loads(capsys.readouterr().out)["texts"] == []
        assert radit("ask", str(moved), question, "--variant", "radti") == 2
        assert "no variant 'radti'" in capsys.readouterr().err
        assert radit("ask", str(moved), " ") == 2
    finally:
        moved.rename(run)


def test_without_questions_it_tunes_the_retriever_alone(
    run: Path, world: dict[str, str], tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus-only"
    for part in run.glob("artifacts/*"):  # the corpus side is the same: found by content
        if part.name.startswith(("chunk-", "embed-", "index-")):
            shutil.copytree(part, folder / "artifacts" / part.name)
    before = stamps(folder)
    only = {"corpus": world["corpus"]}
    assert radit("run", *arguments_of(only, tiny_models, folder)) == 0
    after = stamps(folder)
    assert {name: after[name] for name in before} == before
    assert {name.rpartition("-")[0] for name in after} == {
        "chunk",
        "embed",
        "index",
        "retrieve",
        "score",
        "r-ft",
    }
    SentenceTransformer(str(folder / "r-ft" / "retriever"), device="cpu")
    results = read(folder / "results.json")
    assert results["variants"] == {}
    assert read(folder / "run.json")["variants"] == {}


@pytest.mark.slow
def test_seeds_share_what_no_seed_decides(
    run: Path, world: dict[str, str], tiny_models: tuple[str, str]
) -> None:
    before, alone = stamps(run), read(run / "results.json")
    arguments = arguments_of(world, tiny_models, run)
    assert radit("run", *arguments, "--seeds", "0,1") == 0
    after = stamps(run)
    assert {name: after[name] for name in before} == before
    made = {name.rpartition("-")[0] for name in after if name not in before}
    assert not made & {"chunk", "embed", "index"}
    assert {"lm-ft", "r-ft", "evaluate"} <= made
    assert os.path.realpath(run / "seed-1" / "embed") == os.path.realpath(run / "embed")
    results, second = read(run / "results.json"), read(run / "seed-1" / "results.json")
    assert results["seeds"] == [0, 1]
    assert results["by_seed"]["0"]["variants"] == alone["variants"]
    assert results["by_seed"]["1"]["contrasts"] == second["contrasts"]
    mean = (
        alone["variants"]["radit"]["nll"]["value"] + second["variants"]["radit"]["nll"]["value"]
    ) / 2
    assert results["variants"]["radit"]["nll"]["value"] == pytest.approx(mean)
    question = "Where was somebody born?"
    assert radit("ask", str(run / "seed-1"), question) == 0
    assert radit("run", *arguments) == 0  # the run as the other tests know it


@pytest.mark.slow
def test_a_second_cycle_builds_on_the_first(
    run: Path, world: dict[str, str], tiny_models: tuple[str, str]
) -> None:
    before = stamps(run)
    assert radit("run", *arguments_of(world, tiny_models, run), "--cycles", "2") == 0
    after = stamps(run)
    assert {name: after[name] for name in before} == before
    record, results = read(run / "run.json"), read(run / "results.json")
    assert set(results["variants"]) == {*VARIANTS, "radit-cycle-0"}
    second, first = record["variants"]["radit"], record["variants"]["radit-cycle-0"]
    assert second["lm"] != first["lm"]
    assert second["query_encoder"] != first["query_encoder"]
    for role in ("lm-ft", "score", "r-ft", "retrieve-tuned"):
        manifest = read_manifest(str(run / "cycle-1" / role))
        assert manifest is not None
    # the second cycle's judge is the first cycle's LM, its data the first one's retriever
    scored = read_manifest(str(run / "cycle-1" / "score"))
    tuned = read_manifest(str(run / "lm-ft"))
    assert scored is not None
    assert tuned is not None
    assert os.path.realpath(scored["inputs"]["lm"]["path"]) == os.path.realpath(
        run / "lm-ft" / "model"
    )
    assert radit("run", *arguments_of(world, tiny_models, run), "--cycles", "2") == 0
    assert stamps(run) == after
