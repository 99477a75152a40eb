"""Contract of `radit sweep`: bad sweeps are one line before any work; what trials share is made
once; a sweep killed twice ends with the table of one that was not.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
from killing import killed
from tiny import tiny_world

from radit_ray.core.errors import InputError
from radit_ray.curves import Curve
from radit_ray.data.world import WorldConfig
from radit_ray.demo_world import dated_corpora
from radit_ray.engines.asking import ask
from radit_ray.engines.study import Choices, Range, Study, read_space
from radit_ray.recipe_checks import check_recipe
from radit_ray.recipes import Recipe, override, own
from radit_ray.report.sweeps import best, page, render
from radit_ray.sweep_checks import check_sweep
from radit_ray.sweeps import Sweep, about_of, gpu_shards, in_order, records_of, run_sweep, watch_of
from radit_ray.trials import Trial, measured_variants, trial_name

SETTINGS = {
    **tiny.SETTINGS,
    "variants": "replug,lm-ft,r-ft,radit",
    "contrasts": "radit-minus-replug",
    "score.num_examples": 16,
}


CUSTOM = {"kind": "custom", "values": (), "space": {"r_ft.lr": Choices(("1e-3", "1e-4"))}}


@pytest.fixture(scope="module")
def recipe(tiny_models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    world = tiny_world(tmp_path_factory.mktemp("world"))
    lm, retriever = tiny_models
    whole = own(lm=lm, retriever=retriever, corpus=world["corpus"], examples=world["examples"])
    return override(whole, SETTINGS)


def sweep_of(recipe: Recipe, output: str, **changes: Any) -> Sweep:
    plain = Sweep(kind="chunks", recipe=recipe, output=output, values=("0", "1", "3"))
    return dataclasses.replace(plain, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "chunk"}, r"unknown sweep 'chunk'.*chunks"),
        ({"values": ()}, "a chunks sweep needs --values: numbers of chunks"),
        ({"values": ("1", "1")}, "holds a value twice"),
        ({"values": ("1", "x")}, "value 'x' of a chunks sweep, expected a whole number"),
        ({"values": ("1", "²")}, "value '²' of a chunks sweep, expected a whole number"),
        ({"values": ("1", "01")}, "value '01' of a chunks sweep, write it as 1"),
        ({"space": {"lm_ft.k_train": Choices(("0", "1"))}}, "read the variants it and it-retr"),
        ({"space": {"score.k": Choices(("4",))}}, "score.k=4 must not exceed retrieve.k=3"),
        ({"space": {"resources.num_workers": Choices(("1", "2"))}}, "does not depend on it"),
        ({"space": {"reuse": Choices(("runs/a",))}}, "does not depend on it"),
        ({"space": {"seeds": Choices(("0,1", "2,3"))}}, "--space seeds: .*not be measured alike"),
        ({"space": {"evaluate.split": Choices(("dev", "eval"))}}, "not be measured alike"),
        (
            {**CUSTOM, "space": {"score.k": Choices(("2", "3"))}, "stop_early": "median"},
            "--stop-early with --space score.k: R-ft's MRR on dev is over as many chunks",
        ),
        (
            {**CUSTOM, "space": {"retrieve.k": Choices(("3", "5"))}, "stop_early": "median"},
            "--stop-early with --space retrieve.k: R-ft's MRR",
        ),
        ({"space": {"retrieve.limit": Choices(("2", "5"))}}, "not be measured alike"),
        ({"kind": "corpus", "values": ("0",)}, "value '0' of a corpus sweep"),
        ({"kind": "custom"}, "a custom sweep takes --space"),
        ({"kind": "custom", "values": ()}, "a custom sweep takes --space"),
        ({"space": {"lm_ft.lrr": Choices(("1",))}}, r"unknown field 'lm_ft.lrr'.*lr"),
        ({"space": {"lm_ft.k_train": Choices(("9",))}}, "must not exceed retrieve.k=3"),
        (
            {"kind": "cycles", "values": ("0", "1"), "space": {"cycles": Choices(("1",))}},
            "say the same",
        ),
        ({"objectives": {"radit": "max"}}, "objective 'radit', expected VARIANT.METRIC"),
        ({"objectives": {"rdit.em": "max"}}, "a variant of replug, lm-ft, r-ft, radit and"),
        ({"objectives": {"radit.ems": "max"}}, "a metric of em, f1, nll"),
        ({"objectives": {"radit.s_per_question": "min"}}, "expected VARIANT.METRIC"),
        ({"space": {"k_infer": Choices(("1",))}}, "a chunks sweep changes it itself"),
        ({"kind": "snapshot", "values": ("/nowhere",)}, "/nowhere"),
        ({"trackers": ("tensorbord",)}, "unknown tracker"),
        ({"kind": "cycles", "values": ("1", "1")}, "holds a value twice"),
        ({"kind": "cycles", "values": ("x",)}, "cycles='x', expected a value of type int"),
        ({"kind": "cycles", "values": ("-1",)}, "cycles=-1 of Recipe; expected at least 0"),
        (  # each value is right by itself, one combination is not
            {
                "kind": "retrievers",
                "values": ("bm25",),
                "space": {"cycles": Choices(("1", "2"))},
            },
            "cycles=2 with retriever bm25",
        ),
        (
            {**CUSTOM, "space": {"lm_ft.k_train": Range(1, 9)}, "sampler": "tpe"},
            "lm_ft.k_train=9 must not exceed retrieve.k=3",
        ),
        (
            {**CUSTOM, "space": {"lm_ft.steps": Range(1.5, 3.0)}},
            "lm_ft.steps=1.5, expected a value",
        ),
        (  # contradictory as a whole: some trials could not be run
            {
                **CUSTOM,
                "space": {"retrieve.k": Choices(("2", "9")), "lm_ft.k_train": Range(1, 9)},
                "sampler": "tpe",
                "num_trials": 3,
            },
            "lm_ft.k_train=9 must not exceed retrieve.k=2",
        ),
        ({**CUSTOM, "space": {"world.num_noise": Choices(("0", "60"))}}, "inputs are made once"),
        ({**CUSTOM, "space": {"snapshot": Choices(("1", "2"))}}, "inputs are made once"),
        ({**CUSTOM, "space": {"r_ft.lr": Choices(("1e-4", "0.0001"))}}, "are the same value"),
        ({**CUSTOM, "sampler": "tp"}, "unknown sampler 'tp'"),
        ({**CUSTOM, "num_trials": 3}, "num_trials=3 with --sampler grid"),
        (
            {"kind": "cycles", "values": ("0", "1"), "objectives": {"lm-ft.em": "max"}}
            | {"space": {"variants": Choices(("lm-ft",))}},
            "with cycles=0, .* there is no lm-ft; choose one of another recipe",
        ),
        (
            {"values": ("3", "0"), "objectives": {"radit.recall@1": "max"}},
            "where no chunk is shown there is no recall@1",
        ),
        (
            {
                **CUSTOM,
                "stop_early": "median",
                "objectives": {"radit.s_per_question": "min"},
            },
            "are stopped by their quality on dev",
        ),
        ({"stop_early": "median"}, "in a chunks sweep, whose every point is wanted"),
        (
            {**CUSTOM, "stop_early": "median", "objectives": {"replug.em": "max"}},
            "with objective replug.em: no training that is watched decides it",
        ),
        (
            {
                **CUSTOM,
                "stop_early": "median",
                "objectives": {"radit.em": "max", "radit.nll": "min"},
            },
            "with 2 objectives",
        ),
        ({**CUSTOM, "stop_early": "hyperband"}, "unknown stop_early 'hyperband'"),
        ({"space": {"retriever": Choices(("bm52",))}}, r"neither a folder nor a preset.*bm25"),
    ],
)
def test_bad_sweeps_are_one_line(
    recipe: Recipe, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_sweep(sweep_of(recipe, str(tmp_path), **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cycles": 2}, "each cycle would be the first one again; use cycles 0 or 1"),
        ({"variants": "r-ft,radit", "contrasts": ""}, "add one of closed-book, replug"),
        ({"examples": ""}, "R-ft alone, and BM25 has no weights.*give --examples"),
        ({"preset": "minilm"}, "its own preset; leave --preset out"),
    ],
)
def test_what_bm25_cannot_do_is_one_line(
    recipe: Recipe, changes: dict[str, Any], message: str
) -> None:
    check_recipe(override(recipe, {"retriever": "bm25"}))
    with pytest.raises(InputError, match=message):
        check_recipe(override(recipe, {"retriever": "bm25", **changes}))


def test_a_sweep_without_questions_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a sweep measures answers; give --examples"):
        check_sweep(sweep_of(dataclasses.replace(recipe, examples=""), str(tmp_path)))


def test_combinations_that_fit_each_other_are_accepted(recipe: Recipe, tmp_path: Path) -> None:
    """More chunks in training than the recipe ranks, since more are ranked where that is so."""
    space = {"lm_ft.k_train": Choices(("1", "5")), "retrieve.k": Choices(("5", "8"))}
    check_sweep(sweep_of(recipe, str(tmp_path), **{**CUSTOM, "space": space}))


def test_one_preset_is_not_put_on_retrievers_of_two_kinds(recipe: Recipe, tmp_path: Path) -> None:
    swept = {"kind": "retrievers", "values": ("contriever", "dragon-plus")}
    one = dataclasses.replace(recipe, preset="contriever")
    message = "--preset contriever would be that of 'dragon-plus' too, which is dragon-plus"
    with pytest.raises(InputError, match=message):
        check_sweep(sweep_of(one, str(tmp_path), **swept))


def test_a_range_is_as_fine_as_its_field(recipe: Recipe, tmp_path: Path) -> None:
    """0..1 of a temperature has all numbers between, 1..3 of chunks has three."""
    numbers = ["t_r=0..1", "lm_ft.k_train=1..3", "lm_ft.lr=1e-5..1e-3:log"]
    space = read_space([*numbers, "lm_ft.shares.corpus=0..1"])
    made = sweep_of(recipe, str(tmp_path), **{**CUSTOM, "space": space}).whole_space()
    assert [field.whole for field in made.values()] == [False, True, False, False]


def test_what_swept_files_hold_is_part_of_the_sweep(
    recipe: Recipe, tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    """Beside the recipe's own: a second corpus, other questions, another judge, by content."""
    corpus = tiny.write_jsonl(tmp_path / "corpus.jsonl", tiny.documents())
    rows = [row for split in tiny.questions().values() for row in split]
    asked = tiny.write_jsonl(tmp_path / "asked.jsonl", rows)
    judge = shutil.copytree(tiny_models[0], tmp_path / "judge")
    space = {
        "corpus": Choices((recipe.corpus, corpus)),
        "examples": Choices((recipe.examples, asked)),
        "score.lm": Choices(("", str(judge))),
    }
    sweep = sweep_of(recipe, str(tmp_path / "out"), kind="custom", values=(), space=space)
    seen = [about_of(sweep)]
    tiny.write_jsonl(tmp_path / "corpus.jsonl", tiny.documents()[1:])
    seen.append(about_of(sweep))
    tiny.write_jsonl(tmp_path / "asked.jsonl", [{**rows[0], "answers": ["x"]}, *rows[1:]])
    seen.append(about_of(sweep))
    weights = judge / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))
    seen.append(about_of(sweep))
    changed = [{k for k in a if a[k] != b[k]} for a, b in itertools.pairwise(seen)]
    assert changed == [{"corpus"}, {"examples"}, {"lm"}]


