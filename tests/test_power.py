"""Contract of the power section: variances as a slow table says them, standard errors and intervals
that repeated draws confirm, and sizes that are just enough.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from radit_ray.core.errors import InputError
from radit_ray.core.intervals import FEW_GROUPS, minimum_detectable_effect, paired_bootstrap
from radit_ray.open_questions.power import (
    MOST_DF,
    Spread,
    degrees_of_freedom,
    detectable,
    holm,
    interval,
    p_value,
    questions_needed,
    seeds_needed,
    spread,
    standard_error,
)


def drawn(
    rng: np.random.Generator, *, num_groups: int, num_seeds: int, size: int = 4
) -> tuple[np.ndarray, list[int]]:
    """Differences with a share of groups (sd 0.3), of seeds (sd 0.05) and of neither (sd 0.4)."""
    groups = np.repeat(np.arange(num_groups), size)
    of_group, of_seed = rng.normal(0, 0.3, num_groups), rng.normal(0, 0.05, num_seeds)
    rest = rng.normal(0, 0.4, (num_seeds, num_groups))
    table = 0.1 + of_group[None, :] + of_seed[:, None] + rest
    return table[:, groups], groups.tolist()


def test_variances_are_those_of_a_slow_two_way_table() -> None:
    diff, groups = drawn(np.random.default_rng(0), num_groups=7, num_seeds=3)
    found = spread(diff, groups)
    cells = [[diff[s][groups.index(g)] for g in range(7)] for s in range(3)]
    mean = sum(map(sum, cells)) / 21
    rows = [sum(row) / 7 for row in cells]
    columns = [sum(row[g] for row in cells) / 3 for g in range(7)]
    rest = sum(
        (cells[s][g] - rows[s] - columns[g] + mean) ** 2 for s in range(3) for g in range(7)
    ) / (2 * 6)
    of_groups = sum((c - mean) ** 2 for c in columns) / 6 - rest / 3
    of_seeds = sum((r - mean) ** 2 for r in rows) / 2 - rest / 7
    assert found.mean == pytest.approx(mean)
    assert found.rest == pytest.approx(rest)
    assert found.groups == pytest.approx(max(0.0, of_groups))
    assert found.seeds == pytest.approx(max(0.0, of_seeds))


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    """5 seeds, 40 groups, 400 repetitions: their standard deviation, known within 4%, and the mean
    of the estimates within a tenth of it."""
    rng = np.random.default_rng(1)
    means, errors = [], []
    for _ in range(400):
        found = spread(*drawn(rng, num_groups=40, num_seeds=5))
        means.append(found.mean)
        errors.append(standard_error(found) ** 2)
    true = math.sqrt(0.3**2 / 40 + 0.05**2 / 5 + 0.4**2 / 200)
    assert np.std(means) == pytest.approx(true, rel=0.1)
    assert math.sqrt(np.mean(errors)) == pytest.approx(true, rel=0.1)


def test_one_seed_says_what_the_bootstrap_over_groups_says() -> None:
    """Groups of unequal size; the percentile interval of 4000 resamples is good to some percent."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(120), rng.integers(1, 6, 120))
    diff = 0.05 + rng.normal(0, 0.3, 120)[groups] + rng.normal(0, 0.2, len(groups))
    _, low, high = paired_bootstrap(diff, np.zeros_like(diff), groups.tolist(), num_samples=4000)
    found = spread(diff, groups.tolist())
    assert found.mean == pytest.approx(diff.mean())
    assert detectable(found) == pytest.approx(minimum_detectable_effect(low, high), rel=0.08)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """5 seeds that decide most of the scatter, 600 repetitions: 95% within three standard errors of
    such a share; the normal quantile holds it less often."""
    rng = np.random.default_rng(4)
    groups = list(range(60))
    held, held_by_z = [], []
    for _ in range(600):
        of_seed, of_group = rng.normal(0, 0.1, 5), rng.normal(0, 0.3, 60)
        found = spread(of_seed[:, None] + of_group + rng.normal(0, 0.3, (5, 60)), groups)
        low, high = interval(found)
        held.append(low <= 0 <= high)
        held_by_z.append(abs(found.mean) <= 1.96 * standard_error(found))
        assert held[-1] == (p_value(found) >= 0.05)
    assert np.mean(held) == pytest.approx(0.95, abs=3 * math.sqrt(0.95 * 0.05 / 600))
    assert np.mean(held_by_z) < np.mean(held) - 0.02


