"""Open question 1: do more than ten chunks help, under which ensemble, and at what cost?

In: a job. Out: for each role (an untuned pair, a tuned one), ensemble and k the metrics with
intervals, each k against the paper's ten, what a question costs, and whether the bound on scored
answers (`max_answers`) that makes large k affordable changes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.curves import ROLES, TUNED, Curve, View, views
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, artifact_input, iter_tables
from radit_ray.data.rows import hits_of
from radit_ray.engines.measuring import Rows, questions_cut
from radit_ray.engines.variants import ENSEMBLES, Variant
from radit_ray.open_questions.base import (
    SHARD,
    Job,
    Lines,
    Question,
    answered,
    asked,
    asking,
    power_text,
    predictions,
    tokens_of,
    trained,
    unit_costs,
)
from radit_ray.open_questions.contrasts import SHARED, compared
from radit_ray.runs import Run

PAPER = 10  # chunks at most in the paper
MAX_ANSWERS = 16  # scored again for k above PAPER
CHECKED = 100  # questions on which that is compared with all answers
TIMED = 40  # questions on which each k is answered by itself for its cost
CUT = 0.5  # share of questions that lost a chunk's end to the context: deeper `concat` is not asked


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunksConfig:
    """What is looked at."""

    ks: tuple[int, ...] = (1, 3, 10, 20, 50, 100)
    ensembles: tuple[str, ...] = ENSEMBLES
    checked: int = CHECKED
    timed: int = TIMED


def check(job: Job, config: ChunksConfig) -> None:
    """What can be told before any work; InputError."""
    if not config.ks or min(config.ks) < 1 or len(set(config.ks)) != len(config.ks):
        raise InputError(f"--ks {config.ks}, expected numbers of chunks from 1, all different")
    for name, count in (("checked", config.checked), ("timed", config.timed)):
        if count < 0:
            raise InputError(f"--num-{name} {count}, expected a number of questions, or 0 for none")
    known = [role for role in job.recipe.variants if role in ROLES]
    for role in job.roles:
        if role not in known:
            raise InputError(f"unknown role {role!r}{nearest(role, known)}")


def more_chunks(job: Job, config: ChunksConfig = ChunksConfig()) -> dict[str, Any]:
    """Points, contrasts with k = 10 (or the k next to it), cost, and the check of the bound."""
    runs = trained(job)
    looked = [_deep(job, run, max(config.ks)) for run in runs]
    tables: dict[str, list[Rows]] = {}
    cut: dict[str, int] = {}
    for role in job.roles:
        for ensemble in config.ensembles:
            ks = config.ks
            for number, run in enumerate(looked[:1] if role in SHARED else looked):
                found = _answers(run, role, ensemble, ks, bounded=number == 0)
                ks = tuple(k for k in ks if name_of(role, ensemble, k) in found)
                for name, rows in found.items():
                    tables.setdefault(name, []).append(rows)
                    cut[name] = max(cut.get(name, 0), questions_cut(rows)["num_truncated"])
    measured = compared(tables, _contrasts(tables, config), job.recipe)
    return {
        "config": dataclasses.asdict(config),
        "num_questions": measured["num_questions"],
        "points": list(_points(measured, job, config, cut)),
        "contrasts": measured["contrasts"],
        "recall": _recall(looked[0], config.ks),
        "cost": _cost(looked[0], job, config),
        "bound": _bound(looked[0], job, config),
    }


def name_of(role: str, ensemble: str, k: int) -> str:
    return f"{role}.{ensemble}.{k}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deep:
    """A finished run and its questions with as many chunks as the deepest k."""

    run: Run
    view: View

    def variant(self, role: str, ensemble: str, k: int, **changes: Any) -> Variant:
        """A role of the run with k chunks."""
        base = next(v for v in self.run.evaluation().variants if v.name == role)
        ranked = self.view.tuned if role in TUNED else self.view.base
        bound = MAX_ANSWERS if ensemble == "answers" and k > PAPER else base.max_answers
        fields = {"name": name_of(role, ensemble, k), "max_answers": bound, **changes}
        return dataclasses.replace(base, k=k, ensemble=ensemble, ranked=ranked, **fields)


def _deep(job: Job, run: Run, k: int) -> Deep:
    """The job's questions ranked k deep by the base and the tuned encoder of a run."""
    other = asking(run, asked(job), examples_per_shard=SHARD)
    return Deep(run=run, view=views(other, Curve(kind="chunks", values=(str(k),)))[0])


def _answers(
    deep: Deep, role: str, ensemble: str, ks: Sequence[int], *, bounded: bool
) -> dict[str, Rows]:
    """{name: predictions}, one evaluate call for all k; `concat`, whose prompts the context bounds,
    one after the other, with `bounded` until most questions lose a part (the first seed decides).
    """
    if ensemble != "concat":
        variants = [deep.variant(role, ensemble, k) for k in ks]
        return predictions(answered(deep.run, variants), [v.name for v in variants])
    found: dict[str, Rows] = {}
    for k in ks:
        variant = deep.variant(role, ensemble, k)
        rows = predictions(answered(deep.run, [variant]), [variant.name])[variant.name]
        found[variant.name] = rows
        if bounded and questions_cut(rows)["num_truncated"] > CUT * len(rows):
            break
    return found


