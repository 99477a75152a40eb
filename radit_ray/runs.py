"""A run's folder: where artifacts lie, what they are called, what the variants are made of.

<run>/artifacts/<stage>-<fingerprint12>/   every artifact, by content
<run>/<stage>/, <run>/cycle-1/<stage>/     links to them by role
<run>/run.json, <run>/results.json         what each variant is made of; what came out
<run>/seed-1/...                           the same for a second training seed, artifacts shared
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from radit_ray.cycles import Cycle
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, artifact_input, make_link, read_manifest
from radit_ray.data.work import FINGERPRINT
from radit_ray.engines.doctor import environment
from radit_ray.engines.measuring import mean_over_seeds, measure, read_predictions
from radit_ray.engines.variants import Variant
from radit_ray.models.presets import LEXICAL
from radit_ray.recipe_checks import NO_R_FT, R_FT, check_recipe
from radit_ray.recipes import Recipe, base_variant
from radit_ray.report.words import STAGES
from radit_ray.stages.evaluate import EvaluateConfig
from radit_ray.stages.index import IndexConfig
from radit_ray.stages.lm_ft import LmFtConfig

KEPT_COSTS = ("wall_s", "device_s", "tokens", "flops", "peak_memory_bytes")


class Reached(Exception):  # noqa: N818 - it is no error
    """The stage that `--until` names is finished; what follows is another command's work."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name, path)
        self.name, self.path = name, path


