"""What can be told of a sweep before any work: contradictions, fields and objectives that no trial
would have.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from radit_ray.core.errors import InputError, check_bounds, nearest
from radit_ray.curves import CURVES, ROLES
from radit_ray.engines.answering import METRICS
from radit_ray.engines.study import Choices, Space, check_settings, check_stopper
from radit_ray.engines.tracking import check_trackers
from radit_ray.models.presets import LEXICAL, PRESETS, resolve_preset
from radit_ray.recipe_checks import R_FT, check_inputs, check_recipe
from radit_ray.recipes import Recipe, override
from radit_ray.trials import SPEED, measured_variants

if TYPE_CHECKING:
    from radit_ray.sweeps import Sweep

KINDS = {  # kind -> what its --values are
    "chunks": "numbers of chunks shown, k_infer (k_train: --space lm_ft.k_train=1,3,10; above 10 "
    "with --set retrieve.k=100 score.k=10)",
    "corpus": "numbers of documents searched, nested parts of the corpus",
    "snapshot": "corpora, each embedded and searched by the same tuned pair (demo: 1,2, its dates)",
    "cycles": "alternations of the two fine-tunings",
    "lms": "base LMs",
    "retrievers": "base retrievers",
    "custom": "(none: give --space field=value,value,...)",
}
MAX_SEED = 40_000  # engines.study multiplies it, and samplers take 32 bits
GENERATED = ("world", "snapshot", "num_distractors")  # fields that decide what inputs are made
UNLIKE = (  # fields that decide which questions are measured, or what a trial is called
    *("name", "seeds"),
    *(f"evaluate.{name}" for name in ("split", "tasks", "limit", "seed")),
    *(f"retrieve.{name}" for name in ("limit", "seed", "dev_share", "eval_share")),
)
UNSEEN = ("resources", "reuse")  # fields that no result depends on, only its cost
BEHIND = {  # variant of the objective -> trainings that it comes from
    "lm-ft": ("lm-ft",),
    "r-ft": ("r-ft",),
    "radit": ("lm-ft", "r-ft"),
}
CLOSED_BOOK = ("closed-book", "it")  # variants that are shown no chunk
CHECKED = 500  # combinations of a space that are looked at one by one before any work


def check_sweep(sweep: Sweep) -> None:
    """What can be told before any work; InputError."""
    if sweep.kind not in KINDS:
        raise InputError(f"unknown sweep {sweep.kind!r}{nearest(sweep.kind, KINDS)}")
    if sweep.kind == "custom":
        if sweep.values or not sweep.space:
            raise InputError("a custom sweep takes --space field=value,value,... and no --values")
    elif not sweep.values:
        raise InputError(f"a {sweep.kind} sweep needs --values: {KINDS[sweep.kind]}")
    check_bounds(sweep, {"seed": (0, MAX_SEED), "num_trials": (0, None)})
    if len(set(sweep.values)) != len(sweep.values):
        raise InputError(f"--values {','.join(sweep.values)} holds a value twice; give it once")
    if not sweep.recipe.examples:
        raise InputError("a sweep measures answers; give --examples")
    curve = sweep.curve()
    if curve is not None:
        curve.check()
        if not set(sweep.recipe.variants) & set(ROLES):
            raise InputError(f"a {sweep.kind} sweep needs one of the variants {', '.join(ROLES)}")
    check_trackers(sweep.trackers)
    space = sweep.whole_space()
    _check_stopping(sweep)
    for name in CURVES.get(sweep.kind, ()):
        if name in space:
            raise InputError(
                f"--space {name}: a {sweep.kind} sweep changes it itself; use --values"
            )
    _check_fields(sweep.recipe, space)
    if sweep.recipe.preset != "auto" and isinstance(swept := space.get("retriever"), Choices):
        _check_preset(sweep.recipe.preset, swept.values)
    recipes = [override(sweep.recipe, values) for values in combinations(space)]
    for recipe in recipes:
        check_recipe(recipe)
    for recipe in _differing(recipes):
        check_inputs(recipe)
    for name in sweep.objectives:
        _check_objective(name, sweep, recipes)
    check_settings(space, sweep.objectives, sweep.sampler, sweep.num_trials)


def _differing(recipes: Sequence[Recipe]) -> list[Recipe]:
    """One recipe of each that `check_inputs` finds different."""
    found: dict[Any, Recipe] = {}
    for recipe in recipes:
        search = recipe.retrieve
        splits = (search.seed, search.dev_share, search.eval_share, search.splits)
        read = (recipe.lm, recipe.examples, recipe.evaluate.split, recipe.cycles > 0, splits)
        found.setdefault(read, recipe)
    return list(found.values())


def _check_fields(recipe: Recipe, space: Space) -> None:
    """InputError on a field that no trial could set, or two values that are one."""
    for name, field in space.items():
        if name.partition(".")[0] in GENERATED:
            raise InputError(
                f"--space {name}: inputs are made once for all trials, so every trial would be the "
                "same; sweep `snapshot` over corpora, or give each its own `radit run`"
            )
        if name.partition(".")[0] in UNSEEN:
            raise InputError(
                f"--space {name}: what a trial finds does not depend on it, so the first trial's "
                "artifacts would be every trial's; use --set, and `radit doctor` for speed"
            )
        if name in UNLIKE:
            raise InputError(
                f"--space {name}: trials would not be measured alike, and could not be compared; "
                "use --set, or a sweep for each value"
            )
        if name == "lm_ft.k_train" and isinstance(field, Choices) and "0" in field.values:
            raise InputError(
                "--space lm_ft.k_train=0: LM-ft without a chunk is the control, in as many steps; "
                "leave 0 out and read the variants it and it-retrieval"
            )
        if isinstance(field, Choices):
            made = [override(recipe, {name: value}) for value in field.values]
            for one, two in itertools.combinations(range(len(made)), 2):
                if made[one] == made[two]:
                    values = f"{field.values[one]} and {field.values[two]}"
                    raise InputError(f"--space {name}: {values} are the same value; give it once")


def _check_preset(preset: str, retrievers: Sequence[str]) -> None:
    """InputError where one preset would encode a retriever that is known to be of another kind."""
    for retriever in retrievers:
        try:
            own = resolve_preset(retriever).name
        except InputError:  # it is not known: that is what --preset is for
            continue
        if own in PRESETS and own != preset:
            raise InputError(
                f"--preset {preset} would be that of {retriever!r} too, which is {own}; leave "
                "--preset out, or sweep retrievers of one kind"
            )


def _check_objective(name: str, sweep: Sweep, recipes: Sequence[Recipe]) -> None:
    """InputError where some trial would have no number of that name."""
    curve = sweep.curve()
    variants = [v for v in sweep.recipe.variants if curve is None or v in ROLES]
    metrics = [*METRICS, *([] if curve else [SPEED])]
    variant, _, metric = name.rpartition(".")
    if variant not in variants or metric not in metrics:
        raise InputError(
            f"objective {name!r}, expected VARIANT.METRIC such as radit.em with a variant of "
            f"{', '.join(variants)} and a metric of {', '.join(metrics)}"
        )
    # a trial of BM25 has no R-ft, and is settled with a note
    asked = [r for r in recipes if not (r.retriever == LEXICAL and variant in R_FT)]
    lacks = next((r for r in asked if variant not in measured_variants(r)), None)
    if lacks is not None:
        raise InputError(
            f"objective {name!r}: with cycles={lacks.cycles}, retriever={lacks.retriever} and "
            f"variants {', '.join(lacks.variants)} there is no {variant}; choose one of "
            f"{', '.join(measured_variants(lacks)) or 'another recipe'}"
        )
    # a curve's objective is read off its last view
    last = sweep.values[-1] if sweep.kind == "chunks" else ""
    none = curve is None and any(not r.k_infer for r in recipes)
    bare = variant in CLOSED_BOOK or last == "0" or none
    if "recall" in metric and bare:
        raise InputError(f"objective {name!r}: where no chunk is shown there is no {metric}")


def combinations(space: Space) -> list[dict[str, Any]]:
    """What a space is checked by: all combinations of its choices and ends of ranges where they are
    few, else each value with the first ones of the other fields.
    """
    fields = {
        name: field.values if isinstance(field, Choices) else (field.low, field.high)
        for name, field in space.items()
    }
    if math.prod(map(len, fields.values())) <= CHECKED:
        points = itertools.product(*fields.values())
        return [dict(zip(fields, point, strict=True)) for point in points]
    first = {name: values[0] for name, values in fields.items()}
    return [{**first, name: value} for name, values in fields.items() for value in values]


def _check_stopping(sweep: Sweep) -> None:
    check_stopper(sweep.stop_early, sweep.objectives)
    if sweep.stop_early and sweep.kind != "custom":
        raise InputError(
            f"--stop-early in a {sweep.kind} sweep, whose every point is wanted; it is for custom"
        )
    if sweep.stop_early and any(name.endswith(f".{SPEED}") for name in sweep.objectives):
        raise InputError(
            f"--stop-early with objective {', '.join(sweep.objectives)}: trials are stopped by "
            "their quality on dev; give an objective of quality"
        )
    bare = [name for name in sweep.objectives if name.rpartition(".")[0] not in BEHIND]
    if sweep.stop_early and bare:
        raise InputError(
            f"--stop-early with objective {bare[0]}: no training that is watched decides it; give "
            f"one of {', '.join(BEHIND)}"
        )
    if sweep.stop_early:
        _check_looks(sweep)
    if sweep.stop_early and not sweep.recipe.cycles and "cycles" not in sweep.space:
        raise InputError("--stop-early with cycles=0: there is no training to stop")


def _check_looks(sweep: Sweep) -> None:
    """InputError where R-ft's looks at dev are over more chunks in one trial than in another."""
    decided = {
        name for objective in sweep.objectives for name in BEHIND[objective.rpartition(".")[0]]
    }
    by = "score.k" if sweep.recipe.score.k or "score.k" in sweep.space else "retrieve.k"
    if "r-ft" in decided and by in sweep.space:
        raise InputError(
            f"--stop-early with --space {by}: R-ft's MRR on dev is over as many chunks, so trials "
            "with fewer would be behind whatever they learn; leave one of them out"
        )
