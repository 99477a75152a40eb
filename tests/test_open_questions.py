"""Contract of the open questions: what is asked of whom, who follows what, equal steps; a page
holds what its data file holds; a killed question goes on.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tiny
from killing import killed
from safetensors.numpy import save_file
from tiny import tiny_world, write_jsonl

from benchmarks.open_questions import publish_question
from benchmarks.publish import BELOW
from radit_ray.core.errors import InputError
from radit_ray.core.metrics import exact_match
from radit_ray.data.artifacts import finished_artifacts, write_parquet
from radit_ray.data.world import WorldConfig, make_world, write_world
from radit_ray.engines.answering import METRICS, PREDICTION, SCORE
from radit_ray.engines.variants import TRUNCATION
from radit_ray.open_questions import chunks, corpora, cycles, sizes, versions
from radit_ray.open_questions.base import (
    NAMES,
    Job,
    answer,
    found_before,
    not_of_others,
    share_artifacts,
)
from radit_ray.open_questions.command import QUESTIONS, QuestionArgs, lms_of
from radit_ray.open_questions.command import run as command
from radit_ray.open_questions.contrasts import (
    WORTH,
    compared,
    differences,
    foreseen,
    gain_rows,
    power,
)
from radit_ray.open_questions.power import detectable, spread
from radit_ray.recipes import Recipe, demo, override, own, squad_open
from radit_ray.report.contrasts import contrasts_table, power_table, verdict
from radit_ray.report.open_questions import page, plots

WORLD = WorldConfig(num_known=9, num_train=3, num_dev=2, num_eval=7, num_distractors=3, num_noise=2)


def rows_of(values: list[float], *, task: str = "world", size: int = 2) -> list[dict[str, Any]]:
    """Prediction rows whose metrics are all one value."""
    return [
        {
            **{"id": f"q{n}", "task": task, "group": f"g{n // size}", "article": ""},
            **dict.fromkeys((*METRICS, SCORE), value),
            **dict.fromkeys(TRUNCATION, 0),
        }
        for n, value in enumerate(values)
    ]


def noisy(seed: int, mean: float, num: int = 40) -> list[dict[str, Any]]:
    rng = random.Random(seed)
    return rows_of([float(rng.random() < mean) for _ in range(num)])


# --- question 2, controlled ---


def test_the_first_snapshot_does_not_depend_on_what_the_second_changes(tmp_path: Path) -> None:
    """So that the demo's pairs are those of the question."""
    config = WorldConfig()
    more = dataclasses.replace(config, changed_share=corpora.CHANGED)
    first, second = (write_world(c, tmp_path / str(n)) for n, c in enumerate((config, more)))
    for name, path in first.items():
        assert path.read_bytes() == second[name].read_bytes(), name


def test_categories_are_those_of_the_written_files(tmp_path: Path) -> None:
    """Against the answers and split files of both snapshots, read as plain JSON."""
    config = dataclasses.replace(WORLD, changed_share=0.5)
    old, new = make_world(config), make_world(config, snapshot=2)
    found = corpora.questions_of(old, new)
    answers: list[dict[str, str]] = []
    for snapshot in (1, 2):
        path = write_world(config, tmp_path / str(snapshot), snapshot=snapshot)["eval"]
        read = [json.loads(line) for line in path.read_text().splitlines()]
        answers.append({row["id"]: row["answers"][0] for row in read})
    expected = {
        key: "new"
        if key.startswith("world:")
        else "known-changed"
        if answers[1][key] != before
        else "known-unchanged"
        for key, before in answers[0].items()
    }
    assert {key: question.category for key, question in found.items()} == expected
    assert set(expected.values()) == set(corpora.CATEGORIES)
    texts = [{d["id"]: d["text"] for d in world.documents} for world in (old, new)]
    for key, question in found.items():
        assert (question.old, question.new) == (answers[0][key], answers[1][key])
        assert question.old in texts[0][question.group]
        assert question.new in texts[1][question.group]
        for right in (question.old_chunks, question.new_chunks):
            assert {chunk.partition("#")[0] for chunk in right} == {question.group}
        assert question.memory == (None if question.category == "new" else question.old)
    assert any(q.old != q.new for q in found.values() if q.category == "new")


@pytest.mark.parametrize(
    ("prediction", "corpus", "memory", "expected"),
    [
        ("the Oslo.", "Oslo", "Rome", "corpus"),
        ("Rome", "Oslo", "Rome", "memory"),
        ("Paris", "Oslo", "Rome", "neither"),
        ("Oslo", "Oslo", "Oslo", "corpus"),
        ("Oslo", None, "Oslo", "memory"),
        ("Oslo", None, None, "neither"),
        ("Rome", "Oslo", None, "neither"),
        ("", "Oslo", "Rome", "neither"),
    ],
)
def test_an_answer_follows_the_corpus_the_memory_or_neither(
    prediction: str, corpus: str | None, memory: str | None, expected: str
) -> None:
    assert corpora.outcome(prediction, corpus=corpus, memory=memory) == expected


def test_shares_are_counts_and_sum_to_one() -> None:
    config = dataclasses.replace(WORLD, changed_share=0.5)
    questions = corpora.questions_of(make_world(config), make_world(config, snapshot=2))
    changed = {k: q for k, q in questions.items() if q.category == "known-changed"}
    rng = random.Random(0)
    tables = [
        {k: rng.choice((q.old, q.new, "no idea")) for k, q in changed.items()} for _ in range(2)
    ]
    found = corpora.shares(tables, changed, "new", {"num_samples": 50, "seed": 0})
    assert found["num_questions"] == len(changed) > 8
    assert sum(found[name]["value"] for name in corpora.OUTCOMES) == pytest.approx(1.0)
    new = sum(exact_match(t[k], [q.new]) for t in tables for k, q in changed.items())
    assert found["corpus"]["value"] == pytest.approx(new / (2 * len(changed)))
    old = sum(exact_match(t[k], [q.old]) for t in tables for k, q in changed.items())
    assert found["memory"]["value"] == pytest.approx(old / (2 * len(changed)))