def _contrasts(tables: dict[str, list[Rows]], config: ChunksConfig) -> list[str]:
    """Every k against the paper's ten, within a role and ensemble; and the ensembles at that k."""
    ten = min(config.ks, key=lambda k: (abs(k - PAPER), k))
    made = []
    for name in tables:
        role, ensemble, k = name.split(".")
        other = name_of(role, ensemble, ten)
        if int(k) != ten and other in tables:
            made.append(f"{name}-minus-{other}")
        first = name_of(role, config.ensembles[0], ten)
        if int(k) == ten and name != first and first in tables:
            made.append(f"{name}-minus-{first}")
    return made


def _points(
    measured: dict[str, Any], job: Job, config: ChunksConfig, cut: dict[str, int]
) -> Iterator[dict[str, Any]]:
    """One point a role, ensemble and k; those that the context forbids say so."""
    for role in job.roles:
        for ensemble in config.ensembles:
            for k in config.ks:
                name = name_of(role, ensemble, k)
                point = {"role": role, "ensemble": ensemble, "k": k}
                cells = measured["variants"].get(name)
                yield {**point, "metrics": cells, "num_truncated": cut.get(name)}


def _recall(deep: Deep, ks: Sequence[int]) -> dict[str, dict[str, float]]:
    """{"base" or "tuned": {k: share of questions with a right chunk among the first k}}."""
    found = {}
    for name, path in (("base", deep.view.base), ("tuned", deep.view.tuned)):
        first = []
        for table in iter_tables(artifact_input(path, "retrieve")) if path else ():
            hits = [hits_of(row) for row in table.to_pylist()]
            first += [hit_K.index(True) if True in hit_K else None for hit_K in hits]
        shares = {
            str(k): sum(place is not None and place < k for place in first) / len(first)
            for k in ks
            if first
        }
        found[name] = shares
    return found


def _cost(deep: Deep, job: Job, config: ChunksConfig) -> list[dict[str, Any]]:
    """Device seconds and LM tokens of one question for each ensemble and k, each answered by
    itself, on the first `timed` questions with the last role's pair.
    """
    found = []
    for ensemble in config.ensembles if config.timed else ():
        for k in config.ks:
            variant = deep.variant(job.roles[-1], ensemble, k)
            found.append({"ensemble": ensemble, "k": k, **_spent(deep.run, variant, config.timed)})
    return found


def _spent(run: Run, variant: Variant, limit: int) -> dict[str, float]:
    made = answered(run, [variant], limit=limit)
    cost = made.metrics["cost"][variant.name]
    questions = cost["questions"]
    return {
        "num_questions": questions,
        "device_s": cost["device_s"] / questions,
        "tokens": cost["tokens"] / questions,
    }


def _bound(deep: Deep, job: Job, config: ChunksConfig) -> list[dict[str, Any]]:
    """For each k above the paper's: MAX_ANSWERS answers scored against all of them."""
    found = []
    role = job.roles[-1]
    for k in config.ks if config.checked and "answers" in config.ensembles else ():
        if k <= PAPER:
            continue
        bounded, every = (
            deep.variant(role, "answers", k, name=name, max_answers=number)
            for name, number in (("bounded", MAX_ANSWERS), ("all", 0))
        )
        made = {v.name: answered(deep.run, [v], limit=config.checked) for v in (bounded, every)}
        tables = {name: [predictions(a, [name])[name]] for name, a in made.items()}
        measured = compared(tables, ["bounded-minus-all"], job.recipe)
        found.append(
            {
                "k": k,
                "num_questions": measured["num_questions"],
                "variants": measured["variants"],
                "contrasts": measured["contrasts"],
                "cost": {name: _per_question(a, name) for name, a in made.items()},
            }
        )
    return found


def _per_question(made: Artifact, name: str) -> dict[str, float]:
    cost = made.metrics["cost"][name]
    return {what: cost[what] / cost["questions"] for what in ("device_s", "tokens")}


def estimate(job: Job, run: Run, config: ChunksConfig = ChunksConfig()) -> Lines:
    """What is made anew. The tokens of one prompt come from the run's own answers at its k; above
    the paper's ten up to MAX_ANSWERS answers of some tokens are scored under each prompt as well.
    """
    unit, seeds = unit_costs(run), max(1, len(job.recipe.seeds))
    results = storage.read_json(storage.join(run.folder, "results.json"))
    num = job.num_questions or int(results["num_questions"])
    lines: Lines = [("deep search", float(1 + seeds), unit["retrieve"])]
    for role in job.roles:
        times = 1.0 if role in SHARED else float(seeds)
        each = tokens_of(run, role) / max(1, run.recipe.k_infer)
        work = {
            "answers": each * (max((k for k in config.ks if k <= PAPER), default=0))
            + 1.5 * each * max((k for k in config.ks if k > PAPER), default=0),
            "tokens": each * sum(config.ks),
            "concat": each * run.recipe.k_infer * len(config.ks),
        }
        for ensemble in config.ensembles:
            seconds = num * work[ensemble] * unit["evaluate_token"]
            lines.append((f"{role}, {ensemble}", times, seconds))
    each = tokens_of(run, job.roles[-1]) / max(1, run.recipe.k_infer) * unit["evaluate_token"]
    lines.append(("cost of each k", 1.0, config.timed * 3 * each * sum(config.ks)))
    above = sum(k for k in config.ks if k > PAPER)
    lines.append(("all answers", 1.0, config.checked * 4 * each * above))
    return lines


def question(config: ChunksConfig = ChunksConfig()) -> Question:
    return Question(
        estimate=lambda job, run: estimate(job, run, config),
        power=lambda job, run: power_text(job, run, job.num_questions or None),
        work=lambda job: more_chunks(job, config),
    )
