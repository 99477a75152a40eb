"""What the paper did not measure, on a finished run: does tuning cost the LM what it knew, do wrong
chunks mislead it, does it say what its chunks say?

In: a run's folder. Out, in a folder of its own: `challenge.json` and `challenge.md`; below
`artifacts/` the questions of each kind (`radit_ray.data.challenges`), their answers, and the
plain-text perplexity, each reused by the next call.

    radit challenge runs/demo --output runs/demo-challenge
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from radit_ray.core.errors import SEED, InputError, check_bounds, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    artifact_input,
    check_lineage,
    commit_shard,
    inside_run,
    iter_tables,
    make_link,
    read_manifest,
    run_record,
)
from radit_ray.data.challenges import KINDS, Challenge, challenges
from radit_ray.data.rows import RANKED, SPLITS
from radit_ray.data.work import FINGERPRINT, Work
from radit_ray.engines.doctor import environment
from radit_ray.engines.faithfulness import faithfulness
from radit_ray.engines.perplexity import PerplexityConfig, perplexity
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import Variant
from radit_ray.stages.evaluate import EvaluateConfig, evaluate

VERSION = 1
SHARD = 512  # questions of one shard, the unit of resuming
SUBSTITUTES = "substitutes.json"  # in the artifact of "swapped": {question id: the new answer}
ALL = "closed-book"  # every question of the split without chunks; "none": the challenged ones
HELD = ("gold", "hard-negative", "random")  # kinds that are held against "none"
METRICS = ("em", "f1", "nll")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChallengeConfig:
    """What decides the numbers."""

    variants: tuple[str, ...] = ()  # of the run, one for each LM; () = the first of each LM
    split: str = "eval"
    limit: int = 0  # questions, a seeded choice; 0 = all that qualify
    num_texts: int = 500  # chunks that are read as plain text
    seed: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class KindConfig:
    """What decides the rows of one kind; its identity."""

    kind: str
    split: str
    limit: int
    seed: int


def challenge(
    config: ChallengeConfig, *, run: str, output: str, resources: Resources = Resources()
) -> dict[str, Any]:
    """Asks the LMs of a run the same questions under changed evidence; returns what
    `challenge.json` holds.

    InputError where `run` is no finished run, on an unknown variant or split, on variants that
    cannot stand side by side, and where no question qualifies.
    """
    record, lms = check(config, run)
    ranked = next(iter(lms.values())).ranked
    build = functools.cache(lambda: _challenges(ranked, config, run))  # once for all kinds
    made = {kind: _write_kind(kind, config, ranked, output, build) for kind in KINDS}
    evaluated = evaluate(
        _evaluation(config, record, lms, {kind: found.path for kind, found in made.items()}),
        ranked=ranked,
        output=storage.join(output, "artifacts", f"evaluate-{FINGERPRINT}"),
        resources=resources,
    )
    texts = _read_texts(config, record, lms, run, output, resources)
    for name, found in {**made, "answers": evaluated, "perplexity": texts}.items():
        make_link(storage.join(output, name), found.path)
    results = {
        "run": run,
        **dataclasses.asdict(config),
        "variants": {name: record["variants"][name] for name in lms},
        "questions": {k: v for k, v in made["gold"].metrics.items() if k != "t_r"},
        "knowledge": {**_knowledge(evaluated, list(lms)), "plain_text": texts.metrics},
        "robustness": _robustness(evaluated, list(lms)),
        "faithfulness": faithfulness(
            evaluated.path,
            {name: variant.k for name, variant in lms.items()},
            shown=made["top-k"].path,
            substitutes=storage.read_json(storage.join(made["swapped"].path, SUBSTITUTES)),
            num_samples=record["recipe"]["evaluate"]["bootstrap"],
            seed=config.seed,
        ),
        "environment": environment(),
    }
    storage.write_json(storage.join(output, "challenge.json"), results)
    return results


def check(config: ChallengeConfig, run: str) -> tuple[dict[str, Any], dict[str, Variant]]:
    """run.json and the LMs to challenge; what can be told before any work."""
    if config.split not in SPLITS:
        raise InputError(f"unknown split {config.split!r}{nearest(config.split, SPLITS)}")
    check_bounds(config, {"limit": (0, None), "num_texts": (0, None), "seed": SEED})
    record = run_record(run)
    return record, choose_lms(record, config.variants, run)


def choose_lms(record: Mapping[str, Any], names: tuple[str, ...], run: str) -> dict[str, Variant]:
    """{variant: how its LM answers, with paths}; without names the first variant of each LM, those
    that are given chunks before those that are not.
    """
    known = record["variants"]
    if not known:
        raise InputError(
            f"{run}: no variants, it was run without questions; run it with --examples"
        )
    for name in names:
        if name not in known:
            raise InputError(f"run {run} has no variant {name!r}{nearest(name, known)}")
    plain = {name: made for name, made in known.items() if not made["shots"]}
    if not names:
        first: dict[str, str] = {}
        for name in sorted(plain, key=lambda name: not plain[name]["k"]):
            first.setdefault(plain[name]["lm"], name)
        names = tuple(name for name in plain if name in first.values())
    by_lm: dict[str, str] = {}
    for name in names:
        if name not in plain:
            raise InputError(f"variant {name!r} answers with demonstrations; name another one")
        other = by_lm.setdefault(known[name]["lm"], name)
        if other != name:
            raise InputError(
                f"variants {other!r} and {name!r} have one LM, and a challenge decides itself "
                "which chunks it is shown; name one of them"
            )
        if known[name]["ranked"] != known[names[0]]["ranked"]:
            raise InputError(
                f"variants {names[0]!r} and {name!r} have chunks of different retrievers, and a "
                "challenge shows all LMs the same; ask them in two calls"
            )
    return {name: _variant(name, known[name], record, run) for name in dict.fromkeys(names)}


def _variant(name: str, made: Mapping[str, Any], record: Mapping[str, Any], run: str) -> Variant:
    fields = ("ensemble", "t_r", "template", "scoring", "max_new_tokens", "max_answers")
    return Variant(
        name=name,
        lm=inside_run(run, made["lm"]),
        ranked=inside_run(run, made["ranked"]),
        k=made["k"] or record["recipe"]["k_infer"],
        eos_token=made["eos_token"],
        **{field: made[field] for field in fields},
    )


def _write_kind(
    kind: str,
    config: ChallengeConfig,
    ranked: str,
    output: str,
    build: Callable[[], tuple[list[Challenge], dict[str, int]]],
) -> Artifact:
    """The ranked rows of one kind as an artifact; all kinds hold the same questions."""
    source = artifact_input(ranked, "retrieve")
    identity = KindConfig(kind=kind, split=config.split, limit=config.limit, seed=config.seed)
    place = storage.join(output, "artifacts", f"challenge-{FINGERPRINT}")
    with Work.open("challenge", VERSION, identity, {"ranked": source}, place) as work:
        if work.done:
            return work.done
        found, counts = build()
        starts = {
            f"part-{start // SHARD:05d}.parquet": start for start in range(0, len(found), SHARD)
        }
        for name in work.missing(list(starts)):
            rows = [one.rows[kind] for one in found[starts[name] : starts[name] + SHARD]]
            commit_shard(work.output, name, pa.Table.from_pylist(rows, schema=RANKED))
        if kind == "swapped":
            substitutes = {one.rows[kind]["id"]: one.substitute for one in found}
            storage.write_json(storage.join(work.output, SUBSTITUTES), substitutes)
        manifest = read_manifest(source.path)
        assert manifest is not None
        return work.finish(metrics={"t_r": manifest["metrics"]["t_r"], **counts})


def _challenges(
    ranked: str, config: ChallengeConfig, run: str
) -> tuple[list[Challenge], dict[str, int]]:
    """The questions of the split that all kinds can be made of; InputError where there is none."""
    rows = [
        row
        for table in iter_tables(artifact_input(ranked, "retrieve"))
        for row in table.to_pylist()
        if row["split"] == config.split
    ]
    found, counts = challenges(rows, seed=config.seed, limit=config.limit)
    if not found:
        raise InputError(
            f"{run}: no question to challenge with: of {counts['asked']} open questions of split "
            f"{config.split!r} {counts['with_answer']} had a chunk with the answer, "
            f"{counts['with_negative']} of them also one of another page without it; take another "
            "--split, or a run with a larger retrieve.k"
        )
    return found, counts


def _evaluation(
    config: ChallengeConfig,
    record: Mapping[str, Any],
    lms: Mapping[str, Variant],
    made: Mapping[str, str],
) -> EvaluateConfig:
    """All LMs under all kinds in one call, so that each LM is loaded once."""
    replace = dataclasses.replace
    asked = [replace(v, name=f"{name}.{ALL}", k=0) for name, v in lms.items()]
    for name, variant in lms.items():
        asked.append(replace(variant, name=f"{name}.none", ranked=made["gold"], k=0))
        asked += [
            replace(
                variant,
                name=f"{name}.{kind}",
                ranked=path,
                k=variant.k if kind == "top-k" else 1,
            )
            for kind, path in made.items()
        ]
    base = next(iter(lms))
    contrasts = [f"{name}.{ALL}-minus-{base}.{ALL}" for name in lms if name != base]
    contrasts += [f"{name}.{kind}-minus-{name}.none" for name in lms for kind in HELD]
    measured = record["recipe"]["evaluate"]
    return EvaluateConfig(
        variants=tuple(asked),
        contrasts=tuple(contrasts),
        split=config.split,
        limit=config.limit,
        bootstrap=measured["bootstrap"],
        precision=measured["precision"],
        seed=config.seed,
    )


def _read_texts(
    config: ChallengeConfig,
    record: Mapping[str, Any],
    lms: Mapping[str, Variant],
    run: str,
    output: str,
    resources: Resources,
) -> Artifact:
    """The run's own chunks, read as plain text by every LM."""
    measured = record["recipe"]["evaluate"]
    # `<run>/chunk` leads to the chunks of the last call, which may have been another corpus'
    chunks = artifact_input(storage.join(run, "chunk"), "chunk")
    ranked = artifact_input(next(iter(lms.values())).ranked, "retrieve")
    check_lineage(ranked, "chunks", chunks)
    return perplexity(
        PerplexityConfig(
            names=tuple(lms),
            num_texts=config.num_texts,
            eos_token=next(iter(lms.values())).eos_token,
            bootstrap=measured["bootstrap"],
            precision=measured["precision"],
            seed=config.seed,
        ),
        chunks=chunks.path,
        lms={name: variant.lm for name, variant in lms.items()},
        output=storage.join(output, "artifacts", f"perplexity-{FINGERPRINT}"),
        resources=resources,
    )