def test_what_was_shown_is_read_off_the_predictions(tmp_path: Path) -> None:
    row = dict.fromkeys(PREDICTION.names) | {"id": "q", "group": "g", "prediction": "Oslo"}
    rows = [{**row, "chunk_ids": ["g#1", "h#0"]}, {**row, "id": "p", "chunk_ids": ["h#0"]}]
    (tmp_path / "radit").mkdir()
    write_parquet(pa.Table.from_pylist(rows, PREDICTION), str(tmp_path / "radit" / "0.parquet"))
    plain = {"group": "g", "category": "new", "old": "Oslo", "new": "Rome"}
    chunks = {"old_chunks": frozenset({"g#1"}), "new_chunks": frozenset({"h#0"})}
    questions = {name: corpora.Asked(**plain, **chunks) for name in ("q", "p")}  # type: ignore[arg-type]
    answers, seen = corpora.told(str(tmp_path), "radit", questions, "old")
    assert answers == {"q": "Oslo", "p": "Oslo"}
    assert seen == {"q": True, "p": False}
    assert corpora.told(str(tmp_path), "radit", questions, "new")[1] == {"q": True, "p": True}
    assert corpora.told(str(tmp_path), "radit", {"q": questions["q"]}, "old")[1] == {"q": True}


def test_a_kind_that_is_all_there_is_stands_once_on_the_page_of_versions() -> None:
    tables = {
        f"{lm}.{side}": [noisy(place, 0.5)]
        for place, (lm, side) in enumerate([("radit", "old"), ("radit", "new"), ("radit", "gain")])
    }
    recipe = override(demo(lm="x"), {"evaluate.bootstrap": 50})
    found = compared(tables, ["radit.new-minus-radit.old"], recipe)
    counts = {"both": 40, "new only": 0, "old only": 0}
    pair = {
        "pair": dataclasses.asdict(VERSION),
        **{"pages": 1, "chunks": {"old": 1, "new": 1, "corpus": 2}, "named": 40, "kinds": counts},
        "answers": [{"kind": kind, **found} for kind in ("all", "both")],
    }
    text = page("oq2", {"squad_open": results_of("oq2", pairs=[pair])})
    assert text.count("answer in: all (40 questions)") == 1
    assert "answer in: both" not in text
    assert "| radit.old |" in text
    assert "| radit.gain |" not in text  # it stands among the contrasts


def test_the_page_tells_the_corpora_apart() -> None:
    config = dataclasses.replace(WORLD, changed_share=0.5)
    questions = corpora.questions_of(make_world(config), make_world(config, snapshot=2))
    says = {  # follows whatever it is given, and its memory without
        "none": {key: q.memory or "" for key, q in questions.items()},
        "old": {key: q.old for key, q in questions.items()},
        "new": {key: q.new for key, q in questions.items()},
    }
    found = {(lm, given): [table] for lm in corpora.LMS for given, table in says.items()}
    # the new corpus' right chunk is shown for every other question
    shown = {key: number % 2 == 0 for number, key in enumerate(questions)}
    seen = {(lm, "new"): [shown] for lm in corpora.LMS}
    draws = {"num_samples": 50, "seed": 0}
    result = corpora.tabulated(found, questions, draws, seen)
    cells = {(c["category"], c["given"], c["lm"]): c for c in result["cells"]}
    assert len(cells) == 3 * 3 * 3
    assert cells["known-changed", "new", "radit"]["corpus"]["value"] == 1
    assert cells["known-changed", "none", "radit"]["memory"]["value"] == 1
    assert cells["new", "none", "radit"]["neither"]["value"] == 1
    assert cells["new", "none", "radit"]["shown"] is None
    new = [key for key, question in questions.items() if question.category == "new"]
    share = sum(shown[key] for key in new) / len(new)
    assert cells["new", "new", "radit"]["shown"] == pytest.approx(share)
    where = {(c["category"], c["lm"]): c for c in result["where_shown"]}
    assert where["new", "radit"]["num_questions"] == sum(shown[key] for key in new)
    assert where["known-changed", "lm-ft"]["corpus"]["value"] == 1
    filed = results_of("oq2", changed_share=0.5, **result)
    rows = [line.split(" | ") for line in page("oq2", {"demo": filed}).splitlines()]
    shown = {tuple(row[:3]) for row in rows if row[0].startswith("| known-changed")}
    assert {("| known-changed", given, "radit") for given in says} <= shown
    drawn = plots("oq2", filed)
    assert len(drawn) == 3
    for plot in drawn:
        assert plot["labels"] == list(corpora.LMS)
        assert plot["series"]["the corpus' value"] == [(100.0, 100.0, 100.0)] * 3


# --- question 2, real pages ---

VERSION = versions.Pair(name="a pair", old="corpus/old.jsonl", new="corpus/new.jsonl", note="x")
WORDS = ["the", "well", "by", "gate", "was", "dug", "in", "spring", "roof", "slate", "oak"]


def long_text(number: int, fact: str, num_words: int) -> str:
    rng = random.Random(number)
    return f"{fact}. " + " ".join(rng.choice(WORDS) for _ in range(num_words))