def test_a_trial_whose_folder_is_gone_is_one_line(recipe: Recipe, tmp_path: Path) -> None:
    sweep = sweep_of(recipe, str(tmp_path / "out"), **CUSTOM)
    study = Study.open(f"sqlite:///{tmp_path}/study.db", sweep.whole_space(), sweep.objectives)
    number, values = study.ask() or (0, {})
    study.tell(number, [0.5])
    record = {"values": values, "points": [], "metrics": {"radit.em": 0.5}}
    folder = tmp_path / "out" / trial_name("digest", values)
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(record))
    assert records_of(sweep, study, "digest") == [record]
    shutil.rmtree(folder)
    with pytest.raises(InputError, match=r"trial\.json is not there, and the study says"):
        records_of(sweep, study, "digest")


def test_every_lm_is_looked_into_before_any_is_tuned(recipe: Recipe, tmp_path: Path) -> None:
    """Also one that is not the first: its folder has a config, but no weights."""
    hollow = tmp_path / "hollow"
    shutil.copytree(recipe.lm, hollow)
    for file in hollow.glob("*.safetensors"):
        file.unlink()
    swept = {"kind": "lms", "values": (recipe.lm, str(hollow))}
    with pytest.raises(InputError, match="hollow"):
        check_sweep(sweep_of(recipe, str(tmp_path), **swept))


