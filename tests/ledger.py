"""What the golden ledger holds, computed anew: for every template, category and ensemble the
prompt, its token ids, the log-probability of the answer, the prediction and its metrics.

    found = compute(lm)                        # {"table-12": {...}, "table-10": {...}, ...}
    differences(expected, found, "table-12")   # ["table-12/qa/...: expected ..., found ..."]

`lm` is the one of `closed_form.py`. Numbers are nats, summed over tokens, rounded to 6 places.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import torch

from radit_ray.core import metrics
from radit_ray.core.ensembles import Scoring
from radit_ray.core.templates import (
    Prompt,
    eval_prompt,
    gold_answer,
    options,
    retrieval_query,
    shot,
    train_prompt,
)
from radit_ray.data.rows import example_row
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.variants import ENSEMBLES, Variant
from radit_ray.models.causal_lm import CausalLM

FOLDER = Path(__file__).parent / "golden"
ROOM, T_R, TOLERANCE = 8, 0.5, 1e-4
SHOWN = ("prediction", "candidates", "candidate_logprobs", "chunk_answers", "p_r", "chunk_logprobs")
SHOWN += ("nll", "em", "f1", "score", "recall@1", "recall@5", "num_truncated")
Tree = dict[str, Any]


def inputs() -> Tree:
    """The examples and chunks everything is made of: `tests/golden/inputs.json`, by hand."""
    return dict(json.loads((FOLDER / "inputs.json").read_text(encoding="utf-8")))


def compute(lm: CausalLM) -> dict[str, Tree]:
    """The whole ledger but its inputs, by file."""
    given = inputs()
    chunk = (given["chunks"][0]["title"], given["chunks"][0]["text"])
    rows = {name: example_row({"id": name, **row}) for name, row in given["examples"].items()}
    made = {
        "lm": _about(lm),
        "table-12": {name: _evaluation(lm, rows[name], chunk) for name in given["templates"]},
        "table-10": {
            rows[name]["category"]: _training(lm, rows[name], chunk)
            for name in rows
            if name in given["categories"]
        },
        "truncation": _truncation(lm, rows["qa"], chunk),
        "ensembles": _ensembles(lm, rows, given),
        "metrics": [_measured(*pair) for pair in given["predictions"]],
    }
    return {name: _plain(tree) for name, tree in made.items()}


def _about(lm: CausalLM) -> Tree:
    """Is it the same LM at all? Its first weights, an encoding, and what it finds likely next."""
    ids = [*lm.bos_ids, *lm.encode("Q: Who?\nA:")]
    with torch.inference_mode():
        logprob_V = lm.model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
    best = logprob_V.topk(3)
    return {
        "num_parameters": lm.num_parameters,
        "vocabulary": len(lm.tokenizer),
        "first_weights": lm.model.get_input_embeddings().weight[0, :4].tolist(),
        "prompt": "Q: Who?\nA:",
        "ids": ids,
        "answer": "Anna Greta",
        "answer_ids": lm.answer_ids("Anna Greta"),
        "next_ids": best.indices.tolist(),
        "next_logprobs": best.values.tolist(),
    }


def _evaluation(lm: CausalLM, row: Tree, chunk: tuple[str, str]) -> Tree:
    """Table 12: one example with 0 and 2 demonstrations, without and with a chunk. It serves as its
    own demonstration, once with a chunk and once without.
    """
    gold = lm.answer_ids(gold_answer(row))
    shots = [shot(row, chunk=chunk), shot(row)]
    prompts = {
        f"{number}-shot{' chunk' if shown else ''}": eval_prompt(
            row, chunk=shown, shots=shots[:number]
        )
        for number in (0, 2)
        for shown in (None, chunk)
    }
    return {
        "query": retrieval_query(row),
        "options": options(row) if row["choices"] else [],
        "answer": gold_answer(row),
        "answer_ids": gold,
        **{name: _scored(lm, prompt, gold) for name, prompt in prompts.items()},
    }


def _training(lm: CausalLM, row: Tree, chunk: tuple[str, str]) -> Tree:
    """Table 10: one example with several markers; the answer ends in EOS, as LM-ft trains it."""
    gold = lm.answer_ids(gold_answer(row), eos=True)
    made: Tree = {"answer": gold_answer(row), "answer_ids": gold}
    for seed in range(3):
        prompt = train_prompt(row, chunk=chunk, seed=seed)
        made[f"seed {seed} chunk"] = _scored(lm, prompt, gold)
    made["seed 0"] = _scored(lm, train_prompt(row, seed=0), gold)
    return made


def _scored(lm: CausalLM, prompt: Prompt, answer: list[int]) -> Tree:
    """A prompt, its ids, and the log-probability of the answer after it."""
    ids = lm.fit_prompt(prompt, room=ROOM).ids
    return {"prompt": prompt.text, "ids": ids, "logprob": lm.answer_logprobs([ids], [answer])[0]}


def _truncation(lm: CausalLM, row: Tree, chunk: tuple[str, str]) -> Tree:
    """One prompt in ever less context: demonstrations go first, then the end of the background,
    then the beginning of the question.
    """
    prompt = eval_prompt(row, chunk=chunk, shots=[shot(row, chunk=chunk), shot(row)])
    whole = len(lm.fit_prompt(prompt, room=ROOM).ids) + ROOM
    return {
        f"context {length}": dataclasses.asdict(
            dataclasses.replace(lm, context_length=length).fit_prompt(
                prompt, room=ROOM, cut_instruction=True
            )
        )
        for length in (whole, whole - 1, whole // 2, whole // 3, ROOM + 8)
    }


def cases() -> Iterator[tuple[str, str, Variant]]:
    """(name, example, variant): what `ensembles.json` answers."""
    for ensemble in ENSEMBLES:
        for shots in (0, 2):
            variant = Variant(ensemble=ensemble, k=3, shots=shots, max_new_tokens=ROOM)
            for example in ("qa", "fever", "mmlu"):
                yield f"{example}, {ensemble}, {shots}-shot", example, variant
        for scoring in get_args(Scoring):
            name = f"question-answer, {ensemble}, {scoring}"
            variant = Variant(ensemble=ensemble, k=3, scoring=scoring, template="question-answer")
            yield name, "question-answer", variant
    for k in (0, 1):
        yield f"qa, {k} chunks", "qa", Variant(k=k, max_new_tokens=ROOM)
    yield "fever, 1 answer scored", "fever", Variant(k=3, max_answers=1, max_new_tokens=ROOM)


def _ensembles(lm: CausalLM, rows: dict[str, Tree], given: Tree) -> Tree:
    return {name: ask(lm, rows[example], variant, given) for name, example, variant in cases()}


def ask(lm: CausalLM, row: Tree, variant: Variant, given: Tree) -> Tree:
    """The prediction of one example from the fixture's three chunks."""
    chunks = given["chunks"]
    ranked = {
        **row,
        "chunk_ids": [chunk["id"] for chunk in chunks],
        "doc_ids": [chunk["id"].partition("#")[0] for chunk in chunks],
        "titles": [chunk["title"] for chunk in chunks],
        "texts": [chunk["text"] for chunk in chunks],
        "scores": [chunk["score"] for chunk in chunks],
    }
    first = (chunks[0]["title"], chunks[0]["text"])
    shots = [shot(row, chunk=first), shot(row)][: variant.shots]
    (found,), _ = answer_batch(lm, [ranked], variant, t_r=T_R, shots=shots)
    return {name: found[name] for name in SHOWN}


