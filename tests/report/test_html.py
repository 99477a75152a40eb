"""Contract of the report: one page from a finished run's files, well-formed and self-contained,
that says in words what the numbers say, shows what the variants saw, and treats every text of a
corpus as text.
"""

from __future__ import annotations

import doctest
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from folders import (
    CONTRASTS,
    ENVIRONMENT,
    EVIL,
    PROBE,
    RIGHT,
    STAGES,
    TABLE,
    Page,
    make_run,
    prediction,
)

from radit_ray.commands import report
from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import LINK
from radit_ray.report import html
from radit_ray.report.cards import _mixed, highlighted
from radit_ray.report.comparisons import _weak_control, forest, halves
from radit_ray.report.figures import Dots
from radit_ray.report.html import page as html_page
from radit_ray.report.questions import cards_of, choose, marks
from radit_ray.report.table import page as markdown_page
from radit_ray.report.table import render
from radit_ray.report.words import sentence, verdict
from radit_ray.report.writing import write_report


def change_results(run: Path, **changes: Any) -> None:
    file = run / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def read_page(run: Path) -> Page:
    """The page alone, without the pictures beside it."""
    results, record = (json.loads((run / n).read_text()) for n in ("results.json", "run.json"))
    return Page(html.page(results, record, cards_of(str(run), record)))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


MODULES = [
    "markup",
    "plots",
    "words",
    "questions",
    "html",
    "figures",
    "frames",
    "fronts",
    "markdown",
    "points",
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"radit_ray.report.{name}"))
    assert found.attempted
    assert not found.failed


# --- the page ---


def test_the_page_needs_nothing_from_outside_and_can_run_nothing(run: Path) -> None:
    page = read_page(run)
    ids = [element["id"] for element in page.elements if "id" in element]
    assert len(set(ids)) == len(ids)
    for element in page.elements:
        assert element["tag"] not in ("script", "iframe", "object", "img", "base", "form")
        assert "src" not in element
        assert not any(name.startswith("on") for name in element)
        if "href" in element:
            assert element["href"] == "data:," or element["href"].removeprefix("#") in ids
    (style,) = page.all("style")
    assert "@import" not in style["text"]
    assert "url(" not in style["text"]
    (policy,) = [e["content"] for e in page.all("meta") if "http-equiv" in e]
    assert policy.startswith("default-src 'none'")


def test_tables_scroll_in_their_own_box_and_pictures_say_what_they_show(run: Path) -> None:
    page = read_page(run)
    assert len(page.all("table")) > 5
    for table in page.all("table"):
        box = table["inside"][-1]
        assert (box["class"], box["tabindex"], box["role"]) == ("scroll", "0", "region")
        assert box["aria-label"]
    assert len(page.all("svg")) > 20
    for picture in page.all("svg"):
        assert picture["role"] == "img"
        assert picture["aria-label"]
    widths = {len(row) for row in _rows(page, "variants", "all variants")}
    assert len(widths) == 1


def _rows(page: Page, section: str, label: str) -> list[list[str]]:
    """The cells' texts of a table, row by row."""
    found: dict[int, list[str]] = {}
    for cell in (e for e in page.elements if e["tag"] in ("td", "th")):
        inside = [e.get("aria-label") for e in cell["inside"]]
        if label in inside and section in [e.get("id") for e in cell["inside"]]:
            (row,) = [e for e in cell["inside"] if e["tag"] == "tr"]
            found.setdefault(id(row), []).append(cell["text"])
    return list(found.values())


def test_it_tells_what_was_run_and_what_each_variant_is(run: Path) -> None:
    page = read_page(run)
    assert [e["text"] for e in page.all("h2")] == [
        "This run",
        "What each half brought",
        "All variants",
        "What an answer costs",
        "Questions, before and after",
        "Where the time went",
        "How it was made",
    ]
    (body,) = page.all("body")
    for words in ("arXiv 2310.01352", "2 x Some CPU, 8 GiB", "abc123abc123", "models/lm"):
        assert words in body["text"]
    rows = {row[0]: row[1:] for row in _rows(page, "run", "variants by LM and retriever")}
    assert rows[""] == ["no chunks", "base retriever", "R-ft retriever"]
    # 6 questions of the task "open": radit answers 5, replug 3
    assert [cell[: cell.find("NLL")] for cell in rows["base LM"]] == [
        "0.0closed-book",
        "50.0replug",
        "50.0r-ft",
    ]
    assert [cell.partition("NLL")[0] for cell in rows["LM-ft"]] == ["", "66.7lm-ft", "83.3radit"]


