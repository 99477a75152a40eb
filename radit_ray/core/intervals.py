"""Uncertainty of a mean over questions: per-example values and their groups in, (value, low, high)
out.

Questions about one subject rise and fall together, so whole groups are drawn again and not single
questions (a cluster bootstrap); the interval is the middle 95% of the resampled means. Two variants
are compared on the same questions.

Shapes: B examples, G groups, R resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radit_ray.core.errors import InputError

LOW_HIGH_PERCENT = (2.5, 97.5)
_Z_975, _Z_80 = 1.959964, 0.841621  # standard normal quantiles
# standard errors of the smallest effect that a two-sided 5% test finds in 80% of repetitions
DETECTABLE = _Z_975 + _Z_80
FEW_GROUPS = 10  # with fewer subjects nothing is said of others, nor where fewer than these differ:
FEW_DIFFERING = 6  # five of five on one side are what a fair coin does once in 16
_BLOCK = 1 << 22  # at most this many draws in memory at a time (32 MB of int64)


def bootstrap_mean(
    values_B: ArrayLike, groups_B: Sequence[Hashable], *, num_samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) with a 95% percentile interval over resampled groups. Same seed and data:
    the same interval.

    A single group, or values that are all equal, give an interval of no width.

    >>> bootstrap_mean([0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"], num_samples=100, seed=0)
    (0.5, 0.0, 1.0)
    """
    value_B, group_B = _checked(values_B, groups_B, num_samples)
    low, high = np.percentile(_resampled(value_B, group_B, num_samples, seed), LOW_HIGH_PERCENT)
    return float(value_B.mean()), float(low), float(high)


def bootstrap_macro(
    strata: Sequence[tuple[ArrayLike, Sequence[Hashable]]],
    *,
    num_samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(mean of the strata's means, low, high): the plain average over tasks, each (values, groups)
    resampled by itself.

    >>> bootstrap_macro([([0.0, 0.0], ["a", "b"]), ([1.0] * 4, list("abcd"))], num_samples=100)
    (0.5, 0.5, 0.5)
    """
    if not strata:
        raise InputError("no task to average over; evaluate at least one")
    checked = [_checked(values, groups, num_samples) for values, groups in strata]
    mean = float(np.mean([value_B.mean() for value_B, _ in checked]))
    means_SR = [
        _resampled(value_B, group_B, num_samples, seed + number)
        for number, (value_B, group_B) in enumerate(checked)
    ]
    low, high = np.percentile(np.mean(means_SR, axis=0), LOW_HIGH_PERCENT)
    return mean, float(low), float(high)


def paired_bootstrap(
    a_B: ArrayLike,
    b_B: ArrayLike,
    groups_B: Sequence[Hashable],
    *,
    num_samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(mean of a - b, low, high): both variants on the same examples, the same groups drawn for
    both.

    >>> paired_bootstrap([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], ["x", "y", "z"], num_samples=100, seed=0)
    (0.3333333333333333, 0.0, 1.0)
    """
    a, b = np.asarray(a_B, dtype=np.float64), np.asarray(b_B, dtype=np.float64)
    if a.shape != b.shape:
        raise InputError(
            f"variants have {a.shape} and {b.shape} values; expected one value each per example: "
            "evaluate both on the same examples, in the same order"
        )
    return bootstrap_mean(a - b, groups_B, num_samples=num_samples, seed=seed)


def minimum_detectable_effect(low: float, high: float) -> float:
    """The smallest true difference that a two-sided 5% test of this precision finds in 80% of
    repetitions: (1.96 + 0.84) standard errors, the standard error read off the 95% interval.

    >>> round(minimum_detectable_effect(-0.196, 0.196), 3)
    0.28
    """
    return DETECTABLE / _Z_975 * (high - low) / 2


def _resampled(
    value_B: NDArray[np.float64], group_B: NDArray[np.int64], num_samples: int, seed: int
) -> NDArray[np.float64]:
    """(R,) means over whole groups drawn with replacement."""
    num_groups = int(group_B.max()) + 1
    sum_G = np.bincount(group_B, weights=value_B, minlength=num_groups)
    count_G = np.bincount(group_B, minlength=num_groups)
    generator = np.random.Generator(np.random.PCG64(seed))
    means = []
    for num in _block_sizes(num_samples, num_groups):
        draw_RG = generator.integers(num_groups, size=(num, num_groups))
        means.append(sum_G[draw_RG].sum(axis=1) / count_G[draw_RG].sum(axis=1))
    return np.concatenate(means)


def _block_sizes(num_samples: int, num_groups: int) -> list[int]:
    block = max(1, _BLOCK // num_groups)
    return [min(block, num_samples - start) for start in range(0, num_samples, block)]


def _checked(
    values_B: ArrayLike, groups_B: Sequence[Hashable], num_samples: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    value_B = np.asarray(values_B, dtype=np.float64)
    if value_B.ndim != 1 or len(value_B) == 0 or len(value_B) != len(groups_B):
        raise InputError(
            f"values of shape {value_B.shape} for {len(groups_B)} groups; expected one value and "
            "one group per "
            "example, and at least one example: evaluate some questions first"
        )
    if not np.isfinite(value_B).all():
        place = int(np.flatnonzero(~np.isfinite(value_B))[0])
        raise InputError(
            f"value {place} is {value_B[place]}; expected finite numbers: leave such examples out"
        )
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; expected at least 1: 2000 is usual")
    number: dict[Hashable, int] = {}
    return value_B, np.array(
        [number.setdefault(group, len(number)) for group in groups_B], dtype=np.int64
    )