class Run:
    """Names and places for one recipe; the stages do the work."""

    def __init__(self, recipe: Recipe, folder: str, *, artifacts: str = "artifacts") -> None:
        check_recipe(recipe)
        self.recipe, self.folder = recipe, folder
        self.artifacts = artifacts  # their folder, relative to the run's
        self.command = ""  # of the process this run is for, where it is not this one
        self.history = ""  # where the first cycle's looks at dev are shown, "" = nowhere
        self.until = ""  # the stage after which the run stops with `Reached`, "" = none
        self.evaluated = ""
        self.needed = set(recipe.variants)
        self.prefix = ""
        self.index = ""
        self.it = ""
        self.ranked = ""
        self.t_r = recipe.t_r
        self.done: list[Cycle] = []

    @property
    def lexical(self) -> bool:
        """Whether words are searched, and no vectors."""
        return self.recipe.retriever == LEXICAL

    def stage(
        self, function: Callable[..., Artifact], config: Any, *, name: str = "", **inputs: str
    ) -> str:
        """Runs one stage into `artifacts/`, links it by role, and returns its path."""
        name = name or function.__name__.replace("_", "-")
        where = f"cycle-{int(self.prefix[6:-1])}: " if self.prefix else ""
        print(f"radit {where}{name}: {STAGES[name]}", file=sys.stderr, flush=True)
        artifact = self.artifact(function, config, **inputs)
        make_link(storage.join(self.folder, f"{self.prefix}{name}"), artifact.path)
        if name == "score" and not self.t_r:
            self.t_r = float(artifact.metrics.get("t_r", 0.0))
        if name == self.until:
            raise Reached(name, artifact.path)
        return artifact.path

    def artifact(self, function: Callable[..., Artifact], config: Any, **inputs: str) -> Artifact:
        """Runs one stage into `artifacts/`, with the recipe's retriever where it names none."""
        kind = function.__name__.replace("_", "-")
        if kind in ("embed", "retrieve", "r-ft") and not config.retriever:
            config = dataclasses.replace(
                config, retriever=self.recipe.retriever, preset=self.recipe.preset
            )
        if self.lexical and kind == "index":
            config = IndexConfig(kind=LEXICAL, num_shards=config.num_shards)
        if self.lexical and kind == "retrieve":
            config = dataclasses.replace(config, corpus_examples=0)  # those are for R-ft
        output = storage.join(self._root(), f"{kind}-{FINGERPRINT}")
        resources = self.recipe.resources
        if self.history and not self.prefix:
            resources = dataclasses.replace(resources, history=self.history)
        return function(config, **inputs, output=output, resources=resources)

    def base(self, ranked: str) -> None:
        """The base retriever's ranked rows: the data of the first cycle."""
        self.ranked = ranked

    def cycles(self) -> Iterator[Cycle]:
        """The alternations; each starts from the data of the last pair."""
        for number in range(self.recipe.cycles):
            last = self.done[-1] if self.done else None
            self.prefix = f"cycle-{number}/" if number else ""
            cycle = Cycle(
                run=self, number=number, last=last, ranked=last.reranked if last else self.ranked
            )
            yield cycle
            self.done.append(cycle)
        self.prefix = ""

    def instruction_tuning(self) -> LmFtConfig:
        """The control of LM-ft: equal steps on the same instances, equal answer tokens, no
        chunk.
        """
        return dataclasses.replace(self.recipe.lm_ft, lm=self.recipe.lm, background=False)

    def evaluation(self) -> EvaluateConfig:
        """The variants of the recipe with their models filled in."""
        recipe = self.recipe
        made = {name: self._variant(name) for name in (*recipe.variants, *recipe.probes)}
        missing = [name for name, variant in made.items() if variant is None]
        variants = [variant for variant in made.values() if variant is not None]
        variants += [
            dataclasses.replace(self._pair("radit", cycle), name=f"radit-cycle-{cycle.number}")
            for cycle in self.done[:-1]
        ]
        for name in missing:
            why = "it needs a tuned model, and cycles=0"
            if self.lexical and name in R_FT:
                why = NO_R_FT
            print(f"radit: variant {name!r} is left out: {why}", file=sys.stderr)
        names = {variant.name for variant in variants}
        contrasts = tuple(c for c in recipe.contrasts if set(c.split("-minus-")) <= names)
        probes = tuple(name for name in recipe.probes if name in names)
        return dataclasses.replace(
            recipe.evaluate, variants=tuple(variants), contrasts=contrasts, probes=probes
        )

    def finish(self, evaluated: str | None) -> dict[str, Any]:
        """Writes run.json and results.json; returns the results."""
        self.evaluated = evaluated or ""
        config = self.evaluation() if evaluated else EvaluateConfig(variants=())
        record = {
            "recipe": json.loads(json.dumps(dataclasses.asdict(self.recipe))),
            "index": self._relative(self.index),
            "variants": {variant.name: self._record(variant) for variant in config.variants},
        }
        storage.write_json(storage.join(self.folder, "run.json"), record)
        metrics: dict[str, Any] = {"num_questions": 0, "variants": {}, "contrasts": {}, "tasks": {}}
        if evaluated:
            manifest = read_manifest(evaluated)
            assert manifest is not None
            metrics = manifest["metrics"]
        stages = self._stages()
        results = {
            "recipe": self.recipe.name,
            **metrics,
            "seeds": [self.recipe.lm_ft.seed],
            "wall_s": _wall_s(stages.values()),
            "stages": stages,
            "environment": environment(self.command),
        }
        storage.write_json(storage.join(self.folder, "results.json"), results)
        return results

    def _variant(self, name: str) -> Variant | None:
        recipe = self.recipe
        plain = base_variant(recipe, name)
        base = dataclasses.replace(plain, ranked=self.ranked, t_r=self.t_r)
        if name == "closed-book":
            return dataclasses.replace(base, k=0)
        if name.startswith("replug"):
            return dataclasses.replace(base, shots=5 if name == "replug-5shot" else 0)
        if not self.done or (self.lexical and name in R_FT):
            return None
        if name in ("it", "it-retrieval"):
            return dataclasses.replace(
                base, lm=f"{self.it}/model", k=0 if name == "it" else recipe.k_infer
            )
        if name == "lm-ft-closed-book":
            return dataclasses.replace(self._pair("lm-ft", self.done[-1], base), name=name, k=0)
        return self._pair(name, self.done[-1], base)

    def _pair(self, name: str, cycle: Cycle, base: Variant | None = None) -> Variant:
        """lm-ft, r-ft or radit with the models of one cycle."""
        base = base or self._variant("replug")
        assert base is not None
        lm = f"{cycle.lm}/model" if name in ("lm-ft", "radit") else base.lm
        ranked = cycle.reranked if name in ("r-ft", "radit") else base.ranked
        return dataclasses.replace(base, name=name, lm=lm, ranked=ranked)

    def _record(self, variant: Variant) -> dict[str, Any]:
        """What run.json says of a variant; paths inside the run are relative, so that it can be
        moved.
        """
        encoder = self.recipe.retriever
        if variant.name in ("r-ft", "radit"):
            encoder = f"{self.done[-1].retriever}/query_encoder"
        elif variant.name.startswith("radit-cycle-"):
            number = int(variant.name.removeprefix("radit-cycle-"))
            encoder = f"{self.done[number].retriever}/query_encoder"
        ranked = read_manifest(variant.ranked)
        assert ranked is not None
        fields = (
            "template",
            "k",
            "ensemble",
            "shots",
            "scoring",
            "max_new_tokens",
            "max_answers",
            "eos_token",
        )
        return {
            "lm": self._relative(storage.absolute(variant.lm)),
            "query_encoder": LEXICAL if self.lexical else self._relative(storage.absolute(encoder)),
            "preset": ranked["config"]["preset"],
            "index": self._relative(self.index),
            "index_version": artifact_input(self.index, "index").version,
            "nprobe": self.recipe.retrieve.nprobe,
            "ranked": self._relative(variant.ranked),
            "t_r": variant.t_r or ranked["metrics"]["t_r"],
            **{name: getattr(variant, name) for name in fields},
        }

    def _root(self) -> str:
        """Where the artifacts lie."""
        folder, below = self.folder.rstrip("/"), self.artifacts
        while below.startswith("../"):
            folder, below = folder.rpartition("/")[0], below[3:]
        return storage.join(folder, below)

    def _relative(self, path: str) -> str:
        real = storage.absolute(self._root())
        for prefix in (real, os.path.realpath(real)):
            if path.startswith(prefix + "/"):
                return self.artifacts + path[len(prefix) :]
        return path

    def _stages(self) -> dict[str, Any]:
        """Rows, metrics and cost of every stage this run links to."""
        found = {}
        names = [*STAGES, *(f"cycle-{c.number}/{n}" for c in self.done[1:] for n in STAGES)]
        for name in names:
            path = storage.join(self.folder, name)
            manifest = read_manifest(path) if storage.exists(path) else None
            if manifest is not None:
                cost = {
                    k: v
                    for k, v in manifest["cost"].items()
                    if k in KEPT_COSTS or k.startswith("reused_")
                }
                found[name] = {
                    "rows": manifest["rows"],
                    "fingerprint": manifest["fingerprint"],
                    "cost": cost,
                }
                if name not in ("evaluate", "index"):
                    found[name]["metrics"] = manifest["metrics"]
        return found


