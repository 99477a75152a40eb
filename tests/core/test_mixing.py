"""Capped weights against the paper's Table 1, and the order of examples: exact shares, whole
epochs, one seed.
"""

from __future__ import annotations

from collections import Counter

import pytest

from radit_ray.core.errors import InputError
from radit_ray.core.mixing import capped_weights, mix

# RA-DIT Table 1, the sets of LM-ft with their train sizes, and the unsupervised text.
TABLE_1 = {
    "corpus": 900_000,
    "oasst1": 31_598,
    "commonsense_qa": 9_741,
    "math_qa": 29_837,
    "web_questions": 3_778,
    "wiki_qa": 20_360,
    "yahoo_answers_qa": 87_362,
    "coqa": 108_647,
    "drop": 77_400,
    "narrativeqa": 32_747,
    "newsqa": 74_160,
    "pubmed_qa": 1_000,
    "quail": 10_246,
    "quarel": 1_941,
    "squad_v2": 130_319,
    "cnn_dailymail": 287_113,
    "aqua_rat": 97_467,
    "ecqa": 7_598,
    "gsm8k": 7_473,
    "competition_math": 7_500,
    "strategyqa": 2_290,
}
SHARES = {"corpus": 0.10, "oasst1": 0.05}


def test_the_papers_mixture() -> None:
    weights = capped_weights(TABLE_1, cap=7500, shares=SHARES)
    assert sum(weights.values()) == pytest.approx(1.0)
    assert list(weights) == list(TABLE_1)
    percent = {task: round(100 * weight, 2) for task, weight in weights.items()}
    assert percent["corpus"] == 10.0
    assert percent["oasst1"] == 5.0
    small = {
        "gsm8k": 5.23,
        "web_questions": 2.64,
        "strategyqa": 1.60,
        "quarel": 1.36,
        "pubmed_qa": 0.70,
    }
    assert {task: percent[task] for task in small} == small
    large = [task for task, size in TABLE_1.items() if size >= 7500 and task not in SHARES]
    assert {percent[task] for task in large} == {5.25}
    assert sum(min(size, 7500) for task, size in TABLE_1.items() if task not in SHARES) == 121_482


def test_the_share_of_an_absent_task_goes_to_the_others() -> None:
    shares = {"corpus": 0.1, "oasst1": 0.05}
    for sizes in (
        {"a": 100, "b": 300, "corpus": 9},
        {"a": 100, "b": 300, "corpus": 9, "oasst1": 0},
    ):
        weights = capped_weights(sizes, cap=200, shares=shares)
        assert weights["corpus"] == pytest.approx(0.1)
        assert weights["a"] == pytest.approx(0.9 / 3)
        assert weights["b"] == pytest.approx(0.9 * 2 / 3)
        assert weights.get("oasst1", 0.0) == 0.0
    weights = capped_weights({"corpus": 5, "oasst1": 5}, shares=shares)
    assert weights == pytest.approx({"corpus": 2 / 3, "oasst1": 1 / 3})


def test_shares_that_fill_everything_are_allowed_where_nothing_else_wants_room() -> None:
    assert capped_weights({"a": 1, "b": 1}, shares={"a": 0.75, "b": 0.25}) == {"a": 0.75, "b": 0.25}


@pytest.mark.parametrize(
    ("sizes", "shares", "message"),
    [
        ({"a": 1, "b": 1}, {"a": 1.0}, "share of 'a' is 1.0"),
        ({"a": 1, "b": 1}, {"a": -0.1}, "share of 'a' is -0.1"),
        ({"a": 1, "b": 1, "c": 1}, {"a": 0.5, "b": 0.5}, "sum to 1; expected less than 1"),
        ({"a": 1, "b": 1}, {"a": 0.7, "b": 0.7}, "sum to 1.4"),
        ({"a": 0}, {}, "every task is empty"),
        ({"a": -3}, {}, "task 'a' has size -3"),
        ({"a": 3}, {"a": 0.0}, "shares are all 0"),
    ],
)
def test_impossible_mixtures_are_named(
    sizes: dict[str, int], shares: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        capped_weights(sizes, shares=shares)


def test_a_cap_must_be_positive() -> None:
    with pytest.raises(InputError, match="cap is 0"):
        capped_weights({"a": 1}, cap=0)


def test_counts_are_exact_by_largest_remainder() -> None:
    weights = {"a": 0.5, "b": 0.3, "c": 0.2}
    sizes = dict.fromkeys(weights, 1000)
    for num in (0, 1, 7, 10, 99, 1000):
        counts = Counter(task for task, _ in mix(sizes, num=num, weights=weights, seed=0))
        assert counts.total() == num
        assert all(abs(counts[task] - num * weight) < 1 for task, weight in weights.items())
    assert Counter(t for t, _ in mix(sizes, num=1000, weights=weights, seed=0)) == {
        "a": 500,
        "b": 300,
        "c": 200,
    }
    assert Counter(t for t, _ in mix(sizes, num=7, weights=weights, seed=0)) == {
        "a": 4,
        "b": 2,
        "c": 1,
    }


def test_every_example_comes_once_before_any_comes_twice() -> None:
    order = [index for _, index in mix({"a": 10}, num=35, weights={"a": 1.0}, seed=3)]
    epochs = [order[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]  # 1 in 3.6 million by chance
    assert len(set(order[30:])) == 5


def test_the_seed_decides_the_order() -> None:
    sizes, weights = {"a": 50, "b": 50}, {"a": 0.5, "b": 0.5}
    first = mix(sizes, num=60, weights=weights, seed=0)
    assert first == mix(
        dict(reversed(sizes.items())), num=60, weights=dict(reversed(weights.items())), seed=0
    )
    assert first != mix(sizes, num=60, weights=weights, seed=1)
    assert {task for task, _ in first[:15]} == {"a", "b"}  # interleaved, not one after the other


def test_another_task_leaves_the_draws_of_this_one_alone() -> None:
    alone = [i for _, i in mix({"a": 30}, num=20, weights={"a": 1.0}, seed=0)]
    both = mix({"a": 30, "b": 30}, num=40, weights={"a": 0.5, "b": 0.5}, seed=0)
    assert [i for task, i in both if task == "a"] == alone


def test_weights_need_examples() -> None:
    with pytest.raises(InputError, match=r"task 'b' has weight 0.5 and 0 examples"):
        mix({"a": 3}, num=2, weights={"a": 0.5, "b": 0.5}, seed=0)
    with pytest.raises(InputError, match="no task has a weight above 0"):
        mix({"a": 3}, num=2, weights={"a": 0.0}, seed=0)
    with pytest.raises(InputError, match="num is -1"):
        mix({"a": 3}, num=-1, weights={"a": 1.0}, seed=0)
    assert mix({"a": 3}, num=3, weights={"a": 1.0, "gone": 0.0}, seed=0)
