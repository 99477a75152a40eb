"""What `radit plan` says against what a run took: seconds, FLOPs and bytes, stage by stage, at
three sizes of the demo; by the rates of `radit doctor --calibrate`, and like a run of an eighth.

In: nothing; the rates are measured first, or given. Out: four runs below OUTPUT,
benchmarks/results/plan.json, and the table of docs/scale.md between its markers. A killed call
continues.

    python -m benchmarks.plan runs/plan [--rates FILE] [--set lm_ft.steps=100 ...]
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.publish import ROOT, between
from radit_ray.commands import prepared
from radit_ray.data import storage
from radit_ray.data.examples import read_examples
from radit_ray.engines.calibrate import calibrate
from radit_ray.engines.connect import connect
from radit_ray.engines.doctor import environment
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.pipeline import pipeline
from radit_ray.plan import Rates, Sizes, StagePlan, plan_run, read_rates
from radit_ray.plan_like import Pilot, plan_like, read_pilot
from radit_ray.recipes import Recipe, demo, override
from radit_ray.report.table import text_table
from radit_ray.runs import Run

FILE = ROOT / "benchmarks" / "results" / "plan.json"
FLOOR = 1.2  # factor by which a stage's time may be off, either way
JITTER = 4.0  # seconds by which the start of a stage's processes differs from run to run
WHAT = {"wall_s": "s", "device_s": "s", "flops": "FLOPs", "bytes": "bytes"}
PILOT = "eighth"
SCALES = {"eighth": 0.125, "quarter": 0.25, "half": 0.5, "whole": 1.0}  # of subjects, steps, ...
SCALED = ("lm_ft.steps", "retrieve.corpus_examples", "score.num_examples", "score.dev_limit")


def scaled(share: float) -> Recipe:
    """The demo with a share of its subjects, steps and scored examples."""
    recipe = demo()

    def part(number: float) -> int:
        return max(1, round(share * number))

    names = ("num_known", "num_train", "num_dev", "num_eval", "num_distractors", "num_noise")
    changes: dict[str, Any] = {f"world.{n}": part(getattr(recipe.world, n)) for n in names}
    for name in SCALED:
        stage, field = name.split(".")
        changes[name] = part(getattr(getattr(recipe, stage), field))
    return override(recipe, changes)


def sizes_of(recipe: Recipe, run: Pilot) -> Sizes:
    """What is known before a run but for the number of chunks: counts of the inputs, the models'
    shapes. (The number of chunks is read off the finished stage `chunk`.)
    """
    rows = read_examples(recipe.examples, dev_share=recipe.retrieve.dev_share)
    lm = CausalLM.load(recipe.lm, precision="fp32", device="cpu")
    encoder = DualEncoder.load(
        recipe.retriever, preset=recipe.preset, precision="fp32", device="cpu"
    )
    evaluated = sum(row["split"] == "eval" for row in rows)
    answers = [len(lm.answer_ids(row["answers"][0])) for row in rows]
    return Sizes(
        num_chunks=run.counts.num_chunks,
        lm_parameters=lm.flops_per_token / 2,
        encoder_parameters=encoder.flops_per_token / 2,
        dimension=encoder.dimension,
        words_per_chunk=run.stages["chunk"]["metrics"]["mean_words"],
        num_train=float(len(rows) - evaluated),
        num_eval=float(evaluated),
        question_words=sum(len(row["question"].split()) for row in rows) / len(rows),
        answer_tokens=sum(answers) / len(answers),
    )


def compare(recipe: Recipe, run: Pilot, small: Pilot, rates: Rates) -> dict[str, Any]:
    """{stage: {what: {by_rates, predicted, measured}}} of a finished run."""
    devices = os.cpu_count() or 1
    by_rates = plan_run(recipe, sizes_of(recipe, run), rates, num_devices=devices)
    first = {plan.name: _figures(plan) for plan in by_rates}
    found = {}
    for plan in plan_like(small, run.counts, run.settings):
        manifest = run.stages[plan.name]
        cost = manifest["cost"]
        measured = {name: float(cost.get(name, 0.0)) for name in ("wall_s", "device_s", "flops")}
        measured["bytes"] = float(sum(file["bytes"] for file in manifest["files"]))
        like = _figures(plan)
        found[plan.name] = {
            what: {
                "by_rates": first.get(plan.name, {}).get(what, 0.0),
                "predicted": like[what],
                "measured": measured[what],
            }
            for what in WHAT
        }
    return found


def _figures(plan: StagePlan) -> dict[str, float]:
    return {
        "wall_s": plan.wall_s,
        "device_s": plan.device_s,
        "flops": plan.flops,
        "bytes": plan.storage_bytes,
    }


def rows_of(size: str, stages: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the result file: each stage's figures, and the wall seconds of all."""
    together = {
        side: sum(found["wall_s"][side] for found in stages.values())
        for side in ("by_rates", "predicted", "measured")
    }
    named = {(stage, what): cell for stage, found in stages.items() for what, cell in found.items()}
    for (stage, what), cell in {**named, ("together", "wall_s"): together}.items():
        predicted, measured = cell["predicted"], cell["measured"]
        if predicted and measured:
            ratio = max(predicted / measured, measured / predicted)
            short = what == "wall_s" and abs(predicted - measured) < JITTER
            yield {
                "name": f"{size}/{stage}/{what}",
                "ours": predicted,
                "peer": measured,
                "by_rates": cell["by_rates"],
                "ratio": ratio,
                "floor": FLOOR,
                "better": "lower",
                "unit": WHAT[what],
                "bound": f"off by less than {JITTER:g} s" if short and ratio > FLOOR else "",
            }


