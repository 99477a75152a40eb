"""Self-supervised examples for R-ft: the start of a chunk asks, the end of the same chunk answers.

Goes in: chunk rows and the character span of each token. Comes out: example rows of task and
category "corpus". The paper takes the first 50 tokens as x and the last 50 as y (RA-DIT, R-ft
data); it says nothing about chunks under 100 tokens, where these would overlap and the answer could
be read off the query, so those are cut in halves. The chunk itself is excluded from its own
candidates (`exclude_ids`), or retrieval would only have to find the copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from radit_ray.core.errors import InputError
from radit_ray.data.rows import example_row

MIN_TOKENS = 8  # a half of fewer than 4 tokens ("It is a") asks for nothing in particular


def split_chunk(
    text: str, spans: Sequence[tuple[int, int]], *, num_tokens: int = 50
) -> tuple[str, str] | None:
    """Text of the first and last `num_tokens` tokens, or two halves under twice as many tokens.

    `spans` are the [start, end) characters of each token, in order; empty ones (special tokens) are
    skipped. Of an odd number the middle token goes to the answer. Tokens that share a character
    (byte-level BPE cuts inside one) stay on the query's side, so the two texts never overlap. None
    under `MIN_TOKENS` tokens, or where a side is only white space.
    """
    if num_tokens < 1:
        raise InputError(f"num_tokens is {num_tokens}, expected at least 1")
    real = [span for span in spans if span[1] > span[0]]
    if len(real) < MIN_TOKENS:
        return None
    half = min(num_tokens, len(real) // 2)
    border = real[half - 1][1]
    second = len(real) - half if half == num_tokens else half
    while second < len(real) and real[second][0] < border:
        second += 1
    if second == len(real):
        return None
    query = text[real[0][0] : border].strip()
    answer = text[real[second][0] : real[-1][1]].strip()
    return (query, answer) if query and answer else None


def corpus_example(
    chunk: Mapping[str, Any],
    spans: Sequence[tuple[int, int]],
    *,
    split: str = "train",
    num_tokens: int = 50,
) -> dict[str, Any] | None:
    """One example row from one chunk row; None where `split_chunk` finds it too short."""
    parts = split_chunk(chunk["text"], spans, num_tokens=num_tokens)
    if parts is None:
        return None
    return example_row(
        {
            "id": f"corpus:{chunk['id']}",
            "task": "corpus",
            "category": "corpus",
            "split": split,
            "question": parts[0],
            "query": parts[0],
            "answers": [parts[1]],
            "date": chunk["date"],
            "group": chunk["doc_id"],
            "exclude_ids": [chunk["id"]],
        }
    )


def sample_rows(num_rows: int, num: int, seed: int) -> npt.NDArray[np.int64]:
    """Sorted row numbers, `num` of `num_rows` without replacement (all where `num` is larger).

    Memory follows `num`, not `num_rows`, for a small share (the paper: 900k of 399M).
    """
    if num_rows < 0 or num < 0:
        raise InputError(f"cannot sample {num} of {num_rows} rows; expected numbers of at least 0")
    if num >= num_rows:
        return np.arange(num_rows, dtype=np.int64)
    generator = np.random.Generator(np.random.PCG64(seed))
    return np.sort(generator.choice(num_rows, num, replace=False, shuffle=False)).astype(np.int64)
