"""A finished run's variant opened in this process, no cluster started, and one question to it.

`open_variant` is how whatever answers outside a stage gets at LM, retriever and index: `radit ask`,
adapters to other people's evaluations.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.artifacts import inside_run, run_index, run_record
from radit_ray.data.rows import example_row
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.connect import quiet
from radit_ray.engines.ranking import query_encoder, rank
from radit_ray.engines.references import local_model
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.engines.variants import Row, Variant
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.lexical import Words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """One variant of a run, ready to answer; `variant.t_r` is resolved."""

    variant: Variant
    lm: CausalLM
    encoder: DualEncoder | Words
    index: ShardedIndex


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What a variant of a run is made of: names and paths that can be opened; `variant.lm` is the
    LM's, `variant.t_r` is resolved.
    """

    variant: Variant
    query_encoder: str
    preset: str
    index: str
    nprobe: int
    ranked: str  # ranked rows it was evaluated on


def variant_parts(run: str, name: str) -> Parts:
    """A variant as run.json names it.

    InputError where `run` is no finished run or has no such variant, where that one needs
    demonstrations, or where its index is no longer the one it was made with.
    """
    variants = run_record(run)["variants"]
    if name not in variants:
        raise InputError(f"run {run} has no variant {name!r}{nearest(name, variants)}")
    made = variants[name]
    if made["shots"]:
        raise InputError(f"variant {name!r} answers with demonstrations; use another variant")
    fields = ("k", "ensemble", "t_r", "template", "scoring", "max_new_tokens", "max_answers")
    chosen = {field: made[field] for field in (*fields, "eos_token")}
    return Parts(
        variant=Variant(name=name, lm=inside_run(run, made["lm"]), **chosen),
        query_encoder=inside_run(run, made["query_encoder"]),
        preset=made["preset"],
        index=run_index(run, made),
        nprobe=made["nprobe"],
        ranked=inside_run(run, made["ranked"]),
    )


def open_variant(run: str, name: str, *, device: str = "cpu", lm_precision: str = "fp32") -> Opened:
    """LM, query encoder and index of a variant; index shards in this process. InputError as
    `variant_parts`.
    """
    quiet()
    parts = variant_parts(run, name)
    return Opened(
        variant=parts.variant,
        index=ShardedIndex.open(parts.index, nprobe=parts.nprobe, remote=False),
        encoder=query_encoder(
            parts.query_encoder, preset=parts.preset, device=device, separate=False
        ),
        lm=CausalLM.load(
            local_model(parts.variant.lm),
            precision=lm_precision,
            device=device,
            eos_token=parts.variant.eos_token,
        ),
    )


def question_row(question: str) -> Row:
    """An example row that only asks: its answer is not known, and the row needs one to be
    complete.
    """
    return example_row({"id": "ask", "question": question, "answers": ["unknown"], "split": "eval"})


def ask(run: str, question: str, *, variant: str = "radit") -> dict[str, Any]:
    """The prediction row of one question, with `titles` and `texts` of its chunks.

    InputError for an empty question or one the LM's context does not hold, and as `open_variant`.
    """
    if not question.strip():
        raise InputError("the question is empty; give some text")
    opened = open_variant(run, variant)
    chosen = opened.variant
    row = question_row(question)
    ranked = rank([row], opened.encoder, opened.index, k=max(1, chosen.k))
    predictions, _ = answer_batch(opened.lm, ranked, chosen, t_r=chosen.t_r)
    if predictions[0]["num_question_cut"]:
        raise InputError(
            f"the question is {predictions[0]['num_question_cut']} tokens too long for the LM's "
            f"context of {opened.lm.context_length}; shorten it"
        )
    shown = len(predictions[0]["p_r"]) if chosen.k else 0  # concat: all chunks in one prompt
    names = ("question", "prediction", "p_r", "chunk_ids", "chunk_answers")
    return {
        **{name: predictions[0][name] for name in names},
        "titles": ranked[0]["titles"][:shown],
        "texts": ranked[0]["texts"][:shown],
        "variant": variant,
        "index_version": ranked[0]["index_version"],
    }
