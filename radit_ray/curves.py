"""One finished run looked at again and again with one thing changed: how many chunks are shown, how
much of the corpus is searched, which corpus.

The models, vectors and index stay as they are; what a view needs beyond them (a deeper ranking, a
search in a part of the corpus, another corpus embedded) are artifacts beside the run's, and one
evaluate call answers all views.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.artifacts import artifact_input, iter_tables
from radit_ray.data.readers import list_corpus_files
from radit_ray.engines.measuring import Rows, mean_over_seeds, measure, read_predictions
from radit_ray.runs import Run
from radit_ray.stages.chunk import chunk
from radit_ray.stages.dedup import dedup
from radit_ray.stages.embed import embed
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.index import index
from radit_ray.stages.retrieve import retrieve

ROLES = ("replug", "it-retrieval", "lm-ft", "r-ft", "radit")  # variants that are shown chunks
TUNED = ("r-ft", "radit")  # those of the tuned query encoder
CURVES = {  # kind -> fields of the recipe that it moves itself
    "chunks": ("k_infer",),
    "corpus": ("retrieve.num_documents", "retrieve.keep_gold"),
    "snapshot": ("corpus",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curve:
    """What changes from view to view, and its values."""

    kind: str = ""  # "chunks" (k_infer), "corpus" (documents searched), "snapshot" (corpora)
    values: tuple[str, ...] = ()
    # of "snapshot": questions whose answers are those of each date, "" = the recipe's own
    examples: tuple[str, ...] = ()

    def check(self) -> None:
        """InputError on an unknown kind, or values that are none of it."""
        if self.kind not in CURVES:
            raise InputError(f"unknown curve {self.kind!r}{nearest(self.kind, CURVES)}")
        if not self.values or len(set(self.values)) != len(self.values):
            raise InputError(
                f"values {','.join(self.values)!r}, expected one or more, all different"
            )
        if self.kind == "snapshot":
            for corpus in self.values:
                list_corpus_files(corpus)
            return
        for value in self.values:
            if not value.isdecimal() or (self.kind == "corpus" and int(value) < 1):
                raise InputError(f"value {value!r} of a {self.kind} sweep, expected a whole number")
            if str(int(value)) != value:
                raise InputError(
                    f"value {value!r} of a {self.kind} sweep, write it as {int(value)}"
                )


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """One point of a curve: what every role is shown."""

    values: dict[str, Any]  # what changed, as the point is recorded
    base: str  # ranked rows of the base query encoder
    tuned: str  # of the tuned one, "" without one
    k: int

    @property
    def label(self) -> str:
        """What is appended to a variant's name; of a path its digest, since names are folders."""
        shown = "@" + ",".join(map(str, self.values.values()))
        return f"@{sha256(shown.encode()).hexdigest()[:12]}" if "/" in shown else shown


def views(run: Run, curve: Curve) -> list[View]:
    """The views of a finished pipeline, their artifacts made."""
    if curve.kind == "chunks":
        ks = [int(value) for value in curve.values]
        base, tuned = _ranked(run, run.index, k=max(*ks, 1))
        return [View(values={"k_infer": k}, base=base, tuned=tuned, k=k) for k in ks]
    k = run.recipe.k_infer
    if curve.kind == "snapshot":
        found = []
        dated = curve.examples or ("",) * len(curve.values)
        for corpus, examples in zip(curve.values, dated, strict=True):
            chunks = run.artifact(chunk, run.recipe.chunk, corpus=corpus).path
            if run.recipe.deduplicate:
                chunks = run.artifact(dedup, run.recipe.dedup, chunks=chunks).path
            embeddings = chunks
            if not run.lexical:
                embeddings = run.artifact(embed, run.recipe.embed, chunks=chunks).path
            indexed = run.artifact(index, run.recipe.index, embeddings=embeddings).path
            base, tuned = _ranked(run, indexed, examples, k=k)
            found.append(View(values={"corpus": corpus}, base=base, tuned=tuned, k=k))
        return found
    found = []
    for value in curve.values:
        for keep_gold in (False, True) if _gold_known(run) else (False,):
            part = {"num_documents": int(value), "keep_gold": keep_gold}
            base, tuned = _ranked(run, run.index, k=k, **part)
            found.append(View(values=part, base=base, tuned=tuned, k=k))
    return found


def _gold_known(run: Run) -> bool:
    """Whether the evaluated questions name their gold chunks; else a part of the corpus cannot keep
    them.
    """
    tables = iter_tables(artifact_input(run.ranked, "retrieve"), ["split", "gold_ids"])
    rows = (row for table in tables for row in table.to_pylist())
    return any(row["gold_ids"] for row in rows if row["split"] == run.recipe.evaluate.split)


def _ranked(run: Run, indexed: str, examples: str = "", **changes: Any) -> tuple[str, str]:
    """Ranked rows of the evaluated split by the base and by the tuned query encoder ("" without
    one), searched as `changes` say; `examples`: a file of that split instead of the run's own.
    """
    split = run.recipe.evaluate.split
    if examples:  # it has no train split that others could be cut from
        examples, whole = f"{split}={examples}", {"dev_share": 0.0, "eval_share": 0.0}
        changes = {**whole, **changes}
    tuned = bool(run.done and run.done[-1].retriever)
    configs = [run.recipe.retrieve, *([run.done[-1].retrieve()] if tuned else [])]
    made = [
        run.artifact(
            retrieve,
            dataclasses.replace(config, corpus_examples=0, splits=(split,), **changes),
            examples=examples or run.recipe.examples,
            index=indexed,
        ).path
        for config in configs
    ]
    return made[0], made[1] if len(made) > 1 else ""


def answer_views(run: Run, found: Sequence[View]) -> dict[str, Rows]:
    """{variant@view: prediction rows}: every role of the recipe in every view, in one call."""
    asked = {v.name: v for v in run.evaluation().variants if v.name in ROLES}
    variants = []
    for view in found:
        for role, variant in asked.items():
            ranked = view.tuned if role in TUNED else view.base
            named = {"name": f"{role}{view.label}", "ranked": ranked, "k": view.k}
            variants.append(dataclasses.replace(variant, **named))
    config = dataclasses.replace(
        run.recipe.evaluate, variants=tuple(variants), contrasts=(), tasks=(), probes=()
    )
    path = run.artifact(evaluate, config, ranked=variants[0].ranked).path
    return {variant.name: read_predictions(path, variant.name) for variant in variants}


def points(
    found: Sequence[View], answered: Sequence[dict[str, Rows]], config: EvaluateConfig
) -> list[dict[str, Any]]:
    """One point a view: values, num_questions, variants, contrasts (those of `config` between roles
    that are there). `answered`: one table of predictions for each training seed.
    """
    made = []
    for view in found:
        names = [role for role in ROLES if f"{role}{view.label}" in answered[0]]
        tables = {
            role: mean_over_seeds([rows[f"{role}{view.label}"] for rows in answered])
            for role in names
        }
        contrasts = [c for c in config.contrasts if set(c.split("-minus-")) <= set(names)]
        measured = measure(
            tables,
            contrasts=contrasts,
            tasks=config.tasks,
            num_samples=config.bootstrap,
            seed=config.seed,
        )
        kept = ("num_questions", "variants", "contrasts")
        made.append({"values": view.values, **{name: measured[name] for name in kept}})
    return made