def test_a_deeper_ranking_for_lm_ft_alone_may_be_stopped_early(
    recipe: Recipe, tmp_path: Path
) -> None:
    """R-ft's looks are over `score.k` chunks in every trial."""
    space = {"retrieve.k": Choices(("3", "5"))}
    made = sweep_of(override(recipe, {"score.k": 2}), str(tmp_path), **{**CUSTOM, "space": space})
    check_sweep(dataclasses.replace(made, stop_early="median"))


def test_index_shards_are_counted_where_gpus_search_them(recipe: Recipe, tmp_path: Path) -> None:
    def shards(**space: tuple[str, ...]) -> list[int]:
        named = {name.replace("__", "."): Choices(values) for name, values in space.items()}
        return gpu_shards(sweep_of(recipe, str(tmp_path), **{**CUSTOM, "space": named}))

    assert shards(r_ft__lr=("1e-3",)) == [recipe.index.num_shards]
    assert shards(index__num_shards=("4", "8")) == [4, 8]
    assert shards(index__num_shards=("4", "8"), index__kind=("hnsw", "sq")) == [0]
    assert shards(retriever=("bm25",)) == [0]


@pytest.mark.parametrize(
    ("objective", "trainings"),
    [("lm-ft.em", ["lm-ft"]), ("r-ft.recall@1", ["r-ft"]), ("radit.em", ["lm-ft", "r-ft"])],
)
def test_a_trial_is_stopped_by_what_decides_its_objective(
    recipe: Recipe, tmp_path: Path, objective: str, trainings: list[str]
) -> None:
    made = sweep_of(recipe, str(tmp_path), **CUSTOM, objectives={objective: "max"})
    trial = Trial(recipe=recipe, output="x", curve=None, study="s", folder=".", command="")
    assert list(watch_of(made, trial).metrics) == trainings


