"""Contract: the plan depends on lengths alone, fills sequences in order, loses nothing."""

from __future__ import annotations

import numpy as np
import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.batching import pack_in_order, plan_steps


def test_sequences_hold_every_instance_once_in_order() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, size=400).tolist()
    sequences = pack_in_order(lengths, 64)
    assert [i for sequence in sequences for i in sequence] == list(range(400))
    totals = [sum(lengths[i] for i in sequence) for sequence in sequences]
    assert max(totals) <= 64
    for total, following in zip(totals, sequences[1:], strict=False):
        assert (
            total + lengths[following[0]] > 64
        )  # a new one begins only where the next is too long


def test_an_instance_longer_than_a_sequence_is_refused() -> None:
    with pytest.raises(InputError, match="65 tokens, seq_len is 64"):
        pack_in_order([3, 65], 64)


def test_steps_are_full_and_come_round_again() -> None:
    plan = plan_steps([5, 5, 5], num_steps=4, batch_size=2, seq_len=5)
    assert plan == [[[0], [1]], [[2], [0]], [[1], [2]], [[0], [1]]]
    assert all(len(step) == 2 for step in plan)


def test_no_instance_is_an_error() -> None:
    with pytest.raises(InputError, match="no training instance"):
        plan_steps([], num_steps=1, batch_size=1, seq_len=8)
