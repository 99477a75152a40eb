"""Which defaults? One field changed at a time, compared on the dev split of a finished run.

In: the folder of a finished `radit run` (demo, squad_open, ...). Each alternative replays one
stage of it with one field changed, on the run's own inputs; equal fingerprints are reused, and a
killed call continues. Out: a JSON file and the Markdown table of docs/method.md.

    python -m benchmarks.defaults runs/demo --output docs/results/defaults_demo.json

`--set r-ft.epochs=1 r-ft.select_by=last` makes every alternative of a stage shorter, or shows where
tuning led although best-of-dev would have kept the base encoder. `--directions 0,1,2` compares the
directions of KL alone, over training seeds, into docs/results/directions_*.json.

What is compared is what dev says, never the evaluated questions: for R-ft the answer NLL of the
judge (nats), recall@1 and MRR with the tuned encoder; for LM-ft the answer NLL per question; for
the rescoring the EM and F1 of the answers.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.publish import ROOT, between
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, inside_run, read_manifest
from radit_ray.data.work import FINGERPRINT
from radit_ray.engines.connect import connect
from radit_ray.engines.doctor import environment
from radit_ray.engines.variants import Variant
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.lm_ft import LmFtConfig, lm_ft
from radit_ray.stages.r_ft import RFtConfig, r_ft
from radit_ray.stages.score import ScoreConfig, score

SCORES = (  # (answer score, tau): the default kind at three temperatures, the others at their own
    ("mean_logprob", 0.05),
    ("mean_logprob", 0.1),
    ("mean_logprob", 0.3),
    ("sum_logprob", 1.0),
    ("prob_per_token", 0.01),
    ("prob", 0.01),
)


class Replay:
    """The stages of one finished run, each with some fields changed."""

    def __init__(self, run: str, every: dict[str, dict[str, Any]]) -> None:
        self.run, self.every = run, every  # every: {stage: fields changed in all alternatives}
        self.manifests = {name: self._manifest(name) for name in ("lm-ft", "score", "r-ft")}
        self.recipe = storage.read_json(storage.join(run, "run.json"))["recipe"]

    def _manifest(self, name: str) -> dict[str, Any]:
        found = read_manifest(storage.join(self.run, name))
        assert found is not None, f"{self.run} has no finished {name}"
        return found

    def config(self, name: str, kind: Any, **changes: Any) -> Any:
        """The config a stage ran with, with fields changed."""
        manifest = self.manifests[name]
        fields = {field.name for field in dataclasses.fields(kind)}
        paths = {key: value["path"] for key, value in manifest["inputs"].items() if key in fields}
        made = kind(**{**manifest["config"], **paths})
        return dataclasses.replace(made, **{**self.every.get(name, {}), **changes})

    def make(self, stage: Callable[..., Artifact], config: Any, **inputs: str) -> Artifact:
        """Runs (or reuses) a stage in the run's own store of artifacts."""
        name = stage.__name__.replace("_", "-")
        output = storage.join(self.run, "artifacts", f"{name}-{FINGERPRINT}")
        return stage(config, **inputs, output=output)

    def r_ft(self, scored: str = "", **changes: Any) -> dict[str, Any]:
        inputs = self.manifests["r-ft"]["inputs"]
        made = self.make(
            r_ft,
            self.config("r-ft", RFtConfig, **changes),
            scored=scored or inputs["scored"]["path"],
            embeddings=inputs["embeddings"]["path"],
        )
        dev, before = made.metrics["dev"], made.metrics["dev_before"]
        return {
            "nll": dev["nll"],
            "recall@1": dev["recall@1"],
            "mrr": dev["mrr"],
            "kept step": made.metrics["best_step"],
            "nll before": before["nll"],
            "recall@1 before": before["recall@1"],
        }

    def mix(self, share: float) -> dict[str, Any]:
        ranked = self.manifests["score"]["inputs"]["ranked"]["path"]
        config = self.config("score", ScoreConfig, corpus_share=share)
        return self.r_ft(self.make(score, config, ranked=ranked).path)

    def lm_ft(self, **changes: Any) -> dict[str, Any]:
        ranked = self.manifests["lm-ft"]["inputs"]["ranked"]["path"]
        made = self.make(lm_ft, self.config("lm-ft", LmFtConfig, **changes), ranked=ranked)
        metrics = {name: made.metrics["dev"][name] for name in ("nll", "nll_token", "em")}
        return {**metrics, "best_step": made.metrics["best_step"]}

    def rescoring(self) -> dict[str, dict[str, Any]]:
        """The `answers` ensemble with every unique answer scored again, and with a p_R vote
        only.
        """
        variants = json.loads(json.dumps(storage.read_json(f"{self.run}/run.json")["variants"]))
        fields = {field.name for field in dataclasses.fields(Variant)} - {"name", "lm", "ranked"}
        made = []
        for name in ("replug", "radit"):
            plain = {key: value for key, value in variants[name].items() if key in fields}
            paths = {key: inside_run(self.run, variants[name][key]) for key in ("lm", "ranked")}
            made += [
                Variant(name=f"{name}, all", **{**plain, **paths, "max_answers": 0}),
                Variant(name=f"{name}, vote", **{**plain, **paths, "max_answers": 1}),
            ]
        config = EvaluateConfig(variants=tuple(made), split="dev", limit=500)
        result = self.make(evaluate, config, ranked=made[0].ranked).metrics["variants"]
        return {
            name: {metric: values[metric]["value"] for metric in ("em", "f1")}
            for name, values in result.items()
        }


