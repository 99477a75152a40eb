"""One FAISS index over one shard of chunk vectors: build, save, load with every check first,
search.

In: vectors (N, D) float16 or float32 and queries (Q, D) float32. Out: inner-product scores and row
numbers within the shard. "flat" keeps the vectors as float16 and is exact for them, in 1.0 times
their bytes (faiss' own flat index would take 2.0); the others are approximate.

Suffixes: N chunks in the shard, D embedding width, Q queries, K neighbours.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from radit_ray.core.errors import InputError, nearest
from radit_ray.models.tiles import SPARE, TileSearch, best_rows, exact_scores

KINDS = ("flat", "ivf", "ivfpq", "sq", "hnsw")
_CLASSES = frozenset(
    {"IndexScalarQuantizer", "IndexIVFScalarQuantizer", "IndexIVFPQ", "IndexHNSWSQ"}
)  # what `build` makes; a file with anything else is not ours
_ADD_ROWS = 65_536  # rows turned into float32 at once: 200 MB at D = 768
_MATMUL_QUERIES = 32  # from here on a matrix product beats faiss' row scan (see `_flat_candidates`)
_POINTS_PER_CENTROID = 39  # faiss' own lower bound for a sound k-means
_EF_CONSTRUCTION = 80  # hnsw: candidates per inserted vector
_EF_SEARCH = 64  # hnsw: candidates per query, unless nprobe says otherwise


def build(kind: str, vectors_ND: NDArray[Any], *, nlist: int = 0, m: int = 0, seed: int = 0) -> Any:
    """A searchable inner-product index over (N, D) vectors.

    nlist: cells of "ivf" and "ivfpq"; 0 = 4 * sqrt(N), at most N / 39. m: "ivfpq" sub-quantisers of
    8 bits (0 = the largest divisor of D up to D / 8), "hnsw" links per vector (0 = 32). The same
    vectors, seed and thread count give the same index.
    """
    if kind not in KINDS:
        raise InputError(f"index kind {kind!r} is unknown{nearest(kind, KINDS)}")
    if (
        vectors_ND.ndim != 2
        or not vectors_ND.size
        or vectors_ND.dtype not in (np.float16, np.float32)
    ):
        raise InputError(
            f"vectors have shape {vectors_ND.shape} and type {vectors_ND.dtype}; expected a "
            "non-empty (N, D) float16 or "
            "float32 array"
        )
    index = trained(kind, vectors_ND, len(vectors_ND), nlist=nlist, m=m, seed=seed)
    add(index, vectors_ND)
    return index


def trained(
    kind: str,
    sample_ND: NDArray[Any],
    count: int,
    *,
    nlist: int = 0,
    m: int = 0,
    seed: int = 0,
) -> Any:
    """An empty index for `count` vectors, its quantisers trained on a sample of them; fill it with
    `add`, piece by piece.
    """
    index = _empty(kind, count, sample_ND.shape[1], nlist=nlist, m=m, seed=seed)
    if not index.is_trained:
        index.train(_training_sample(index, sample_ND, seed))
    if isinstance(index, faiss.IndexFlatCodes):
        # room for all of them at once: a vector that grows is copied, and held twice meanwhile
        index.codes.resize(count * index.code_size)
        index.codes.resize(0)
    return index


def add(index: Any, vectors_ND: NDArray[Any]) -> None:
    """Appends (N, D) float16 or float32 vectors in order."""
    # Parallel insertion makes an hnsw graph depend on timing.
    with _threads(1) if isinstance(index, faiss.IndexHNSW) else contextlib.nullcontext():
        for start in range(0, len(vectors_ND), _ADD_ROWS):
            index.add(np.ascontiguousarray(vectors_ND[start : start + _ADD_ROWS], dtype=np.float32))


def save(index: Any, path: str | Path) -> str:
    """Writes the index beside its final name, then renames; returns its sha256, which `load` asks
    for.
    """
    partial = f"{path}.partial"
    faiss.write_index(index, partial)
    digest = file_sha256(partial)
    os.replace(partial, path)
    return digest


def load(
    path: str | Path, *, sha256: str, dimension: int, count: int, memory_map: bool = False
) -> Any:
    """Reads an index that is byte for byte the recorded one; raises `InputError` otherwise.

    The order matters: the sha256 before faiss sees a byte, faiss' deserialization limits while it
    reads, then type, metric, width and count. memory_map leaves the vectors on disk and lets the
    system page them in.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"index {str(path)!r} does not exist; build it again with `radit index`")
    found = file_sha256(path)
    if found != sha256:
        raise InputError(
            f"index {str(path)!r} has sha256 {found[:12]}..., the manifest says "
            f"{sha256[:12]}...; the file was changed or "
            "damaged, build it again with `radit index`"
        )
    # The table speeds up L2 distances only and may be larger than the file.
    flags = faiss.IO_FLAG_SKIP_PRECOMPUTE_TABLE | (_mapping(path) if memory_map else 0)
    with _deserialization_limits(
        max_bytes=path.stat().st_size + (1 << 20), max_loops=max(count, 1 << 16)
    ):
        try:
            index = faiss.read_index(str(path), flags)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-160:]
            raise InputError(
                f"index {str(path)!r} is no FAISS file within its limits ({reason}); build it "
                "again with `radit index`"
            ) from error
    _check(index, path, dimension, count)
    return index


