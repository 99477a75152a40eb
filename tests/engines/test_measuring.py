"""Contract: numbers are plain means over questions; seeds are averaged question by question first;
contrasts are paired, with the difference the sample could find.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.engines.answering import METRICS, SCORE
from radit_ray.engines.measuring import check_contrast, mean_over_seeds, measure

DRAWS = {"num_samples": 200, "seed": 0}


def rows(seed: int, *, shift: float = 0.0, retrieval: bool = True) -> list[dict[str, Any]]:
    """40 questions of two tasks about 20 subjects, in two articles."""
    rng = random.Random(seed)
    return [
        {
            "id": f"q{n}",
            "task": "main" if n < 30 else "other",
            "group": f"subject {n // 2}",
            "article": f"article {n % 2}" if n < 20 else "",
            **{
                metric: rng.random() + shift if retrieval or "recall" not in metric else None
                for metric in (*METRICS, SCORE)
            },
            "num_truncated": n % 5,
            "num_question_cut": 7 * (n == 3),
        }
        for n in range(40)
    ]


def test_means_contrasts_tasks_and_articles() -> None:
    a, b = rows(0, shift=1.0), rows(1)
    found = measure({"a": a, "b": b}, contrasts=["a-minus-b"], tasks=["main"], **DRAWS)
    main_a, main_b = a[:30], b[:30]
    assert found["num_questions"] == 30
    mean = sum(row["em"] for row in main_a) / 30
    cell = found["variants"]["a"]["em"]
    assert cell["value"] == pytest.approx(mean)
    assert cell["low"] < mean < cell["high"]
    difference = found["contrasts"]["a-minus-b"]["em"]
    paired = [x["em"] - y["em"] for x, y in zip(main_a, main_b, strict=True)]
    assert difference["diff"] == pytest.approx(sum(paired) / 30)
    half = (difference["high"] - difference["low"]) / 2
    assert difference["mde"] == pytest.approx(half * 2.801585 / 1.959964)
    assert set(found["tasks"]) == {"main", "other"}
    other = found["tasks"]["other"]["b"]["f1"]["value"]
    assert other == pytest.approx(sum(row["f1"] for row in b[30:]) / 10)
    assert set(found["articles"]) == {"article 0", "article 1"}
    article = found["articles"]["article 1"]
    assert article["num_questions"] == 10
    expected = sum(row["nll"] for row in main_a[:20] if row["article"] == "article 1") / 10
    assert article["variants"]["a"]["nll"] == pytest.approx(expected)
    assert found["truncation"]["a"] == {"num_truncated": 32, "num_question_cut": 1}


def test_variants_without_chunks_have_no_recall_and_probes_stay_out_of_the_table() -> None:
    found = measure(
        {"a": rows(0), "bare": rows(1, retrieval=False), "probe": rows(2)},
        contrasts=["a-minus-bare"],
        probes=["probe"],
        **DRAWS,
    )
    assert set(found["variants"]) == {"a", "bare"}
    assert set(found["variants"]["bare"]) == {"em", "f1", "nll"}
    assert set(found["contrasts"]["a-minus-bare"]) == {"em", "f1", "nll"}
    assert set(found["tasks"]["main"]) == {"a", "bare", "probe"}


def test_seeds_are_averaged_question_by_question() -> None:
    one, two = rows(0), rows(1)
    merged = mean_over_seeds([one, list(reversed(two))])
    assert [row["id"] for row in merged] == [row["id"] for row in one]
    for row, x, y in zip(merged, one, two, strict=True):
        assert row["em"] == pytest.approx((x["em"] + y["em"]) / 2)
        assert row["group"] == x["group"]
    assert mean_over_seeds([rows(0, retrieval=False)] * 2)[0]["recall@1"] is None
    assert len(mean_over_seeds([one, two[:7]])) == 7


def test_unknown_tasks_and_contrasts() -> None:
    with pytest.raises(InputError, match=r"no question of task 'mian' \(there are: main, other\)"):
        measure({"a": rows(0)}, tasks=["mian"], **DRAWS)
    with pytest.raises(InputError, match="expected A-minus-B with A and B of: a, b"):
        check_contrast("a-minus-c", ["a", "b"])
