"""Exact search of float16 vectors by matrix products over tiles of them, on a CPU or a GPU.

In: vectors (N, D) float16 and queries (Q, D) float32. Out: the k largest inner products and their
rows. Products of 16-bit numbers only propose: candidates are scored again in float64, and where the
rounding of the products could have hidden a better row, those queries are asked again in float32.
So a GPU finds what a CPU finds.

Suffixes: N vectors, D width, Q queries, C candidates, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CPU_ROWS = 16_384  # of a tile: 50 MB in float32 at D = 768
GPU_ROWS = 262_144  # 400 MB in float16 at D = 768; scores of 512 queries take 540 MB
EXACT_QUERIES = 64  # scored again at once: 10 MB at D = 768 and 26 candidates
SPARE = 16  # candidates beyond k that are scored again, so that equal scores resolve by row
SPARE_16 = 64  # of 16-bit products: what a 26th place in float16 is worth differs by too little
# Largest |product - exact| of unit vectors: queries and results are rounded (and, in bfloat16, the
# vectors too), by 2^-11 and 2^-8 of their size; twice that for partial sums kept in 16 bits.
ROUNDING = {torch.float16: 2.0**-9, torch.bfloat16: 2.0**-6}


class TileSearch:
    """Vectors that a device searches; they stay there where its memory holds them, else each tile
    is sent when it is its turn.
    """

    def __init__(
        self,
        codes_ND: NDArray[np.float16],
        *,
        device: str,
        dtype: torch.dtype = torch.float16,
        tile_rows: int = GPU_ROWS,
    ) -> None:
        self.codes_ND, self.device, self.dtype = codes_ND, torch.device(device), dtype
        self.tile_rows = tile_rows
        self.tensor_ND = torch.from_numpy(codes_ND)
        self.num_repeated = 0  # queries that were asked again in float32
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if codes_ND.nbytes < 0.6 * free:
                self.tensor_ND = self.tensor_ND.to(self.device)
        squares = [
            np.square(codes_ND[start : start + CPU_ROWS].astype(np.float32)).sum(1).max(initial=0)
            for start in range(0, len(codes_ND), CPU_ROWS)
        ]
        self.largest_norm = float(np.sqrt(max(squares, default=0.0)))

    def search(
        self, queries_QD: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(scores, rows) of at least the k best rows, in any order; exact up to equal scores.

        allowed: ascending rows that may be found, None = all.
        """
        count = len(self.codes_ND) if allowed is None else len(allowed)
        size_Q = np.maximum(np.abs(queries_QD).max(axis=1, keepdims=True), 1e-30)
        unit_QD = queries_QD / size_Q  # within what 16 bits hold, whatever the encoder's scale
        wanted = min(k + SPARE_16, count)
        product_QC, row_QC = best_rows(
            self.tensor_ND,
            unit_QD,
            wanted,
            allowed=allowed,
            device=self.device,
            dtype=self.dtype,
            tile_rows=self.tile_rows,
        )
        score_QC = exact_scores(self.codes_ND, queries_QD, row_QC)
        if wanted == count:
            return score_QC, row_QC
        # whatever was not proposed scores at most this
        error_Q = ROUNDING[self.dtype] * np.linalg.norm(unit_QD, axis=1) * self.largest_norm
        bound_Q = (product_QC.min(axis=1) + error_Q) * size_Q[:, 0]
        kth_Q = np.partition(score_QC, -k, axis=1)[:, -k]
        unsure = np.flatnonzero(~(kth_Q > bound_Q))  # nan and inf are unsure as well
        self.num_repeated += len(unsure)
        if len(unsure):
            _, row_QC[unsure] = best_rows(
                self.tensor_ND,
                unit_QD[unsure],
                wanted,
                allowed=allowed,
                device=self.device,
                dtype=torch.float32,
                tile_rows=self.tile_rows,
            )
            score_QC[unsure] = exact_scores(self.codes_ND, queries_QD[unsure], row_QC[unsure])
        return score_QC, row_QC


def best_rows(
    codes_ND: Tensor,
    queries_QD: NDArray[np.float32],
    k: int,
    *,
    allowed: NDArray[np.int64] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    tile_rows: int = CPU_ROWS,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(products, rows) of the k largest products, each (Q, k), in any order; k at most the rows."""
    query_QD = torch.from_numpy(np.ascontiguousarray(queries_QD)).to(device, dtype)
    chosen = None if allowed is None else torch.from_numpy(allowed)
    best_QK = torch.empty((len(query_QD), 0), device=device)
    row_QK = torch.empty((len(query_QD), 0), dtype=torch.long, device=device)
    for start in range(0, len(codes_ND) if chosen is None else len(chosen), tile_rows):
        piece = slice(start, start + tile_rows)
        tile = codes_ND[piece] if chosen is None else codes_ND[chosen[piece].to(codes_ND.device)]
        product_QT = (query_QD @ tile.to(device, dtype).T).float()
        best, rows = product_QT.topk(min(k, len(tile)), dim=1)
        merged = torch.cat([best_QK, best], dim=1)
        best_QK, picked = merged.topk(min(k, merged.shape[1]), dim=1)
        row_QK = torch.cat([row_QK, rows + start], dim=1).gather(1, picked)
    rows_QK: NDArray[np.int64] = row_QK.cpu().numpy()
    return best_QK.cpu().numpy(), rows_QK if allowed is None else allowed[rows_QK]


def exact_scores(
    codes_ND: NDArray[np.float16], queries_QD: NDArray[np.float32], rows_QK: NDArray[Any]
) -> NDArray[np.float32]:
    """Dot products in float64, rounded once: the same number whatever the batch, the shard or the
    path that found the row.
    """
    scores_QK = np.empty(rows_QK.shape, dtype=np.float32)
    for start in range(0, len(rows_QK), EXACT_QUERIES):
        part = slice(start, start + EXACT_QUERIES)
        # by way of float32, which holds every float16 and is converted many times faster
        codes_QKD = torch.from_numpy(codes_ND[rows_QK[part]]).float().double().numpy()
        query_QD1 = queries_QD[part].astype(np.float64)[:, :, None]
        scores_QK[part] = np.matmul(codes_QKD, query_QD1)[:, :, 0]
    return scores_QK
