"""Contract of a sweep's report: a curve for each value of what else was changed, numbers with their
intervals in text and page, nothing loaded from outside.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from folders import sweep_point as point
from folders import sweep_results as results

from radit_ray.report.curves import lines
from radit_ray.report.figures import Curves
from radit_ray.report.points import curves, fronts, groups
from radit_ray.report.sweeps import html, page, render, spent_table

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


def test_the_page_says_what_was_made_of_every_stage() -> None:
    spent = {"count": 2, "wall_s": 90.0, "device_s": 60.0, "tokens": 3000.0, "flops": 0.0}
    made = results(SIZES, stages={"lm-ft": spent})
    assert spent_table(made, markdown=True).splitlines()[-1].startswith("| lm-ft | 2 | ")
    assert "each artifact counted once" in html(made)
    assert spent_table(results(SIZES)) == ""
    assert "each artifact counted once" not in html(results(SIZES))


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
    assert shown.count('class="curves"') == 4 * 4  # em, nll, recall@1, and the difference in em
    assert "replug: 30 [20, 40]" in shown  # on a dot
    assert not re.findall(r'(?:src|href)="(?!#|data:)', shown)
    assert "<script" not in shown
    # without chunks there is no recall, and the line begins later
    one = html(results([point({"k_infer": k}, 0.2, recall=bool(k)) for k in (0, 1, 3)]))
    recall = one.partition('aria-label="Recall@1')[2].partition("</svg>")[0]
    assert recall.count('class="dot"') == 2
    single = html(results([point({}, 0.3)]))
    assert "Nothing was changed step by step" in single


def test_bands_and_lines_stand_where_their_values_are() -> None:
    made = lines(curve(("1", "3"), {"a": ((10.0, 0.0, 20.0), (20.0, 10.0, 30.0))}))
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
    assert lines(curve(("1",), {"a": (None,)})) == ""


def curve(labels: tuple[str, ...], series: Any) -> Curves:
    about = {"file": "f", "title": "t", "axis": "k", "upright": "%", "note": ""}
    return Curves(labels=labels, series=series, **about)


def costly(costs: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Three trials over k_infer with {k: {variant: seconds of a question}}."""
    made = [point({"k_infer": k}, em) for k, em in ((1, 0.3), (5, 0.5), (10, 0.5))]
    trials = [
        {
            "values": p["values"],
            "metrics": {"wall_s": 60.0}
            | {f"{n}.s_per_question": c for n, c in costs[str(p["values"]["k_infer"])].items()},
        }
        for p in made
    ]
    return results(made, trials=trials, kind="custom")


def test_the_front_holds_what_none_beats() -> None:
    found = costly(
        {
            "1": {"replug": 0.1, "radit": 0.2},
            "5": {"replug": 0.4, "radit": 0.5},
            "10": {"replug": 0.9, "radit": 0.4},
        }
    )
    em, nll = fronts(found)
    assert [(s.name, s.best) for s in em.spots] == [
        ("replug, k_infer 1", True),
        ("radit, k_infer 1", False),  # as good as the first one, and dearer
        ("replug, k_infer 5", True),  # of two that are alike both stay
        ("radit, k_infer 10", True),
        ("radit, k_infer 5", False),
        ("replug, k_infer 10", False),
    ]
    assert em.spots[0].cell == pytest.approx((30.0, 20.0, 40.0))
    # replug has no NLL here, and radit always the same: the cheapest is best
    assert [s.name for s in nll.spots if s.best] == ["radit, k_infer 1"]
    shown = html(found)
    assert "radit, k_infer 10: 50 [40, 60] for 0.4 s" in shown
    assert 'class="stairs"' in shown
    row = shown.partition('<span class="name">radit, k_infer 10</span>')[2].partition("</tr>")[0]
    assert ">yes<" in row
    assert ">50 [40, 60]<" in row
    # answers of one finished run have no cost of their own
    assert fronts(results(SIZES)) == []
    assert "none has a cost of its own" in html(results(SIZES))


def test_an_untuned_pair_that_trials_share_is_one_spot() -> None:
    shared = {"replug": 0.1, "radit": 0.2}
    made = [point({"cycles": n}, 0.3) for n in (1, 2)]
    metrics = {f"{n}.s_per_question": c for n, c in shared.items()}
    trials = [{"values": p["values"], "metrics": metrics} for p in made]
    (em,) = fronts(results(made, trials=trials, kind="cycles"))
    assert [s.name for s in em.spots] == [
        "replug, cycles 1 / cycles 2",
        "radit, cycles 1 / cycles 2",
    ]


def test_models_stand_in_the_order_of_their_size_with_their_parameters() -> None:
    made = [point({"lm": f"models/{name}"}, em) for name, em in (("big", 0.5), ("small", 0.3))]
    sizes = {"models/big": 494_032_768, "models/small": 22_713_216}
    ((_, figures),) = curves(results(made, kind="lms", parameters=sizes))
    assert figures[0].labels == ("small (22.7\N{NO-BREAK SPACE}M)", "big (494\N{NO-BREAK SPACE}M)")
    assert [c[0] for c in figures[0].series["radit"] if c] == pytest.approx([30.0, 50.0])
    assert figures[0].axis == "base LM (parameters)"
