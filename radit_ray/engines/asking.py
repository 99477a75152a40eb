"""One question to a finished run, in this process: no cluster is started for it."""

from __future__ import annotations

from typing import Any

from radit_ray.core.errors import InputError, nearest
from radit_ray.data.artifacts import inside_run, run_record
from radit_ray.data.rows import example_row
from radit_ray.engines.answering import Variant, answer_batch
from radit_ray.engines.connect import quiet
from radit_ray.engines.ranking import rank
from radit_ray.engines.references import local_model
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder


def ask(run: str, question: str, *, variant: str = "radit") -> dict[str, Any]:
    """The prediction row of one question, with `titles` and `texts` of its chunks.

    InputError where `run` is no finished run or has no such variant.
    """
    quiet()
    variants = run_record(run)["variants"]
    if variant not in variants:
        raise InputError(f"run {run} has no variant {variant!r}{nearest(variant, variants)}")
    if not question.strip():
        raise InputError("the question is empty; give some text")
    made = variants[variant]
    if made["shots"]:
        raise InputError(f"variant {variant!r} answers with demonstrations; ask another variant")
    record = {name: inside_run(run, made[name]) for name in ("lm", "query_encoder", "index")}
    # an answer is not known: the row only needs one to be complete
    row = example_row({"id": "ask", "question": question, "answers": ["unknown"], "split": "eval"})
    fields = ("k", "ensemble", "t_r", "template", "max_new_tokens", "max_answers", "eos_token")
    chosen = Variant(name=variant, lm=record["lm"], **{name: made[name] for name in fields})
    index = ShardedIndex.open(record["index"], nprobe=made["nprobe"], remote=False)
    retriever = local_model(record["query_encoder"])
    encoder = DualEncoder.load(retriever, preset=made["preset"], separate=False)
    ranked = rank([row], encoder, index, k=max(1, chosen.k))
    lm = CausalLM.load(local_model(record["lm"]), eos_token=chosen.eos_token)
    predictions, _ = answer_batch(lm, ranked, chosen, t_r=chosen.t_r)
    shown = len(predictions[0]["p_r"]) if chosen.k else 0  # concat: all chunks in one prompt
    names = ("question", "prediction", "p_r", "chunk_ids", "chunk_answers")
    return {
        **{name: predictions[0][name] for name in names},
        "titles": ranked[0]["titles"][:shown],
        "texts": ranked[0]["texts"][:shown],
        "variant": variant,
    }
