"""A run's folder: where artifacts lie, what they are called, what the variants are made of.

<run>/artifacts/<stage>-<fingerprint12>/   every artifact, by content
<run>/<stage>/, <run>/cycle-1/<stage>/     links to them by role
<run>/run.json, <run>/results.json         what each variant is made of; what came out
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import FINGERPRINT, Artifact, make_link, read_manifest
from radit_ray.data.readers import list_corpus_files
from radit_ray.engines.answering import Variant
from radit_ray.engines.doctor import environment
from radit_ray.engines.references import model_input, retriever_input
from radit_ray.recipes import Recipe
from radit_ray.stages.evaluate import EvaluateConfig
from radit_ray.stages.lm_ft import LmFtConfig
from radit_ray.stages.r_ft import RFtConfig
from radit_ray.stages.retrieve import RetrieveConfig
from radit_ray.stages.score import ScoreConfig

VARIANTS = ("closed-book", "replug", "replug-5shot", "it", "it-retrieval", "lm-ft", "r-ft", "radit")
FILLED = {  # fields of a stage that a run decides, and what to set instead
    "lm_ft.lm": "lm",
    "lm_ft.background": "variants",
    "embed.retriever": "retriever",
    "embed.preset": "preset",
    "retrieve.retriever": "retriever",
    "retrieve.preset": "preset",
    "r_ft.retriever": "retriever",
    "r_ft.preset": "preset",
    "evaluate.variants": "variants",
    "evaluate.contrasts": "contrasts",
}
PURPOSES = {
    "chunk": "cut the corpus into chunks",
    "embed": "a vector for every chunk, by the base retriever",
    "index": "an index over the vectors",
    "retrieve": "the best chunks of every example, by the base retriever",
    "lm-ft": "LM-ft: teach the LM to answer with a retrieved background",
    "it": "the control: the same tuning without background",
    "score": "which chunk helps the LM most? (frozen targets for R-ft)",
    "r-ft": "R-ft: teach the query encoder what the LM prefers",
    "retrieve-tuned": "the best chunks again, by the tuned query encoder",
    "evaluate": "every variant answers the same questions",
}


class Run:
    """Names and places for one recipe; the stages do the work."""

    def __init__(self, recipe: Recipe, folder: str) -> None:
        _check(recipe)
        self.recipe, self.folder = recipe, folder
        self.needed = set(recipe.variants)
        self.prefix = ""
        self.index = ""
        self.it = ""
        self.ranked = ""
        self.t_r = recipe.t_r
        self.done: list[Cycle] = []

    def stage(
        self, function: Callable[..., Artifact], config: Any, *, name: str = "", **inputs: str
    ) -> str:
        """Runs one stage into `artifacts/`, links it by role, and returns its path."""
        kind = function.__name__.replace("_", "-")
        name = name or kind
        if kind in ("embed", "retrieve", "r-ft") and not config.retriever:
            config = dataclasses.replace(
                config, retriever=self.recipe.retriever, preset=self.recipe.preset
            )
        where = f"cycle-{int(self.prefix[6:-1])}: " if self.prefix else ""
        print(f"radit {where}{name}: {PURPOSES[name]}", file=sys.stderr, flush=True)
        output = storage.join(self.folder, "artifacts", f"{kind}-{FINGERPRINT}")
        artifact = function(config, **inputs, output=output, resources=self.recipe.resources)
        make_link(storage.join(self.folder, f"{self.prefix}{name}"), artifact.path)
        if kind == "score" and not self.t_r:
            self.t_r = float(artifact.metrics.get("t_r", 0.0))
        return artifact.path

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
        made = {name: self._variant(name) for name in recipe.variants}
        missing = [name for name, variant in made.items() if variant is None]
        variants = [variant for variant in made.values() if variant is not None]
        variants += [
            dataclasses.replace(self._pair("radit", cycle), name=f"radit-cycle-{cycle.number}")
            for cycle in self.done[:-1]
        ]
        for name in missing:
            print(
                f"radit: variant {name!r} needs a tuned model; left out with cycles=0",
                file=sys.stderr,
            )
        names = {variant.name for variant in variants}
        contrasts = tuple(c for c in recipe.contrasts if set(c.split("-minus-")) <= names)
        return dataclasses.replace(recipe.evaluate, variants=tuple(variants), contrasts=contrasts)

    def finish(self, evaluated: str | None) -> dict[str, Any]:
        """Writes run.json and results.json; returns the results."""
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
            "wall_s": sum(stage["cost"]["wall_s"] for stage in stages.values()),
            "stages": stages,
            "environment": environment(),
        }
        storage.write_json(storage.join(self.folder, "results.json"), results)
        return results

    def _variant(self, name: str) -> Variant | None:
        recipe = self.recipe
        base = Variant(
            name=name,
            lm=recipe.lm,
            ranked=self.ranked,
            k=recipe.k_infer,
            ensemble=recipe.ensemble,
            t_r=self.t_r,
            max_new_tokens=recipe.max_new_tokens,
            max_answers=recipe.max_answers,
            eos_token=recipe.lm_ft.eos_token,
        )
        if name == "closed-book":
            return dataclasses.replace(base, k=0)
        if name.startswith("replug"):
            return dataclasses.replace(base, shots=5 if name == "replug-5shot" else 0)
        if not self.done:
            return None
        if name in ("it", "it-retrieval"):
            return dataclasses.replace(
                base, lm=f"{self.it}/model", k=0 if name == "it" else recipe.k_infer
            )
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
        tuned = next((c for c in self.done if variant.ranked == c.reranked), None)
        encoder = f"{tuned.retriever}/query_encoder" if tuned else self.recipe.retriever
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
            "query_encoder": self._relative(storage.absolute(encoder)),
            "preset": ranked["config"]["preset"],
            "index": self._relative(self.index),
            "nprobe": self.recipe.retrieve.nprobe,
            "ranked": self._relative(variant.ranked),
            "t_r": variant.t_r or ranked["metrics"]["t_r"],
            **{name: getattr(variant, name) for name in fields},
        }

    def _relative(self, path: str) -> str:
        root = storage.local(self.folder)
        real = storage.join(root, "artifacts")
        for prefix in (real, os.path.realpath(real)):
            if path.startswith(prefix + "/"):
                return "artifacts" + path[len(prefix) :]
        return path

    def _stages(self) -> dict[str, Any]:
        """Rows, metrics and cost of every stage this run links to."""
        found = {}
        names = [*PURPOSES, *(f"cycle-{c.number}/{n}" for c in self.done[1:] for n in PURPOSES)]
        for name in names:
            path = storage.join(self.folder, name)
            manifest = read_manifest(path) if storage.exists(path) else None
            if manifest is not None:
                cost = {
                    k: v
                    for k, v in manifest["cost"].items()
                    if k in ("wall_s", "device_s", "tokens", "flops", "peak_memory_bytes")
                }
                found[name] = {
                    "rows": manifest["rows"],
                    "fingerprint": manifest["fingerprint"],
                    "cost": cost,
                }
                if name not in ("evaluate", "index"):
                    found[name]["metrics"] = manifest["metrics"]
        return found


@dataclasses.dataclass
class Cycle:
    """One alternation: what it reads from the last one, and what its stages made."""

    run: Run
    number: int
    last: Cycle | None
    ranked: str  # ranked rows of the retriever that makes this cycle's data
    lm: str = ""
    retriever: str = ""
    reranked: str = ""

    @property
    def more(self) -> bool:
        """Whether another cycle follows."""
        return self.number + 1 < self.run.recipe.cycles

    def lm_ft(self) -> LmFtConfig:
        """LM-ft from the base weights, or with cycle_init="previous" from the last cycle's."""
        return dataclasses.replace(self.run.recipe.lm_ft, lm=self._start_lm())

    def score(self) -> ScoreConfig:
        """The frozen judge: `score.lm` if given (the paper's is larger), else the base LM first,
        then the LM of the last pair.
        """
        recipe = self.run.recipe
        lm = recipe.score.lm or recipe.lm
        if self.last and self.last.lm and not recipe.score.lm:
            lm = f"{self.last.lm}/model"
        return dataclasses.replace(
            recipe.score, lm=lm, eos_token=recipe.score.eos_token or recipe.lm_ft.eos_token
        )

    def r_ft(self) -> RFtConfig:
        """R-ft from the base query encoder, or with cycle_init="previous" from the last cycle's."""
        recipe = self.run.recipe
        changes: dict[str, Any] = {"retriever": recipe.retriever, "preset": recipe.preset}
        if recipe.cycle_init == "previous" and self.last:
            changes = {"retriever": f"{self.last.retriever}/retriever", "preset": "auto"}
        if not recipe.examples:
            changes["select_by"] = "kl"  # nobody knows the right chunk of a corpus example
        changes["t_r"] = recipe.r_ft.t_r or self.run.t_r
        return dataclasses.replace(recipe.r_ft, **changes)

    def retrieve(self) -> RetrieveConfig:
        """The same retrieval with the tuned query encoder; corpus examples only where a later cycle
        trains on them.
        """
        recipe = self.run.recipe
        corpus_examples = recipe.retrieve.corpus_examples if self.more else 0
        retriever = f"{self.retriever}/retriever"
        return dataclasses.replace(
            recipe.retrieve, retriever=retriever, preset="auto", corpus_examples=corpus_examples
        )

    def _start_lm(self) -> str:
        if self.run.recipe.cycle_init == "previous" and self.last:
            return f"{self.last.lm}/model"
        return self.run.recipe.lm


