"""Contrasts of an open question: tables of one row a question and one table a training seed in;
paired differences with what they say of other subjects and other trainings out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.intervals import FEW_DIFFERING, FEW_GROUPS
from radit_ray.engines.answering import METRICS, SCORE
from radit_ray.engines.measuring import (
    KEYS,
    Rows,
    check_contrast,
    mean_over_seeds,
    measure,
)
from radit_ray.engines.variants import TRUNCATION
from radit_ray.open_questions.power import (
    Spread,
    degrees_of_freedom,
    detectable,
    interval,
    p_value,
    questions_needed,
    seeds_needed,
    spread,
    standard_error,
)
from radit_ray.recipes import Recipe

# differences worth changing a habit for: what the power section says how many questions it takes
WORTH = {"em": 0.02, "f1": 0.02, "nll": 0.1, "share": 0.05}
SHARED = ("closed-book", "replug", "replug-5shot")  # variants that no training seed decides


def compared(
    tables: Mapping[str, Sequence[Rows]], contrasts: Sequence[str], recipe: Recipe
) -> dict[str, Any]:
    """What `measure` says of the mean over seeds, and for each contrast `power`: the interval over
    subjects and seeds, what it would find, and how many questions WORTH would take.

    tables: {name: one table a seed}, or one table of what no seed decides; of other tasks than the
    recipe's nothing is counted.
    """
    config = recipe.evaluate
    tables = {name: of_tasks(found, recipe) for name, found in tables.items()}
    result = measure(
        {name: mean_over_seeds(found) for name, found in tables.items()},
        contrasts=contrasts,
        num_samples=config.bootstrap,
        seed=config.seed,
    )
    del result["articles"], result["tasks"]
    for contrast in contrasts:
        a, b = check_contrast(contrast, tables)
        trained = not (is_shared(a) and is_shared(b))
        for metric, cell in result["contrasts"][contrast].items():
            cell["power"] = power(tables[a], tables[b], metric, trained=trained)
    return result


def of_tasks(tables: Sequence[Rows], recipe: Recipe) -> list[Rows]:
    """The rows of the tasks that the recipe evaluates; of all where it names none."""
    tasks = recipe.evaluate.tasks
    return [[row for row in table if not tasks or row["task"] in tasks] for table in tables]


def is_shared(name: str) -> bool:
    """Whether a table such as `replug.answers.10` or `s.replug` is of an untrained pair."""
    return any(part in SHARED for part in name.split("."))


def gain_rows(a: Rows, b: Rows) -> Rows:
    """Each question's a - b, as rows that are measured like any others."""
    other = {row["id"]: row for row in b}
    made = []
    for row in a:
        same = other[row["id"]]
        values = {
            name: None if row[name] is None or same[name] is None else row[name] - same[name]
            for name in (*METRICS, SCORE)
        }
        made.append({**{key: row[key] for key in KEYS}, **values, **dict.fromkeys(TRUNCATION, 0)})
    return made


def power(a: Sequence[Rows], b: Sequence[Rows], metric: str, *, trained: bool) -> dict[str, Any]:
    """Of one metric's paired differences, one table a seed on either side (or one for all), what
    `judged` says. `trained`: whether a training seed decides one of the sides.
    """
    diff_SB, groups_B = differences(a, b, metric)
    return {
        "by_seed": [sum(row) / len(row) for row in diff_SB],
        "num_differing": _num_differing(diff_SB, groups_B),
        "trained": trained,
        **judged(spread(diff_SB, groups_B), WORTH.get(metric)),
    }


def differences(
    a: Sequence[Rows], b: Sequence[Rows], metric: str
) -> tuple[list[list[float]], list[str]]:
    """((S, B) paired differences, B groups) of the questions that every table has measured."""
    seeds = max(len(a), len(b))
    pairs = list(zip(_each(a, seeds), _each(b, seeds), strict=True))
    by_id = [({r["id"]: r for r in x}, {r["id"]: r for r in y}) for x, y in pairs]
    kept = [
        row
        for row in pairs[0][0]
        if all(
            row["id"] in side and side[row["id"]][metric] is not None
            for sides in by_id
            for side in sides
        )
    ]
    diff_SB = [[x[r["id"]][metric] - y[r["id"]][metric] for r in kept] for x, y in by_id]
    return diff_SB, [row["group"] for row in kept]


def _num_differing(diff_SB: Sequence[Sequence[float]], groups_B: Sequence[str]) -> int:
    """Groups with a question whose difference is not 0 in some seed."""
    return len({g for row in diff_SB for g, d in zip(groups_B, row, strict=True) if d})


def foreseen(
    a: Rows,
    b: Rows,
    num_questions: int | None = None,
    metrics: Sequence[str] = ("em", "nll"),
    num_gains: int = 1,
) -> str:
    """Told before anything is run: what so many questions (None = these) would show of `metrics`
    (keys of WORTH), were differences as scattered as those of one training's pair to the untuned
    one, or as the difference of two such gains, each by itself. What other trainings add, one says
    nothing of.
    """
    asked = len(a) if num_questions is None else num_questions
    parts = []
    for metric in metrics:
        diff_SB, groups_B = differences([a], [b], metric)
        num_groups = round(len(set(groups_B)) * asked / max(1, len(groups_B)))
        if num_groups < FEW_GROUPS or _num_differing(diff_SB, groups_B) < FEW_DIFFERING:
            parts.append(f"{metric}: too few subjects to tell")
            continue
        one, worth = spread(diff_SB, groups_B), WORTH[metric]
        found = dataclasses.replace(one, groups=num_gains * one.groups)  # one seed: no other part
        size, needed = detectable(found, num_groups=num_groups), questions_needed(found, worth)
        takes = f"{needed:,} questions" if needed else "more questions than can be had"
        parts.append(f"{metric} {size:.3f} ({worth:g}, worth finding, takes {takes})")
    return f"{asked:,} questions would find {', '.join(parts)}"


def judged(found: Spread, worth: float | None) -> dict[str, Any]:
    """Sizes, variances, standard error and 95% interval over subjects and seeds, p of "no
    difference", what would be found, and the questions and seeds that `worth` takes. None where
    that is infinite: of one subject.
    """
    low, high = interval(found)
    numbers = {
        "standard_error": standard_error(found),
        "df": degrees_of_freedom(found),
        "low": low,
        "high": high,
        "p": p_value(found),
        "detectable": detectable(found),
    }
    told = worth is not None and found.num_groups > 1
    needed = questions_needed(found, worth) if told else None
    return {
        "num_questions": found.num_questions,
        "num_groups": found.num_groups,
        "num_seeds": found.num_seeds,
        "variance": {"groups": found.groups, "seeds": found.seeds, "rest": found.rest},
        **{name: x if math.isfinite(x) else None for name, x in numbers.items()},
        "worth": worth,
        "needed": needed,
        "seeds_needed": seeds_needed(found, worth) if told and needed is None else None,
    }


def _each(tables: Sequence[Rows], count: int) -> Sequence[Rows]:
    return list(tables) * count if len(tables) == 1 else tables