def compare(replay: Replay, k_trains: list[int]) -> dict[str, dict[str, dict[str, Any]]]:
    """{question: {alternative: dev metrics}}; the run's own setting is among them."""
    t_r = replay.manifests["r-ft"]["config"]["t_r"] or replay.manifests["r-ft"]["metrics"]["t_r"]
    share = replay.manifests["score"]["config"]["corpus_share"]
    return {
        "answer score (tau)": {
            f"{kind} ({tau:g})": replay.r_ft(answer_score=kind, tau=tau) for kind, tau in SCORES
        },
        "direction of KL": {
            direction: replay.r_ft(direction=direction) for direction in ("lsr_to_r", "r_to_lsr")
        },
        "T_R": {f"{t_r * x:g}": replay.r_ft(t_r=t_r * x) for x in (0.4, 1.0, 2.0, 4.0)},
        "corpus share of R-ft": {
            f"{value:g}": replay.mix(value) for value in sorted({0.0, share, 0.95})
        },
        "k_train": {str(k): replay.lm_ft(k_train=k) for k in k_trains},
        "rescoring": replay.rescoring(),
    }


def directions(replay: Replay, seeds: list[int]) -> dict[str, dict[str, dict[str, Any]]]:
    """Both directions of KL with every seed of R-ft, and their means."""
    found: dict[str, dict[str, Any]] = {}
    for direction in ("lsr_to_r", "r_to_lsr"):
        made = [replay.r_ft(direction=direction, seed=seed) for seed in seeds]
        found |= {f"{direction}, seed {seed}": m for seed, m in zip(seeds, made, strict=True)}
        names = [name for name in made[0] if name != "kept step"]
        found[f"{direction}, mean"] = {n: sum(m[n] for m in made) / len(made) for n in names}
    return {"direction of KL": found}


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown: one row an alternative, one column a run; `measured` holds the JSON files by name.

    Each file's command comes first.
    """
    lines = [
        f"- {name}: `{made['command']}`, commit {made['versions']['commit']}, {made['hardware']}"
        for name, made in measured.items()
    ]
    lines += [
        "",
        f"| choice | value | {' | '.join(measured)} |",
        "|---|---|" + "---|" * len(measured),
    ]
    first: dict[tuple[str, str], None] = {}
    for made in measured.values():
        first |= {(q, v): None for q, values in made["choices"].items() for v in values}
    for question in dict.fromkeys(question for question, _ in first):
        for value in (v for q, v in first if q == question):
            cells = [
                _shown(made["choices"].get(question, {}).get(value)) for made in measured.values()
            ]
            lines.append(f"| {question} | {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(metrics: dict[str, float] | None) -> str:
    if metrics is None:
        return "-"
    return ", ".join(f"{name} {number:.4g}" for name, number in metrics.items())


def publish_defaults(root: Path = ROOT) -> None:
    """The tables of docs/method.md from docs/results/{defaults,directions}_*.json."""
    method = root / "docs" / "method.md"
    text = method.read_text("utf-8")
    for name in ("defaults", "directions"):
        text = between(text, name, published(name, root))
    method.write_text(text, "utf-8")


def published(name: str, root: Path = ROOT) -> str:
    """What stands between the markers of `name` in docs/method.md."""
    files = sorted((root / "docs" / "results").glob(f"{name}_*.json"))
    return table({f.stem.removeprefix(f"{name}_"): json.loads(f.read_text("utf-8")) for f in files})


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--output", required=True, help="JSON file to write")
    parser.add_argument(
        "--set", nargs="*", default=[], help="STAGE.FIELD=VALUE in all alternatives"
    )
    parser.add_argument("--k-train", nargs="*", type=int, default=[1, 3, 5])
    parser.add_argument(
        "--directions", default="", help="seeds: compare the directions of KL alone"
    )
    args = parser.parse_args()
    every: dict[str, dict[str, Any]] = {}
    for setting in args.set:
        name, value = setting.split("=")
        stage, field = name.split(".")
        every.setdefault(stage, {})[field] = _plain(value)
    connect()
    replay, seeds = (
        Replay(args.run, every),
        [int(seed) for seed in args.directions.split(",") if seed],
    )
    found = directions(replay, seeds) if seeds else compare(replay, args.k_train)
    command = f"python -m benchmarks.defaults {' '.join(sys.argv[1:])}"
    storage.write_json(args.output, {**environment(), "command": command, "choices": found})
    publish_defaults()


if __name__ == "__main__":
    main()