def test_what_is_best_on_the_reported_questions_is_no_choice() -> None:
    found = {"best": [{"x": "1"}], "trials": [{}, {}], "objectives": {"radit.em": "max"}}
    assert best({**found, "split": "dev"}) == "Best by radit.em max: x=1"
    assert "to choose, --set evaluate.split=dev" in best({**found, "split": "eval"})


def test_without_a_cycle_tuned_variants_are_the_untuned_pair(recipe: Recipe) -> None:
    """Those that are trained for a comparison are nothing then, nor is R-ft with BM25."""
    names = "closed-book,replug,it,lm-ft,radit"
    both = override(recipe, {"variants": names, "contrasts": ""})
    assert measured_variants(both) == names.split(",")
    untuned = override(both, {"cycles": "0"})
    assert measured_variants(untuned) == ["closed-book", "replug", "lm-ft", "radit"]
    assert measured_variants(override(untuned, {"retriever": "bm25"})) == [
        *("closed-book", "replug", "lm-ft"),
    ]
    assert measured_variants(override(untuned, {"variants": "it,lm-ft,radit"})) == []
    assert "radit" not in measured_variants(override(both, {"retriever": "bm25"}))


def test_bm25_beside_dense_retrievers_is_accepted(recipe: Recipe, tmp_path: Path) -> None:
    """It has no radit.em; its trial is settled with a note. Names of the kind alone are enough."""
    values = (recipe.retriever, "bm25")
    sweep = sweep_of(recipe, str(tmp_path), kind="retrievers", values=values)
    check_sweep(sweep)
    bare = dataclasses.replace(recipe, retriever="")
    check_sweep(dataclasses.replace(sweep, recipe=bare))


def test_trials_are_listed_by_their_values_whatever_was_tried_first() -> None:
    space = {"x": Choices(("b", "a")), "lr": Range(1e-5, 1e-3, log=True), "k": Range(1, 20)}
    listed = [("b", 1e-5, 3), ("b", 1e-5, 12), ("b", 2e-4, 1), ("a", 9e-6, 2), ("a", 1e-3, 2)]
    records = [{"values": dict(zip(space, values, strict=True))} for values in listed]
    for tried in itertools.permutations(records):
        assert in_order(tried, space) == records
    assert in_order([{"values": {}}], {}) == [{"values": {}}]


