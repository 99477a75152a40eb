"""evaluate: ranked rows + LMs -> predictions, metrics with intervals, contrasts between variants.

In: ranked rows and the variants to compare; each LM is loaded once per actor and serves all
variants that use it. Out: `<variant>/part-*.parquet` with one prediction a question (each chunk's
answer and weight included), metrics in the manifest.

    radit evaluate --ranked runs/x/retrieve --variants.0.lm runs/x/lm-ft/model --output
    runs/x/evaluate
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pyarrow as pa

from radit_ray.core.errors import SEED, Bounds, InputError, check_bounds
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    artifact_input,
    commit_shard,
    read_manifest,
    read_shard,
    shard_names,
    versions_in,
)
from radit_ray.data.work import FINGERPRINT, Work
from radit_ray.engines.answered import take_answers
from radit_ray.engines.answering import PREDICTION, answer_depths
from radit_ray.engines.demonstrations import draw_shots, shots_of
from radit_ray.engines.measuring import check_contrast, measure, read_predictions
from radit_ray.engines.references import local_model, model_bytes, model_input, resolved_precision
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards
from radit_ray.engines.variants import Variant, check_variant
from radit_ray.models.causal_lm import CausalLM

VERSION = 6
RANKED_BY = ("retrieve", "challenge")  # whose artifacts hold ranked rows with questions


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What decides the numbers."""

    variants: tuple[Variant, ...] = (Variant(),)  # the rows of the table
    contrasts: tuple[str, ...] = ()  # "a-minus-b": paired differences of all metrics
    split: str = "eval"
    # tasks of the table and the contrasts; empty = all. Each task is reported by itself as well
    tasks: tuple[str, ...] = ()
    # variants that are reported by task only, not as rows of the table: a look at something else
    probes: tuple[str, ...] = ()
    limit: int = 0  # questions, a seeded choice; 0 = all
    bootstrap: int = 2000  # resamples of the 95% intervals, over groups (subjects, paragraphs)
    precision: str = "auto"  # of the LMs: "bf16", "fp32" or "auto"
    seed: int = 0

    BOUNDS: ClassVar[Bounds] = {
        "limit": (0, None),
        "bootstrap": (1, None),
        "seed": SEED,
    }


