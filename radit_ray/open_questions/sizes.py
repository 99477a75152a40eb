"""The paper's claim on size: does a larger LM gain more from the same retrofit, or less?

In: a job and base LMs of one family (`radit world-lm --size xxs|xs|s|m|l`). Out: for each LM its
variants, the gains of the two fine-tunings, and the difference of these gains between LMs, question
by question.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.engines.measuring import Rows, read_predictions
from radit_ray.engines.references import model_bytes
from radit_ray.open_questions.base import Job, Lines, Question, power_text, runs_of, unit_costs
from radit_ray.open_questions.contrasts import SHARED, compared, gain_rows
from radit_ray.open_questions.power import holm
from radit_ray.recipe_checks import check_inputs, check_recipe
from radit_ray.runs import Run

GAINS = {  # name -> what is held against what
    "lm-ft": ("lm-ft", "replug"),
    "r-ft": ("r-ft", "replug"),
    "radit": ("radit", "replug"),
    "all": ("radit", "closed-book"),
}
SHOWN = ("closed-book", "replug", "lm-ft", "r-ft", "radit")


def check(job: Job, lms: Mapping[str, str]) -> None:
    """InputError on an LM that cannot be read, before a pair of another one is trained."""
    for lm in lms.values():
        recipe = dataclasses.replace(job.recipe, lm=lm)
        check_recipe(recipe)
        check_inputs(recipe)


def lm_sizes(job: Job, lms: Mapping[str, str]) -> dict[str, Any]:
    """`lms`: {size: folder}, smallest first. InputError where there are fewer than two."""
    if len(lms) < 2:
        raise InputError(f"LMs of {len(lms)} size(s), expected two or more: --lms s=PATH m=PATH")
    tables: dict[str, list[Rows]] = {}
    for size, lm in lms.items():
        runs = runs_of(job, f"lm-{size}", dataclasses.replace(job.recipe, lm=lm))
        for name in SHOWN:
            some = runs[:1] if name in SHARED else runs
            tables[f"{size}.{name}"] = [read_predictions(run.evaluated, name) for run in some]
        for name, (a, b) in GAINS.items():
            first, second = tables[f"{size}.{a}"], tables[f"{size}.{b}"]
            second = second * len(first) if len(second) == 1 else second
            pairs = zip(first, second, strict=True)
            tables[f"{size}.gain-{name}"] = [gain_rows(x, y) for x, y in pairs]
    contrasts = [f"{size}.{a}-minus-{size}.{b}" for size in lms for a, b in GAINS.values()]
    smallest, *_, largest = lms
    sides = dict.fromkeys([*itertools.pairwise(lms), (smallest, largest)])
    contrasts += [f"{b}.gain-{n}-minus-{a}.gain-{n}" for a, b in sides for n in GAINS]
    measured = compared(tables, contrasts, job.recipe)
    return {
        "lms": {size: about(lm) for size, lm in lms.items()},
        "claims": claims(measured["contrasts"], smallest, largest),
        **{name: measured[name] for name in ("num_questions", "variants", "contrasts")},
    }


def claims(found: Mapping[str, Any], smallest: str, largest: str) -> dict[str, dict[str, Any]]:
    """{gain: p, adjusted, verdict}: does the largest LM gain more than the smallest? Only where
    exact match and NLL agree, at the larger of their two p, adjusted for all gains (Holm).
    """
    made: dict[str, dict[str, Any]] = {}
    for name in GAINS:
        cells = found[f"{largest}.gain-{name}-minus-{smallest}.gain-{name}"]
        ups = {cells["em"]["diff"] > 0, cells["nll"]["diff"] < 0}
        known = [cells[metric]["power"]["p"] for metric in ("em", "nll")]
        agree = len(ups) == 1 and None not in known
        made[name] = {"p": max(known) if agree else 1.0, "more": ups == {True}}
    for claim, adjusted in zip(made.values(), holm([c["p"] for c in made.values()]), strict=True):
        told = "gains more" if claim.pop("more") else "gains less"
        claim |= {"adjusted": adjusted, "verdict": told if adjusted < 0.05 else "undecided"}
    return made


def about(lm: str) -> dict[str, Any]:
    """Size of an LM and, of a world LM, how long it was trained."""
    record = storage.join(lm, "world_lm.json")
    made = storage.read_json(record) if storage.exists(record) else {}
    kept = ("num_parameters", "steps", "tokens_seen", "final_loss", "wall_s")
    return {"bytes": model_bytes(lm), **{name: made[name] for name in kept if name in made}}


def estimate(job: Job, run: Run, lms: Mapping[str, str]) -> Lines:
    """The ablation of each further LM, in proportion to its bytes."""
    unit, seeds = unit_costs(run), float(max(1, len(job.recipe.seeds)))
    names = ("lm-ft", "it", "score", "r-ft", "retrieve-tuned", "evaluate")
    each = sum(unit.get(name, 0.0) for name in names)
    return [
        (f"ablation of {size}", seeds, each * times_as_large(lm, job.recipe.lm))
        for size, lm in lms.items()
        if lm != job.recipe.lm  # whose pair the estimate is made from
    ]


def times_as_large(lm: str, other: str) -> float:
    """Bytes of an LM over those of another one, at least 1; 1 where they are not known, as those of
    a Hugging Face id.
    """
    known = model_bytes(other)
    return max(1.0, model_bytes(lm) / known) if known else 1.0


def question(lms: Mapping[str, str]) -> Question:
    return Question(
        estimate=lambda job, run: estimate(job, run, lms),
        power=lambda job, run: power_text(job, run, num_gains=2),  # what the rule decides on
        work=lambda job: lm_sizes(job, lms),
    )
