"""What can be told of a recipe before any work, so that it does not show after an hour of it."""

from __future__ import annotations

import dataclasses

from radit_ray.core.errors import SEED, InputError, check_bounds, nearest
from radit_ray.data.examples import read_examples
from radit_ray.data.readers import list_corpus_files
from radit_ray.data.rows import SPLITS
from radit_ray.engines.references import local_model, model_input, retriever_input
from radit_ray.engines.reuse import older_embeddings
from radit_ray.engines.variants import check_variant
from radit_ray.models.precision import check_precision
from radit_ray.models.presets import LEXICAL
from radit_ray.models.weights import require_weights
from radit_ray.recipes import Recipe, base_variant
from radit_ray.stages.dedup import check_dedup
from radit_ray.stages.index import check_index
from radit_ray.stages.lm_ft import check_lm_ft
from radit_ray.stages.r_ft import check_r_ft
from radit_ray.stages.retrieve import check_retrieve
from radit_ray.stages.score import check_score

VARIANTS = ("closed-book", "replug", "replug-5shot", "it", "it-retrieval", "lm-ft", "r-ft", "radit")
PROBES = (
    "lm-ft-closed-book",
)  # looked at by task only: does the tuned LM still know what it knew?
R_FT = ("r-ft", "radit")  # variants of a tuned query encoder
NO_R_FT = "BM25 has no weights that R-ft could tune"
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
    "evaluate.probes": "probes",
}


def check_recipe(recipe: Recipe) -> None:
    """Unknown variants, sizes that contradict each other, missing inputs."""
    for what, names, known in (
        ("variant", recipe.variants, VARIANTS),
        ("probe", recipe.probes, PROBES),
    ):
        for name in names:
            if name not in known:
                raise InputError(f"unknown {what} {name!r}{nearest(name, known)}")
    for config in (recipe, *vars(recipe).values()):
        check_bounds(config, getattr(config, "BOUNDS", {}))
    if any(not SEED[0] <= seed <= SEED[1] for seed in recipe.seeds):
        raise InputError(f"seeds={recipe.seeds}, expected each from {SEED[0]} to {SEED[1]}")
    if len(set(recipe.seeds)) != len(recipe.seeds):
        raise InputError(f"seeds={recipe.seeds}, expected different ones")
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
    if max(recipe.k_infer, recipe.lm_ft.k_train) > recipe.retrieve.k:
        raise InputError(
            f"k_infer={recipe.k_infer} and lm_ft.k_train={recipe.lm_ft.k_train} must not exceed "
            f"retrieve.k={recipe.retrieve.k}; raise retrieve.k"
        )
    if recipe.score.k > recipe.retrieve.k:
        raise InputError(
            f"score.k={recipe.score.k} must not exceed retrieve.k={recipe.retrieve.k}; raise "
            "retrieve.k"
        )
    if recipe.retriever == LEXICAL:
        _check_lexical(recipe)
    if recipe.cycles and recipe.retrieve.k < 2:
        raise InputError(
            f"retrieve.k={recipe.retrieve.k}: of one chunk the LM prefers none; expected 2 or "
            "more, or cycles=0"
        )
    for name in ("lm", "retriever", "corpus"):
        if not getattr(recipe, name):
            raise InputError(
                f"recipe {recipe.name!r} needs --{name}; give a path or a Hugging Face id"
            )
    _check_stages(recipe)
    # a wrong model or path must not show only after the corpus has been embedded
    model_input(recipe.lm, what="lm")
    retriever_input(recipe.retriever, recipe.preset)
    list_corpus_files(recipe.corpus)