def _check(recipe: Recipe) -> None:
    """What can be told before any work: unknown variants, sizes that contradict each other, missing
    inputs.
    """
    for name in recipe.variants:
        if name not in VARIANTS:
            raise InputError(f"unknown variant {name!r}{nearest(name, VARIANTS)}")
    for contrast in recipe.contrasts:
        for side in contrast.split("-minus-"):
            if side not in VARIANTS or "-minus-" not in contrast:
                raise InputError(
                    f"contrast {contrast!r}, expected A-minus-B with A and B of: "
                    f"{', '.join(VARIANTS)}"
                )
    for field, instead in FILLED.items():
        stage, _, name = field.partition(".")
        config = getattr(recipe, stage)
        plain = {f.name: f for f in dataclasses.fields(config)}[name].default
        if getattr(config, name) != plain:
            raise InputError(f"{field} is filled in by a run; set {instead} instead")
    if recipe.lm_ft.lora_export == "adapter":
        raise InputError(
            "lm_ft.lora_export='adapter': a run evaluates the tuned LM, which must be whole; use "
            "'merged' here and `radit lm-ft` by itself for an adapter"
        )
    if recipe.cycle_init not in ("base", "previous"):
        raise InputError(
            f"cycle_init={recipe.cycle_init!r}{nearest(recipe.cycle_init, ['base', 'previous'])}"
        )
    if recipe.cycles < 0:
        raise InputError(f"cycles={recipe.cycles}, expected 0 or more")
    if max(recipe.k_infer, recipe.lm_ft.k_train) > recipe.retrieve.k:
        raise InputError(
            f"k_infer={recipe.k_infer} and lm_ft.k_train={recipe.lm_ft.k_train} must not exceed "
            f"retrieve.k={recipe.retrieve.k}; raise retrieve.k"
        )
    for name in ("lm", "retriever", "corpus"):
        if not getattr(recipe, name):
            raise InputError(
                f"recipe {recipe.name!r} needs --{name}; give a path or a Hugging Face id"
            )
    # a wrong model or path must not show only after the corpus has been embedded
    model_input(recipe.lm, what="lm")
    retriever_input(recipe.retriever, recipe.preset)
    list_corpus_files(recipe.corpus)
