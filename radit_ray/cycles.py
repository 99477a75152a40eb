"""One alternation of LM-ft and R-ft: which weights its stages start from, and what they made."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from radit_ray.data.artifacts import read_manifest
from radit_ray.stages.lm_ft import LmFtConfig
from radit_ray.stages.r_ft import RFtConfig
from radit_ray.stages.retrieve import RetrieveConfig
from radit_ray.stages.score import ScoreConfig

if TYPE_CHECKING:
    from radit_ray.runs import Run


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
            recipe.score,
            lm=lm,
            eos_token=recipe.score.eos_token or recipe.lm_ft.eos_token,
            # without R-ft the scores only fit T_R, on dev
            num_examples=1 if self.run.lexical else recipe.score.num_examples,
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
        manifest = read_manifest(self.retriever)
        from_base = recipe.cycle_init == "base" or self.last is None
        if from_base and manifest and manifest["metrics"]["best_step"] == 0:
            # dev kept the base encoder: the base retrieval is this retrieval, and is reused
            return dataclasses.replace(
                recipe.retrieve, retriever=recipe.retriever, preset=recipe.preset
            )
        corpus_examples = recipe.retrieve.corpus_examples if self.more else 0
        retriever = f"{self.retriever}/retriever"
        return dataclasses.replace(
            recipe.retrieve, retriever=retriever, preset="auto", corpus_examples=corpus_examples
        )

    def _start_lm(self) -> str:
        if self.run.recipe.cycle_init == "previous" and self.last:
            return f"{self.last.lm}/model"
        return self.run.recipe.lm
