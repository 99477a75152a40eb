"""One trial of a sweep: a whole run with some fields of the recipe set, and what is kept of it.

In: a recipe and values of its fields. Out: `<output>/trial-<digest>/` with a run in it, its
trial.json (points and metrics), and the metrics that the study may be told.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.curves import Curve, answer_views, points, views
from radit_ray.data import storage
from radit_ray.models.presets import LEXICAL
from radit_ray.pipeline import pipeline
from radit_ray.recipe_checks import NO_R_FT, R_FT
from radit_ray.recipes import Recipe, override
from radit_ray.runs import merge_seeds, seeded

SPEED = "s_per_question"  # of a variant: device seconds
UNTRAINED = ("closed-book", "replug", "replug-5shot")
UNTUNED = {"lm-ft": "replug", "r-ft": "replug", "radit": "replug"}  # what they are without a cycle


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial does; it travels to a worker."""

    recipe: Recipe
    output: str
    curve: Curve | None
    study: str  # digest of what the sweep is; two sweeps never share a trial's folder
    folder: str  # where relative paths of the recipe start
    command: str  # of the process that started the sweep
    watched: bool = False  # the first seed's and cycle's trainings show their looks at dev

    def history(self, values: Mapping[str, Any]) -> str:
        """Where the trial with these values shows its looks at dev."""
        return storage.join(self.output, trial_name(self.study, values), "history")

    def __call__(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Runs the pipeline with `values`, writes trial.json, and returns `variant.metric` of its
        last point, with wall_s, each variant's s_per_question, and a note where variants are left
        out.
        """
        with contextlib.suppress(FileNotFoundError):  # of a driver on another node
            os.chdir(self.folder)
        recipe = override(self.recipe, values)
        folder = storage.join(self.output, trial_name(self.study, values))
        runs, found = [], []
        for one, run in seeded(recipe, folder, artifacts="../artifacts"):
            run.command = self.command
            run.history = self.history(values) if self.watched and not runs else ""
            found.append(pipeline(one, run))
            runs.append(run)
        results = merge_seeds(runs, found) if len(runs) > 1 else found[0]
        made = [_point(recipe, results)]
        if self.curve is not None:
            asked = [views(run, self.curve) for run in runs]
            answered = [answer_views(run, seen) for run, seen in zip(runs, asked, strict=True)]
            made = points(asked[0], answered, runs[0].evaluation())
        left_out = [name for name in recipe.variants if name in R_FT]
        note = f"no {', no '.join(left_out)}: {NO_R_FT}" if left_out and runs[0].lexical else ""
        for point in made:
            point["variants"] = _with_untuned(recipe, point["variants"])
            point["values"] = {**values, **point["values"]}
            point.update({"note": note} if note else {})
        metrics = _flat(made[-1])
        if self.curve is None:
            metrics |= _speeds(recipe, found)
        metrics["wall_s"] = results["wall_s"]
        record = {"values": dict(values), "points": made, "metrics": metrics}
        storage.write_json(storage.join(folder, "trial.json"), record)
        return {**metrics, "note": note} if note else metrics


def _untuned(recipe: Recipe) -> dict[str, str]:
    """What tuned variants are in a run without a cycle; with BM25 those of R-ft are nothing."""
    if recipe.cycles:
        return {}
    tuned = [n for n in UNTUNED if not (n in R_FT and recipe.retriever == LEXICAL)]
    return {name: UNTUNED[name] for name in tuned if name in recipe.variants}


def _point(recipe: Recipe, results: Mapping[str, Any]) -> dict[str, Any]:
    """A finished run as one point, its values still to be filled in."""
    kept = {name: results[name] for name in ("num_questions", "contrasts", "variants")}
    return {"values": {}, **kept}


def _with_untuned(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any]:
    """A point's variants, and what tuned ones are without a cycle."""
    untuned = _untuned(recipe)
    return {**given, **{name: given[other] for name, other in untuned.items() if other in given}}


def measured_variants(recipe: Recipe) -> list[str]:
    """The variants that a trial of the recipe has numbers of."""
    if recipe.cycles:
        return [n for n in recipe.variants if not (n in R_FT and recipe.retriever == LEXICAL)]
    base = [name for name in recipe.variants if name in UNTRAINED]
    return base + [name for name, other in _untuned(recipe).items() if other in base]


def _speeds(recipe: Recipe, found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """`variant.s_per_question` over the seeds' results."""
    speeds = {}
    for name in found[0]["cost"]:
        costs = [result["cost"][name] for result in found]
        seconds = sum(cost["device_s"] for cost in costs)
        speeds[f"{name}.{SPEED}"] = seconds / sum(cost["questions"] for cost in costs)
    for name, other in _untuned(recipe).items():
        if f"{other}.{SPEED}" in speeds:
            speeds.setdefault(f"{name}.{SPEED}", speeds[f"{other}.{SPEED}"])
    return speeds


def trial_name(study: str, values: Mapping[str, Any]) -> str:
    """The folder of a trial: by its sweep and values, so that it is found again whatever its
    number.
    """
    return f"trial-{digest_of([study, dict(values)])}"


def digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def _flat(point: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"{name}.{metric}": float(cell["value"])
        for name, cells in point["variants"].items()
        for metric, cell in cells.items()
    }
