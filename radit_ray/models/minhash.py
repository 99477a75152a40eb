"""MinHash signatures of shingle sets, by datasketch: the one module that knows that package.

signatures([shingles(words(text), 5)], num_perm=128, seed=0)  ->  (N, num_perm) uint32
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from radit_ray.core.errors import InputError

# 32 bits a place; named, because a release with another default would give other signatures
_SCHEME = "affine32"
_LOW_BITS = np.uint64(2**32 - 1)


def check_installed() -> None:
    """InputError where the package of the extra `dedup` is missing."""
    if importlib.util.find_spec("datasketch") is None:
        raise InputError(
            "near duplicates need the package datasketch: pip install 'radit-ray[dedup]', or set "
            "threshold=1 for exact duplicates alone"
        )


def signatures(
    sets: Sequence[NDArray[np.uint64]], *, num_perm: int, seed: int
) -> NDArray[np.uint32]:
    """The MinHash signature of each set of 64-bit shingles. Shape (N, num_perm).

    A place of two signatures is equal with probability J. Two shingles whose low 32 bits are equal
    count as one here (1 in 4e9), which only the choice of pairs to compare can feel.
    """
    from datasketch import MinHash

    made = MinHash.generator(
        ((shingles & _LOW_BITS).tolist() for shingles in sets),
        num_perm=num_perm,
        seed=seed,
        hashfunc=_itself,
        scheme=_SCHEME,
    )
    rows = [minhash.hashvalues for minhash in made]
    return np.array(rows, dtype=np.uint32).reshape(len(sets), num_perm)


def _itself(value: int) -> int:
    """The shingles are hashes already."""
    return value
