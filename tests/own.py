"""`radit run own` on the tiny world: its command, for the run that several tests look at."""

from __future__ import annotations

from pathlib import Path

from radit_ray.cli import _dispatch, _guarded

SETTINGS = """
k_infer=2 max_new_tokens=4 resources.num_workers=1 chunk.docs_per_shard=20
retrieve.k=3 retrieve.corpus_examples=12 retrieve.corpus_tokens=12
lm_ft.k_train=1 lm_ft.steps=4 lm_ft.batch_size=2 lm_ft.seq_len=256 lm_ft.eval_every=2
lm_ft.lr=1e-3 lm_ft.warmup=1 score.num_examples=16
r_ft.batch_size=8 r_ft.epochs=2 r_ft.eval_every=2 r_ft.lr=1e-3
r_ft.select_by=last evaluate.bootstrap=50
"""


def radit(*arguments: str) -> int:
    """The exit code of `radit ...`, in this process."""
    return _guarded(lambda: _dispatch(arguments))


def arguments_of(world: dict[str, str], models: tuple[str, str], output: Path) -> list[str]:
    """What stands behind `radit run`; a world without examples is a run on a corpus alone."""
    lm, retriever = models
    words = ["own", "--lm", lm, "--retriever", retriever, "--corpus", world["corpus"]]
    words += ["--output", str(output)]
    if "examples" in world:
        words += ["--examples", world["examples"]]
    return [*words, *(part for setting in SETTINGS.split() for part in ("--set", setting))]
