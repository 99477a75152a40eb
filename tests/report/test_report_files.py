"""Contract of the report's files: beside the page the same as Markdown with PNGs, drawn from the
same figures; the numbers are those of results.json; without matplotlib only the PNGs are missing.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from folders import EVIL, PROBE, TABLE, Page, make_run, make_sweep

from radit_ray.commands import report
from radit_ray.core.errors import InputError
from radit_ray.report import html, markdown, pictures
from radit_ray.report.figures import (
    Bars,
    Curves,
    Dots,
    Front,
    Spot,
    looks,
    pareto,
    run_fronts,
    stage_times,
)
from radit_ray.report.frames import SHAPES, labels_beside, stops, wrapped
from radit_ray.report.points import curves, fronts
from radit_ray.report.questions import cards_of
from radit_ray.report.writing import write_report

HERE = pictures.available()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("files") / "run", costs=True)
    write_report(str(folder))
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_sweep(tmp_path_factory.mktemp("files") / "sweep")
    write_report(str(folder))
    return folder


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


def cells(text: str, first: str) -> dict[str, list[str]]:
    """The Markdown table whose head begins with `first`, by the first cell of each row."""
    lines = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip(): row[1:] for row in [rows[0], *rows[2:]]}


# --- Markdown ---


def test_the_numbers_of_the_markdown_are_those_of_the_results(run: Path) -> None:
    text, results = (run / "report.md").read_text(), read(run, "results.json")
    variants = cells(text, "variant (6 questions)")
    for name, found in results["variants"].items():
        for place, metric in enumerate(("em", "f1", "nll", "recall@1", "recall@5")):
            cell = found.get(metric)
            numbers = [float(n) for n in re.findall(r"-?\d+\.\d+", variants[name][place])]
            expected = [cell[key] for key in ("value", "low", "high")] if cell else []
            assert numbers == pytest.approx(expected, abs=5e-4)
    contrasts = cells(text, "contrast (detectable)")
    for name, found in results["contrasts"].items():
        numbers = re.findall(r"-?\d+\.\d+", contrasts[name.replace("-minus-", " - ")][0])
        expected = [found["em"][key] for key in ("diff", "low", "high", "mde")]
        assert [float(n) for n in numbers] == pytest.approx(expected, abs=5e-4)
    tasks = text[text.index("### Task by task") :]
    assert tasks.count("| known | ") == tasks.count("| open | ") == len((*TABLE, PROBE))
    # 0.5 s a question for the first variant, 1 s for the second
    costs = cells(text, "variant | device s a question")
    assert [costs[name][0] for name in TABLE] == ["0.5", "1", "1.5", "2", "2.5", "3"]
    assert PROBE not in costs
    stages = cells(text, "stage | rows")
    assert stages["embed"][1:5] == ["12", "20", "5e+03", "3e+09"]
    for stage in results["stages"].values():
        assert stage["fingerprint"] in text
    assert "| `lm_ft.lr` | 0.0003 |" in text


def test_the_markdown_shows_chunks_weights_answers_and_the_winner(run: Path) -> None:
    text = (run / "report.md").read_text()
    card = text[text.index("### Where is house 5?") :].split("\n### ")[0]
    assert "Right answer: **Bodo**" in card
    before, after = re.split(r"`(?:radit|r-ft)` answers", card.split("`replug` answers")[1])
    # the base retriever has the wrong chunk first, and its answer wins
    row = "| Title of wrong-5 | 0.750 | **Paris** (wins) | It is not in Bodoberg. |"
    assert row in before.splitlines()
    assert "| Title of right-5 | 0.250 | Rome | House 5 is in bodo. |" in before
    assert "**Paris** ✗" in before
    assert "| Title of right-5 | 0.750 | **Bodo** (wins) |" in after
    for name in (*TABLE, PROBE):
        assert f"`{name}`" in card


def test_a_sweep_has_every_point_in_its_markdown(sweep: Path) -> None:
    text = (sweep / "report.md").read_text()
    assert text.startswith("# RA-DIT: lms of demo\n")
    assert "| models/wiki-causal-minilm | 0.300 [0.200, 0.400] | 0.300 [0.200, 0.400] |" in text
    costs = cells(text, " | device seconds of answering a question | exact match, %")
    assert costs["replug, SomeModel-0.5B-Instruct"] == ["0.304", "70 [60, 80]", "yes"]
    # 5% dearer for the same: as much
    assert costs["radit, SomeModel-0.5B-Instruct"] == ["0.32", "70 [60, 80]", "yes"]


def test_texts_of_a_corpus_stay_texts_in_markdown(tmp_path: Path) -> None:
    hostile = {"question": f"Who? {EVIL}", "prediction": EVIL, "chunk_answers": [EVIL, "a | b"]}
    ranked = {"titles": [EVIL, "![x](http://a)"], "texts": [f"{EVIL}\n\n# no", "b"]}
    folder = make_run(tmp_path / "run", {**hostile, "em": 0.0}, ranked)
    results, record = (read(folder, name) for name in ("results.json", "run.json"))
    cards = cards_of(str(folder), record)
    text = markdown.run_page(results, record, cards, plots=False)
    assert r"\<script\>" in text
    assert "<script" not in text.replace(r"\<script", "")
    assert "\n# no" not in text
    assert "![x]" not in text.replace(r"\!\[x\]", "")
    assert r"| a \| b |" in text
    assert "plots/" not in text


# --- PNGs ---


@pytest.mark.skipif(not HERE, reason="matplotlib is not installed (extra plots)")
def test_every_picture_is_there_decodes_and_has_its_size(run: Path, sweep: Path) -> None:
    import numpy as np
    from PIL import Image

    shown = "contrasts-em contrasts-nll contrasts-recall-1 variants-em variants-nll"
    swept = "curve-em curve-nll curve-recall-1 curve-differences-em front-em front-nll"
    expected = {run: f"{shown} front-em front-nll time".split(), sweep: swept.split()}
    for folder, names in expected.items():
        text = (folder / "report.md").read_text()
        named = re.findall(r"!\[[^\]]+\]\((plots/[^)]+)\)", text)
        assert sorted(named) == sorted(f"plots/{name}.png" for name in names)
        assert {path.name for path in (folder / "plots").iterdir()} == {f"{n}.png" for n in names}
        for path in named:
            with Image.open(folder / path) as picture:
                assert picture.size == (pictures.WIDTH, pictures.HEIGHT) == (1600, 900)
                pixels = np.asarray(picture.convert("RGB"), dtype=int)
            assert (pixels[0, 0] == 255).all()
            # something is drawn, and nothing touches an edge
            assert (pixels.min(axis=2) < 200).mean() > 0.005
            assert (pixels[[0, -1]] == 255).all()
            assert (pixels[:, [0, -1]] == 255).all()


@pytest.mark.skipif(not HERE, reason="matplotlib is not installed (extra plots)")
def test_a_picture_is_the_same_each_time(run: Path) -> None:
    figure = run_fronts(read(run, "results.json"))[0]
    again = pictures.png(figure)
    assert again == pictures.png(figure) == (run / "plots" / "front-em.png").read_bytes()


def test_without_matplotlib_only_the_pictures_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # as if it were not installed
    for make in (make_run, make_sweep):
        folder = make(tmp_path / make.__name__)
        report(str(folder))
        (told,) = capsys.readouterr().err.splitlines()
        assert told.endswith("no PNGs without matplotlib: pip install 'radit-ray[plots]')")
        Page((folder / "report.html").read_text())
        assert "![" not in (folder / "report.md").read_text()
        assert not (folder / "plots").exists()


def test_a_folder_that_is_neither_gets_one_line(tmp_path: Path) -> None:
    for call in (report, write_report):
        with pytest.raises(InputError, match=r"no results\.json.*expected the folder of") as error:
            call(str(tmp_path))
        assert "\n" not in str(error.value)
        assert "sweep" in str(error.value)


# --- the page, from the same figures ---


def test_page_and_pictures_show_the_same_figures(run: Path, sweep: Path) -> None:
    results, record = (read(run, name) for name in ("results.json", "run.json"))
    page = Page(html.page(results, record, []))
    for figure in run_fronts(results):
        (plot,) = [e for e in page.all("svg", "curves") if e["aria-label"] == figure.title]
        dots = [e for e in page.elements if plot in e["inside"] and "dot" in str(e.get("class"))]
        titles = [e["text"] for e in page.all("title") if any(dot in e["inside"] for dot in dots)]
        assert len(dots) == len(titles) == len(figure.spots)
        for spot, told in zip(figure.spots, titles, strict=True):
            value, cost = re.fullmatch(r".*: (\S+) \[.*\] for (\S+) s", told).groups()  # type: ignore[union-attr]
            assert told.startswith(spot.name)
            assert float(value) == pytest.approx(spot.cell[0], rel=5e-3)
            assert float(cost) == pytest.approx(spot.cost, rel=5e-3)
        hollow = [e for e in dots if "hollow" in e["class"]]
        assert len(hollow) == sum(not spot.best for spot in figure.spots)
        assert figure.note in page.all("body")[0]["text"]
    found = read(sweep, "sweep.json")
    shown = Page((sweep / "report.html").read_text())
    titles = [e["aria-label"] for e in shown.all("svg", "curves")]
    assert titles == [f.title for f in [*curves(found)[0][1], *fronts(found)]]
    kinds = {type(figure) for figure in markdown.run_figures(results)}
    assert kinds | {type(figure) for figure in markdown.sweep_figures(found)} == {
        Dots,
        Curves,
        Front,
        Bars,
    }


def test_an_older_run_without_costs_says_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    results, record = (read(folder, name) for name in ("results.json", "run.json"))
    (body,) = Page(html.page(results, record, [])).all("body")
    assert "did not record what each variant's answers cost" in body["text"]
    assert "What an answer costs" not in markdown.run_page(results, record, [], plots=False)


# --- fronts, labels, looks ---


def test_what_another_evaluation_answered_is_told_below_the_times(run: Path) -> None:
    results = read(run, "results.json")
    before = stage_times(results)
    evaluate = list(results["stages"].values())[-1]
    evaluate["cost"] |= {"reused_device_s": 90.0, "reused_tokens": 5e3}
    after = stage_times(results)
    assert after.rows == before.rows
    assert "earlier evaluations took 1 min 30 s then" in after.note
    assert "earlier evaluations" not in before.note


def test_the_front_against_every_pair() -> None:
    """By the definition, over all pairs of a grid of small whole numbers."""
    spots = [
        Spot(series=f"{cost}-{value}", label="", cost=cost, cell=(value, value, value))
        for cost in (1.0, 2.0, 3.0)
        for value in (0.0, 1.0, 1.0, 2.0)
        if cost + value > 1
    ]
    for lower in (True, False):
        sign = -1 if lower else 1
        for spot in pareto(spots, lower_is_better=lower):
            beaten = any(  # the costs are all further apart than what counts as equal
                (o.cost < spot.cost and sign * o.cell[0] >= sign * spot.cell[0])
                or (o.cost <= spot.cost and sign * o.cell[0] > sign * spot.cell[0])
                for o in spots
            )
            assert spot.best != beaten
    near = [
        Spot(series=name, label="", cost=cost, cell=(value, value, value))
        for name, cost, value in (("a", 1.0, 5.0), ("b", 1.05, 6.0), ("c", 1.2, 6.0))
    ]
    assert [spot.series for spot in pareto(near, lower_is_better=False) if spot.best] == ["b"]
    assert stops({1.0: 5.0, 3.0: 7.0}, 4.0) == [(1.0, 5.0), (3.0, 5.0), (3.0, 7.0), (4.0, 7.0)]


def test_labels_cover_neither_marks_nor_each_other() -> None:
    spots = [(100.0, 100.0), (120.0, 100.0), (100.0, 118.0), (300.0, 100.0)]
    texts = ["radit", "lm-ft", "replug", "at the edge"]
    found = labels_beside(spots, texts, room=(0.0, 0.0, 320.0, 200.0))
    boxes = []
    for place, text in zip(found, texts, strict=True):
        if place is None:
            continue
        x, y, anchor = place
        left = x - {"start": 0, "middle": 0.5, "end": 1}[anchor] * 12.5 * len(text)
        boxes.append((left, y - 11, left + 12.5 * len(text), y + 11))
    assert len(boxes) >= 3
    for number, a in enumerate(boxes):
        assert 0 <= a[0] < a[2] <= 320
        assert not any(a[0] < x < a[2] and a[1] < y < a[3] for x, y in spots)
        for b in boxes[number + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_long_labels_are_broken_and_short_ones_are_not() -> None:
    assert wrapped("100", 8) == ["100"]
    assert wrapped("a" * 10, 4) == ["aaaa", "aaaa", "aa"]
    assert wrapped("a/" * 20, 4, most=2) == ["a/a/", "…"]
    assert all(len(line) <= 9 for line in wrapped("models/wiki-causal-minilm (22M)", 9))


def test_no_two_variants_look_alike_and_each_looks_the_same_everywhere() -> None:
    names = [*TABLE, "replug-5shot", "it", PROBE]
    found = looks(names)
    assert len({(look.colour, look.mark) for look in found.values()}) == len(names)
    assert all(looks([name])[name] == found[name] for name in names)
    others = looks(["radit", "radit-cycle-0", "radit-cycle-1", *map(str, range(5))])
    assert len(set(others.values())) == len(others)
    assert len(SHAPES) == len(pictures.MARKS) == len(pictures.COLOURS)


def test_the_pictures_colours_are_those_of_the_page_and_apart_for_all_eyes() -> None:
    css = Path(html.__file__).with_name("page.css").read_text()
    light = css.partition(".line-0")[2]
    light = ".line-0" + light.partition("@media")[0]
    dark = ".line-0" + css.partition(".line-0")[2].partition(".line-0")[2]
    both = [re.findall(r"\.line-\d \{ color: (#\w+); \}", part) for part in (light, dark)]
    assert tuple(both[0]) == pictures.COLOURS
    for colours, paper in zip(both, ("#ffffff", "#14171b"), strict=True):
        assert len(colours) == len(pictures.COLOURS)
        for colour in colours:
            assert contrast(colour, paper) >= 3.0  # WCAG's floor for graphics
        assert min(distances(colours)) > 25  # 2 is a just noticeable difference


def linear(colour: str) -> Any:
    import numpy as np

    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    bright = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (a, b))
    return bright[1] / bright[0]


def distances(colours: list[str]) -> list[float]:
    """CIE76 between any two, to eyes without red or without green cones (Viénot, Brettel and
    Mollon 1999: linear RGB projected onto what is left).
    """
    import numpy as np

    lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714],
                    [0.0299566, 0.184309, 1.46709]])  # fmt: skip
    protan = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
    deutan = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    found = []
    for lost in (protan, deutan):
        labs = []
        for colour in colours:
            seen = np.linalg.inv(lms) @ lost @ lms @ linear(colour)
            f = np.cbrt(np.clip(xyz @ np.clip(seen, 0, 1), 1e-4, None) / [0.9505, 1, 1.089])
            labs.append([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])
        found += [
            float(np.linalg.norm(np.subtract(a, b)))
            for number, a in enumerate(labs)
            for b in labs[number + 1 :]
        ]
    return found
