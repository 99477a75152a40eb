"""What R-ft trains on: scored rows beside the vectors of their candidates (RA-DIT section 2.3).

In: scored rows and the chunk vectors of the embedding artifact. Out: rows.parquet, vectors.f16 and
facts.json in the stage's `resume/`; the facts say how much the target teaches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from radit_ray.core.errors import InputError
from radit_ray.core.metrics import auc
from radit_ray.core.retrieval import entropy, lsr_target, p_r
from radit_ray.data import storage
from radit_ray.data.artifacts import Input, commit_shard, iter_tables, vectors_of
from radit_ray.data.rows import hits_of

if TYPE_CHECKING:
    from radit_ray.stages.r_ft import RFtConfig

UNIFORM = 0.01  # nats below log k: a target this flat teaches nothing


def prepare(config: RFtConfig, scored: Input, embeddings: Input, folder: str) -> dict[str, Any]:
    """Writes the training rows with positions into a compact file of the candidates' vectors;
    returns facts.

    The vectors are one raw float16 file that workers map into memory; embedding shards are streamed
    past once.
    """
    done = storage.join(folder, "facts.json")
    if storage.exists(done):
        return dict(storage.read_json(done))
    _check_dev(config, scored)
    columns = [
        "query",
        "task",
        "split",
        "chunk_ids",
        "doc_ids",
        "texts",
        "answers",
        "metric",
        "gold_ids",
        "scores",
        "logprobs",
        "num_answer_tokens",
    ]
    # a set of this process: `is_in` would hash all of it again for each shard of the corpus
    wanted = {
        chunk
        for table in iter_tables(scored, ["chunk_ids"])
        for chunk in pc.unique(pc.list_flatten(table["chunk_ids"])).to_pylist()
    }
    position: dict[str, int] = {}
    width = 0
    with storage.atomic_file(storage.join(folder, "vectors.f16")) as name, open(name, "wb") as file:
        for table in iter_tables(embeddings, ["id", "embedding"]):
            chosen = [name in wanted for name in table["id"].to_pylist()]
            kept = table.filter(pa.array(chosen, pa.bool_()))
            if not kept.num_rows:
                continue
            vectors = vectors_of(kept)
            width = vectors.shape[1]
            file.write(np.ascontiguousarray(vectors).tobytes())
            position |= {chunk: len(position) + i for i, chunk in enumerate(kept["id"].to_pylist())}
    if len(position) < len(wanted):
        raise InputError(
            f"{len(wanted) - len(position)} ranked chunks are not among the embeddings; "
            "give the --embeddings that the index was built from"
        )
    rows: list[dict[str, Any]] = []
    for table in iter_tables(scored, columns):
        for row in table.to_pylist():
            hits = (
                [bool(h) for h in hits_of(row)]
                if row["task"] != "corpus"
                else [False] * len(row["chunk_ids"])
            )
            rows.append(
                {
                    name: row[name]
                    for name in (
                        "query",
                        "task",
                        "split",
                        "scores",
                        "logprobs",
                        "num_answer_tokens",
                    )
                }
                | {"hits": hits, "positions": [position[chunk] for chunk in row["chunk_ids"]]}
            )
    table = pa.Table.from_pylist(rows)
    commit_shard(folder, "rows.parquet", table)
    facts = {"width": width, "num_vectors": len(position), **_target_facts(config, rows)}
    storage.write_json(done, facts)
    return facts


def _check_dev(config: RFtConfig, scored: Input) -> None:
    """InputError where there is no dev, or only one on which `select_by` means nothing."""
    judged = {
        row["task"] != "corpus"
        for table in iter_tables(scored, ["task", "split"])
        for row in table.to_pylist()
        if row["split"] == "dev"
    }
    if not judged:
        raise InputError(
            f"{scored.path}: no scored row of split 'dev'; retrieve with --dev-share 0.1 or give "
            "dev examples"
        )
    if judged == {False} and config.select_by not in ("kl", "nll", "last"):
        raise InputError(
            f"select_by={config.select_by!r}, but dev holds corpus examples only, whose right "
            "chunk "
            "nobody knows; use --select-by kl"
        )


def _target_facts(config: RFtConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Entropies of target and p_R, the share of flat targets, and the AUC of the target for chunks
    with the answer.
    """
    train = [row for row in rows if row["split"] == "train"]
    scores_BK, logprob_BK, count_B, mask_BK, hit_BK = tensors(train)
    p_lsr_BK = lsr_target(
        logprob_BK, count_B, kind=config.answer_score, tau=config.tau, mask_BK=mask_BK
    )  # type: ignore[arg-type]
    most_B = mask_BK.sum(1).float().log()
    judged = [i for i, row in enumerate(train) if any(row["hits"]) and not all(row["hits"])]
    areas = [auc(p_lsr_BK[i][mask_BK[i]].tolist(), hit_BK[i][mask_BK[i]].tolist()) for i in judged]
    return {
        "num_train": len(train),
        "entropy_lsr": float(entropy(p_lsr_BK).mean()),
        "entropy_r": float(entropy(p_r(scores_BK, t_r=config.t_r, mask_BK=mask_BK)).mean()),
        "uniform_share": float((most_B - entropy(p_lsr_BK) < UNIFORM).float().mean()),
        "auc_lsr": float(np.mean(areas)) if areas else None,
    }


def tensors(rows: list[dict[str, Any]]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(scores, logprobs, answer tokens, mask, hits), padded to the longest candidate list."""
    width = max(len(row["scores"]) for row in rows)

    def padded(name: str, dtype: torch.dtype) -> Tensor:
        return torch.tensor(
            [[*row[name], *[0] * (width - len(row[name]))] for row in rows], dtype=dtype
        )

    mask_BK = torch.tensor([[i < len(row["scores"]) for i in range(width)] for row in rows])
    counts_B = torch.tensor([row["num_answer_tokens"] for row in rows])
    return (
        padded("scores", torch.float32),
        padded("logprobs", torch.float32),
        counts_B,
        mask_BK,
        padded("hits", torch.bool),
    )
