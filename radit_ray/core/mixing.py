"""How tasks share a training run: dataset sizes in, weights out; weights in, a deterministic order
of examples out.

Source: RA-DIT section 4 and its appendix B (each dataset capped at eta = 7,500 examples, then in
proportion to the capped size; 10% unsupervised text and 5% OASST1 have fixed shares).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from radit_ray.core.errors import InputError

CAP = 7500  # eta: examples of a task that count for its weight
SHARES = {"corpus": 0.10, "oasst1": 0.05}  # fixed; "corpus" is the unsupervised text


def capped_weights(
    sizes: Mapping[str, int], *, cap: int = CAP, shares: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The weight of each task, summing to one: fixed shares first, the rest in proportion to
    min(size, cap).

    The share of a task that is absent (or empty) goes to the others: to the capped ones in
    proportion, or, where every task has a fixed share, to all of them. Keys come out in the order
    of `sizes`; an empty task has weight 0.

    >>> capped_weights({"corpus": 900_000, "a": 20_000, "b": 2_500}, shares={"corpus": 0.2})
    {'corpus': 0.2, 'a': 0.6, 'b': 0.2}
    """
    shares = shares or {}
    _check_sizes(sizes, cap)
    fixed = {task: shares[task] for task in sizes if task in shares and sizes[task] > 0}
    capped = {
        task: min(size, cap) for task, size in sizes.items() if task not in shares and size > 0
    }
    _check_shares(shares, has_rest=bool(capped))
    if not fixed and not capped:
        raise InputError(
            "every task is empty; expected at least one example: give a task with examples"
        )
    total = sum(capped.values())
    # Without capped tasks the fixed shares are scaled up; shares that are all 0 leave nothing to
    # draw from.
    scale = 1.0 if capped else sum(fixed.values())
    if scale == 0:
        raise InputError(
            f"shares are all 0 for {sorted(fixed)}; expected one above 0: raise a share"
        )
    rest = 1.0 - sum(fixed.values())
    return {
        task: fixed[task] / scale
        if task in fixed
        else rest * capped[task] / total
        if task in capped
        else 0.0
        for task in sizes
    }


def mix(
    sizes: Mapping[str, int], *, num: int, weights: Mapping[str, float], seed: int
) -> list[tuple[str, int]]:
    """`num` pairs (task, index of an example in it): exact shares, no early repeats, one seeded
    order.

    A task appears num * weight times, rounded by largest remainder. Within a task every example
    comes once before any comes twice (each epoch has its own permutation). The tasks are
    interleaved by one shuffle. The draws of a task depend on (seed, task, size) alone, so adding
    another task leaves them as they were.

    >>> mix({"a": 2, "b": 100}, num=4, weights={"a": 0.75, "b": 0.25}, seed=0)
    [('a', 1), ('a', 0), ('b', 76), ('a', 0)]
    """
    if num < 0:
        raise InputError(f"num is {num}; expected 0 or more: set the number of examples to draw")
    tasks = sorted(task for task, weight in weights.items() if weight > 0)
    for task in tasks:
        if sizes.get(task, 0) < 1:
            raise InputError(
                f"task {task!r} has weight {weights[task]} and {sizes.get(task, 0)} examples; "
                "expected at least 1: "
                "add examples, or set its weight to 0"
            )
    counts = _largest_remainder(np.array([weights[task] for task in tasks], dtype=np.float64), num)
    task_of_draw = np.repeat(np.arange(len(tasks)), counts)
    np.random.Generator(np.random.PCG64(_seed(seed, "order"))).shuffle(task_of_draw)
    streams = [
        iter(_draws(sizes[task], int(count), _seed(seed, f"task:{task}")).tolist())
        for task, count in zip(tasks, counts, strict=True)
    ]
    return [(tasks[number], next(streams[number])) for number in task_of_draw.tolist()]


def _draws(size: int, count: int, seed: int) -> NDArray[np.int64]:
    """The first `count` of an endless sequence of permutations of range(size)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    epochs = [generator.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate([np.zeros(0, dtype=np.int64), *epochs])[:count].astype(np.int64)


def _largest_remainder(weights: NDArray[np.float64], num: int) -> NDArray[np.int64]:
    """Whole counts that sum to `num` and differ from num * weight by less than one; ties go to the
    first task.
    """
    if len(weights) == 0:
        if num:
            raise InputError(
                f"no task has a weight above 0, and {num} examples are wanted: give a weight"
            )
        return np.zeros(0, dtype=np.int64)
    exact = num * weights / weights.sum()
    # 0.29 * 100 is 28.999999999999996, and its floor 28
    counts: NDArray[np.int64] = np.floor(exact + 1e-9).astype(np.int64)
    most_wanted = np.argsort(-(exact - counts), kind="stable")
    counts[most_wanted[: num - int(counts.sum())]] += 1
    return counts


def _seed(seed: int, name: str) -> int:
    """hashlib and not `hash`: the same in every process. Any integer seed is allowed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "big")


def _check_sizes(sizes: Mapping[str, int], cap: int) -> None:
    if cap < 1:
        raise InputError(f"cap is {cap}; expected at least 1 example per task: the paper's is 7500")
    for task, size in sizes.items():
        if size < 0:
            raise InputError(
                f"task {task!r} has size {size}; expected 0 or more: give its number of examples"
            )


def _check_shares(shares: Mapping[str, float], *, has_rest: bool) -> None:
    for task, share in shares.items():
        if not 0 <= share < 1:
            raise InputError(
                f"share of {task!r} is {share}; expected 0 <= share < 1, such as 0.05: correct it"
            )
    total = sum(shares.values())
    if total > 1 + 1e-9 or (has_rest and total >= 1 - 1e-9):
        raise InputError(
            f"shares {dict(shares)} sum to {total:g}; expected less than 1, which leaves room for "
            "the other tasks: "
            "lower a share"
        )