def evaluate(
    config: EvaluateConfig, *, ranked: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Answers every question of the split with every variant and measures em, f1, nll (nats),
    recall@1 and recall@5.

    Metrics: num_questions, variants {name: {metric: {value, low, high}}}, contrasts {"a-minus-b":
    {metric: {diff, low, high}}}, tasks {task: {name: {...}}}, cost {name: {questions, device_s,
    tokens}}, index_versions {name: of the index its chunks come from}, reused {name: of the
    evaluation its answers are from}, and what else `measure` gives. InputError on an unknown
    ensemble or contrast, two variants of one name, no question.
    """
    check_bounds(config, config.BOUNDS)
    names = [variant.name for variant in config.variants]
    if not names or len(set(names)) != len(names):
        raise InputError(f"variant names {names}, expected one or more, all different")
    for variant in config.variants:
        check_variant(variant)
    for contrast in config.contrasts:
        check_contrast(contrast, names)
    ranked_of = {v.name: artifact_input(v.ranked or ranked, RANKED_BY) for v in config.variants}
    lm_of = {v.name: model_input(v.lm, what="lm") for v in config.variants}
    # what each variant's paths hold is part of the identity, the paths are not
    plain = tuple(dataclasses.replace(v, lm="", ranked="") for v in config.variants)
    inputs = {"ranked": artifact_input(ranked, RANKED_BY)}
    inputs |= {
        f"ranked/{name}": value for name, value in ranked_of.items() if value != inputs["ranked"]
    }
    inputs |= {f"lm/{name}": value for name, value in lm_of.items()}
    identity = dataclasses.replace(config, variants=plain)
    with Work.open(
        "evaluate", VERSION, identity, inputs, output, resolved_precision(resources)
    ) as work:
        if work.done:
            return work.done
        index_versions = {name: versions_in(made, "index") for name, made in ranked_of.items()}
        if len({version for found in index_versions.values() for version in found}) > 1:
            told = ", ".join(f"{name} {'/'.join(v)}" for name, v in index_versions.items())
            print(
                f"radit: variants were ranked on different versions of the index ({told}): "
                "differences between them are also those of the corpora",
                file=sys.stderr,
            )
        # beside it lie other evaluations where it is in a store, not in a folder someone chose
        reused = take_answers(work) if FINGERPRINT in output else {}
        items, twins = _items(config, ranked_of, lm_of, work)
        arguments = {
            "output": work.output,
            "precision": work.config.precision,
            "device": resources.device,
            "batch_tokens": resources.batch_tokens,
        }
        map_shards(
            EvaluateWorker,
            arguments,
            items,
            resources=resources,
            label="evaluate",
            unit="part",
            worker_bytes=2.0 * max(model_bytes(lm.path) for lm in lm_of.values()) + 2**30,
        )
        _repeat(work, twins)
        metrics = measure(
            {name: read_predictions(work.output, name) for name in names},
            contrasts=config.contrasts,
            tasks=config.tasks,
            probes=config.probes,
            num_samples=config.bootstrap,
            seed=config.seed,
        )
        metrics["cost"] = _cost(work, names, twins)
        metrics["index_versions"] = index_versions
        metrics["reused"] = reused
        return work.finish(resources=resources, metrics=metrics, rows=metrics["num_questions"])


def _repeat(work: Work[EvaluateConfig], twins: Mapping[str, str]) -> None:
    """Commits the answers of variants that are another one by a second name."""
    done = work.committed()
    for twin, original in twins.items():
        for name in done:
            again = f"{twin}/{name.rpartition('/')[2]}"
            if name.startswith(f"{original}/") and again not in done:
                commit_shard(work.output, again, read_shard(storage.join(work.output, name)))


def _cost(
    work: Work[EvaluateConfig], names: Sequence[str], twins: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """{variant: questions, device_s, tokens}. Of variants that were answered together the one with
    most chunks bears it all; a second name of another variant has that one's, and answers taken
    from another evaluation what they cost there.
    """
    found = {name: {"questions": 0.0, "device_s": 0.0, "tokens": 0.0} for name in names}
    for sidecar in work.committed().values():
        spent = found[sidecar["name"].rpartition("/")[0]]
        spent["questions"] += sidecar["rows"]
        for what in ("device_s", "tokens"):
            stats = sidecar["stats"]
            spent[what] += stats.get(what, 0) + stats.get(f"reused_{what}", 0)
    return found | {name: found[original] for name, original in twins.items()}


def _items(
    config: EvaluateConfig,
    ranked_of: dict[str, Input],
    lm_of: dict[str, Input],
    work: Work[EvaluateConfig],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One item for each ranked shard that holds questions and each group of variants that differ in
    nothing but k, ordered by LM so that an actor rarely changes it; and {name: variant} of those
    that are another one by a second name (R-ft that kept the base encoder).
    """
    questions = {source.path: choose_questions(source, config) for source in ranked_of.values()}
    subjects = {path: _subjects(path, shards) for path, shards in questions.items()}
    committed = work.committed()
    first: dict[Any, str] = {}
    twins: dict[str, str] = {}
    items: dict[Any, dict[str, Any]] = {}
    for variant in sorted(config.variants, key=lambda v: lm_of[v.name].fingerprint):
        source = ranked_of[variant.name]
        t_r = variant.t_r or _recorded_t_r(source)
        same = dataclasses.replace(variant, name="", lm="", ranked="", t_r=t_r)
        made_of = (lm_of[variant.name].fingerprint, source.fingerprint)
        original = first.setdefault((same, made_of), variant.name)
        nested = variant.nested
        group = (nested, dataclasses.replace(same, k=0) if nested else same, made_of)
        if original != variant.name:
            twins[variant.name] = original
            continue
        todo = {
            name: rows
            for name, rows in questions[source.path].items()
            if f"{variant.name}/{name}" not in committed
        }
        if not todo:
            continue
        shots = draw_shots(source, variant, subjects[source.path], seed=config.seed)
        for name, rows in todo.items():
            item = items.setdefault(
                (group, name),
                {
                    "variant": json.dumps(dataclasses.asdict(variant)),
                    "lm": lm_of[variant.name].path,
                    "ranked": source.path,
                    "t_r": t_r,
                    "shots": shots,
                    "shard": name,
                    "rows": rows,
                    "ks": [],
                    "names": [],  # of the variants with these ks
                },
            )
            item["ks"].append(variant.k)
            item["names"].append(variant.name)
    return largest_first(list(items.values())), twins


def largest_first(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items of each LM together, as they come, those of most chunks first."""
    place: dict[str, int] = {}
    for item in items:
        place.setdefault(item["lm"], len(place))
    return sorted(items, key=lambda item: (place[item["lm"]], -max(item["ks"]) * len(item["rows"])))


def _subjects(path: str, chosen: dict[str, list[int]]) -> set[tuple[str, str]]:
    """(task, article) of the questions."""
    found = set()
    for name, rows in chosen.items():
        table = read_shard(storage.join(path, name), ["task", "article"]).take(pa.array(rows))
        found |= {(row["task"], row["article"]) for row in table.to_pylist()}
    return found


def choose_questions(source: Input, config: EvaluateConfig) -> dict[str, list[int]]:
    """{shard: row numbers} of the split's questions, at most `limit`: those whose ids hash lowest,
    the same for all variants.
    """
    found: list[tuple[str, str, int]] = []
    for name in shard_names(source):
        for row, example in enumerate(read_shard(source.file(name), ["id", "split"]).to_pylist()):
            if example["split"] == config.split:
                key = hashlib.blake2b(
                    f"{config.seed}:{example['id']}".encode(), digest_size=8
                ).hexdigest()
                found.append((key, name, row))
    if not found:
        raise InputError(
            f"{source.path}: no example of split {config.split!r}; retrieve for such examples first"
        )
    chosen: dict[str, list[int]] = {}
    for _, name, row in sorted(sorted(found)[: config.limit or None], key=lambda place: place[1:]):
        chosen.setdefault(name, []).append(row)
    return chosen


def _recorded_t_r(source: Input) -> float:
    manifest = read_manifest(source.path)
    assert manifest is not None
    return float(manifest["metrics"]["t_r"])


class EvaluateWorker:
    """Holds one LM at a time; answers one shard for one group of variants a call."""

    def __init__(self, *, output: str, precision: str, device: str, batch_tokens: int) -> None:
        self.output = output
        self.precision, self.device, self.batch_tokens = precision, device, batch_tokens
        self.loaded, self.lm = ("", ""), None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        variant = Variant(**json.loads(item["variant"]))
        if self.lm is None or self.loaded != (item["lm"], variant.eos_token):
            self.lm = None  # the old weights go before the new ones come
            self.lm = CausalLM.load(
                local_model(item["lm"]),
                precision=self.precision,
                device=self.device,
                eos_token=variant.eos_token,
            )
            self.loaded = (item["lm"], variant.eos_token)
        lm = self.lm
        table = read_shard(storage.join(item["ranked"], item["shard"]))
        rows = table.take(pa.array(item["rows"])).to_pylist()
        asked: dict[tuple[str, ...], list[int]] = {}  # questions that share their demonstrations
        for number, row in enumerate(rows):
            asked.setdefault(tuple(shots_of(item["shots"], row)), []).append(number)

        names: dict[int, str] = dict(zip(item["ks"], item["names"], strict=True))

        def answer() -> tuple[dict[int, dict[int, dict[str, Any]]], int]:
            found: dict[int, dict[int, dict[str, Any]]] = {k: {} for k in names}
            tokens = 0
            for shots, numbers in asked.items():
                answers, used = answer_depths(
                    lm,
                    [rows[number] for number in numbers],
                    variant,
                    list(names),
                    t_r=item["t_r"],
                    shots=shots,
                    batch_tokens=self.batch_tokens,
                )
                for k, predictions in answers.items():
                    found[k] |= dict(zip(numbers, predictions, strict=True))
                tokens += used
            return found, tokens

        meter = Meter(flops_per_token=lm.flops_per_token)
        found, cost = meter.measure(answer)
        made = {}
        for k, name in sorted(names.items(), reverse=True):  # the deepest one bears the cost
            table = pa.Table.from_pylist(
                [found[k][number] for number in range(len(rows))], schema=PREDICTION
            )
            made = commit_shard(self.output, f"{name}/{item['shard']}", table, **cost)
            cost = {}
        return made
