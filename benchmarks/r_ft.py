"""r-ft: queries a second against sentence-transformers' DistillKLDivLoss with k = 10 (row 3).

Another method, and that is the point: sentence-transformers encodes the query and its ten chunks in
every step and trains both sides with one encoder; R-ft trains the query encoder against chunk
vectors that the corpus was embedded with (RA-DIT section 2.3). What both compute alike is checked:
the loss of the first batch, KL(p_lsr || p_r), with the same encoder, texts and temperatures. Both
run forward, backward, clipping and AdamW, in this process.

    python -m benchmarks.r_ft [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from benchmarks import stand_ins
from benchmarks.side_by_side import NAIVE, Results, alternate, options_of, speed_row, timed
from radit_ray.data import storage
from radit_ray.data.artifacts import commit_shard
from radit_ray.engines.ddp import DdpEngine, autocast
from radit_ray.engines.resources import Resources
from radit_ray.engines.trainer import Loop
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.precision import resolve_precision
from radit_ray.stages.r_ft import RFtConfig, RFtTask

FLOOR = 20.0
K = 10


class Peer:
    """sentence-transformers' own loss on its own model, stepped as its trainer does."""

    def __init__(self, folder: str, rows: list[dict[str, Any]], batch: int, precision: str) -> None:
        from sentence_transformers import SentenceTransformer, losses
        from sentence_transformers.util import pairwise_dot_score

        self.model = SentenceTransformer(folder, device="cpu").train()
        self.loss = losses.DistillKLDivLoss(self.model, similarity_fct=pairwise_dot_score)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        self.rows, self.batch, self.precision = rows, batch, precision

    def batches(self) -> Iterator[tuple[list[dict[str, Tensor]], Tensor]]:
        """The columns query, chunk 1 to K, and the teacher's scores."""
        for start in range(0, len(self.rows), self.batch):
            rows = self.rows[start : start + self.batch]
            columns = [[row["query"] for row in rows]]
            columns += [[row["texts"][place] for row in rows] for place in range(K)]
            features = [self.model.preprocess(column) for column in columns]
            yield features, torch.tensor([row["logprobs"] for row in rows])

    def first_loss(self) -> float:
        """Before any step, without dropout."""
        self.model.eval()
        with torch.no_grad():
            loss = float(self.loss(*next(self.batches())))
        self.model.train()
        return loss

    def train(self) -> None:
        """One pass over the rows."""
        for features, labels in self.batches():
            with autocast(torch.device("cpu"), self.precision):
                loss = self.loss(features, labels)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)


class Ours:
    """The stage's task and the trainer's engine, on rows as `prepare` leaves them."""

    def __init__(
        self, folder: str, rows: list[dict[str, Any]], batch: int, precision: str, device: str
    ) -> None:
        config = RFtConfig(
            retriever=folder,
            **{"answer_score": "sum_logprob", "tau": 1.0, "direction": "lsr_to_r", "t_r": 1.0},
            **{"batch_size": batch, "precision": precision},
        )
        self.steps = len(rows) // batch
        fields = {field.name for field in dataclasses.fields(Loop)} - {"steps"}
        loop = Loop(steps=self.steps, **{name: getattr(config, name) for name in fields})
        with tempfile.TemporaryDirectory() as scratch:
            facts = _prepared(folder, rows, scratch)
            self.task = RFtTask(
                config=config, folder=scratch, facts=facts, resources=Resources(), device=device
            )
            self.task.vectors_ND = np.array(self.task.vectors_ND)  # the folder goes
        self.task.order = np.arange(len(rows))
        self.engine = DdpEngine(self.task.module, loop, torch.device(device))
        self.precision = precision

    def first_loss(self) -> float:
        """Before any step."""
        with torch.no_grad():
            return float(self.task.loss(self.task.module, self.task.batches(0, 0, 1)[0]))

    def train(self) -> None:
        """One pass over the rows."""
        for step in range(self.steps):
            self.engine.step(self.task, step, 0, 1, 1e-5)


def _prepared(folder: str, rows: list[dict[str, Any]], scratch: str) -> dict[str, Any]:
    """rows.parquet and vectors.f16, as the stage's own `prepare` writes them."""
    encoder = DualEncoder.load(folder)
    texts = [text for row in rows for text in row["texts"]]
    vectors = encoder.encode_chunks([""] * len(texts), texts).astype(np.float16)
    Path(scratch, "vectors.f16").write_bytes(vectors.tobytes())
    kept = ("query", "task", "split", "scores", "logprobs", "num_answer_tokens")
    made = [
        {name: row[name] for name in kept}
        | {"hits": [False] * K, "positions": list(range(K * number, K * (number + 1)))}
        for number, row in enumerate(rows)
    ]
    commit_shard(scratch, "rows.parquet", pa.Table.from_pylist(made))
    facts = {"width": vectors.shape[1], "num_vectors": len(vectors)}
    storage.write_json(storage.join(scratch, "facts.json"), facts)
    return facts


def scored_rows(num: int) -> list[dict[str, Any]]:
    """Scored rows of invented texts; the LM's log-probs are drawn."""
    rng = np.random.default_rng(0)
    rows = stand_ins.ranked_rows(num, k=K, mean=90)
    return [
        {
            **{**row, "query": row["question"], "num_answer_tokens": 4},
            "logprobs": rng.normal(-8.0, 2.0, K).astype(np.float32).tolist(),
        }
        for row in rows
    ]


def compare(options: argparse.Namespace, precision: str, ours_precision: str) -> dict[str, Any]:
    """One row; `precision` is the peer's."""
    batch = 4 if options.quick else 8
    rows = scored_rows(batch)
    folder = stand_ins.encoder("tiny" if options.quick else "minilm")
    mine = Ours(folder, rows, batch, ours_precision, options.device)
    peer = Peer(folder, rows, batch, precision)
    # float16 vectors of chunks, so a dot product is off by at most 1e-3
    np.testing.assert_allclose(mine.first_loss(), peer.first_loss(), rtol=0.02, atol=2e-3)
    compared = alternate(timed(mine.train), timed(peer.train), options, lambda *_: None)
    name = "3 r-ft vs sentence-transformers DistillKLDivLoss"
    if options.quick:
        name += f" ({NAIVE}: it encodes what is cached)"
    elif ours_precision != precision:
        name += f", as called ({ours_precision} / {precision})"
    note = "another method: query side only, on cached chunk vectors; same loss at the first step"
    facts = {"precision": ours_precision, "note": note, "k": K}
    floor = None if options.quick else FLOOR
    return speed_row(name, compared, count=len(rows), unit="queries", floor=floor, **facts)


def main() -> None:
    options = options_of(__doc__)
    results = Results("r_ft", options)
    results.add(compare(options, "fp32", "fp32"))
    fast = resolve_precision("auto", options.device)
    if fast != "fp32" and not options.quick:
        results.add(compare(options, "fp32", fast))


if __name__ == "__main__":
    main()