def _knowledge(evaluated: Artifact, names: list[str]) -> dict[str, Any]:
    """Closed book on all questions of the split, together and by task; differences are taken from
    the first LM.
    """
    metrics = evaluated.metrics
    return {
        "num_questions": metrics["num_questions"],
        ALL: {name: metrics["variants"][f"{name}.{ALL}"] for name in names},
        "contrasts": {
            f"{name}-minus-{names[0]}": metrics["contrasts"][f"{name}.{ALL}-minus-{names[0]}.{ALL}"]
            for name in names[1:]
        },
        "tasks": {
            task: {name: found[f"{name}.{ALL}"] for name in names}
            for task, found in metrics["tasks"].items()
        },
    }


def _robustness(evaluated: Artifact, names: list[str]) -> dict[str, Any]:
    """{LM: {kinds: {kind: metrics}, contrasts: {"gold-minus-none": ...}}} with one chunk given."""

    def cells(found: Mapping[str, Any]) -> dict[str, Any]:
        return {metric: found[metric] for metric in METRICS}

    variants, contrasts = evaluated.metrics["variants"], evaluated.metrics["contrasts"]
    return {
        name: {
            "kinds": {kind: cells(variants[f"{name}.{kind}"]) for kind in (*HELD, "none")},
            "contrasts": {
                f"{kind}-minus-none": cells(contrasts[f"{name}.{kind}-minus-{name}.none"])
                for kind in HELD
            },
        }
        for name in names
    }