@pytest.fixture
def dumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two versions of three pages and a pool of others."""
    folder = tmp_path / "data"
    (folder / "corpus").mkdir(parents=True)
    old = [("Arden", "mayor Anna"), ("Belwick", "mayor Boris"), ("Corstad", "mayor Clara")]
    new = [("Arden", "mayor Dora"), ("Belwick", "mayor Boris"), ("Dunmont", "mayor Emil")]
    for name, pages, words in (("old", old, 150), ("new", new, 700)):
        write_jsonl(
            folder / "corpus" / f"{name}.jsonl",
            [
                {"id": f"{name}-{n}", "title": title, "text": long_text(n, fact, words)}
                for n, (title, fact) in enumerate(pages)
            ],
        )
    pool = [
        {"id": f"o{n}", "title": f"Other {n}", "text": long_text(n, "x", 40)} for n in range(40)
    ]
    pool.append({"id": "same", "title": "Arden", "text": long_text(99, "mayor Zoe", 40)})
    write_jsonl(folder / "corpus" / "pool.jsonl", pool)
    monkeypatch.setenv("RADIT_DATA", str(folder))
    return folder


def test_corpora_of_two_versions_are_equal_but_for_the_version(dumps: Path, tmp_path: Path) -> None:
    pages = versions.common_pages(VERSION)
    assert set(pages) == {"Arden", "Belwick"}
    counts = versions.write_corpora(
        pages, str(tmp_path), pool="corpus/pool.jsonl", num_distractors=10
    )
    sides = {
        name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in ("old", "new")
    }
    assert len(sides["old"]) == len(sides["new"]) == counts["corpus"]
    assert counts["old"] < counts["new"] == counts["corpus"] - 10
    others = {n: [r["text"] for r in rows if r["source"] == "other"] for n, rows in sides.items()}
    assert others["new"] == others["old"][:10]
    assert not any("Zoe" in row["text"] for rows in sides.values() for row in rows)
    for rows in sides.values():
        assert len({row["id"] for row in rows}) == len(rows)
        assert {r["title"] for r in rows if r["source"] != "other"} == {"Arden", "Belwick"}


def test_where_the_answer_stands_is_said_of_the_pages_a_question_names(dumps: Path) -> None:
    pages = versions.common_pages(VERSION)

    def asked(question: str, *answers: str) -> dict[str, Any]:
        return {"id": question, "question": question, "answers": list(answers), "choices": []}

    questions = [
        asked("who is mayor of Arden", "Anna"),
        asked("who is mayor of arden now?", "Dora"),
        asked("and of Belwick?", "Boris"),
        asked("and in Belwick, who else?", "Anna"),  # on another page only
        asked("who is mayor of Corstad", "Clara"),  # in one version only: no common page
        asked("who is mayor", "Anna"),
    ]
    found = {row["id"]: kind for row, kind in versions.named_questions(iter(questions), pages)}
    assert list(found.values()) == ["old only", "new only", "both", "neither"]


def test_power_is_told_of_the_questions_that_a_comparison_rests_on(
    dumps: Path, tmp_path: Path
) -> None:
    """Of page versions those of the largest kind: here two in both, one in the newer alone."""
    asked = [("Belwick?", "Boris"), ("and of Belwick?", "Boris"), ("of Arden?", "Dora"), ("?", "x")]
    rows = [{"id": f"q{n}", "question": q, "answers": [a]} for n, (q, a) in enumerate(asked)]
    file = write_jsonl(tmp_path / "asked.jsonl", rows)
    config = versions.VersionsConfig(pairs=(VERSION,), questions=(f"eval={file}",))
    job = Job(recipe=demo(lm="x"), output="")
    assert versions.num_asked(job, config) == 2
    assert versions.num_asked(dataclasses.replace(job, num_questions=1), config) == 1


def test_a_missing_dump_is_one_line(dumps: Path) -> None:
    with pytest.raises(InputError, match=r"enwiki_2016_slice.*set RADIT_DATA"):
        versions.check()


def test_a_missing_question_set_is_one_line_before_any_work(dumps: Path, tmp_path: Path) -> None:
    config = versions.VersionsConfig(
        pairs=(VERSION,), questions=(f"eval={tmp_path}/none.jsonl",), pool="corpus/pool.jsonl"
    )
    with pytest.raises(InputError, match=r"none\.jsonl"):
        versions.check(config)


# --- question 3, sizes ---


@pytest.mark.parametrize("num_train", [16, 37, 800, 1001, 2999])
@pytest.mark.parametrize("batch_size", [8, 32, 64])
def test_the_control_has_exactly_as_many_steps(num_train: int, batch_size: int) -> None:
    """Counted as r-ft counts them, for whatever the cycles took."""
    for epochs in (0.7, 1.0, 4.0):
        cycle = max(1, round(epochs * num_train / batch_size))
        for number in (2, 3, 5):
            wanted = cycles.epochs_for(number * cycle, num_train, batch_size)
            assert round(wanted * num_train / batch_size) == number * cycle


def test_unequal_steps_are_refused() -> None:
    def done(lm: int, r: int) -> list[dict[str, int]]:
        return [{"lm_ft": lm, "r_ft": r}]

    steps = {"single-2": done(20, 8), "cycle-2-base": done(20, 8), "cycle-2-previous": done(20, 8)}
    cycles.check_equal(steps, 2)
    with pytest.raises(AssertionError, match="previous"):
        cycles.check_equal({**steps, "cycle-2-previous": done(20, 7)}, 2)


def test_the_noise_of_seeds_and_gains_by_hand() -> None:
    tables = [rows_of([0.0, 0.0]), rows_of([0.0, 1.0]), rows_of([1.0, 1.0])]
    found = cycles.seed_noise(tables)["em"]
    assert found["most"] == 1.0
    assert found["rms"] == pytest.approx(((0.25 + 0.25 + 1.0) / 3) ** 0.5)
    gains = gain_rows(rows_of([1.0, 0.25]), rows_of([0.5, 1.0]))
    assert [row["em"] for row in gains] == [0.5, -0.75]
    assert [row["id"] for row in gains] == ["q0", "q1"]


# --- numbers and pages ---


def test_a_contrast_carries_its_power_and_a_verdict() -> None:
    tables = {
        "a": [noisy(seed, 0.9) for seed in (1, 2, 3)],
        "b": [noisy(9, 0.2)],
        "c": [noisy(seed, 0.9) for seed in (4, 5, 6)],
    }
    recipe = override(demo(lm="x"), {"evaluate.bootstrap": 200})
    found = compared(tables, ["a-minus-b", "a-minus-c"], recipe)["contrasts"]
    large, none = found["a-minus-b"]["em"], found["a-minus-c"]["em"]
    means = [
        sum(x["em"] - y["em"] for x, y in zip(table, tables["b"][0], strict=True)) / 40
        for table in tables["a"]
    ]
    assert large["power"]["by_seed"] == pytest.approx(means)
    assert large["diff"] == pytest.approx(sum(means) / 3)
    assert (large["power"]["num_groups"], large["power"]["num_seeds"]) == (20, 3)
    assert large["power"]["trained"]
    assert verdict(large["power"], ("more", "less")) == "more"
    assert none["power"]["p"] > 0.05
    assert none["power"]["detectable"] < 0.5


SAID = {
    "num_groups": 40,
    "num_seeds": 3,
    "num_differing": 20,
    "trained": True,
    "low": 0.01,
    "high": 0.05,
    "worth": 0.02,
}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, "better"),
        ({"low": -0.05, "high": -0.03}, "worse"),
        ({"high": 0.015}, "better, less than is worth finding"),
        ({"low": -0.03}, "undecided"),
        ({"low": -0.01, "high": 0.01}, "no difference worth finding"),
        ({"low": -0.01, "high": 0.01, "worth": None}, "undecided"),
        ({"num_seeds": 1}, "better (one training)"),
        ({"num_seeds": 1, "trained": False}, "better"),
        ({"num_groups": 9}, "too few subjects"),
        ({"num_differing": 5}, "5 subjects differ"),
        ({"num_differing": 0, "low": 0.0, "high": 0.0}, "no subject differs"),
        ({"num_differing": None}, "better"),
    ],
)
def test_a_verdict_says_why_nothing_can_be_said(changes: dict[str, Any], told: str) -> None:
    assert verdict({**SAID, **changes}, ("better", "worse")) == told


def test_of_one_subject_nothing_is_said() -> None:
    """Its interval would have no width; JSON has no infinity."""
    table = [{**row, "group": "the only one"} for row in noisy(1, 0.5)]
    found = power([table], [noisy(2, 0.1)], "em", trained=False)
    assert found["low"] is found["high"] is found["detectable"] is found["p"] is None
    assert verdict(found, ("better", "worse")) == "too few subjects"
    contrasts = {"a-minus-b": {"em": {"diff": 0.4, "power": found}}}
    assert "| 0.02 | - | too few subjects |" in power_table(contrasts)
    assert "| a - b | - |" in contrasts_table(contrasts, ("em",))


def test_a_cycle_helps_where_it_beats_both_its_start_and_as_many_steps() -> None:
    def cell(diff: float, p: float, size: float) -> dict[str, Any]:
        return {"nll": {"diff": diff, "power": {"p": p, "low": diff - size, "high": diff + size}}}

    found = {
        "cycle-2-base-minus-cycle-1": cell(-0.5, 0.001, 0.2),
        "cycle-2-base-minus-single-2": cell(-0.4, 0.02, 0.3),
        "cycle-2-previous-minus-cycle-1": cell(-0.5, 0.001, 0.2),
        "cycle-2-previous-minus-single-2": cell(0.3, 0.001, 0.1),  # worse than as many steps
    }
    claims = cycles.claims(found, 2)
    assert claims["cycle-2-base"] == {"p": 0.02, "adjusted": 0.04, "verdict": "helps"}
    worse = {"p": 1.0, "adjusted": 1.0, "verdict": "no gain worth finding"}
    assert claims["cycle-2-previous"] == worse
    found["cycle-2-previous-minus-single-2"] = cell(-0.3, 0.3, 0.6)
    assert cycles.claims(found, 2)["cycle-2-previous"]["verdict"] == "undecided"
    found["cycle-2-base-minus-single-2"] = cell(-0.4, 0.03, 0.3)  # 0.03 of two claims is too much
    assert cycles.claims(found, 2)["cycle-2-base"]["verdict"] == "undecided"


def test_a_larger_lm_gains_more_where_both_metrics_say_so() -> None:
    def gain(em: float, nll: float, p_em: float, p_nll: float | None) -> dict[str, Any]:
        pair = (("em", em, p_em), ("nll", nll, p_nll))
        return {metric: {"diff": diff, "power": {"p": p}} for metric, diff, p in pair}

    found = {
        "m.gain-lm-ft-minus-xs.gain-lm-ft": gain(0.1, -0.5, 0.001, 0.01),  # more by both
        "m.gain-r-ft-minus-xs.gain-r-ft": gain(-0.1, 0.5, 0.004, 0.001),  # less by both
        "m.gain-radit-minus-xs.gain-radit": gain(0.1, 0.5, 0.001, 0.001),  # they contradict
        "m.gain-all-minus-xs.gain-all": gain(0.1, -0.5, 0.001, None),  # of one subject
    }
    made = sizes.claims(found, "xs", "m")
    assert made["lm-ft"] == {"p": 0.01, "adjusted": 0.03, "verdict": "gains more"}
    assert made["r-ft"] == {"p": 0.004, "adjusted": 0.016, "verdict": "gains less"}
    for name in ("radit", "all"):
        assert made[name] == {"p": 1.0, "adjusted": 1.0, "verdict": "undecided"}


def size_results() -> dict[str, Any]:
    tables: dict[str, list[Any]] = {}
    for number, size in enumerate(("xs", "s", "m")):
        for name in sizes.SHOWN:
            seeds = (0,) if name in ("closed-book", "replug") else (0, 1)
            tables[f"{size}.{name}"] = [noisy(number + 10 * s, 0.5) for s in seeds]
    for size in ("xs", "s", "m"):
        for name, (a, b) in sizes.GAINS.items():
            sides = tables[f"{size}.{a}"], tables[f"{size}.{b}"] * 2
            pairs = zip(*sides, strict=False)
            tables[f"{size}.gain-{name}"] = [gain_rows(x, y) for x, y in pairs]
    sides = (("xs", "s"), ("s", "m"), ("xs", "m"))
    contrasts = [f"{b}.gain-{n}-minus-{a}.gain-{n}" for a, b in sides for n in sizes.GAINS]
    recipe = override(demo(lm="x"), {"evaluate.bootstrap": 50})
    measured = compared(tables, contrasts, recipe)
    fields = {name: measured[name] for name in ("num_questions", "variants", "contrasts")}
    lms = {size: {"bytes": 2 * n, "num_parameters": n} for n, size in enumerate(("xs", "s", "m"))}
    return results_of(
        "sizes", **fields, lms=lms, claims=sizes.claims(measured["contrasts"], "xs", "m")
    )


def test_the_page_of_sizes_has_its_claims_and_a_plot_of_levels() -> None:
    text = page("sizes", {"demo": size_results()})
    assert "Does `m` gain more than `xs`?" in text
    assert "| gain-radit |" in text
    for plot in plots("sizes", size_results()):
        assert plot["labels"] == ["xs", "s", "m"]
        assert set(plot["series"]) == set(sizes.SHOWN)


def results_of(name: str, **fields: Any) -> dict[str, Any]:
    made = {"versions": {"commit": "abc"}, "hardware": "2 cores", "command": "python jobs/x.py"}
    return {
        "question": name,
        "recipe": "demo",
        "seeds": [0, 1],
        "estimate": "made anew: nothing; together about 0 min",
        "made": {"lm-ft": {"count": 2, "wall_s": 12.0}},
        "environment": made,
        **fields,
    }


def cycle_results() -> dict[str, Any]:
    names = ["cycle-1", *(f"cycle-2-{init}" for init in cycles.INITS), "single-2"]
    tables = {name: [noisy(n + 10 * s, 0.5) for s in (0, 1)] for n, name in enumerate(names)}
    tables["replug"] = [noisy(5, 0.2)]
    recipe = override(demo(lm="x"), {"evaluate.bootstrap": 50})
    measured = compared(tables, cycles.contrasts(2), recipe)
    steps = {n: [{"lm_ft": 6, "r_ft": 4, "kept": [[3, 2]]}] * 2 for n in names}
    noise = {name: cycles.seed_noise(tables[name]) for name in names}
    fields = {name: measured[name] for name in ("num_questions", "variants", "contrasts")}
    claims = cycles.claims(measured["contrasts"], 2)
    pairs = [("lm-1.r-1", "cycle-1"), ("lm-1.r-2", "single-2"), ("lm-2.r-1", "replug")]
    halves = {
        name: measured["variants"][other] for name, other in [*pairs, ("lm-2.r-2", "cycle-1")]
    }
    fields["crossed"] = {"base": halves}
    return results_of("oq3", **fields, claims=claims, steps=steps, seed_noise=noise)


def test_lms_and_retrievers_of_two_cycles_stand_in_one_table() -> None:
    results = cycle_results()
    halves = results["crossed"]["base"]
    cells = [
        f"{halves[name]['em']['value']:.3f}, {halves[name]['nll']['value']:.3f}"
        for name in ("lm-2.r-1", "lm-2.r-2")
    ]
    text = page("oq3", {"demo": results})
    assert "later ones from `base` (em, nll)" in text
    assert re.search(rf"\| lm-2 +\| {cells[0]} +\| {cells[1]} +\|", text)


def test_a_claim_of_one_training_says_so() -> None:
    several = cycle_results()
    pages = [page("oq3", {"demo": {**several, "seeds": seeds}}) for seeds in ([0, 1], [0])]
    for name, claim in several["claims"].items():
        row = rf"\| {name} +\| [^|]+\| [^|]+\| {claim['verdict']}"
        assert re.search(rf"{row} +\|", pages[0])
        assert re.search(rf"{row} \(one training\) +\|", pages[1])


def test_a_page_holds_what_its_data_file_holds_and_prose_stays(tmp_path: Path) -> None:
    folder = tmp_path / "docs" / "results"
    folder.mkdir(parents=True)
    (folder / "oq3.md").write_text(f"# Prose\n\nSaid by hand.\n\n{BELOW}\nold")
    first = cycle_results()
    (tmp_path / "a.json").write_text(json.dumps(first))
    (tmp_path / "b.json").write_text(json.dumps({**first, "recipe": "squad_open"}))
    publish_question("oq3", [str(tmp_path / "a.json")], root=tmp_path)
    publish_question("oq3", [str(tmp_path / "b.json")], root=tmp_path)
    data = json.loads((folder / "oq3.json").read_text())
    assert list(data) == ["demo", "squad_open"]
    text = (folder / "oq3.md").read_text()
    assert text.startswith(f"# Prose\n\nSaid by hand.\n\n{BELOW}")
    body = page("oq3", data)
    assert body in text
    assert "old" not in text.partition(BELOW)[2].split()
    cell = first["contrasts"]["cycle-2-base-minus-single-2"]["em"]
    assert f"{cell['diff']:+.3f} [{cell['power']['low']:+.3f}" in body
    assert first["claims"]["cycle-2-base"]["verdict"] in body
    assert f"{cell['power']['detectable']:.3f}" in body
    (folder / "oq3.md").write_text("no marker")
    with pytest.raises(ValueError, match="lacks the line"):
        publish_question("oq3", [str(tmp_path / "a.json")], root=tmp_path)
    (folder / "oq1.md").write_text(BELOW)
    with pytest.raises(ValueError, match="answers oq3, expected oq1"):
        publish_question("oq1", [str(tmp_path / "a.json")], root=tmp_path)


def test_lines_of_a_plot_stand_at_their_labels() -> None:
    results = cycle_results()
    (em, nll) = plots("oq3", results)
    assert (em["labels"], em["axis"]) == (["1", "2"], "cycles")
    for line in em["series"].values():
        assert line[0][0] == pytest.approx(100 * results["variants"]["cycle-1"]["em"]["value"])
    last = em["series"]["one pass, as many steps"][1]
    assert last[1] == pytest.approx(100 * results["variants"]["single-2"]["em"]["low"])
    assert nll["series"]["from the last"][1][0] == pytest.approx(
        results["variants"]["cycle-2-previous"]["nll"]["value"]
    )


def test_power_is_told_of_as_many_questions_as_are_planned() -> None:
    """Half the questions find a difference about the root of two larger; a worth is found by the
    number of questions that is named for it.
    """
    tuned, untuned = noisy(1, 0.6, 400), noisy(2, 0.3, 400)
    found = power([tuned], [untuned], "em", trained=True)
    whole, half = foreseen(tuned, untuned), foreseen(tuned, untuned, 200)
    size = f"em {found['detectable']:.3f} ({WORTH['em']:g}, worth finding, takes "
    assert whole.startswith(f"400 questions would find {size}{found['needed']:,} questions)")
    sizes = [float(text.partition("em ")[2].split()[0]) for text in (whole, half)]
    assert sizes[1] / sizes[0] == pytest.approx(2**0.5, rel=0.02)
    assert f"em {WORTH['em']:.3f} (" in foreseen(tuned, untuned, found["needed"])
    of_gains = foreseen(tuned, untuned, num_gains=2)  # half the information, too
    assert float(of_gains.partition("em ")[2].split()[0]) == pytest.approx(2**0.5 * sizes[0], 0.02)
    few = foreseen(rows_of([0.0] * 40), rows_of([1.0] * 10 + [0.0] * 30))  # five subjects differ
    assert few.count("too few subjects to tell") == 2


def test_power_of_shares_is_told_of_the_smallest_category() -> None:
    """As many new facts as a category has known ones: what they find is `detectable` of them."""
    config = dataclasses.replace(WORLD, num_known=60, num_eval=80, changed_share=0.5)
    questions = corpora.questions_of(make_world(config), make_world(config, snapshot=2))
    tuned = {key: q.old for key, q in questions.items()}
    untuned = {key: q.old if n % 3 else "x" for n, (key, q) in enumerate(questions.items())}
    fewest = min(sum(q.category == name for q in questions.values()) for name in corpora.CATEGORIES)
    new = {key: q for key, q in questions.items() if q.category == "new"}
    rows = [corpora.share_rows([a], new, "old", "corpus")[0] for a in (tuned, untuned)]
    diff_SB, groups_B = differences([rows[0]], [rows[1]], "share")
    found = spread(diff_SB, groups_B)
    size = detectable(found, num_groups=round(found.num_groups * fewest / found.num_questions))
    told = corpora.foreseen_shares(tuned, untuned, questions)
    assert told.startswith(f"{fewest} questions would find share {size:.3f} (0.05, worth")
    assert found.num_questions != fewest  # else the category would not matter
    known = {key: a for key, a in tuned.items() if questions[key].category != "new"}
    assert "share: too few subjects to tell" in corpora.foreseen_shares(known, untuned, questions)


# --- places and options ---


def test_what_another_question_made_is_not_counted(tmp_path: Path) -> None:
    """oq3 begins, is killed; oq1 runs to its end; oq3 goes on: only its own part is its own."""
    assert set(NAMES) == set(QUESTIONS)
    job = Job(recipe=demo(lm="x"), output=str(tmp_path))

    def make(name: str) -> str:
        file = tmp_path / "artifacts" / name / "manifest.json"
        file.parent.mkdir(parents=True)
        file.write_text("{}")
        return str(file.parent)

    early = make("chunk-1")
    of_recipe = dataclasses.replace(job, recipe=squad_open(lm="x"))  # on the same store
    assert found_before(job, "oq3") == found_before(of_recipe, "oq3") == {early}
    own = make("lm-ft-1")
    other = make("evaluate-1")
    not_of_others(job, [other])
    for begun in (job, of_recipe):
        assert set(finished_artifacts(job.store)) - found_before(begun, "oq3") == {own}


def test_a_store_of_an_earlier_run_is_linked_once(tmp_path: Path) -> None:
    store = tmp_path / "demo" / "artifacts"
    (store / "chunk-1").mkdir(parents=True)
    output = str(tmp_path / "oq")
    share_artifacts(output, str(store))
    share_artifacts(output, str(store))
    assert (tmp_path / "oq" / "artifacts" / "chunk-1").is_dir()
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="another store"):
        share_artifacts(output, str(tmp_path / "other"))
    with pytest.raises(InputError, match="is no folder"):
        share_artifacts(output, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("oq1", [], "no --output given"),
        ("oq1", ["--ks", "0", "3"], "--ks .*expected numbers of chunks"),
        ("oq1", ["--num-questions", "-3"], "--num-questions -3, expected how many"),
        ("sizes", ["--lms", "m=/nowhere/lm-m"], "/nowhere/lm-m"),
        ("oq1", ["--num-checked", "-1"], "--num-checked -1, expected a number of questions"),
        ("oq1", ["--roles", "raddit"], "unknown role 'raddit'.*radit"),
        ("oq2", ["--set", "variants=replug,radit"], "variant 'closed-book' is not in the recipe"),
        ("oq3", ["--num-cycles", "1"], "--num-cycles 1, expected 2"),
        ("sizes", [], "expected LMs of two sizes"),
        ("sizes", ["--lms", "runs/lm-m"], "expected NAME=PATH"),
        ("oq1", ["--recipe", "dmo"], "unknown recipe 'dmo'"),
        ("oq1", ["--artifacts", "/nowhere"], "--artifacts /nowhere is no folder"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, name: str, words: list[str], message: str
) -> None:
    given = ["--output", str(tmp_path), *words] if words or name == "sizes" else words
    with pytest.raises(InputError, match=message):
        command(name, given)


def test_the_cost_of_an_lm_goes_by_its_bytes_where_they_are_known(tmp_path: Path) -> None:
    """A Hugging Face id that is not on this disk has none."""
    for name, num in (("large", 3000), ("small", 1000)):
        (tmp_path / name).mkdir()
        save_file({"w": np.zeros(num, np.int64)}, tmp_path / name / "model.safetensors")
    large, small = str(tmp_path / "large"), str(tmp_path / "small")
    assert sizes.times_as_large(large, small) == pytest.approx(3, rel=0.05)
    assert sizes.times_as_large(small, large) == 1.0  # its questions are answered all the same
    assert sizes.times_as_large(large, "nobody/base") == 1.0
    assert sizes.times_as_large("nobody/large", small) == 1.0


def test_lms_are_put_in_order_of_their_parameters(tmp_path: Path) -> None:
    paths = []
    for name, num in (("large", 2_000_000), ("small", 10)):
        (tmp_path / name).mkdir()
        weights = {"w": np.zeros(num, dtype=np.int8)}  # fewer bytes than the packaged LM's
        save_file(weights, tmp_path / name / "model.safetensors")
        paths.append(f"{name}={tmp_path / name}")
    assert list(lms_of(QuestionArgs(lms=tuple(paths)))) == ["small", "s", "large"]
    unseen = QuestionArgs(lms=(paths[0], "far=s3://models/far"))
    assert list(lms_of(unseen)) == ["s", "large", "far"]  # as given


# --- on Ray ---

SETTINGS = {
    **tiny.SETTINGS,
    "variants": "replug,lm-ft,radit",
    "contrasts": "",
    "score.num_examples": 20,
}


@pytest.fixture(scope="module")
def recipe(tiny_models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    world = tiny_world(tmp_path_factory.mktemp("world"))
    lm, retriever = tiny_models
    whole = own(lm=lm, retriever=retriever, corpus=world["corpus"], examples=world["examples"])
    return override(whole, SETTINGS)


CHUNKS = chunks.ChunksConfig(ks=(1, 3, 12), checked=4, timed=2)


def ask_chunks(recipe: Recipe, output: str, **changes: Any) -> dict[str, Any]:
    job = Job(recipe=recipe, output=output, num_questions=6)
    return answer(job, "oq1", chunks.question(CHUNKS), **changes)


@pytest.mark.slow
@pytest.mark.ray
def test_more_chunks_on_a_tiny_world(recipe: Recipe, ray_cluster: None, tmp_path: Path) -> None:
    estimated = ask_chunks(recipe, str(tmp_path), only_estimate=True)
    assert "0 x pair" not in estimated["estimate"]
    assert estimated["foreseen"].startswith("12 questions would find em: too few subjects")
    results = ask_chunks(recipe, str(tmp_path))
    assert results["num_questions"] == 6
    points = {(p["role"], p["ensemble"], p["k"]): p for p in results["points"]}
    assert len(points) == 2 * 3 * 3
    # a context of 256 tokens holds no twelve chunks: cut, and counted
    assert points["radit", "concat", 12]["num_truncated"] > 3
    assert points["radit", "answers", 12]["num_truncated"] == 0
    one = [points["radit", ensemble, 1]["metrics"] for ensemble in CHUNKS.ensembles]
    for other in one[1:]:  # one chunk: nothing to put together, but other batches (fp32 sums)
        assert other["nll"] == pytest.approx(one[0]["nll"], rel=1e-5)
    assert "radit.answers.1-minus-radit.answers.12" in results["contrasts"]
    assert results["recall"]["base"]["12"] >= results["recall"]["base"]["1"]
    assert [entry["k"] for entry in results["bound"]] == [12]
    tokens = {(c["ensemble"], c["k"]): c["tokens"] for c in results["cost"]}
    assert tokens["answers", 12] > tokens["answers", 3] > tokens["answers", 1]
    assert {"lm-ft", "r-ft", "evaluate"} <= set(results["made"])
    text = page("oq1", {"own": results})
    assert "| radit | answers | 12 |" in text
    assert len(plots("oq1", results)[0]["series"]) == 6
    again = ask_chunks(recipe, str(tmp_path))
    assert again == results  # all of it was there


@pytest.mark.slow
@pytest.mark.ray
def test_more_cycles_on_a_tiny_world(recipe: Recipe, ray_cluster: None, tmp_path: Path) -> None:
    two = dataclasses.replace(recipe, seeds=(0, 1))
    job = Job(recipe=two, output=str(tmp_path))
    results = answer(job, "oq3", cycles.question(2))
    assert results["steps"]["single-2"][0]["lm_ft"] == 8
    for init in cycles.INITS:
        for seed in (0, 1):
            found, control = (results["steps"][n][seed] for n in (f"cycle-2-{init}", "single-2"))
            assert (found["lm_ft"], found["r_ft"]) == (control["lm_ft"], control["r_ft"])
    made = [p.name.rpartition("-")[0] for p in (tmp_path / "artifacts").iterdir()]
    # of each seed: cycle 1, one more cycle from either start, one pass
    assert made.count("lm-ft") == made.count("r-ft") == 8
    assert "cycle-2-base - single-2" in page("oq3", {"own": results})
    for init in cycles.INITS:  # on the diagonal stand the cycles themselves
        halves = results["crossed"][init]
        assert list(halves) == ["lm-1.r-1", "lm-1.r-2", "lm-2.r-1", "lm-2.r-2"]
        for number, name in ((1, "cycle-1"), (2, f"cycle-2-{init}")):
            assert halves[f"lm-{number}.r-{number}"]["nll"] == results["variants"][name]["nll"]
        recalls = [halves[f"lm-{n}.r-2"]["recall@1"] for n in (1, 2)]
        assert recalls[0] == recalls[1]  # the retriever's alone
    assert set(results["seed_noise"]) == set(results["variants"]) - {"replug"}


@pytest.mark.slow
@pytest.mark.ray
def test_page_versions_on_a_tiny_world(
    recipe: Recipe, ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the pages get another mayor; every question is asked of both versions by every LM."""
    monkeypatch.setenv("RADIT_DATA", str(tmp_path))
    (tmp_path / "corpus").mkdir()
    old, questions = tiny.documents(), tiny.questions()["eval"]
    mayors = [row["answers"][0] for row in questions if "mayor" in row["question"]]
    changed = dict.fromkeys(mayors[::2], "Zacharias Quint")
    new = [dict(row) for row in old]
    for row in new:
        for mayor, other in changed.items():
            row["text"] = row["text"].replace(mayor, other)
    write_jsonl(tmp_path / "corpus" / "old.jsonl", old)
    write_jsonl(tmp_path / "corpus" / "new.jsonl", new)
    pool = [{"id": f"o{n}", "title": f"Other {n}", "text": long_text(n, "x", 40)} for n in range(9)]
    write_jsonl(tmp_path / "corpus" / "pool.jsonl", pool)
    config = versions.VersionsConfig(
        pairs=(VERSION,),
        questions=(f"eval={write_jsonl(tmp_path / 'asked.jsonl', questions)}",),
        pool="corpus/pool.jsonl",
        num_distractors=5,
    )
    versions.check(config)
    job = Job(recipe=recipe, output=str(tmp_path / "out"))
    results = answer(job, "oq2", versions.question(config))
    (pair,) = results["pairs"]
    assert pair["named"] == len(questions)
    assert pair["kinds"]["new only"] == 0
    assert pair["kinds"]["old only"] >= len(changed)
    assert pair["chunks"] == {"old": 40, "new": 40, "corpus": 45}
    every = {part["kind"]: part for part in pair["answers"]}["all"]
    assert every["num_questions"] == sum(pair["kinds"].values())
    asked = {f"{lm}.{side}" for lm in versions.LMS for side in ("old", "new")}
    gains = {f"{lm}.gain" for lm in versions.LMS}
    assert set(every["variants"]) == {*asked, *gains, "closed-book"}
    brought = {
        lm: every["contrasts"][f"{lm}.new-minus-{lm}.old"]["nll"]["diff"] for lm in versions.LMS
    }
    more = every["contrasts"]["radit.gain-minus-replug.gain"]["nll"]["diff"]
    assert more == pytest.approx(brought["radit"] - brought["replug"])
    assert results["made"]["embed"]["count"] == 3  # of the run, and of either version
    assert VERSION.name in page("oq2", {"squad_open": results})