def table(results: Mapping[str, Any]) -> str:
    """By rates / like the pilot / measured, by stage and size, as docs/scale.md shows them."""
    cells = {row["name"]: row for row in results["rows"]}
    sizes = list(dict.fromkeys(name.split("/")[0] for name in cells))
    names = list(dict.fromkeys(tuple(name.split("/")[1:]) for name in cells))
    rows = []
    for stage, what in names:
        found = [cells.get(f"{size}/{stage}/{what}") for size in sizes]
        shown = [
            " / ".join(f"{c[k]:.3g}" for k in ("by_rates", "ours", "peer")) if c else "-"
            for c in found
        ]
        rows.append([stage, f"{what} ({WHAT[what]})" if what == "bytes" else what, *shown])
    off = [row for row in results["rows"] if row["ratio"] > FLOOR]
    rest = [row for row in off if not row["bound"]]
    told = ", ".join(f"{row['name']} ({row['ratio']:.2f}x)" for row in rest) or "none"
    made, close, also = results, len(results["rows"]) - len(off), len(off) - len(rest)
    head = (
        f"`{made['command']}`, commit {made['commit']} (runs: {', '.join(made['run_commits'])}), "
        f"{made['hardware']}; by the rates of `radit doctor --calibrate` / like an eighth / "
        "measured:"
    )
    foot = (
        f"Like an eighth, {close} of {len(made['rows'])} figures are within a factor of {FLOOR:g} "
        f"and {also} more are off by less than {JITTER:g} s, as much as the start of processes "
        f"differs from run to run. The others: {told}."
    )
    return f"{head}\n\n{text_table(['stage', 'figure', *sizes], rows, True)}\n\n{foot}"


def publish_plan(results: Mapping[str, Any], root: Path = ROOT) -> None:
    """The table of docs/scale.md."""
    page = root / "docs" / "scale.md"
    page.write_text(between(page.read_text("utf-8"), "plan", table(results)), "utf-8")


def measured(
    output: str, rates: Rates, settings: Sequence[str], sizes: Sequence[str]
) -> dict[str, Any]:
    """Runs the sizes and says how they compare."""
    changes = dict(setting.split("=", 1) for setting in settings)
    rows: list[dict[str, Any]] = []
    runs: dict[str, Pilot] = {}
    for size in (PILOT, *sizes):
        folder = storage.join(output, size)
        recipe = prepared(override(scaled(SCALES[size]), changes), folder)
        pipeline(recipe, Run(recipe, folder))
        runs[size] = read_pilot(folder, {"CPU": float(os.cpu_count() or 1), "GPU": 0.0})
        if size != PILOT:
            rows += rows_of(size, compare(recipe, runs[size], runs[PILOT], rates))
    made = environment(f"python -m benchmarks.plan {' '.join(sys.argv[1:])}")
    made["commit"] = made["versions"].get("commit", "")
    stages = [manifest for run in runs.values() for manifest in run.stages.values()]
    made["run_commits"] = sorted({m["versions"].get("commit", "") for m in stages})
    return {**made, "rates": dataclasses.asdict(rates), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("output", help="folder of the runs")
    parser.add_argument("--rates", default="", help="file of `radit doctor --calibrate`")
    larger = [size for size in SCALES if size != PILOT]
    parser.add_argument("--sizes", nargs="*", default=larger, choices=larger)
    parser.add_argument("--set", nargs="*", default=[], help="FIELD=VALUE of every size")
    parser.add_argument("--file", default=str(FILE), help="JSON file to write")
    args = parser.parse_args()
    file = args.rates or storage.join(args.output, "rates.json")
    if not storage.exists(file):
        storage.write_json(file, calibrate())  # before anything else holds the cores
    connect()
    results = measured(args.output, read_rates(file), args.set, args.sizes)
    storage.write_json(args.file, results)
    if args.file == str(FILE):
        publish_plan(results)


if __name__ == "__main__":
    main()