def test_the_demo_sweeps_over_the_dates_of_its_world(tmp_path: Path) -> None:
    config = WorldConfig(num_known=4, num_train=6, num_dev=2, num_eval=6, num_distractors=2)
    both, questions = dated_corpora(config, str(tmp_path), ())
    texts = [Path(corpus).read_text() for corpus in both]
    asked = [[json.loads(row) for row in Path(file).read_text().splitlines()] for file in questions]
    assert [row["id"] for row in asked[0]] == [row["id"] for row in asked[1]]
    for rows, text in zip(asked, texts, strict=True):  # each date's answers, not the first one's
        assert all(row["answers"][0] in text for row in rows)
    assert asked[0] != asked[1]
    assert texts[0] != texts[1]
    assert [date in text for text in texts for date in config.snapshot_dates] == [
        *(True, False),
        *(False, True),
    ]
    mixed = dated_corpora(config, str(tmp_path), ("2", "own.jsonl"))
    assert mixed == ((both[1], "own.jsonl"), (questions[1], ""))
    assert dated_corpora(config, str(tmp_path), ("²",)) == (("²",), ("",))  # no number, a file
    with pytest.raises(InputError, match="snapshot=3; expected 1 or 2"):
        dated_corpora(config, str(tmp_path), ("3",))


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("corpus", ("10", "41"), "value '41' of a corpus sweep: the corpus .* has 40 documents"),
        ("chunks", ("1", "50"), "value '50' of a chunks sweep: the corpus .* has 40 chunks"),
    ],
)
def test_more_than_the_corpus_has_is_refused_before_anything_is_tuned(
    kind: str,
    values: tuple[str, ...],
    message: str,
    recipe: Recipe,
    ray_cluster: None,
    tmp_path: Path,
) -> None:
    with pytest.raises(InputError, match=message):
        run_sweep(sweep_of(recipe, str(tmp_path), kind=kind, values=values))
    assert [path.name[:6] for path in (tmp_path / "artifacts").iterdir()] == ["chunk-"]


@pytest.mark.ray
def test_each_swept_corpus_has_to_hold_as_much(
    recipe: Recipe, ray_cluster: None, tmp_path: Path
) -> None:
    small = tiny.write_jsonl(tmp_path / "small.jsonl", tiny.documents()[:20])
    space = {"corpus": Choices((recipe.corpus, small))}
    bare = dataclasses.replace(recipe, corpus="")  # the swept ones are all there are
    sweep = sweep_of(bare, str(tmp_path / "out"), kind="corpus", values=("30",), space=space)
    with pytest.raises(InputError, match=r"the corpus .*small\.jsonl has 20 documents"):
        run_sweep(sweep)
    made = [path.name[:6] for path in (tmp_path / "out/artifacts").iterdir()]
    assert made == ["chunk-", "chunk-"]


@pytest.mark.slow
@pytest.mark.ray
def test_each_date_is_asked_with_its_answers_and_untuned_pairs_have_points(
    recipe: Recipe, ray_cluster: None, tmp_path: Path
) -> None:
    def later(text: str) -> str:  # every town is founded a thousand years later
        return re.sub(r"\b1([2-4]\d\d)\b", r"2\1", text)

    corpus, asked = tiny.documents(), tiny.questions()["eval"]
    changed = [{**row, "text": later(row["text"])} for row in corpus]
    answered = [{**row, "answers": [later(row["answers"][0])]} for row in asked]
    values = (recipe.corpus, tiny.write_jsonl(tmp_path / "later.jsonl", changed))
    dated = ("", tiny.write_jsonl(tmp_path / "later-eval.jsonl", answered))
    untuned = override(recipe, {"cycles": 0, "variants": "replug,radit", "contrasts": ""})
    output = str(tmp_path / "out")
    sweep = sweep_of(untuned, output, kind="snapshot", values=values, dated=dated)
    results = run_sweep(sweep)
    assert [point["values"]["corpus"] for point in results["points"]] == list(values)
    for point in results["points"]:
        assert point["variants"]["radit"] == point["variants"]["replug"]
    found = []
    for folder in Path(output).glob("artifacts/evaluate-*/replug@*"):
        tables = [pq.read_table(file, columns=["answers"]) for file in folder.glob("*.parquet")]
        found.append({row["answers"][0] for table in tables for row in table.to_pylist()})
    expected = [{row["answers"][0] for row in rows} for rows in (asked, answered)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))
    with pytest.raises(InputError, match="holds a study of another dated"):
        run_sweep(dataclasses.replace(sweep, dated=("", "")))


