"""What a sweep of eight numbers of chunks costs over a finished index, against the largest alone:
by ensemble, and for choices.

In: the folder of a finished run, whose index and LM are used. Out: benchmarks/results/sweep_k.json.
Every call answers afresh; what is compared are the seconds of the workers, start-up left out, and
the LM tokens, which no other load disturbs. `python -m benchmarks.performance` puts it on its page.

    python -m benchmarks.sweep_k runs/demo --num-questions 100
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import tempfile
from collections.abc import Sequence
from statistics import median
from typing import Any

from benchmarks.publish import ROOT, measured_by
from radit_ray.data import storage
from radit_ray.data.artifacts import inside_run, run_record
from radit_ray.data.examples import read_examples
from radit_ray.data.rows import seeded_order
from radit_ray.engines.connect import connect
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import Variant
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

FILE = ROOT / "benchmarks" / "results" / "sweep_k.json"
KS = (0, 1, 3, 5, 10, 20, 50, 100)  # the default of `radit sweep chunks`
FLOORS = {"answers": 1.3, "choices": 1.3, "tokens": None, "concat": None}  # None: cost is told
MAX_ANSWERS = 16
NUM_CHOICES = 4
SHARD = 25  # questions of a part: two workers share them evenly
FIELDS = ("template", "t_r", "shots", "scoring", "max_new_tokens", "eos_token")


def bound_of(mode: str, ks: Sequence[int]) -> str:
    """Why a sweep of this mode costs more than the largest k, where it must."""
    share = sum(ks) / max(ks)
    if mode == "tokens":
        return (
            "each k decodes a continuation of its own, since every token depends on all prompts: "
            f"up to {share:.2f} times the prompts of the largest k"
        )
    if mode == "concat":
        return "each k is one prompt of its own; nothing of it is part of a longer one's answer"
    return ""


def write_questions(run: str, num: int, folder: str) -> dict[str, str]:
    """The run's evaluated questions, and the same as choices between answers of one kind."""
    record = run_record(run)["recipe"]
    tasks = record["evaluate"]["tasks"]
    rows = [
        row
        for row in read_examples(record["examples"], dev_share=record["retrieve"]["dev_share"])
        if row["split"] == "eval" and (not tasks or row["task"] in tasks)
    ]
    rows.sort(key=lambda row: seeded_order(0, row["id"]))
    rng = random.Random(0)
    known = sorted({row["answers"][0] for row in rows})
    chosen = []
    for row in rows[:num]:
        others = [
            answer for answer in rng.sample(known, NUM_CHOICES) if answer != row["answers"][0]
        ]
        choices = [row["answers"][0], *others[: NUM_CHOICES - 1]]
        rng.shuffle(choices)
        chosen.append({**row, "category": "multiple-choice", "choices": choices})
    files = {"open": rows[:num], "choices": chosen}
    for name, listed in files.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in listed)
        storage.write_bytes(storage.join(folder, f"{name}.jsonl"), text.encode())
    return {name: f"eval={storage.join(folder, name)}.jsonl" for name in files}


def measure(
    run: str, variant: str, num: int, ks: Sequence[int], repeat: int, resources: Resources
) -> list[dict[str, Any]]:
    """One row a mode."""
    record = run_record(run)
    found = record["variants"][variant]
    folder = tempfile.mkdtemp(prefix="radit-sweep-k-")
    files = write_questions(run, num, folder)
    ranked = {
        name: retrieve(
            RetrieveConfig(
                retriever=inside_run(run, found["query_encoder"]),
                k=max(ks),
                examples_per_shard=SHARD,
                preset=found["preset"],
                dev_share=0.0,
            ),
            examples=examples,
            index=inside_run(run, found["index"]),
            output=storage.join(folder, f"ranked-{name}"),
            resources=resources,
        ).path
        for name, examples in files.items()
    }
    plain = {name: found[name] for name in FIELDS}
    rows = []
    for mode in FLOORS:
        base = Variant(
            lm=inside_run(run, found["lm"]),
            ranked=ranked["choices" if mode == "choices" else "open"],
            ensemble="answers" if mode == "choices" else mode,
            max_answers=MAX_ANSWERS,
            **plain,
        )
        spent: dict[str, list[dict[str, float]]] = {"sweep": [], "alone": []}
        asked = {"alone": [max(ks)], "sweep": list(ks)}
        for number in range(repeat):
            for what in list(asked)[:: -1 if number % 2 else 1]:  # the first one by turns
                place = storage.join(folder, f"{mode}-{what}-{number}")
                spent[what].append(_spend(base, asked[what], place, resources))
        rows.append(row_of(mode, ks, spent, num))
    return rows


def _spend(base: Variant, ks: Sequence[int], output: str, resources: Resources) -> dict[str, float]:
    """Seconds of the workers and LM tokens of one call."""
    variants = tuple(dataclasses.replace(base, name=f"k{k}", k=k) for k in ks)
    config = EvaluateConfig(variants=variants, bootstrap=50)
    made = evaluate(config, ranked=base.ranked, output=output, resources=resources)
    costs = made.metrics["cost"].values()
    return {what: sum(cost[what] for cost in costs) for what in ("device_s", "tokens")}


def row_of(
    mode: str, ks: Sequence[int], spent: dict[str, list[dict[str, float]]], num: int
) -> dict[str, Any]:
    """What one mode cost: medians, and the ratio of each repeat's two calls."""
    middle = {
        what: {name: median(call[name] for call in calls) for name in ("device_s", "tokens")}
        for what, calls in spent.items()
    }
    sweep, alone = middle["sweep"], middle["alone"]
    calls = zip(spent["sweep"], spent["alone"], strict=True)
    ratios = [some["device_s"] / one["device_s"] for some, one in calls]
    tokens = sweep["tokens"] / alone["tokens"]
    return {
        "name": f"k of {', '.join(map(str, ks))} against {max(ks)} alone, {mode}",
        "ours": sweep["device_s"],
        "peer": alone["device_s"],
        "ratio": median(ratios),
        "spread": [min(ratios), max(ratios)],
        "floor": FLOORS[mode],
        "better": "lower",
        "unit": "worker s",
        "bound": bound_of(mode, ks),
        "note": f"LM tokens {tokens:.2f} times those of {max(ks)} alone",
        "tokens_ratio": tokens,
        "ks": list(ks),
        "num_questions": num,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--variant", default="radit")
    parser.add_argument("--num-questions", type=int, default=100)
    parser.add_argument("--ks", type=int, nargs="*", default=list(KS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--file", default=str(FILE), help="JSON file to write")
    args = parser.parse_args()
    connect()
    rows = measure(args.run, args.variant, args.num_questions, args.ks, args.repeat, Resources())
    made = {**measured_by("sweep_k"), "threads": 1, "clock": "wall"}  # of a worker
    storage.write_json(args.file, {**made, "rows": rows})
    for row in rows:
        print(f"{row['name']}: {row['ratio']:.2f} (tokens {row['tokens_ratio']:.2f})")


if __name__ == "__main__":
    main()