def _mapping(path: Path) -> int:
    """The flag that leaves vectors on disk: faiss has one for cells and one for the rest."""
    with open(path, "rb") as file:
        cells = file.read(2) == b"Iw"
    # read-only: cells would else be opened for writing, which shared storage may not allow
    return int(faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if cells else faiss.IO_FLAG_MMAP_IFC)


def search(
    index: Any,
    queries_QD: NDArray[np.float32],
    k: int,
    *,
    nprobe: int = 0,
    allowed: NDArray[np.int64] | None = None,
    tiles: TileSearch | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best rows per query: (scores_QK float32, rows_QK int64), best first, equal scores by
    row.

    nprobe: cells searched ("ivf", "ivfpq"; 0 = sqrt(nlist)), or candidates ("hnsw"; 0 = max(64,
    2k)). allowed: ascending rows that may be found, None = all; a flat index then reads only those.
    tiles: of a flat index, its vectors on the device that shall search them (`on_device`).
    Places that find no row (k above the count, empty cells) hold minus infinity and -1.
    """
    queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
    if queries_QD.ndim != 2 or queries_QD.shape[1] != index.d:
        raise InputError(
            f"queries have shape {queries_QD.shape}, expected (Q, {index.d}); use the index's "
            "own retriever"
        )
    if k < 1:
        raise InputError(f"k is {k}, expected at least 1")
    if tiles is not None:
        scores_QK, rows_QK = tiles.search(queries_QD, k, allowed)
    elif is_flat(index):
        wanted = min(k + SPARE, index.ntotal if allowed is None else len(allowed))
        rows_QK = _flat_candidates(index, queries_QD, wanted, allowed)
        scores_QK = exact_scores(vectors(index), queries_QD, rows_QK)
    else:
        # faiss marks missing places with -1 and the lowest float
        parameters = search_parameters(index, nprobe, k)
        if allowed is not None:
            parameters = parameters or faiss.SearchParameters()
            selector = faiss.IDSelectorBatch(allowed)  # faiss keeps no reference of its own
            parameters.sel = selector
        scores_QK, rows_QK = index.search(queries_QD, min(k, index.ntotal), params=parameters)
        scores_QK = np.where(rows_QK < 0, -np.inf, scores_QK).astype(np.float32)
    order_QK = np.lexsort((rows_QK, -scores_QK), axis=1)[:, :k]
    query_Q1 = np.arange(len(order_QK))[:, None]
    scores_QK, rows_QK = scores_QK[query_Q1, order_QK], rows_QK[query_Q1, order_QK]
    if order_QK.shape[1] < k:  # numpy's pad is slow beside a single query
        missing = ((0, 0), (0, k - order_QK.shape[1]))
        scores_QK = np.pad(scores_QK, missing, constant_values=-np.inf)
        rows_QK = np.pad(rows_QK, missing, constant_values=-1)
    return scores_QK.astype(np.float32, copy=False), rows_QK.astype(np.int64, copy=False)


def on_device(index: Any, device: str, *, nprobe: int = 0) -> tuple[Any, TileSearch | None]:
    """(index, tiles) for `search` where a device shall do the work: a flat index brings its vectors
    there. Another kind is copied whole by faiss-gpu, where that is installed, and searched as it
    was built otherwise.
    """
    if device == "cpu":
        return index, None
    if is_flat(index):
        return index, TileSearch(vectors(index), device=device)
    return faiss_gpu_copy(index, nprobe), None


def gpu_kinds() -> tuple[str, ...]:
    """Kinds that `on_device` can put on a GPU: flat by torch, others where faiss was built so."""
    return ("flat", "ivf", "ivfpq") if hasattr(faiss, "StandardGpuResources") else ("flat",)


def faiss_gpu_copy(index: Any, nprobe: int) -> Any:
    """The index on the first GPU this process sees; itself where faiss has none or not this kind.

    UNTRIED: faiss-gpu was on no machine that this was written or tested on. It takes the ivf kinds
    (hnsw has no GPU version), does not know `allowed` rows, and reads `nprobe` from the index.
    """
    if not getattr(faiss, "get_num_gpus", lambda: 0)() or not isinstance(index, faiss.IndexIVF):
        return index
    copied = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    copied.nprobe = min(nprobe or default_probes(index.nlist), index.nlist)
    return copied


def is_flat(index: Any) -> bool:
    """Whether the index holds plain float16 vectors, so that scores are exact."""
    return (
        type(index).__name__ == "IndexScalarQuantizer"
        and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
    )


def vectors(index: Any) -> NDArray[np.float16]:
    """The (N, D) float16 vectors of a flat index, without a copy; valid while the index lives."""
    if not is_flat(index):
        raise InputError(
            f"{type(index).__name__} does not hold the vectors themselves; expected kind 'flat'"
        )
    num_bytes = index.ntotal * index.d * 2
    codes = faiss.rev_swig_ptr(index.codes.data(), num_bytes)
    return np.asarray(codes).view(np.float16).reshape(index.ntotal, index.d)


def default_cells(count: float) -> int:
    """Cells of an ivf index that names none: 4 * sqrt(N), at most N / 39 (faiss' own bound)."""
    return max(1, min(int(4 * math.sqrt(count)), int(count) // _POINTS_PER_CENTROID))


def default_probes(nlist: int) -> int:
    """Cells that a search visits where it names no number: sqrt(nlist)."""
    return max(1, round(math.sqrt(nlist)))


def largest_divisor(dimension: int, most: int) -> int:
    """The largest divisor of the width that is at most so large: the parts of a vector that product
    quantisation may have.
    """
    return max(n for n in range(1, max(1, most) + 1) if dimension % n == 0)


def file_sha256(path: str | Path) -> str:
    """Hex sha256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _empty(kind: str, count: int, dimension: int, *, nlist: int, m: int, seed: int) -> Any:
    """The untrained index of a kind."""
    metric, fp16 = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
    if kind == "flat":
        return faiss.IndexScalarQuantizer(dimension, fp16, metric)
    if kind == "sq":
        return faiss.IndexScalarQuantizer(dimension, faiss.ScalarQuantizer.QT_8bit, metric)
    if kind == "hnsw":
        index = faiss.IndexHNSWSQ(dimension, fp16, m or 32, metric)
        index.hnsw.efConstruction = _EF_CONSTRUCTION
        return index
    cells = nlist or default_cells(count)
    if not 1 <= cells <= count:
        raise InputError(
            f"nlist is {nlist}, expected 1 to {count} (the number of vectors), or 0 for 4 * sqrt(N)"
        )
    coarse = faiss.IndexFlatIP(dimension)
    if kind == "ivf":
        index = faiss.IndexIVFScalarQuantizer(coarse, dimension, cells, fp16, metric, False)
    else:
        parts = m or largest_divisor(dimension, dimension // 8)
        if dimension % parts:
            raise InputError(
                f"m is {m}, which does not divide the width {dimension}; give a divisor or 0"
            )
        # 2^bits centroids per part need as many vectors
        bits = min(8, max(1, count.bit_length() - 1))
        index = faiss.IndexIVFPQ(coarse, dimension, cells, parts, bits, metric)
        index.pq.cp.seed = seed
        index.pq.cp.min_points_per_centroid = 1
    index.cp.seed = seed
    index.cp.min_points_per_centroid = 1  # small shards are legitimate; faiss would print a warning
    coarse.this.disown()
    index.own_fields = True
    return index


def _training_sample(index: Any, vectors_ND: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """At most 256 vectors per centroid, as faiss' k-means would pick itself, without a float32 copy
    of all.
    """
    most = 256 * max(getattr(index, "nlist", 1), 256)
    if len(vectors_ND) > most:
        rows = np.random.default_rng(seed).choice(len(vectors_ND), size=most, replace=False)
        vectors_ND = vectors_ND[np.sort(rows)]
    return np.ascontiguousarray(vectors_ND, dtype=np.float32)


def _flat_candidates(
    index: Any, queries_QD: NDArray[np.float32], k: int, allowed: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Rows of the k largest scores among those allowed, in any order.

    faiss scans float16 codes row by row, which is fastest for few queries; for many, blocks of
    float32 in a matrix product are (100k x 384, 512 queries, 2 cores: 0.26 s against 0.62 s).
    """
    if len(queries_QD) < _MATMUL_QUERIES and allowed is None:
        rows: NDArray[np.int64] = index.search(queries_QD, k)[1]
        return rows
    codes_ND = torch.from_numpy(vectors(index))
    return best_rows(codes_ND, queries_QD, k, allowed=allowed)[1]


def search_parameters(index: Any, nprobe: int, k: int) -> Any:
    """What `search` gives faiss beside queries and k; None where a kind has nothing to set."""
    if isinstance(index, faiss.IndexIVF):
        probes = nprobe or default_probes(index.nlist)
        return faiss.SearchParametersIVF(nprobe=min(probes, index.nlist))
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=nprobe or max(_EF_SEARCH, 2 * k))
    return None


def _check(index: Any, path: Path, dimension: int, count: int) -> None:
    """What was read is what the manifest describes."""
    name = type(index).__name__
    facts = (
        ("type", name, name if name in _CLASSES else " or ".join(sorted(_CLASSES))),
        ("metric", int(index.metric_type), int(faiss.METRIC_INNER_PRODUCT)),
        ("width", index.d, dimension),
        ("number of vectors", index.ntotal, count),
    )
    for what, found, expected in facts:
        if found != expected:
            raise InputError(
                f"index {str(path)!r}: its {what} is {found}, expected {expected}; build it "
                "again with `radit index`"
            )


@contextlib.contextmanager
def _deserialization_limits(*, max_bytes: int, max_loops: int) -> Iterator[None]:
    """No array may claim more bytes than the file has, nor a loop more rounds than there are
    vectors.
    """
    before = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    faiss.set_deserialization_vector_byte_limit(max_bytes)
    faiss.set_deserialization_loop_limit(max_loops)
    try:
        yield
    finally:
        faiss.set_deserialization_vector_byte_limit(before[0])
        faiss.set_deserialization_loop_limit(before[1])


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
