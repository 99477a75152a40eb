"""What a second trial of a sweep repeats that differs only in k, or in cycles: chunks embedded
again, pairs of example and chunk scored again by the same LM (row 9).

Two sweeps over a small corpus, each of two trials that share one store. Counted are the artifacts
that stand there at the end: every embedding artifact beyond the first, and every pair that two
score artifacts of one LM hold.

    python -m benchmarks.reuse [--quick]
"""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

import ray

from benchmarks import stand_ins
from benchmarks.side_by_side import Results, options_of, plain_row
from radit_ray.data.artifacts import read_manifest, read_shard, shard_names
from radit_ray.engines.connect import connect
from radit_ray.engines.study import Choices
from radit_ray.recipes import Recipe, override, own
from radit_ray.sweeps import Sweep, run_sweep

SPACES = {"k": {"k_infer": Choices(("1", "2"))}, "cycles": {"cycles": Choices(("1", "2"))}}
SETTINGS = {  # a run in a minute
    "variants": "replug,lm-ft,r-ft,radit",
    "contrasts": "radit-minus-replug",
    "probes": "",
    "k_infer": 2,
    "max_new_tokens": 4,
    "resources.num_workers": 1,
    "chunk.docs_per_shard": 20,
    "retrieve.k": 3,
    "retrieve.corpus_examples": 12,
    "retrieve.corpus_tokens": 12,
    "lm_ft.k_train": 1,
    "lm_ft.steps": 2,
    "lm_ft.batch_size": 2,
    "lm_ft.seq_len": 256,
    "lm_ft.warmup": 1,
    "score.num_examples": 16,
    "r_ft.batch_size": 8,
    "r_ft.select_by": "last",
    "evaluate.bootstrap": 50,
}


def recipe_of(folder: str) -> Recipe:
    """`radit run own` on 60 documents with tiny models."""
    found = stand_ins.world(folder, 60)
    models = {"lm": stand_ins.lm("tiny"), "retriever": stand_ins.encoder("tiny")}
    return override(own(**models, **found), SETTINGS)


def repeated(store: Path) -> tuple[int, int]:
    """(chunks embedded more than once, pairs scored more than once by the same LM)."""
    embedded, chunks = 0, 0
    pairs: collections.Counter[tuple[str, str, str]] = collections.Counter()
    for folder in sorted(store.iterdir()):
        manifest = read_manifest(str(folder))
        if manifest is None:
            continue
        if manifest["stage"] == "chunk":
            chunks += manifest["rows"]
        if manifest["stage"] == "embed":
            embedded += manifest["rows"]
        if manifest["stage"] == "score":
            lm = manifest["inputs"]["lm"]["fingerprint"]
            for name in shard_names(str(folder)):
                table = read_shard(str(folder / name), ["id", "chunk_ids"])
                for row in table.to_pylist():
                    pairs.update((lm, row["id"], chunk) for chunk in row["chunk_ids"])
    assert chunks, "the sweep left no chunks"
    assert pairs, "the sweep left no scores"
    return embedded - chunks, sum(count - 1 for count in pairs.values())


def main() -> None:
    options = options_of(__doc__)
    results = Results("reuse", options)
    connect(num_cpus=2)
    try:
        for differs, space in SPACES.items():
            with tempfile.TemporaryDirectory(prefix="radit-bench-") as scratch:
                sweep = Sweep(
                    **{"kind": "custom", "recipe": recipe_of(f"{scratch}/world")},
                    **{"output": f"{scratch}/sweep", "space": space},
                )
                run_sweep(sweep)
                again = repeated(Path(scratch, "sweep", "artifacts"))
            for what, count in zip(("chunks embedded", "pairs scored"), again, strict=True):
                name = f"9 {what} again by a second trial that differs in {differs}"
                facts = {"ours": count, "ratio": count, "floor": 0, "better": "lower"}
                results.add(plain_row(name, **facts, unit=what.partition(" ")[0]))
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
