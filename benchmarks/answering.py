"""How much faster is answering where a prompt is computed once (`radit_ray/models/prefix.py`)?

In: an LM and the ranked rows of a finished `retrieve`. Out: a JSON file with one row a case: CPU
seconds a question, `ours` with kept prompts, `peer` as an LM that cannot keep them is asked (each
prompt once to decode and once to score; for `tokens` once more for each k).

    OMP_NUM_THREADS=1 python -m benchmarks.answering LM RANKED \\
        --output benchmarks/results/answering.json

Both ways run in one process, by turns, on the same rows; numbers are medians over the repeats. CPU
time of one thread, since other work may run beside it. Prompts are made as long as asked. An LM
that was not tuned never ends an answer, so here words that often stand behind one do (ENDS); "none
ends" is the other extreme, where each chunk has a long answer of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, read_shard, shard_names
from radit_ray.engines.answering import answer_depths
from radit_ray.engines.doctor import environment
from radit_ray.engines.variants import Row, Variant, fit_prompts, gold_ids
from radit_ray.models.causal_lm import CausalLM

K = 10
T_R = 0.05
ENDS = (".", ",", ";", ":", "(", "and", "is", "was", "in")
# what is left to compute beside the prompts: with short answers little; each of ten long answers
# under each of ten prompts about as much as a short prompt; choices are computed once either way
FLOORS = {"answers": 1.5, "none ends": 1.2, "tokens": 1.5, "choices": 0.9}


def rows_of(lm: CausalLM, ranked: str, *, questions: int, tokens: int) -> list[Row]:
    """Questions with K chunks each: consecutive pieces of the chunks that were retrieved, as many
    words as make prompts of about `tokens` tokens.
    """
    source = artifact_input(ranked, ("retrieve",))
    tables = [read_shard(source.file(name)) for name in shard_names(source)]
    found = [row for row in pa.concat_tables(tables).to_pylist() if row["split"] == "eval"]
    asked = found[:: len(found) // questions][:questions]
    words = " ".join(text for row in found for text in row["texts"]).split()
    size = tokens // 2
    for _ in range(4):
        made = [_with_chunks(row, words, number, size) for number, row in enumerate(asked)]
        lengths = [
            len(prompt.ids)
            for row in made
            for prompt in fit_prompts(lm, row, Variant(k=K), gold_ids(lm, row, "auto"))
        ]
        size = round(size * tokens / statistics.mean(lengths))
    return made


def _with_chunks(row: Row, words: list[str], number: int, size: int) -> Row:
    starts = range(number * K * size, (number + 1) * K * size, size)
    ids = [f"chunk-{start}" for start in starts]
    return {
        **row,
        **{"chunk_ids": ids, "doc_ids": ids, "titles": ["Title"] * K},
        "texts": [" ".join(words[start : start + size]) for start in starts],
        "scores": [0.8 - 0.02 * place for place in range(K)],
    }


def as_choices(rows: list[Row]) -> list[Row]:
    """The same questions with four options each: the answer and those of others."""
    answers = [row["answers"][0] for row in rows] + ["1990", "the river", "a famous writer"]
    return [
        {**row, "choices": [*row["answers"][:1], *wrong], "category": "multiple-choice"}
        for row in rows
        for wrong in [[answer for answer in answers if answer not in row["answers"]][-3:]]
    ]


def measure(
    lm: CausalLM, rows: list[Row], variant: Variant, ks: list[int], repeats: int
) -> dict[str, Any]:
    """Seconds per question both ways, and how far their results are from each other."""
    seconds: dict[bool, list[float]] = {True: [], False: []}
    found: dict[bool, Any] = {}
    kept = lm.prefix_bytes
    for number in range(repeats + 1):  # the first one warms up
        for keep in (True, False):
            lm.__dict__["prefix_bytes"] = kept if keep else 0
            start = time.process_time()
            found[keep] = answer_depths(lm, rows, variant, ks, t_r=T_R)
            if number:
                seconds[keep].append((time.process_time() - start) / len(rows))
    lm.__dict__["prefix_bytes"] = kept
    ours, peer = (statistics.median(seconds[keep]) for keep in (True, False))
    ratio = statistics.median(p / o for o, p in zip(seconds[True], seconds[False], strict=True))
    pairs = [pair for k in ks for pair in zip(found[True][0][k], found[False][0][k], strict=True)]
    return {
        "ours": round(ours, 4),
        "peer": round(peer, 4),
        "ratio": round(ratio, 2),
        "tokens_per_question": [found[keep][1] // len(rows) for keep in (True, False)],
        "candidates": statistics.mean(len(one["candidates"]) for one, _ in pairs),
        **_differences(pairs),
    }


def _differences(pairs: list[tuple[Row, Row]]) -> dict[str, Any]:
    """Of the two ways' predictions: nats of the gold answers, and answers that are not the same."""
    gold = [
        np.abs(np.subtract(one["chunk_logprobs"], other["chunk_logprobs"])).max()
        for one, other in pairs
    ]
    answers = [
        pair
        for one, other in pairs
        for pair in zip(one["chunk_answers"], other["chunk_answers"], strict=True)
    ]
    return {
        "largest_difference_nats": float(f"{max(gold):.2g}"),
        "other_chunk_answers": f"{sum(a != b for a, b in answers)}/{len(answers)}",
        "other_predictions": (
            f"{sum(a['prediction'] != b['prediction'] for a, b in pairs)}/{len(pairs)}"
        ),
    }


def cases() -> Iterator[tuple[str, Variant, list[int], str]]:
    """(name, variant, numbers of chunks, kind)."""
    plain = Variant(k=K, max_new_tokens=16)
    tokens = dataclasses.replace(plain, ensemble="tokens")
    yield "answers", plain, [K], "answers"
    yield "answers, none ends", dataclasses.replace(plain, max_new_tokens=8), [K], "none ends"
    yield "tokens", tokens, [K], "tokens"
    yield "tokens for k=1,3,5,10", tokens, [1, 3, 5, K], "tokens"
    yield "choices", plain, [K], "choices"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("lm", help="folder of a causal LM")
    parser.add_argument("ranked", help="folder of a finished retrieve")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompt-tokens", nargs="*", type=int, default=[170, 450])
    parser.add_argument("--precision", default="fp32")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lm = CausalLM.load(args.lm, precision=args.precision)
    assert lm.prefix_bytes, f"{args.lm} cannot go on behind kept prompts"
    ends = frozenset(token for word in ENDS for token in lm.encode(word))
    made_of = environment("python -m benchmarks.answering " + shlex.join(sys.argv[1:]))
    file = {"commit": made_of["versions"]["commit"], **made_of, "rows": []}
    for tokens in args.prompt_tokens:
        free = rows_of(lm, args.ranked, questions=args.questions, tokens=tokens)
        for name, variant, ks, kind in cases():
            asked = as_choices(free) if kind == "choices" else free
            lm.newline_ids = frozenset() if kind == "none ends" else ends
            made = measure(lm, asked, variant, ks, args.repeats)
            row = {"name": f"{name}, {K} prompts of {tokens} tokens, {args.precision}", **made}
            row |= {"floor": FLOORS[kind], "better": "higher", "unit": "CPU s/question"}
            print(row, flush=True)
            file["rows"].append(row)
            storage.write_json(args.output, file)  # each row: on a busy machine it takes long


if __name__ == "__main__":
    main()