def _check_stages(recipe: Recipe) -> None:
    """InputError on what a stage of the run would refuse by itself, hours later."""
    if recipe.deduplicate:
        check_dedup(recipe.dedup)
    stages, lexical = stages_of(recipe), recipe.retriever == LEXICAL
    for stage in ("embed", "retrieve", "score", "evaluate"):
        check_precision(getattr(recipe, stage).precision, f"{stage}.precision")
    if lexical:
        check_retrieve(dataclasses.replace(recipe.retrieve, corpus_examples=0))  # as a run does
    else:
        check_retrieve(recipe.retrieve)
        check_index(recipe.index)
    if not lexical and recipe.index.kind == LEXICAL:
        raise InputError("index.kind='bm25' searches words and no vectors; give --retriever bm25")
    for stage, config, check in (
        ("lm-ft", recipe.lm_ft, check_lm_ft),
        ("score", recipe.score, check_score),
        ("r-ft", recipe.r_ft, check_r_ft),
    ):
        if stage in stages:
            check(config)
    check_variant(base_variant(recipe))


def stages_of(recipe: Recipe) -> list[str]:
    """The stages of a run's first cycle, in the order of `pipeline`."""
    lexical, more = recipe.retriever == LEXICAL, recipe.cycles > 1
    tuned = recipe.cycles > 0
    chosen = {
        "chunk": True,
        "embed": not lexical,
        "index": True,
        "retrieve": True,
        "lm-ft": tuned and bool(recipe.examples),
        "it": tuned and bool(recipe.examples and {"it", "it-retrieval"} & set(recipe.variants)),
        "score": tuned,
        "r-ft": tuned and not lexical,
        "retrieve-tuned": tuned and not lexical and bool(recipe.examples or more),
        "evaluate": bool(recipe.examples),
    }
    return [name for name, there in chosen.items() if there]


def check_until(recipe: Recipe, until: str) -> None:
    """InputError where a run would never come to that stage, and so would not stop."""
    *names, last = stages_of(recipe)
    if until == last:
        raise InputError(f"--until {until}: that is the whole run; leave --until out")
    if until and until not in names:
        raise InputError(f"--until {until!r} is no stage of this run{nearest(until, names)}")


def _check_lexical(recipe: Recipe) -> None:
    if not recipe.examples:
        raise InputError(f"without examples a run is R-ft alone, and {NO_R_FT}; give --examples")
    if recipe.reuse:
        raise InputError("reuse with retriever bm25: it has no vectors; leave --reuse out")
    if recipe.cycles > 1:
        raise InputError(
            f"cycles={recipe.cycles} with retriever bm25: {NO_R_FT}, so each cycle would be the "
            "first one again; use cycles 0 or 1"
        )
    if not set(recipe.variants) - set(R_FT):
        raise InputError(
            f"variants {', '.join(recipe.variants)} with retriever bm25: {NO_R_FT}; add one of "
            f"{', '.join(name for name in VARIANTS if name not in R_FT)}"
        )


def check_inputs(recipe: Recipe) -> None:
    """Reads all examples and looks into the LM's folder, as later stages will; seconds, once a run.

    InputError on vectors to reuse that are not there, on a bad example, on splits that training or
    the evaluation would lack, on an LM without safetensors.
    """
    require_weights(local_model(recipe.lm), what="LM")
    if recipe.reuse:
        older_embeddings(recipe.reuse)
    if not recipe.examples:
        return
    shares = {"dev_share": recipe.retrieve.dev_share, "eval_share": recipe.retrieve.eval_share}
    rows = read_examples(recipe.examples, seed=recipe.retrieve.seed, **shares)
    found = {row["split"] for row in rows} & set(recipe.retrieve.splits or SPLITS)
    needed = {"train": recipe.cycles > 0, "dev": recipe.cycles > 0, recipe.evaluate.split: True}
    for split in (name for name, needs in needed.items() if needs and name not in found):
        share = f"; set retrieve.{split}_share=0.1" if split != "train" else ""
        raise InputError(
            f"{recipe.examples}: no example of split {split!r}, only of "
            f"{', '.join(sorted(found))}; name the file {split}=FILE or give rows a `split`{share}"
        )
    there = {row["task"] for row in rows if row["split"] == recipe.evaluate.split}
    for task in recipe.evaluate.tasks:
        if task not in there:
            raise InputError(f"evaluate.tasks: no question of {task!r}{nearest(task, there)}")
