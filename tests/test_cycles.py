"""Contract of a cycle: what its stages start from."""

from __future__ import annotations

from pathlib import Path

import pytest

from radit_ray.cycles import Cycle
from radit_ray.data import storage
from radit_ray.recipes import Recipe, override, own
from radit_ray.runs import Run

RETRIEVER = "a/retriever"


def r_ft_artifact(folder: Path, best_step: int) -> str:
    manifest = {"format_version": 1, "stage": "r-ft", "fingerprint": "f", "files": []}
    manifest["metrics"] = {"best_step": best_step}
    storage.write_json(str(folder / "manifest.json"), manifest)
    return str(folder)


@pytest.fixture
def recipe(tiny_models: tuple[str, str], tmp_path: Path) -> Recipe:
    (tmp_path / "a.txt").write_text("text")
    lm, retriever = tiny_models
    return own(lm=lm, retriever=retriever, corpus=str(tmp_path / "a.txt"))


@pytest.mark.parametrize("cycle_init", ["base", "previous"])
def test_a_kept_base_encoder_reuses_the_base_retrieval(
    recipe: Recipe, tmp_path: Path, cycle_init: str
) -> None:
    run = Run(override(recipe, {"cycle_init": cycle_init, "cycles": 2}), str(tmp_path / "run"))
    first = Cycle(run=run, number=0, last=None, ranked="ranked")
    base = override(recipe, {}).retrieve
    first.retriever = r_ft_artifact(tmp_path / "kept", 0)
    assert first.retrieve().retriever == recipe.retriever
    assert first.retrieve().corpus_examples == base.corpus_examples
    first.retriever = r_ft_artifact(tmp_path / "tuned", 3)
    assert first.retrieve().retriever == f"{tmp_path}/tuned/retriever"
    # a later cycle that started from tuned weights kept those, not the base encoder
    second = Cycle(run=run, number=1, last=first, ranked="ranked")
    second.retriever = r_ft_artifact(tmp_path / "kept-again", 0)
    kept = recipe.retriever if cycle_init == "base" else f"{tmp_path}/kept-again/retriever"
    assert second.retrieve().retriever == kept