def test_unknown_curves() -> None:
    with pytest.raises(InputError, match=r"unknown curve 'corpora'.*corpus"):
        Curve(kind="corpora", values=("1",)).check()


@pytest.mark.slow
@pytest.mark.ray
def test_what_trials_share_is_made_once(recipe: Recipe, ray_cluster: None, tmp_path: Path) -> None:
    space = {"r_ft.lr": Choices(("1e-3", "1e-4"))}
    sweep = sweep_of(recipe, str(tmp_path), space=space)
    results = run_sweep(sweep)
    made = [path.name.rpartition("-")[0] for path in (tmp_path / "artifacts").iterdir()]
    counts = {kind: made.count(kind) for kind in set(made)}
    # two tuned encoders; the base and each of them search for training and, deeper, for the views
    assert counts == {
        "chunk": 1,
        "embed": 1,
        "index": 1,
        "lm-ft": 1,
        "score": 1,
        "r-ft": 2,
        "retrieve": 6,
        "evaluate": 4,
    }
    assert {name: entry["count"] for name, entry in results["stages"].items()} == counts
    assert results["stages"]["lm-ft"]["tokens"] > 0
    values = [point["values"] for point in results["points"]]
    expected = [{"r_ft.lr": lr, "k_infer": k} for lr in ("1e-3", "1e-4") for k in (0, 1, 3)]
    assert values == expected
    closed, one, three = (point["variants"]["radit"] for point in results["points"][:3])
    assert "recall@1" not in closed
    assert one["recall@1"]["value"] == three["recall@1"]["value"]
    assert "radit-minus-replug" in results["points"][1]["contrasts"]
    assert "Best by radit.em max" in render(results)
    assert page(results).startswith("# chunks of own")
    again = run_sweep(sweep)  # nothing is left to try
    assert again["points"] == results["points"]
    with pytest.raises(InputError, match="holds a study of another"):
        run_sweep(dataclasses.replace(sweep, values=("1",)))


@pytest.mark.slow
@pytest.mark.ray
def test_bm25_is_a_reference_beside_dense_retrievers(
    recipe: Recipe, ray_cluster: None, tmp_path: Path
) -> None:
    values = (recipe.retriever, "bm25")
    sweep = sweep_of(recipe, str(tmp_path), kind="retrievers", values=values)
    results = run_sweep(sweep)
    dense, words = results["points"]
    assert set(dense["variants"]) == {"replug", "lm-ft", "r-ft", "radit"}
    assert set(words["variants"]) == {"replug", "lm-ft"}  # nothing that R-ft would have made
    assert words["variants"]["replug"]["recall@1"]["value"] == 1.0  # the town's name is enough
    assert words["note"] == "no r-ft, no radit: BM25 has no weights that R-ft could tune"
    assert "note" not in dense
    assert results["best"] == [{"retriever": recipe.retriever}]
    assert results["failed"] == []
    made = [path.name.rpartition("-")[0] for path in (tmp_path / "artifacts").iterdir()]
    counts = {kind: made.count(kind) for kind in set(made)}
    assert counts["chunk"] == counts["embed"] == counts["r-ft"] == 1
    assert counts["index"] == counts["score"] == counts["lm-ft"] == 2
    # T_R is fitted on dev for words, too: around 1, the preset's
    (run,) = (p for p in tmp_path.glob("trial-*/run.json") if '"bm25"' in p.read_text())
    record = json.loads(run.read_text())["variants"]["lm-ft"]
    assert record["query_encoder"] == "bm25"
    assert record["t_r"] in (0.2, 0.5, 1.0, 2.0, 5.0)
    answer = ask(str(run.parent), "Who is the mayor of Arden?", variant="lm-ft")
    assert answer["titles"][0] == "Arden"
    assert run_sweep(sweep)["points"] == results["points"]  # nothing is left to try


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_that_is_behind_is_stopped_and_stays_stopped(
    recipe: Recipe, ray_cluster: None, tmp_path: Path
) -> None:
    rates = ("1e-2", "8e-3", "6e-3", "4e-3", "1e-9")  # the last one leaves the LM as it was
    sweep = sweep_of(
        override(recipe, {"lm_ft.steps": 60, "variants": "replug,lm-ft", "contrasts": ""}),
        str(tmp_path),
        kind="custom",
        values=(),
        space={"lm_ft.lr": Choices(rates)},
        objectives={"lm-ft.nll": "min"},
        stop_early="median",
    )
    results = run_sweep(sweep)
    assert [point["values"]["lm_ft.lr"] for point in results["points"]] == list(rates)
    *done, stopped = results["points"]
    assert all(point["variants"] and "note" not in point for point in done)
    assert stopped["variants"] == {}
    assert re.fullmatch(r"stopped early at step \d+ of lm-ft", stopped["note"])
    assert stopped["note"] in render(results)
    assert results["failed"] == []
    (folder,) = (p.parent for p in tmp_path.glob("trial-*/history") if not done_in(p.parent))
    shown = json.loads((folder / "history" / "lm-ft.json").read_text())
    assert shown[0]["step"] == 0
    assert not (folder / "lm-ft").exists()  # a stage is linked when it is finished
    made = {p.parent.name for p in tmp_path.glob("artifacts/lm-ft-*/manifest.json")}
    unfinished = {p.name for p in tmp_path.glob("artifacts/lm-ft-*")} - made
    assert len(made) >= 4
    assert all((tmp_path / "artifacts" / n / "identity.json").exists() for n in unfinished)
    stamps = at_rest(tmp_path)
    assert run_sweep(sweep)["points"] == results["points"]
    assert {p: p.stat().st_mtime_ns for p in stamps} == stamps  # no trial ran again