def _measured(prediction: str, answers: list[str]) -> Tree:
    values = {name: metric(prediction, answers) for name, metric in metrics.METRICS.items()}
    return {"prediction": prediction, "answers": answers, **values}


# --- files ---


def _plain(value: Any) -> Any:
    """JSON values, floats rounded to 6 places."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int):
        return value
    return round(float(value), 6) + 0.0  # no -0.0


def as_text(tree: Any) -> str:
    """Indented JSON with a list of numbers on one line."""
    text = json.dumps(tree, indent=1, ensure_ascii=False)
    return re.sub(r"\[[-\d.,\se]+\]", lambda found: " ".join(found[0].split()), text) + "\n"


def differences(expected: Any, found: Any, place: str) -> list[str]:
    """One line for each value that differs, numbers by more than TOLERANCE; in the order of the
    ledger, so that the first one is the first step that went another way.
    """
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = [*expected, *(key for key in found if key not in expected)]
        missing = "(nothing)"
        parts = [(f"/{k}", expected.get(k, missing), found.get(k, missing)) for k in keys]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = zip(expected, found, strict=True)
        parts = [(f"[{n}]", a, b) for n, (a, b) in enumerate(pairs)]
    elif isinstance(expected, float) and isinstance(found, int | float):
        same = math.isclose(expected, found, rel_tol=0, abs_tol=TOLERANCE)
        return [] if same else [f"{place}: expected {expected}, found {found}"]
    else:
        return [] if expected == found else [f"{place}: expected {expected!r}, found {found!r}"]
    return [line for name, a, b in parts for line in differences(a, b, place + name)]
