"""What a difference means over other questions and other trainings: paired differences of several
trainings on the same questions in; standard error, interval, p out, and how large a sample a
difference needs.

Both the questions and the trainings are a sample. With d the difference of one question under one
training seed, group g (a subject) and seed s, d = mean + a_g + b_s + e_gs; the three variances are
read off a two-way table of groups and seeds (random effects, one cell each), and the mean of G
groups and S seeds has the variance var(a)/G + var(b)/S + var(e)/(G S). Few seeds tell their own
variance badly, so intervals are Student's t with Satterthwaite's degrees of freedom. With one seed
var(b) cannot be told: what is said then speaks of other questions only.

Shapes: B questions, G groups, S seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from radit_ray.core.errors import InputError
from radit_ray.core.intervals import FEW_GROUPS

MOST_DF = 1e6  # as good as the normal distribution
MOST_GROUPS, MOST_SEEDS = 2**24, 64  # where searches give up


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the scatter of a paired difference comes from; variances of one group, one seed."""

    mean: float
    groups: float
    seeds: float  # 0.0 with one seed, where it cannot be told
    rest: float
    num_questions: int
    num_groups: int
    num_seeds: int


def spread(diff_SB: ArrayLike, groups_B: Sequence[Hashable]) -> Spread:
    """The mean difference and its variances. InputError where shapes do not go together.

    A group's value is its share of the mean over questions, so that large groups count as they do
    there: mean + G/B * sum over its questions of (d - mean).

    >>> found = spread([[0.0, 0.0, 1.0, 1.0]], ["a", "a", "b", "b"])
    >>> found.mean, found.groups, found.num_groups
    (0.5, 0.5, 2)
    """
    values_SB = np.atleast_2d(np.asarray(diff_SB, dtype=np.float64))
    if values_SB.ndim != 2 or values_SB.shape[1] != len(groups_B) or not values_SB.size:
        raise InputError(
            f"differences of shape {values_SB.shape} for {len(groups_B)} groups; expected one row "
            "a training seed and one column a question"
        )
    number: dict[Hashable, int] = {}
    group_B = np.array([number.setdefault(group, len(number)) for group in groups_B])
    num_seeds, num_questions, num_groups = *values_SB.shape, len(number)
    mean = float(values_SB.mean())
    scale = num_groups / num_questions
    cell_SG = np.stack(
        [
            mean + scale * np.bincount(group_B, weights=row - mean, minlength=num_groups)
            for row in values_SB
        ]
    )
    of_group_G, of_seed_S = cell_SG.mean(axis=0), cell_SG.mean(axis=1)
    between = _mean_square(of_group_G - mean, num_groups - 1)
    if num_seeds == 1:
        groups, seeds, rest = between, 0.0, 0.0
    else:
        rest_SG = cell_SG - of_group_G - of_seed_S[:, None] + mean
        rest = _mean_square(rest_SG, (num_groups - 1) * (num_seeds - 1))
        groups = max(0.0, between - rest / num_seeds)
        seeds = max(0.0, _mean_square(of_seed_S - mean, num_seeds - 1) - rest / num_groups)
    return Spread(
        mean=mean,
        groups=groups,
        seeds=seeds,
        rest=rest,
        num_questions=num_questions,
        num_groups=num_groups,
        num_seeds=num_seeds,
    )


def standard_error(found: Spread, *, num_groups: int = 0, num_seeds: int = 0) -> float:
    """Of the mean over so many groups and seeds; 0 = as many as there were. One group tells
    nothing of others: infinite.
    """
    G, S = num_groups or found.num_groups, num_seeds or found.num_seeds
    if G < 2:
        return math.inf
    return math.sqrt(found.groups / G + found.seeds / S + found.rest / (G * S))


def degrees_of_freedom(found: Spread, *, num_groups: int = 0, num_seeds: int = 0) -> float:
    """Satterthwaite's, of the squared standard error as a sum of mean squares (of groups, of seeds,
    of their interaction); at most MOST_DF.
    """
    G, S = num_groups or found.num_groups, num_seeds or found.num_seeds
    error = standard_error(found, num_groups=G, num_seeds=S)
    if not 0 < error < math.inf:
        return MOST_DF
    scatter = ((found.groups + found.rest / S) / G) ** 2 / (G - 1)
    if S > 1:
        scatter += ((found.seeds + found.rest / G) / S) ** 2 / (S - 1)
        scatter += (found.rest / (G * S)) ** 2 / ((G - 1) * (S - 1))
    return min(MOST_DF, error**4 / scatter)


def interval(found: Spread) -> tuple[float, float]:
    """The 95% interval of the mean over other groups and other seeds.

    >>> low, high = interval(spread([[0.1, 0.3], [0.2, 0.6]], ["a", "b"]))
    >>> round(low, 2), round(high, 2)
    (-0.77, 1.37)
    """
    size = _t(0.975, degrees_of_freedom(found)) * standard_error(found)
    return found.mean - size, found.mean + size


def p_value(found: Spread) -> float:
    """Of "no difference", two-sided; nan with one group."""
    from scipy.special import stdtr

    error = standard_error(found)
    if error == 0:
        return float(found.mean == 0)
    if error == math.inf:
        return math.nan
    return float(2 * stdtr(degrees_of_freedom(found), -abs(found.mean) / error))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted for asking several at once (Holm 1979): claims below 0.05 are all true in 95% of
    repetitions.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, most = [0.0] * len(p_values), 0.0
    for place, number in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        most = max(most, min(1.0, (len(p_values) - place) * p_values[number]))
        adjusted[number] = most
    return adjusted


def detectable(found: Spread, *, num_groups: int = 0, num_seeds: int = 0) -> float:
    """The smallest true difference that a two-sided 5% test finds in 80% of repetitions: by the
    noncentral t, since with two seeds the central one finds it in 73%.
    """
    from scipy.special import nctdtrinc

    size = {"num_groups": num_groups, "num_seeds": num_seeds}
    df = degrees_of_freedom(found, **size)
    return float(nctdtrinc(df, 0.2, _t(0.975, df))) * standard_error(found, **size)


def questions_needed(found: Spread, effect: float, *, num_seeds: int = 0) -> int | None:
    """Questions, in groups as large as these and at least FEW_GROUPS of them, that would show
    `effect` with so many seeds; None where no number would, since the seeds alone differ by more.
    """
    if effect <= 0:
        raise InputError(f"effect is {effect}; expected a difference above 0")

    def shows(num_groups: int) -> bool:
        return detectable(found, num_groups=num_groups, num_seeds=num_seeds) <= effect

    low, high = FEW_GROUPS - 1, FEW_GROUPS
    while not shows(high):
        low, high = high, 2 * high
        if high > MOST_GROUPS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return math.ceil(high * found.num_questions / found.num_groups)


def seeds_needed(found: Spread, effect: float) -> int | None:
    """The fewest seeds with which some number of questions would show `effect`; None above
    MOST_SEEDS.
    """
    counts = range(2, MOST_SEEDS + 1)
    return next((n for n in counts if questions_needed(found, effect, num_seeds=n)), None)


def _t(share: float, df: float) -> float:
    """The quantile of Student's t."""
    from scipy.special import stdtrit

    return float(stdtrit(df, share))


def _mean_square(deviations: np.ndarray[tuple[int, ...], np.dtype[np.float64]], free: int) -> float:
    return float((deviations**2).sum() / free) if free > 0 else 0.0