def seeded(
    recipe: Recipe, folder: str, *, artifacts: str = "artifacts"
) -> Iterator[tuple[Recipe, Run]]:
    """The recipe once for each training seed, the first in `folder` itself; artifacts that no seed
    decides (corpus, chunks, vectors, index) are made once, in `artifacts`, relative to `folder`.
    """
    if not recipe.seeds:
        yield recipe, Run(recipe, folder, artifacts=artifacts)
    for number, seed in enumerate(recipe.seeds):
        one = dataclasses.replace(
            recipe,
            lm_ft=dataclasses.replace(recipe.lm_ft, seed=seed),
            r_ft=dataclasses.replace(recipe.r_ft, seed=seed),
        )
        if number == 0:
            yield one, Run(one, folder, artifacts=artifacts)
        else:
            below = storage.join(folder, f"seed-{seed}")
            print(f"radit: training seed {seed}", file=sys.stderr, flush=True)
            yield one, Run(one, below, artifacts=f"../{artifacts}")


def merge_seeds(runs: Sequence[Run], results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several seeds as one: each question's mean over seeds, intervals over groups
    of questions, and every seed's own table in `by_seed`. Written over the first run's
    results.json.
    """
    first, config = runs[0], runs[0].evaluation()
    tables = {
        variant.name: mean_over_seeds(
            [read_predictions(run.evaluated, variant.name) for run in runs]
        )
        for variant in config.variants
    }
    merged = {
        **results[0],
        **measure(
            tables,
            contrasts=config.contrasts,
            tasks=config.tasks,
            probes=config.probes,
            num_samples=config.bootstrap,
            seed=config.seed,
        ),
        "seeds": [seed for result in results for seed in result["seeds"]],
        "by_seed": {
            str(result["seeds"][0]): {
                name: result[name] for name in ("variants", "contrasts", "tasks")
            }
            for result in results
        },
        "wall_s": _wall_s(s for result in results for s in result["stages"].values()),
    }
    storage.write_json(storage.join(first.folder, "results.json"), merged)
    return merged


def _wall_s(stages: Iterable[dict[str, Any]]) -> float:
    """Seconds of the artifacts behind some stages; one that serves two roles was made once."""
    return float(sum({s["fingerprint"]: s["cost"]["wall_s"] for s in stages}.values()))
