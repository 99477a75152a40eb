"""A chain of all stages that takes seconds, and one command for each: what benchmarks/kill.py and
benchmarks/multinode.py kill and run again.

In: a folder with the tiny world and models of the tests, made at the first call. Out: one artifact
of a stage, from the finished artifacts of the stages before it in `<folder>/whole`.

    python -m benchmarks.tiny_chain FOLDER --stages chunk,embed --output FOLDER/whole
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from radit_ray.data import storage
from radit_ray.engines.connect import connect
from radit_ray.engines.resources import Resources
from radit_ray.engines.study import Choices
from radit_ray.engines.variants import Variant
from radit_ray.recipes import override, own
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.lm_ft import LmFtConfig, lm_ft
from radit_ray.stages.r_ft import RFtConfig, r_ft
from radit_ray.stages.retrieve import RetrieveConfig, retrieve
from radit_ray.stages.score import ScoreConfig, score
from radit_ray.sweeps import Sweep, run_sweep

EVERY = 5  # steps between two resume points
STEPS = 40
NUM_SHARDS, DOCS_PER_SHARD = 16, 75
NUM_DOCUMENTS = NUM_SHARDS * DOCS_PER_SHARD
SWEPT = ("1e-3", "1e-4")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """Where a stage finds what it needs, and with which resources it works."""

    folder: str  # of the world and the models
    source: str  # of the finished artifacts it reads: a path or a URI
    resources: Resources

    def of(self, stage: str) -> str:
        """The finished artifact of a stage."""
        return storage.join(self.source, stage)

    @property
    def world(self) -> dict[str, str]:
        """Paths: corpus, small_corpus, examples, lm, retriever."""
        return dict(json.loads(Path(self.folder, "world.json").read_text()))


def build(folder: str) -> None:
    """The world and random models, once; the corpus is padded, so that there is work to kill."""
    file = Path(folder, "world.json")
    if file.exists():
        return
    from tests.tiny import documents, tiny_lm, tiny_retriever, tiny_world, write_jsonl

    world = tiny_world(Path(folder, "world"))
    known = documents()
    words = " ".join(document["text"] for document in known[:6])
    rows = [
        *known,
        *(
            {"id": f"pad-{number}", "title": f"t{number}", "text": f"{number} {words}"}
            for number in range(NUM_DOCUMENTS - len(known))
        ),
    ]
    padded = write_jsonl(Path(folder, "padded.jsonl"), rows)
    made = {"corpus": padded, "small_corpus": world["corpus"], "examples": world["examples"]}
    made |= {"lm": tiny_lm(folder), "retriever": tiny_retriever(folder)}
    file.write_text(json.dumps(made))


def _chunk(made: Made, output: str) -> None:
    config = ChunkConfig(docs_per_shard=DOCS_PER_SHARD)
    chunk(config, corpus=made.world["corpus"], output=output, resources=made.resources)


def _embed(made: Made, output: str) -> None:
    config = EmbedConfig(retriever=made.world["retriever"], precision="fp32")
    embed(config, chunks=made.of("chunk"), output=output, resources=made.resources)


def _index(made: Made, output: str) -> None:
    config = IndexConfig(kind="hnsw", num_shards=NUM_SHARDS // 2)
    index(config, embeddings=made.of("embed"), output=output, resources=made.resources)


def _retrieve(made: Made, output: str) -> None:
    config = RetrieveConfig(
        retriever=made.world["retriever"],
        k=4,
        corpus_examples=60,
        corpus_tokens=12,
        examples_per_shard=6,
    )
    retrieve(
        config,
        examples=made.world["examples"],
        index=made.of("index"),
        output=output,
        resources=made.resources,
    )


def _lm_ft(made: Made, output: str) -> None:
    config = LmFtConfig(
        lm=made.world["lm"],
        k_train=2,
        steps=STEPS,
        batch_size=8,
        seq_len=256,
        lr=3e-3,
        end_lr=3e-4,
        warmup=4,
        eval_every=10,
        precision="fp32",
        shares={"corpus": 0.25},
    )
    lm_ft(config, ranked=made.of("retrieve"), output=output, resources=made.resources)


def _score(made: Made, output: str) -> None:
    config = ScoreConfig(lm=made.world["lm"], corpus_share=0.4, precision="fp32")
    score(config, ranked=made.of("retrieve"), output=output, resources=made.resources)


def _r_ft(made: Made, output: str) -> None:
    config = RFtConfig(
        retriever=made.world["retriever"],
        t_r=0.1,
        epochs=12.0,
        batch_size=16,
        lr=2e-3,
        warmup=4,
        eval_every=10,
        select_by="last",
        precision="fp32",
    )
    r_ft(
        config,
        scored=made.of("score"),
        embeddings=made.of("embed"),
        output=output,
        resources=made.resources,
    )


def _evaluate(made: Made, output: str) -> None:
    common: dict[str, Any] = {"lm": made.world["lm"], "t_r": 0.1, "max_new_tokens": 24}
    variants = tuple(
        Variant(name=f"{ensemble}-{template}", k=4, ensemble=ensemble, template=template, **common)
        for ensemble in ("answers", "tokens", "concat")
        for template in ("qa", "question-answer")
    )
    config = EvaluateConfig(variants=variants, bootstrap=50, precision="fp32")
    evaluate(config, ranked=made.of("retrieve"), output=output, resources=made.resources)


def _sweep(made: Made, output: str) -> None:
    from tests.tiny import SETTINGS

    settings = {
        **SETTINGS,
        "variants": "replug,lm-ft,r-ft,radit",
        "contrasts": "radit-minus-replug",
        "score.num_examples": 16,
        "resources.num_workers": made.resources.num_workers,
    }
    world = made.world
    recipe = own(
        lm=world["lm"],
        retriever=world["retriever"],
        corpus=world["small_corpus"],
        examples=world["examples"],
    )
    space = {"r_ft.lr": Choices(SWEPT), "lm_ft.lr": Choices(("1e-3",))}
    recipe = override(recipe, settings)
    run_sweep(Sweep(kind="custom", recipe=recipe, output=output, space=space))


STAGES: dict[str, Callable[[Made, str], None]] = {
    "chunk": _chunk,
    "embed": _embed,
    "index": _index,
    "retrieve": _retrieve,
    "lm-ft": _lm_ft,
    "score": _score,
    "r-ft": _r_ft,
    "evaluate": _evaluate,
    "sweep": _sweep,
}


def main() -> None:
    """One stage after the other, each into `<output>/<stage>`."""
    parser = argparse.ArgumentParser(description="stages of a tiny chain")
    parser.add_argument("folder")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--output", required=True)
    parser.add_argument("--source", default="", help="of the artifacts read; FOLDER/whole")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--zero", type=int, default=0)
    parser.add_argument("--gpus", type=float, default=0.0, help="of each worker")
    arguments = parser.parse_args()
    build(arguments.folder)
    connect()
    made = Made(
        folder=arguments.folder,
        source=arguments.source or f"{arguments.folder}/whole",
        resources=Resources(
            num_workers=arguments.workers,
            gpus_per_worker=arguments.gpus,
            zero_stage=arguments.zero,
            checkpoint_every=EVERY,
        ),
    )
    for stage in arguments.stages.split(","):
        STAGES[stage](made, storage.join(arguments.output, stage))


if __name__ == "__main__":
    main()
