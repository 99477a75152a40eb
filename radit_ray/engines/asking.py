"""A finished run's variant opened in this process, no cluster started, and one question to it.

`open_variant` is how whatever answers outside a stage gets at LM, retriever and index: `radit ask`,
adapters to other people's evaluations.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.artifacts import inside_run, run_record
from radit_ray.data.rows import example_row
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.connect import quiet
from radit_ray.engines.ranking import query_encoder, rank
from radit_ray.engines.references import local_model
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.engines.variants import Variant
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


def open_variant(run: str, name: str, *, device: str = "cpu", lm_precision: str = "fp32") -> Opened:
    """LM, query encoder and index of a variant, as run.json names them; index shards in this
    process.

    InputError where `run` is no finished run or has no such variant, or where that one needs
    demonstrations.
    """
    quiet()
    variants = run_record(run)["variants"]
    if name not in variants:
        raise InputError(f"run {run} has no variant {name!r}{nearest(name, variants)}")
    made = variants[name]
    if made["shots"]:
        raise InputError(f"variant {name!r} answers with demonstrations; use another variant")
    path = {part: inside_run(run, made[part]) for part in ("lm", "query_encoder", "index")}
    fields = ("k", "ensemble", "t_r", "template", "max_new_tokens", "max_answers", "eos_token")
    return Opened(
        variant=Variant(name=name, lm=path["lm"], **{field: made[field] for field in fields}),
        index=ShardedIndex.open(path["index"], nprobe=made["nprobe"], remote=False),
        encoder=query_encoder(
            path["query_encoder"], preset=made["preset"], device=device, separate=False
        ),
        lm=CausalLM.load(
            local_model(path["lm"]),
            precision=lm_precision,
            device=device,
            eos_token=made["eos_token"],
        ),
    )


def ask(run: str, question: str, *, variant: str = "radit") -> dict[str, Any]:
    """The prediction row of one question, with `titles` and `texts` of its chunks.

    InputError for an empty question or one the LM's context does not hold, and as `open_variant`.
    """
    if not question.strip():
        raise InputError("the question is empty; give some text")
    opened = open_variant(run, variant)
    chosen = opened.variant
    # an answer is not known: the row only needs one to be complete
    row = example_row({"id": "ask", "question": question, "answers": ["unknown"], "split": "eval"})
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
    }