def test_the_best_value_of_each_column_is_marked_and_absent_ones_are_not_zero(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    rows = {row[0]: row[4:] for row in _rows(read_page(run), "variants", "all variants")}
    assert set(rows) == {"variant", *TABLE, ""}  # the probe is no row of this table
    for place, (metric, choose_best) in enumerate(
        [("em", max), ("f1", max), ("nll", min), ("recall@1", max), ("recall@5", max)]
    ):
        values = {n: v[metric]["value"] for n, v in results["variants"].items() if metric in v}
        best = choose_best(values.values())
        for name in TABLE:
            assert rows[name][place].startswith("★") == (values.get(name) == best)
    assert rows["closed-book"][3:] == ["\N{EN DASH}"] * 2
    assert rows["radit"][0].startswith("★ 83.3[")


def test_tasks_show_the_probe_and_say_what_the_lm_still_knows(run: Path) -> None:
    page = read_page(run)
    (body,) = page.all("body")
    assert (
        "Of the questions of task known, without any chunk, the base LM answers 100.0% "
        "[100.0, 100.0] right, after LM-ft 50.0% [0.0, 100.0]." in body["text"]
    )
    rows = _rows(page, "variants", "task by task")
    assert ["known", PROBE, "LM-ft", "no chunks"] in [row[:4] for row in rows]
    assert len(rows) == 1 + 2 * len((*TABLE, PROBE))


def test_time_and_origin_of_every_stage(run: Path) -> None:
    page = read_page(run)
    rows = {row[0]: row[3:] for row in _rows(page, "time", "cost of every stage")}
    assert rows["embed"] == ["12.0 s", "20.0 s", "5 k", "3 G"]
    assert rows["r-ft"] == ["48.0 s", "1 min 30 s", "\N{EN DASH}", "\N{EN DASH}"]
    assert rows["together"] == ["1 min 0 s", "1 min 50 s", "5 k", "3 G"]
    bars = {e["aria-label"]: e for e in page.all("svg", "bar", inside="time")}
    widths = {e["inside"][-1]["aria-label"]: e["width"] for e in page.all("rect", inside="time")}
    assert set(bars) == set(widths)
    assert widths == {"embed: 12.0 s": "25.0%", "r-ft: 48.0 s": "100.0%"}
    made = {row[0]: row[1:] for row in _rows(page, "made", "stages")}
    assert made["r-ft"] == [
        "0123456789ab",
        "8",
        "best_step 3, dev_before.mrr 0.5, dev_before.kl 1.25, dev.mrr 0.75, dev.kl 0.5",
    ]
    fields = dict(tuple(row) for row in _rows(page, "made", "fields of the recipe"))
    assert fields["lm_ft.lr"] == "0.0003"


# --- sentences and plots ---


@pytest.mark.parametrize(
    ("contrast", "metric", "cell", "found", "expected"),
    [
        (
            "lm-ft-minus-it-retrieval",
            "em",
            (0.565, 0.533, 0.597),
            "better",
            "LM-ft adds 56.5 points of exact match over instruction tuning with the same chunks "
            "[53.3, 59.7].",
        ),
        (
            "r-ft-minus-replug",
            "em",
            (-0.031, -0.052, -0.011),
            "worse",
            "R-ft is worse than the base retriever, both with the base LM: 3.1 points of exact "
            "match less [1.1, 5.2].",
        ),
        (
            "radit-minus-lm-ft",
            "em",
            (0.003, -0.009, 0.015),
            "unclear",
            "No clear difference in exact match between R-ft on top of LM-ft and LM-ft alone: "
            "+0.3 points [-0.9, +1.5].",
        ),
        (
            "radit-minus-replug",
            "nll",
            (-4.307, -4.921, -3.714),
            "better",
            "RA-DIT (LM-ft and R-ft) lowers the NLL of the right answer by 4.31 nats against the "
            "untuned pair [3.71, 4.92].",
        ),
        (
            "r-ft-minus-replug",
            "nll",
            (0.07, 0.02, 0.12),
            "worse",
            "R-ft is worse: it raises the NLL of the right answer by 0.07 nats against the base "
            "retriever, both with the base LM [0.02, 0.12].",
        ),
        (
            "a-minus-b",
            "nll",
            (0.004, -0.02, 0.03),
            "unclear",
            "No clear difference in NLL of the right answer between a and b: +0.00 nats "
            "[-0.02, +0.03].",
        ),
        ("a-minus-b", "recall@1", (0.0, 0.0, 0.0), "unclear", "a and b: the same recall@1."),
        (
            "a-minus-b",
            "em",
            (0.01, 0.0, 0.02),  # an interval that touches 0 is not clear
            "unclear",
            "No clear difference in exact match between a and b: +1.0 points [+0.0, +2.0].",
        ),
    ],
)
def test_a_difference_becomes_a_plain_sentence(
    contrast: str, metric: str, cell: tuple[float, float, float], found: str, expected: str
) -> None:
    values = dict(zip(("diff", "low", "high"), cell, strict=True))
    assert verdict(values, metric) == found
    assert sentence(contrast, metric, values) == expected


def test_every_contrast_of_the_run_is_judged(run: Path) -> None:
    page = read_page(run)
    results = json.loads((run / "results.json").read_text())
    verdicts = page.all("li", "verdict")
    assert len(verdicts) == len(CONTRASTS)
    for name, element in zip(CONTRASTS, verdicts, strict=True):
        for metric in ("em", "nll", "recall@1"):
            assert sentence(name, metric, results["contrasts"][name][metric]) in element["text"]
    # r-ft and replug answer 3 of 6 each: nobody may claim a gain
    assert "no clear difference" in verdicts[1]["text"]
    assert verdicts[1]["class"] == "verdict unclear"


def as_dots(cells: Mapping[str, Mapping[str, float]]) -> Dots:
    return Dots(file="f", title="t", metric="em", cells=cells, note="n")


def test_the_forest_plot_places_dots_intervals_and_the_undetectable_band() -> None:
    cells = {
        "a-minus-b": {"diff": 0.5, "low": 0.4, "high": 0.6, "mde": 0.2},
        "c-minus-d": {"diff": -0.1, "low": -0.4, "high": 0.2, "mde": 0.4},
    }
    page = Page(forest(as_dots(cells)))
    low, high = -40 - 0.06 * 100, 60 + 0.06 * 100  # all edges and bands, and 6% of room

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    strips = page.all("svg", "strip")
    assert [strip["class"] for strip in strips] == ["strip better", "strip unclear"]
    expected = "a \N{MINUS SIGN} b: +50.0 points, 95% interval +40.0 to +60.0"
    assert strips[0]["aria-label"] == expected
    dots = [float(e["cx"].rstrip("%")) for e in page.all("circle")]
    assert dots == pytest.approx([place(50), place(-10)], abs=0.01)
    whiskers = [e for e in page.all("line", "whisker") if e["x1"] != e["x2"]]
    ends = [float(e[x].rstrip("%")) for e in whiskers for x in ("x1", "x2")]
    assert ends == pytest.approx([place(v) for v in (40, 60, -40, 20)], abs=0.01)
    zeros = [float(e["x1"].rstrip("%")) for e in page.all("line", "zero")]
    assert zeros == pytest.approx([place(0)] * 2, abs=0.01)
    bands = [(float(e["x"].rstrip("%")), float(e["width"].rstrip("%"))) for e in page.all("rect")]
    assert bands[0] == pytest.approx((place(-20), 100 * 40 / (high - low)), abs=0.01)
    assert [e["text"] for e in page.all("text")] == ["-25", "0", "25", "50"]
    without = {name: {k: v for k, v in c.items() if k != "mde"} for name, c in cells.items()}
    assert not Page(forest(as_dots(without))).all("rect")


# --- questions ---


def open_tables() -> dict[str, dict[str, Any]]:
    return {
        variant: {row["id"]: row for row in (prediction(n, variant) for n in RIGHT if n < 6)}
        for variant in TABLE
    }


def test_questions_are_chosen_by_kind_and_never_twice() -> None:
    shown = [name for name in TABLE if name != "closed-book"]
    tables = open_tables()
    found = choose(tables, shown)
    assert len({question for _, question, _ in found}) == len(found)
    by_title: dict[str, set[str]] = {}
    for kind, question, count in found:
        by_title.setdefault(kind.title, set()).add(question)
        rows = [{name: tables[name][q] for name in shown} for q in tables["radit"]]
        assert count == sum(map(kind.wanted, rows))
    both = by_title["Wrong with replug, right with radit"]
    assert len(both) == 2
    assert both < {"q0", "q1", "q5"}
    assert by_title["Still wrong with radit"] == {"q4"}
    assert by_title["Every variant with chunks is right"] == {"q2"}
    rest = {"q0", "q5"} - both  # at most one question is left whose right chunk moved
    assert by_title.get("R-ft moved a right chunk to the top", set()) == rest
    reordered = {name: dict(reversed(table.items())) for name, table in tables.items()}
    again = choose(reordered, shown)
    assert [(k.title, q, n) for k, q, n in again] == [(k.title, q, n) for k, q, n in found]
    # kinds that do not occur are left out, and other variants are compared in their place
    titles = [kind.title for kind, *_ in choose(tables, ["it-retrieval", "lm-ft"])]
    assert titles[0] == "Wrong with it-retrieval, right with lm-ft"
    assert "R-ft moved a right chunk to the top" not in titles


def test_a_question_shows_what_both_sides_saw_and_said(run: Path) -> None:
    page = read_page(run)
    cards = page.all("details", "card")
    (card,) = [c for c in cards if "Where is house 5?" in c["text"]]
    assert "Right answer: Bodo" in card["text"]
    before, after = [e for e in page.all("section", "side") if card in e["inside"]]
    items = [e for e in page.all("li") if before in e["inside"]]
    # the base retriever has the wrong chunk first; only the answer as a whole word is marked
    assert items[0]["text"].startswith("Title of wrong-5p_R 0.75It is not in Bodoberg.alone it")
    assert items[1]["text"].startswith("Title of right-5a right chunkp_R 0.25House 5 is in bodo.")
    assert [e["text"] for e in page.all("mark") if before in e["inside"]] == ["bodo"]
    widths = [e["width"] for e in page.all("rect") if before in e["inside"]]
    assert widths == ["75.0%", "25.0%"]
    assert "answers Paris wrong" in before["text"]
    assert "answers Bodo right" in after["text"]
    assert "alone it gives Rome wrong" in after["text"]
    for variant in (*TABLE, PROBE):
        assert variant in card["text"]
    assert [("open" in c) for c in cards] == [True] + [False] * (len(cards) - 1)


def test_several_answers_show_their_probability_under_all_chunks() -> None:
    row = prediction(5, "radit", candidates=["Bodo", "Rome"], candidate_logprobs=[-0.5, -2.0])
    row["chunk_answers"] = ["Bodo", "Rome"]
    (line,) = _mixed(row)
    assert "under all its chunks together: Bodo 0.61, Rome 0.14." in line
    assert _mixed(prediction(5, "radit")) == []  # one answer alone needs no choice
    # the options of a choice have scores
    assert _mixed({**row, "chunk_answers": ["Bodo", "Bodo"]}) == []


def test_a_control_below_the_untuned_pair_is_pointed_out() -> None:
    def results(*shares: float) -> dict[str, Any]:
        names = ("replug", "it-retrieval", "lm-ft")
        cells = [{"value": s, "low": s - 0.02, "high": s + 0.02} for s in shares]
        return {"variants": {n: {"em": cell} for n, cell in zip(names, cells, strict=True)}}

    words = _weak_control(results(0.385, 0.286, 0.817))
    assert "the control (28.6%) reads them worse than the untuned LM does (38.5%)" in words
    assert "LM-ft (81.7%) makes a difference of +43.2 points" in words
    assert _weak_control(results(0.385, 0.36, 0.817)) == ""
    assert _weak_control({"variants": {}}) == ""


def test_questions_are_those_of_the_tables_tasks(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    for tasks, expected in ((["known"], {6, 7}), (["open"], set(range(6)))):
        record["recipe"]["evaluate"]["tasks"] = tasks
        (run / "run.json").write_text(json.dumps(record))
        page = read_page(run)
        asked = {e["text"] for e in page.all("h3", inside="questions")}
        assert asked
        assert asked <= {f"Where is house {number}?" for number in expected}


def test_texts_of_a_corpus_stay_texts(tmp_path: Path) -> None:
    hostile = {"question": f"Who? {EVIL}", "answers": ["Oslo", EVIL], "prediction": EVIL}
    run = make_run(
        tmp_path / "run",
        {**hostile, "chunk_answers": [EVIL, EVIL], "em": 0.0, "article": EVIL},
        {"titles": [EVIL, EVIL], "texts": [f"{EVIL} oslo {EVIL}", EVIL], "answers": ["Oslo"]},
    )
    change_results(run, environment={**ENVIRONMENT, "command": EVIL, "hardware": EVIL})
    page = read_page(run)
    assert not page.all("script")
    assert not page.all("img")
    (card,) = [c for c in page.all("details", "card") if f"Who? {EVIL}" in c["text"]]
    assert f"{EVIL} oslo {EVIL}" in card["text"]
    (body,) = page.all("body")
    assert body["text"].count(EVIL) > 8
    assert EVIL in [e["text"] for e in page.all("mark")]  # the answer of that name, as text


def test_long_chunks_are_cut_around_the_answer_and_kept_whole_below(tmp_path: Path) -> None:
    text = f"{'before ' * 100}Oslo{' after' * 100}"
    run = make_run(tmp_path / "run", ranked_changes={"texts": [text, "short"]})
    page = read_page(run)
    shown = [e for e in page.all("p") if "before Oslo after" in e["text"]]
    short, whole = shown[0]["text"], shown[1]
    assert len(short) < 400
    assert short.startswith(" … before")
    assert whole["text"] == text
    assert whole["inside"][-1]["tag"] == "details"


def test_answers_are_marked_as_whole_words() -> None:
    text = "In  New\nYork, newyork and New York City; new."
    found = [text[start:stop] for start, stop in marks(text, ["New York", "new york city"])]
    assert found == ["New\nYork", "New York City"]
    assert marks("anything", []) == marks("anything", [" "]) == []
    assert highlighted("a<b", marks("a<b", ["b"])) == "a&lt;<mark>b</mark>"


def test_all_chunks_in_one_prompt_have_no_weights_of_their_own(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"p_r": [1.0], "chunk_answers": ["Oslo"]})
    page = read_page(run)
    (card,) = [c for c in page.all("details", "card") if "Where is house 0?" in c["text"]]
    assert "Title of right-0" in card["text"]
    assert "p_R" not in card["text"]
    assert "alone it gives" not in card["text"]


# --- runs that lack something ---


def test_a_run_on_the_corpus_alone_shows_what_r_ft_changed(tmp_path: Path) -> None:
    results = {
        "recipe": "own",
        "num_questions": 0,
        "variants": {},
        "contrasts": {},
        "tasks": {},
        "seeds": [0],
        "wall_s": 60.0,
        "stages": STAGES,
        "environment": ENVIRONMENT,
    }
    recipe = {"lm": "lm", "retriever": "r", "evaluate": {"tasks": []}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "run.json").write_text(json.dumps({"recipe": recipe, "variants": {}}))
    page = read_page(tmp_path)
    heads = [e["text"] for e in page.all("h2")]
    assert heads == ["This run", "What R-ft changed", "Where the time went", "How it was made"]
    rows = {row[0]: row[2:] for row in _rows(page, "r-ft", "R-ft on dev")}
    assert rows["mrr"] == ["0.500", "0.750"]
    assert rows["kl"] == ["1.250", "0.500"]


def test_metrics_that_are_missing_are_left_out(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    only = {
        part: {
            name: {metric: cell for metric, cell in cells.items() if metric == "nll"}
            for name, cells in results[part].items()
        }
        for part in ("variants", "contrasts")
    }
    change_results(run, **only, tasks={})
    page = read_page(run)
    (body,) = page.all("body")
    head, *_ = _rows(page, "variants", "all variants")
    assert head[4:] == ["NLL, nats"]
    assert "exact match over" not in body["text"]
    assert len(page.all("table", "forest")) == 1
    assert not page.all("svg", "plain")
    assert "Task by task" not in body["text"]


def test_predictions_or_ranked_rows_that_are_gone_cost_only_their_texts(run: Path) -> None:
    (run / "artifacts" / "retrieve-base").rename(run / "elsewhere")
    page = read_page(run)
    (body,) = page.all("body")
    assert "right-1" in body["text"]  # the id stands for the title
    assert "Title of right-1" in body["text"]  # the tuned retriever's rows are still there
    (run / "evaluate").unlink()
    page = read_page(run)
    (body,) = page.all("body")
    assert "holds no predictions" in body["text"]
    assert not page.all("details", "card")
    (run / "run.json").unlink()
    with pytest.raises(InputError, match=r"no run\.json"):
        write_report(str(run))


def test_a_run_on_an_object_store(run: Path) -> None:
    there = "memory://bucket/run"
    storage.put_folder(str(run / "artifacts"), f"{there}/artifacts")
    for name in ("results.json", "run.json"):
        storage.write_bytes(f"{there}/{name}", (run / name).read_bytes())
    link = {"artifact": f"{there}/artifacts/evaluate-1"}
    storage.write_json(f"{there}/evaluate/{LINK}", link)
    try:
        path = write_report(there).html
        assert path == f"{there}/report.html"
        here = Path(write_report(str(run)).html).read_bytes()
        assert storage.read_bytes(path) == here
        assert b"Title of right-1" in here
    finally:
        storage.remove("memory://bucket")


# --- seeds, articles, and the tables in text ---


def by_seed(run: Path) -> dict[str, Any]:
    """Two seeds of which only the first one's lower bound is above 0."""
    results = json.loads((run / "results.json").read_text())
    found = {}
    for seed, low in (("0", 0.05), ("1", -0.05)):
        cell = {"diff": 0.1, "low": low, "high": 0.2, "mde": 0.1}
        contrasts = {name: {"em": cell} for name in CONTRASTS[:1]}
        found[seed] = {"variants": results["variants"], "contrasts": contrasts, "tasks": {}}
    return found


def test_every_seed_has_its_own_column(run: Path) -> None:
    change_results(run, seeds=[0, 1], by_seed=by_seed(run))
    page = read_page(run)
    rows = _rows(page, "variants", "contrasts by training seed")
    first = ["+10.0 [+5.0, +20.0]", "+10.0 [-5.0, +20.0]", "1 of 2"]
    assert rows[0] == ["contrast", "seed 0", "seed 1", "lower bound above 0"]
    assert rows[1][1:] == first
    assert rows[2][1:] == ["\N{EN DASH}", "\N{EN DASH}", "0 of 2"]
    (body,) = page.all("body")
    assert "its mean over 2 training seeds" in body["text"]
    assert "All 2 training seeds together took" in body["text"]
    text = render(json.loads((run / "results.json").read_text()))
    lines = [line.split() for line in text.splitlines()]
    found = [line for line in lines if line[:3] == ["lm-ft", "-", "it-retrieval"]]
    cells = [word for word in found[1][3:] if not word.startswith("(")]  # (detectable)
    assert cells == ["em", "+0.100", "[+0.050,", "+0.200]*", "+0.100", "[-0.050,", "+0.200]"]


def test_without_several_seeds_there_is_no_table_of_seeds(run: Path) -> None:
    one = {"0": by_seed(run)["0"]}
    change_results(run, by_seed=one)
    (body,) = read_page(run).all("body")
    assert "Every training seed" not in body["text"]
    assert "One training seed" in body["text"]
    assert "by training seed" not in render(json.loads((run / "results.json").read_text()))


def test_articles_have_their_own_table(run: Path) -> None:
    rows = _rows(read_page(run), "variants", "article by article")
    assert rows[0][:5] == ["article", "questions", "replug em", "replug f1", "replug nll"]
    # article 0 has the questions 0, 2 and 4 of the task "open": replug answers 2 and 4
    assert rows[1][:4] == ["article 0", "3", "66.7", "66.7"]
    assert rows[1][4] == f"{(4.0 + 1.0 + 1.0) / 3:.2f}"


def test_the_detectable_difference_stands_in_the_text_where_it_is_known(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    mde = results["contrasts"]["radit-minus-replug"]["em"]["mde"]
    assert mde > 0
    (line,) = [x for x in markdown_page(results).splitlines() if x.startswith("| radit - replug |")]
    assert f"({mde:.3f})" in line.split("|")[2]
    for cells in results["contrasts"].values():
        for cell in cells.values():
            del cell["mde"]
    assert f"({mde:.3f})" not in render(results)


def test_tasks_that_do_not_count_are_told_beside_the_halves(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    known = results["tasks"]["known"]["radit"]["em"]["value"]
    told = halves(results, ["open"])
    assert "Not counted above: the questions of task known" in told
    assert f"radit {100 * known:.1f}" in told
    assert "Not counted above" not in halves(results)
    assert "1 (seed 0)" in html_page(results, json.loads((run / "run.json").read_text()), [])


def test_the_command_writes_the_page_and_prints_the_tables(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(str(run))
    shown = capsys.readouterr()
    assert shown.out.startswith("# own\n")
    assert f"{run}/report.html" in shown.err
    Page((run / "report.html").read_text())
