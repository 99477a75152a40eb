"""Predictions -> numbers: means with intervals, paired contrasts, by task and by article. One
run's, or several training seeds' together.

In: prediction rows by variant. Out: what `results.json` holds. Rows are questions; intervals
resample whole groups (subjects, paragraphs), and contrasts are paired on the same questions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from radit_ray.core.errors import InputError
from radit_ray.core.intervals import bootstrap_mean, minimum_detectable_effect, paired_bootstrap
from radit_ray.data import storage
from radit_ray.data.artifacts import read_shard
from radit_ray.engines.answering import METRICS, SCORE
from radit_ray.engines.variants import TRUNCATION

KEYS = ("id", "task", "group", "article")
Rows = list[dict[str, Any]]


def read_predictions(folder: str, variant: str) -> Rows:
    """One row a question of a variant, in the order of the shards: KEYS, METRICS, SCORE and
    TRUNCATION.
    """
    names = storage.list_files(storage.join(folder, variant))
    shards = [
        read_shard(storage.join(folder, variant, name), [*KEYS, *METRICS, SCORE, *TRUNCATION])
        for name in names
        if name.endswith(".parquet")
    ]
    return list(pa.concat_tables(shards).to_pylist())


def mean_over_seeds(tables: Sequence[Rows]) -> Rows:
    """One row a question, each metric the mean over the seeds' runs; questions that all have."""
    others = [{row["id"]: row for row in table} for table in tables]
    rows = []
    for row in tables[0]:
        same = [other[row["id"]] for other in others if row["id"] in other]
        if len(same) == len(tables):
            means = {
                name: None if any(r[name] is None for r in same) else _mean(r[name] for r in same)
                for name in (*METRICS, SCORE)
            }
            lost = {name: max(r[name] for r in same) for name in TRUNCATION}
            rows.append({**{key: row[key] for key in KEYS}, **means, **lost})
    return rows


def measure(
    tables: Mapping[str, Rows],
    *,
    contrasts: Sequence[str] = (),
    tasks: Sequence[str] = (),
    probes: Sequence[str] = (),
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """num_questions, variants {name: {metric: {value, low, high}}}, contrasts {"a-minus-b":
    {metric: {diff, low, high, mde}}}, tasks {task: {name: {...}}}, articles {article:
    {num_questions, variants {name: {metric: mean}}}}. `tasks` also have `score`, each task's own
    metric, which has no meaning over several tasks.

    `tasks`: those of variants, contrasts and articles; empty = all. `probes` are variants that only
    `tasks` reports. mde: the smallest difference this sample finds 4 times in 5. InputError on a
    task without questions.
    """
    first = next(iter(tables.values()))
    found = list(dict.fromkeys(row["task"] for row in first))
    chosen = list(tasks) or found
    unknown = set(chosen) - set(found)
    if unknown:
        raise InputError(
            f"no question of task {sorted(unknown)[0]!r} (there are: {', '.join(found)})"
        )
    draws = {"num_samples": num_samples, "seed": seed}
    asked = {
        name: [row for row in table if row["task"] in chosen]
        for name, table in tables.items()
        if name not in probes
    }
    differences = {}
    for contrast in contrasts:
        a, b = check_contrast(contrast, asked)
        differences[contrast] = _differences(asked[a], asked[b], draws)
    return {
        "num_questions": len(next(iter(asked.values()))),
        "variants": {name: _means(table, draws) for name, table in asked.items()},
        "contrasts": differences,
        "tasks": {
            task: {
                name: _means(
                    [row for row in table if row["task"] == task], draws, (*METRICS, SCORE)
                )
                for name, table in tables.items()
            }
            for task in found
        },
        "articles": _articles(asked),
        "truncation": {name: questions_cut(table) for name, table in tables.items()},
    }


def questions_cut(rows: Rows) -> dict[str, int]:
    """How many questions lost something to the LM's context, by what they lost."""
    return {name: sum(row[name] > 0 for row in rows) for name in TRUNCATION}


def check_contrast(contrast: str, names: Iterable[str]) -> tuple[str, str]:
    """The two variants of "a-minus-b"; InputError where one is none of `names`."""
    a, separator, b = contrast.partition("-minus-")
    if not separator or a not in names or b not in names:
        raise InputError(
            f"contrast {contrast!r}, expected A-minus-B with A and B of: {', '.join(names)}"
        )
    return a, b


def _means(
    rows: Rows, draws: Mapping[str, int], metrics: Sequence[str] = METRICS
) -> dict[str, dict[str, float]]:
    result = {}
    for metric in metrics:
        known = [row for row in rows if row[metric] is not None]
        if known:
            value, low, high = bootstrap_mean(
                [row[metric] for row in known], [row["group"] for row in known], **draws
            )
            result[metric] = {"value": value, "low": low, "high": high}
    return result


def _differences(a: Rows, b: Rows, draws: Mapping[str, int]) -> dict[str, dict[str, float]]:
    other = {row["id"]: row for row in b}
    result = {}
    for metric in METRICS:
        pairs = [
            (row, other[row["id"]])
            for row in a
            if row["id"] in other
            and row[metric] is not None
            and other[row["id"]][metric] is not None
        ]
        if pairs:
            diff, low, high = paired_bootstrap(
                [x[metric] for x, _ in pairs],
                [y[metric] for _, y in pairs],
                [x["group"] for x, _ in pairs],
                **draws,
            )
            mde = minimum_detectable_effect(low, high)
            result[metric] = {"diff": diff, "low": low, "high": high, "mde": mde}
    return result


def _articles(tables: Mapping[str, Rows]) -> dict[str, dict[str, Any]]:
    """Plain means by article, for questions that name one; few questions each, so no intervals."""
    found: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        by_article: dict[str, Rows] = {}
        for row in table:
            if row["article"]:
                by_article.setdefault(row["article"], []).append(row)
        for article, rows in by_article.items():
            entry = found.setdefault(article, {"num_questions": len(rows), "variants": {}})
            entry["variants"][name] = {
                metric: _mean(row[metric] for row in rows)
                for metric in METRICS
                if all(row[metric] is not None for row in rows)
            }
    return found


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers)