@pytest.mark.slow
@pytest.mark.ray
def test_lm_sizes_on_a_tiny_world(recipe: Recipe, ray_cluster: None, tmp_path: Path) -> None:
    """Two LMs on one store: one corpus, a pair each, their gains against each other."""
    lms = {"a": recipe.lm, "b": tiny.tiny_lm(tmp_path / "b", seed=1)}
    whole = dataclasses.replace(recipe, variants=sizes.SHOWN)
    results = answer(Job(recipe=whole, output=str(tmp_path / "out")), "sizes", sizes.question(lms))
    made = {name: entry["count"] for name, entry in results["made"].items()}
    assert (made["chunk"], made["embed"], made["lm-ft"], made["r-ft"]) == (1, 1, 2, 2)
    means = {name: cells["em"]["value"] for name, cells in results["variants"].items()}
    for size in lms:
        gain = means[f"{size}.radit"] - means[f"{size}.replug"]
        assert means[f"{size}.gain-radit"] == pytest.approx(gain)
    assert set(results["claims"]) == set(sizes.GAINS)
    assert "b.gain-all" in page("sizes", {"own": results}).replace(" ", ".")


@pytest.mark.slow
@pytest.mark.ray
def test_a_question_killed_twice_ends_as_an_uninterrupted_one(
    recipe: Recipe, ray_cluster: None, tmp_path: Path
) -> None:
    torn, whole = str(tmp_path / "torn"), str(tmp_path / "whole")
    fields = {name: getattr(recipe, name) for name in ("lm", "retriever", "corpus", "examples")}
    code = (
        "from test_open_questions import SETTINGS, ask_chunks\n"
        "from radit_ray.engines.connect import connect\n"
        "from radit_ray.recipes import override, own\n"
        "connect(num_cpus=2)\n"
        f"ask_chunks(override(own(**{fields!r}), SETTINGS), {torn!r})\n"
    )
    store = Path(torn, "artifacts")

    def finished(kind: str, count: int) -> bool:
        return len(list(store.glob(f"{kind}-*/manifest.json"))) >= count

    killed(code, lambda: finished("lm-ft", 1))
    killed(code, lambda: finished("evaluate", 3))
    results = [ask_chunks(recipe, output) for output in (torn, whole)]
    for name in ("points", "contrasts", "recall"):
        assert results[0][name] == results[1][name]
    counts = [{k: v["count"] for k, v in found["made"].items()} for found in results]
    assert counts[0] == counts[1]
    assert not list(Path(torn).glob("own/.*before*"))
    shutil.rmtree(torn)
