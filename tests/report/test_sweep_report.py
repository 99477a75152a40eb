"""Contract of a sweep's report: a curve for each value of what else was changed, numbers with their
intervals in text and page, nothing loaded from outside.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from radit_ray.report.curves import lines
from radit_ray.report.sweeps import groups, html, page, render


def point(values: dict[str, Any], em: float, *, recall: bool = True) -> dict[str, Any]:
    cell = {"value": em, "low": em - 0.1, "high": em + 0.1}
    radit = {"em": cell, "nll": {**cell, "value": 3.0, "low": 2.5, "high": 3.5}}
    if recall:
        radit["recall@1"] = cell
    difference = {"diff": 0.2, "low": 0.1, "high": 0.3, "mde": 0.15}
    return {
        "values": values,
        "num_questions": 600,
        "variants": {"replug": {"em": cell}, "radit": radit},
        "contrasts": {"radit-minus-replug": {"em": difference}},
    }


def results(points: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "kind": "corpus",
        "recipe": "demo",
        "objectives": {"radit.em": "max"},
        "seeds": [0, 1],
        "points": points,
        "trials": [{"values": {}, "metrics": {"wall_s": 60.0}}] * 2,
        "best": [{"r_ft.lr": "1e-4"}],
        "environment": {
            "command": "radit sweep corpus demo --values 10,20",
            "hardware": "2 x CPU",
            "versions": {"commit": "abc"},
        },
        **more,
    }


SIZES = [
    point({"r_ft.lr": lr, "num_documents": size, "keep_gold": keep}, em)
    for lr in ("1e-4", "1e-3")
    for size, keep, em in ((10, False, 0.3), (10, True, 0.5), (20, False, 0.4), (20, True, 0.45))
]


def test_each_curve_changes_one_thing() -> None:
    found = groups(results(SIZES))
    assert [same for same, _, _ in found] == [
        f"r_ft.lr={lr}, keep_gold={keep}" for lr in ("1e-4", "1e-3") for keep in (False, True)
    ]
    assert {moving for _, moving, _ in found} == {"num_documents"}
    assert all([p["values"]["num_documents"] for p in points] == [10, 20] for *_, points in found)
    one = [point({"k_infer": k}, 0.2, recall=bool(k)) for k in (0, 1)]
    assert [(same, moving) for same, moving, _ in groups(results(one))] == [("", "k_infer")]


def test_the_tables_hold_every_point() -> None:
    text = render(results(SIZES), markdown=True)
    assert "| 1e-4 | 10 | False | 0.300 [0.200, 0.400] | 0.300 [0.200, 0.400] |" in text
    assert "radit - replug (em)" in text
    assert "Best by radit.em max: r_ft.lr=1e-4" in text
    assert page(results(SIZES)).startswith(
        "# corpus of demo\n\n- command: `radit sweep corpus demo"
    )
    alone = render(results([point({}, 0.3)], best=[{}]))
    assert "as it is" in alone
    assert "Best" not in alone


def test_a_point_without_some_variants_says_why() -> None:
    words = {**point({"retriever": "bm25"}, 0.2), "note": "no radit: BM25 has no weights"}
    del words["variants"]["radit"]
    found = results([point({"retriever": "minilm"}, 0.3), words])
    row = "| bm25 | no radit: BM25 has no weights | 0.200 [0.100, 0.300] | - |"
    assert row in render(found, markdown=True)
    assert "| minilm |  | 0.300" in render(found, markdown=True)
    assert "no radit: BM25 has no weights" in html(found)


def test_the_page_draws_curves_and_loads_nothing() -> None:
    shown = html(results(SIZES))
    assert shown.count('class="curves"') == 4 * 3  # em, nll, recall@1
    assert "replug: 30 [20, 40]" in shown  # on a dot
    assert not re.findall(r'(?:src|href)="(?!#|data:)', shown)
    assert "<script" not in shown
    # without chunks there is no recall, and the line begins later
    one = html(results([point({"k_infer": k}, 0.2, recall=bool(k)) for k in (0, 1, 3)]))
    recall = one.partition('aria-label="Recall@1')[2].partition("</svg>")[0]
    assert recall.count("<circle") == 2
    single = html(results([point({}, 0.3)]))
    assert "Nothing was changed step by step" in single


def test_bands_and_lines_stand_where_their_values_are() -> None:
    made = lines(["1", "3"], {"a": [(10.0, 0.0, 20.0), (20.0, 10.0, 30.0)]}, title="t", axis="k")
    drawn = re.search(r'<polyline points="([^"]*)"', made)
    band = re.search(r'<polygon points="([^"]*)"', made)
    assert drawn
    assert band
    (x1, y1), (x2, y2) = (map(float, pair.split(",")) for pair in drawn[1].split())
    corners = [tuple(map(float, pair.split(","))) for pair in band[1].split()]
    assert x1 < x2
    assert y1 > y2  # larger values stand higher
    assert [x for x, _ in corners] == [x1, x2, x2, x1]
    assert corners[0][1] == pytest.approx(y2)  # the upper end of the first is the second's value
    assert lines(["1"], {"a": [None]}, title="t", axis="k") == ""
