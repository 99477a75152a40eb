"""Contract: signatures are datasketch's own, estimate Jaccard, and our bands propose the pairs that
datasketch's LSH proposes.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from radit_ray.core import duplicates
from radit_ray.core.errors import InputError
from radit_ray.models import minhash

SETS = [
    np.unique(
        np.random.default_rng(number // 4).integers(0, 400, 150 - 3 * number, dtype=np.uint64)
    )
    for number in range(24)
]


def test_signatures_are_datasketchs() -> None:
    datasketch = pytest.importorskip("datasketch")
    found_NM = minhash.signatures(SETS, num_perm=64, seed=3)
    assert (found_NM.shape, found_NM.dtype) == ((24, 64), np.uint32)
    for row, shingles in zip(found_NM, SETS, strict=True):
        plain = datasketch.MinHash(num_perm=64, seed=3, hashfunc=int, scheme="affine32")
        for value in shingles.tolist():
            plain.update(value)
        np.testing.assert_array_equal(row, plain.hashvalues)
    assert (found_NM != minhash.signatures(SETS, num_perm=64, seed=4)).any()
    assert minhash.signatures([], num_perm=64, seed=3).shape == (0, 64)


def test_places_agree_as_often_as_the_sets_are_similar() -> None:
    pytest.importorskip("datasketch")
    place_NM = minhash.signatures(SETS, num_perm=1024, seed=0)
    for a, b in itertools.combinations(range(24), 2):
        agree = float((place_NM[a] == place_NM[b]).mean())
        # standard error of 1,024 places: at most 0.016; 276 pairs
        assert agree == pytest.approx(duplicates.jaccard(SETS[a], SETS[b]), abs=0.07)


def test_bands_propose_the_pairs_of_datasketchs_lsh() -> None:
    datasketch = pytest.importorskip("datasketch")
    bands, rows = 16, 4
    lsh = datasketch.MinHashLSH(num_perm=64, params=(bands, rows))
    made = [datasketch.MinHash(num_perm=64, seed=1, hashfunc=int, scheme="affine32") for _ in SETS]
    for number, (one, shingles) in enumerate(zip(made, SETS, strict=True)):
        one.update_batch(shingles.tolist())
        lsh.insert(number, one)
    expected = {(a, b) for b, one in enumerate(made) for a in lsh.query(one) if a < b}
    hash_NB = duplicates.band_hashes(minhash.signatures(SETS, num_perm=64, seed=1), bands, rows)
    found = set()
    for band in range(bands):
        for left, right in duplicates.Buckets.of(hash_NB[:, band]).pairs(24):
            found |= set(zip(left.tolist(), right.tolist(), strict=True))
    assert found == expected
    assert 0 < len(found) < 24 * 23 / 2


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minhash.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'radit-ray\[dedup\]', or set threshold=1"):
        minhash.check_installed()