@pytest.mark.parametrize("num_seeds", [2, 3, 5])
def test_a_detectable_difference_is_found_four_times_in_five(num_seeds: int) -> None:
    """Seeds decide the scatter, 1500 repetitions: 80% within four standard errors of such a share.
    The sum of two quantiles of t would be found in 73% with two seeds.
    """
    rng = np.random.default_rng(num_seeds)
    groups, found = list(range(40)), 0
    sizes = {"num_questions": 40, "num_groups": 40, "num_seeds": num_seeds}
    effect = detectable(Spread(mean=0.0, groups=0.01, seeds=1.0, rest=0.01, **sizes))
    for _ in range(1500):
        of_seed, of_group = rng.normal(0, 1, num_seeds), rng.normal(0, 0.1, 40)
        rest = rng.normal(0, 0.1, (num_seeds, 40))
        found += p_value(spread(effect + of_seed[:, None] + of_group + rest, groups)) < 0.05
    assert found / 1500 == pytest.approx(0.8, abs=4 * math.sqrt(0.8 * 0.2 / 1500))


def test_degrees_of_freedom_are_those_of_what_scatters() -> None:
    """Of seeds alone S - 1, of groups alone G - 1."""
    sizes = {"mean": 0.0, "num_questions": 90, "num_groups": 30, "num_seeds": 5}
    only_seeds = Spread(groups=0.0, seeds=1.0, rest=0.0, **sizes)  # type: ignore[arg-type]
    only_groups = Spread(groups=1.0, seeds=0.0, rest=0.0, **sizes)  # type: ignore[arg-type]
    assert degrees_of_freedom(only_seeds) == pytest.approx(4)
    assert degrees_of_freedom(only_groups) == pytest.approx(29)
    nothing = Spread(groups=0.0, seeds=0.0, rest=0.0, **sizes)  # type: ignore[arg-type]
    assert degrees_of_freedom(nothing) == MOST_DF
    assert (interval(nothing), p_value(nothing)) == ((0.0, 0.0), 1.0)


def test_one_group_tells_nothing_of_others() -> None:
    found = spread([1.0, 1.0, 1.0], ["a", "a", "a"])
    assert standard_error(found) == math.inf
    assert interval(found) == (-math.inf, math.inf)
    assert detectable(found) == math.inf


def test_holm_is_the_step_down_procedure() -> None:
    """Holm 1979, by hand: 4 x 0.01, 3 x 0.02, 2 x 0.03, and never below the one before."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_questions_needed_are_just_enough() -> None:
    found = spread(*drawn(np.random.default_rng(3), num_groups=50, num_seeds=4))
    least = detectable(found, num_groups=2**24)  # what any number of questions leaves
    for effect in (1.2 * least + 0.01, 2 * least + 0.05):
        needed = questions_needed(found, effect)
        assert needed is not None
        groups = needed / 4  # questions a group
        assert detectable(found, num_groups=math.ceil(groups)) <= effect
        assert detectable(found, num_groups=int(groups) - 1) > effect
        more_seeds = questions_needed(found, effect, num_seeds=16)
        assert more_seeds is not None
        assert more_seeds < needed
    assert questions_needed(found, 100.0) == 4 * FEW_GROUPS


def test_no_number_of_questions_outweighs_seeds_that_differ() -> None:
    found = Spread(
        mean=0.0, groups=0.1, seeds=0.01, rest=0.1, num_questions=100, num_groups=25, num_seeds=2
    )
    assert questions_needed(found, 0.1) is None
    seeds = seeds_needed(found, 0.1)
    assert seeds is not None
    assert questions_needed(found, 0.1, num_seeds=seeds) is not None
    assert questions_needed(found, 0.1, num_seeds=seeds - 1) is None
    assert seeds_needed(found, 0.001) is None


def test_bad_shapes_and_effects() -> None:
    with pytest.raises(InputError, match=r"shape \(1, 2\) for 3 groups"):
        spread([0.0, 1.0], ["a", "b", "c"])
    with pytest.raises(InputError, match="effect is 0"):
        questions_needed(spread([0.0, 1.0], ["a", "b"]), 0)
