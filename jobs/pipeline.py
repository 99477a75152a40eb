"""RA-DIT as a job: the method section of the paper in code. Every step is a stage on Ray; finished
ones are reused.

    python jobs/pipeline.py RECIPE --output DIR [...]       what `radit run` does, its options too
    RAY_AUTH_MODE=token ray job submit --working-dir . -- python jobs/pipeline.py RECIPE [...]
"""

from __future__ import annotations

from typing import Any

from radit_ray.recipes import Recipe
from radit_ray.runs import Run
from radit_ray.stages.chunk import chunk
from radit_ray.stages.dedup import dedup
from radit_ray.stages.embed import embed
from radit_ray.stages.evaluate import evaluate
from radit_ray.stages.index import index
from radit_ray.stages.lm_ft import lm_ft
from radit_ray.stages.r_ft import r_ft
from radit_ray.stages.retrieve import retrieve
from radit_ray.stages.score import score


def pipeline(recipe: Recipe, run: Run) -> dict[str, Any]:
    """Runs the whole of RA-DIT; returns what `results.json` holds."""
    # The corpus side, once: only the query encoder is ever tuned, so no vector changes later
    # (section 2.3).
    chunks = run.stage(chunk, recipe.chunk, corpus=recipe.corpus)
    if recipe.deduplicate:
        chunks = run.stage(dedup, recipe.dedup, chunks=chunks)
    # (BM25, a reference of ours, searches the words themselves.)
    embeddings = chunks
    if not run.lexical:
        embeddings = run.stage(embed, recipe.embed, chunks=chunks, reuse=recipe.reuse)
    run.index = run.stage(index, recipe.index, embeddings=embeddings)
    # Parallel retrieval with the base retriever, for training and evaluation (section 2.1).
    ranked = run.stage(retrieve, recipe.retrieve, examples=recipe.examples, index=run.index)
    run.base(ranked)
    for cycle in run.cycles():
        # LM-ft: answer with retrieved background, k~ = 3 chunks as separate instances (section 2.2,
        # Eq. 3); and its control, the same tuning without chunks.
        if recipe.examples:
            cycle.lm = run.stage(lm_ft, cycle.lm_ft(), ranked=cycle.ranked)
            if run.needed & {"it", "it-retrieval"} and cycle.number == 0:
                run.it = run.stage(lm_ft, run.instruction_tuning(), ranked=ranked, name="it")
        # R-ft: which chunks did the LM prefer? (section 2.3, Eq. 4 and 5). Supervised by the pair
        # that made the data.
        scored = run.stage(score, cycle.score(), ranked=cycle.ranked)
        if run.lexical:
            continue  # T_R is fitted; words have no weights to tune
        cycle.retriever = run.stage(r_ft, cycle.r_ft(), scored=scored, embeddings=embeddings)
        # What the tuned query encoder finds: for evaluation, and for the data of the next cycle.
        if recipe.examples or cycle.more:
            cycle.reranked = run.stage(
                retrieve,
                cycle.retrieve(),
                examples=recipe.examples,
                index=run.index,
                name="retrieve-tuned",
            )
    if not recipe.examples:
        return run.finish(None)
    # What each half brought: every variant answers the same questions (section 4).
    return run.finish(run.stage(evaluate, run.evaluation(), ranked=ranked, name="evaluate"))


if __name__ == "__main__":
    from radit_ray.cli import run_command

    run_command()
