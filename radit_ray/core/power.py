"""How small a difference a sample would find, and how large a sample a difference needs: paired
differences of several trainings on the same questions in, standard errors out.

Both the questions and the trainings are a sample. With d the difference of one question under one
training seed, group g (a subject) and seed s, d = mean + a_g + b_s + e_gs; the three variances are
read off a two-way table of groups and seeds (random effects, one cell each), and the mean of G
groups and S seeds has the variance var(a)/G + var(b)/S + var(e)/(G S). With one seed var(b) cannot
be told: what is said then speaks of other questions only.

Shapes: B questions, G groups, S seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from radit_ray.core.errors import InputError
from radit_ray.core.intervals import DETECTABLE


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
    """Of the mean over so many groups and seeds; 0 = as many as there were."""
    G, S = num_groups or found.num_groups, num_seeds or found.num_seeds
    return math.sqrt(found.groups / G + found.seeds / S + found.rest / (G * S))


def detectable(found: Spread, *, num_groups: int = 0, num_seeds: int = 0) -> float:
    """The smallest true difference that a two-sided 5% test finds in 80% of repetitions."""
    return DETECTABLE * standard_error(found, num_groups=num_groups, num_seeds=num_seeds)


def questions_needed(found: Spread, effect: float, *, num_seeds: int = 0) -> int | None:
    """Questions, in groups as large as these, that would show `effect` with so many seeds; None
    where no number would, since the seeds alone differ by more.
    """
    if effect <= 0:
        raise InputError(f"effect is {effect}; expected a difference above 0")
    S = num_seeds or found.num_seeds
    room = (effect / DETECTABLE) ** 2 - found.seeds / S
    if room <= 0:
        return None
    num_groups = (found.groups + found.rest / S) / room
    return math.ceil(num_groups * found.num_questions / found.num_groups)


def _mean_square(deviations: np.ndarray[tuple[int, ...], np.dtype[np.float64]], free: int) -> float:
    return float((deviations**2).sum() / free) if free > 0 else 0.0