def at_rest(folder: Path) -> dict[Path, int]:
    """{file of a trial: when it was written}, once nothing is written any more: a stopped trial's
    workers end a little later than it, as after a kill.
    """
    before: dict[Path, int] = {}
    for _ in range(30):
        found = {p: p.stat().st_mtime_ns for p in folder.glob("trial-*/**/*") if p.is_file()}
        if found == before:
            return found
        before = found
        time.sleep(5)
    raise AssertionError("a stopped trial goes on writing")


def done_in(trial: Path) -> bool:
    return (trial / "trial.json").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_killed_twice_ends_as_an_uninterrupted_one(
    recipe: Recipe, ray_cluster: None, tmp_path: Path
) -> None:
    space = {"r_ft.lr": Choices(("1e-3", "1e-4")), "lm_ft.lr": Choices(("1e-3",))}
    whole = sweep_of(recipe, str(tmp_path / "whole"), kind="custom", values=(), space=space)
    torn = dataclasses.replace(whole, output=str(tmp_path / "torn"))
    code = (
        "import json, pathlib\n"
        "from radit_ray.engines.resources import Resources\n"
        "from radit_ray.engines.study import Choices\n"
        "from radit_ray.recipes import override, own\n"
        "from radit_ray.sweeps import Sweep, run_sweep\n"
        f"recipe = override(own(lm={recipe.lm!r}, retriever={recipe.retriever!r},\n"
        f"    corpus={recipe.corpus!r}, examples={recipe.examples!r}), {SETTINGS!r})\n"
        f"run_sweep(Sweep(kind='custom', recipe=recipe, output={torn.output!r}, space={space!r}))\n"
    )
    artifacts = tmp_path / "torn" / "artifacts"

    def finished(kind: str, count: int) -> bool:
        return len(list(artifacts.glob(f"{kind}-*/manifest.json"))) >= count

    killed(code, lambda: finished("lm-ft", 1))  # in the first trial
    killed(code, lambda: finished("r-ft", 2))  # in the second one
    told = json.loads((tmp_path / "torn" / "sweep.json").read_text())  # after every trial
    assert [len(told["points"]), told["failed"]] == [1, []]
    results = [run_sweep(sweep) for sweep in (torn, whole)]
    assert results[0]["points"] == results[1]["points"]
    assert results[0]["best"] == results[1]["best"]
    assert len(json.loads((tmp_path / "torn" / "sweep.json").read_text())["points"]) == 2
