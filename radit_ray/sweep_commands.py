"""`radit sweep`: its options, and what it prints."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from radit_ray.cli import RunArgs
from radit_ray.core.errors import IncompleteError, InputError
from radit_ray.data import storage

if TYPE_CHECKING:
    from radit_ray.recipes import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepArgs(RunArgs):
    """Options of `radit sweep KIND RECIPE`; those of `radit run` say what is swept over."""

    # of the kind, by commas: numbers of chunks, of documents, cycles, models, ...; by semicolons
    # where a value has commas: "QUERY,CONTEXT;minilm"
    values: str = ""
    # further fields of the recipe: field=value,value,... (or by semicolons), field=low..high[:log]
    space: tuple[str, ...] = ()
    objective: tuple[str, ...] = ("radit.em:max",)  # VARIANT.METRIC:max or :min, one or more
    sampler: str = "grid"  # grid, random, tpe (Optuna)
    num_trials: int = 0  # finished trials of random and tpe
    seed: int = 0  # of the sampler
    # of a custom sweep: end trials whose dev metric in lm-ft or r-ft is behind the median of other
    # ones (at least 4): median; or behind three quarters of them: quartile
    stop_early: str = ""
    storage: str = ""  # SQLAlchemy URL of the study; "" = study.db in --output
    track: str = ""  # mlflow, wandb; TensorBoard's events are always written
    num_parallel: int = 1  # trials at once


def sweep(kind: str, recipe_name: str, args: SweepArgs) -> None:
    """Runs or continues a sweep, prints its tables and writes `<output>/sweep.md`."""
    from radit_ray import commands
    from radit_ray.demo_world import dated_corpora
    from radit_ray.engines.connect import connect
    from radit_ray.engines.study import parts, read_space
    from radit_ray.recipes import override, recipe_named
    from radit_ray.report.sweeps import page, render
    from radit_ray.report.writing import write_report
    from radit_ray.sweep_checks import check_sweep
    from radit_ray.sweeps import DEFAULTS, Sweep, run_sweep

    objectives, space = _objectives(args.objective), read_space(args.space)
    recipe = recipe_named(recipe_name)
    changes = commands.changes_of(recipe, args)
    if kind == "custom":
        # values are chosen by these numbers: on dev, never on the questions that are reported
        changes = {"evaluate.split": "dev", **changes}
    recipe = override(recipe, changes)
    whole = commands.prepared(recipe, args.output)
    values = parts(args.values or DEFAULTS.get(kind, ""))
    dated: tuple[str, ...] = ()
    if kind == "snapshot" and recipe.name == "demo" and not recipe.corpus:
        split = whole.evaluate.split
        values, dated = dated_corpora(recipe.world, args.output, values, split)
    made = Sweep(
        kind=kind,
        recipe=whole,
        output=args.output,
        values=_named(kind, recipe, values),
        dated=dated,
        space=space,
        objectives=objectives,
        sampler=args.sampler,
        num_trials=args.num_trials,
        seed=args.seed,
        stop_early=args.stop_early,
        storage=args.storage,
        trackers=parts(args.track),
        num_parallel=args.num_parallel,
    )
    check_sweep(made)
    connect(num_cpus=args.num_cpus or None)
    results = run_sweep(made)
    file = storage.join(args.output, "sweep.md")
    storage.write_bytes(file, page(results).encode())
    print(json.dumps(results) if args.json else f"\n{render(results)}\n")
    print(f"radit: {file}, {write_report(args.output)}", file=sys.stderr)
    if failed := len(results["failed"]):
        raise IncompleteError(f"{failed} of {failed + len(results['trials'])} trials failed")


def _named(kind: str, recipe: Recipe, values: tuple[str, ...]) -> tuple[str, ...]:
    """The values, where a preset's name means the recipe's own retriever if that is one of its
    kind: "minilm" is then the packaged encoder, and needs no network.
    """
    from radit_ray.models.presets import resolve_preset

    if kind != "retrievers" or not recipe.retriever:
        return values
    own = resolve_preset(recipe.retriever, recipe.preset).name
    return tuple(recipe.retriever if value == own else value for value in values)


def _objectives(settings: Sequence[str]) -> dict[str, str]:
    found = {}
    for setting in settings:
        name, separator, direction = setting.rpartition(":")
        if not separator:
            raise InputError(f"objective {setting!r}, expected VARIANT.METRIC:max or :min")
        if name in found:
            raise InputError(f"objective {name!r} is given twice; give it once, as :max or :min")
        found[name] = direction
    return found
