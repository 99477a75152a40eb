"""Open question 3: do more cycles of the two fine-tunings help, or only more steps?

In: a job. Each seed is trained for 2 and 3 cycles, later cycles from the base weights or from the
last cycle's, and for as many steps in one pass (the control). Out: every cycle against the first,
against its control, and how far two trainings are apart that differ in nothing but the seed.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from radit_ray.data import storage
from radit_ray.data.artifacts import read_manifest
from radit_ray.engines.measuring import Rows, mean_over_seeds, measure, read_predictions
from radit_ray.open_questions.base import (
    Job,
    Lines,
    Question,
    answered,
    power_text,
    predictions,
    runs_of,
    tokens_of,
    trained,
    unit_costs,
)
from radit_ray.open_questions.contrasts import WORTH, compared, of_tasks
from radit_ray.open_questions.power import holm
from radit_ray.recipes import Recipe
from radit_ray.runs import Run

NUM_CYCLES = 3
INITS = ("base", "previous")
KEPT = ("radit",)  # variants of the further runs
DECIDES = "nll"  # the metric of the claims: exact match is near its ceiling after one cycle


def more_cycles(job: Job, num_cycles: int = NUM_CYCLES) -> dict[str, Any]:
    """Variants `cycle-1`, `cycle-2-base`, `cycle-2-previous`, `single-2`, ...; contrasts between
    them; steps of each; LMs and retrievers of two cycles together; the scatter over seeds.
    """
    tables: dict[str, list[Rows]] = {}
    steps: dict[str, Any] = {}
    runs = trained(job)
    tables["replug"] = [read_predictions(runs[0].evaluated, "replug")]
    tables["cycle-1"] = [read_predictions(run.evaluated, "radit") for run in runs]
    steps["cycle-1"] = [steps_of(run, 1) for run in runs]
    halves: dict[str, Any] = {}
    for init in INITS:
        changed = lean(job.recipe, cycles=num_cycles, cycle_init=init)
        looped = runs_of(job, f"cycles-{init}", changed)
        for number in range(2, num_cycles + 1):
            name = f"cycle-{number}-{init}"
            variant = "radit" if number == num_cycles else f"radit-cycle-{number - 1}"
            tables[name] = [read_predictions(run.evaluated, variant) for run in looped]
            steps[name] = [steps_of(run, number) for run in looped]
        halves[init] = crossed(looped)
    for number in range(2, num_cycles + 1):
        wanted = steps[f"cycle-{number}-{INITS[0]}"]
        single = runs_of(job, f"single-{number}", in_one_pass(job.recipe, wanted[0], runs[0]))
        name = f"single-{number}"
        tables[name] = [read_predictions(run.evaluated, "radit") for run in single]
        steps[name] = [steps_of(run, 1) for run in single]
        check_equal(steps, number)
    measured = compared(tables, contrasts(num_cycles), job.recipe)
    return {
        "num_questions": measured["num_questions"],
        "variants": measured["variants"],
        "contrasts": measured["contrasts"],
        "claims": claims(measured["contrasts"], num_cycles),
        "steps": steps,
        "crossed": halves,
        "seed_noise": {
            name: seed_noise(of_tasks(found, job.recipe))
            for name, found in tables.items()
            if len(found) > 1
        },
    }


def crossed(looped: Sequence[Run]) -> dict[str, Any]:
    """{`lm-I.r-J`: {metric: {value, low, high}}}: the LM of each cycle with the chunks of each
    cycle's retriever, to look at: which half brings what a cycle brings. Means over seeds.
    """
    tables: dict[str, list[Rows]] = {}
    for run in looped:
        known = {variant.name: variant for variant in run.evaluation().variants}
        earlier = [known[f"radit-cycle-{number}"] for number in range(len(run.done) - 1)]
        pairs = list(enumerate([*earlier, known["radit"]], start=1))
        mixed = [
            dataclasses.replace(of_lm, name=f"lm-{i}.r-{j}", ranked=of_retriever.ranked)
            for (i, of_lm), (j, of_retriever) in itertools.product(pairs, pairs)
        ]
        for name, rows in predictions(answered(run, mixed), [v.name for v in mixed]).items():
            tables.setdefault(name, []).append(rows)
    recipe = looped[0].recipe
    means = {name: mean_over_seeds(of_tasks(found, recipe)) for name, found in tables.items()}
    config = recipe.evaluate
    found = measure(means, contrasts=(), num_samples=config.bootstrap, seed=config.seed)
    return dict(found["variants"])


def contrasts(num_cycles: int) -> list[str]:
    """Each later cycle and each longer pass against cycle 1; each cycle against its control."""
    made = ["cycle-1-minus-replug"]
    for number in range(2, num_cycles + 1):
        for init in INITS:
            made.append(f"cycle-{number}-{init}-minus-cycle-1")
            made.append(f"cycle-{number}-{init}-minus-single-{number}")
        made.append(f"single-{number}-minus-cycle-1")
    return made


def claims(found: Mapping[str, Any], num_cycles: int) -> dict[str, dict[str, Any]]:
    """{cycle: p, adjusted, verdict}: does it help? Decided on the answer's NLL before any number
    was seen: a cycle helps where it beats both cycle 1 and the single pass of as many steps, the
    larger p of the two, adjusted by Holm over all cycles and starts.
    """
    made: dict[str, dict[str, Any]] = {}
    for number in range(2, num_cycles + 1):
        for init in INITS:
            name = f"cycle-{number}-{init}"
            pair = [
                found[f"{name}-minus-{other}"][DECIDES] for other in ("cycle-1", f"single-{number}")
            ]
            known = all(cell["power"]["p"] is not None for cell in pair)
            lower = known and all(cell["diff"] < 0 for cell in pair)
            p = max(cell["power"]["p"] for cell in pair) if lower else 1.0
            small = known and any(-cell["power"]["low"] < WORTH[DECIDES] for cell in pair)
            made[name] = {"p": p, "small": small}
    for claim, adjusted in zip(made.values(), holm([c["p"] for c in made.values()]), strict=True):
        small = claim.pop("small")
        told = "helps" if adjusted < 0.05 else "no gain worth finding" if small else "undecided"
        claim |= {"adjusted": adjusted, "verdict": told}
    return made


def lean(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with only the variants that are compared, so that no control is trained again."""
    return dataclasses.replace(recipe, variants=KEPT, contrasts=(), probes=(), **changes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """Optimiser steps of both fine-tunings over all cycles, and the step that dev kept in each."""

    lm_ft: int
    r_ft: int
    kept: tuple[tuple[int, int], ...]  # (lm-ft, r-ft) of each cycle


def steps_of(run: Run, num_cycles: int) -> dict[str, Any]:
    """The Steps of a run's first cycles, from its manifests."""
    lm_steps, r_steps, kept = 0, 0, []
    for cycle in run.done[:num_cycles]:
        lm, retriever = read_manifest(cycle.lm), read_manifest(cycle.retriever)
        assert lm is not None
        assert retriever is not None
        lm_steps += lm["config"]["steps"]
        r_steps += retriever["metrics"]["steps"]
        kept.append((lm["metrics"]["best_step"], retriever["metrics"]["best_step"]))
    return dataclasses.asdict(Steps(lm_ft=lm_steps, r_ft=r_steps, kept=tuple(kept)))


def in_one_pass(recipe: Recipe, steps: Mapping[str, Any], run: Run) -> Recipe:
    """The recipe in one cycle of as many steps: of LM-ft as a number, of R-ft by epochs over the
    rows that `run`, whose first cycle trains on the same ones, has scored.
    """
    manifest = read_manifest(run.done[0].retriever)
    assert manifest is not None
    epochs = epochs_for(
        steps["r_ft"], manifest["metrics"]["num_train"], manifest["config"]["batch_size"]
    )
    return lean(
        recipe,
        cycles=1,
        lm_ft=dataclasses.replace(recipe.lm_ft, steps=steps["lm_ft"]),
        r_ft=dataclasses.replace(recipe.r_ft, epochs=epochs),
    )


def epochs_for(steps: int, num_train: int, batch_size: int) -> float:
    """Passes over the rows that make exactly so many steps (r-ft rounds their quotient).

    >>> epochs_for(200, 800, 32)
    8.0
    """
    return steps * batch_size / num_train


def check_equal(steps: Mapping[str, Sequence[Mapping[str, Any]]], number: int) -> None:
    """AssertionError where a cycle and its control differ in steps: they would prove nothing."""
    control = {(s["lm_ft"], s["r_ft"]) for s in steps[f"single-{number}"]}
    for init in INITS:
        found = {(s["lm_ft"], s["r_ft"]) for s in steps[f"cycle-{number}-{init}"]}
        assert found == control, (number, init, found, control)


def seed_noise(tables: Sequence[Rows]) -> dict[str, dict[str, float]]:
    """{metric: how far the means of two seeds are apart, root mean square and most} over all pairs
    of single trainings. To look at: the contrasts' intervals weigh seeds themselves.
    """
    found = {}
    for metric in ("em", "f1", "nll", "recall@1"):
        means = [_mean(row[metric] for row in table) for table in tables]
        apart = [abs(a - b) for a, b in itertools.combinations(means, 2)]
        rms = math.sqrt(sum(x * x for x in apart) / len(apart))
        found[metric] = {"rms": rms, "most": max(apart)}
    return found


def _mean(values: Iterable[float | None]) -> float:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else 0.0


def estimate(job: Job, run: Run, num_cycles: int = NUM_CYCLES) -> Lines:
    """Cycles after the first for each of INITS, and one pass of as many steps for each number."""
    unit, seeds = unit_costs(run), float(max(1, len(job.recipe.seeds)))
    search = unit.get("retrieve-tuned", unit["retrieve"])
    results = storage.read_json(storage.join(run.folder, "results.json"))
    questions = sum(s["rows"] for n, s in results["stages"].items() if n == "evaluate")
    answers = questions * tokens_of(run, "radit") * unit["evaluate_token"]
    others = num_cycles * (num_cycles - 1)
    cycle = unit["lm-ft"] + unit["score"] + unit["r-ft"] + search + unit["retrieve"]
    lines: Lines = [
        ("later cycle", seeds * len(INITS) * (num_cycles - 1), cycle),
        ("search with corpus examples", seeds, unit["retrieve"]),
        ("evaluation of cycles", seeds * len(INITS), (num_cycles + 1) * answers),
        ("LM with another cycle's retriever", seeds * len(INITS) * others, answers),
    ]
    for number in range(2, num_cycles + 1):
        each = number * (unit["lm-ft"] + unit["r-ft"]) + search + 2 * answers
        lines.append((f"one pass of {number} x the steps", seeds, each))
    return lines


def question(num_cycles: int = NUM_CYCLES) -> Question:
    return Question(
        estimate=lambda job, run: estimate(job, run, num_cycles),
        power=power_text,
        work=lambda job: more_cycles(job, num_cycles),
    )
