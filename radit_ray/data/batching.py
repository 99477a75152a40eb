"""Which training instance goes into which step, on which worker: decided once from lengths, the
same for any number of workers.

A sequence is what fits into `seq_len` tokens, several instances behind each other (paper: 2048); a
step is `batch_size` sequences. How a worker lays them out (packed rows or padded by length) is its
own affair and changes no sum.
"""

from __future__ import annotations

from collections.abc import Sequence

from radit_ray.core.errors import InputError


def pack_in_order(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Instance numbers in sequences of at most `seq_len` tokens, in order, each sequence filled
    before the next.

    >>> pack_in_order([3, 4, 5, 2], 8)
    [[0, 1], [2, 3]]
    """
    sequences: list[list[int]] = []
    room = 0
    for number, length in enumerate(lengths):
        if length > seq_len:
            raise InputError(
                f"an instance has {length} tokens, seq_len is {seq_len}; raise seq_len"
            )
        if length > room:
            sequences.append([])
            room = seq_len
        sequences[-1].append(number)
        room -= length
    return sequences


def plan_steps(
    lengths: Sequence[int], *, num_steps: int, batch_size: int, seq_len: int
) -> list[list[list[int]]]:
    """For each step its `batch_size` sequences of instance numbers; the instances come round again
    if they run out.
    """
    sequences = pack_in_order(lengths, seq_len)
    if not sequences:
        raise InputError("no training instance; expected examples of split 'train' with chunks")
    needed = num_steps * batch_size
    rounds = -(-needed // len(sequences))
    stream = (sequences * rounds)[:needed]
    return [stream[i : i + batch_size] for i in range(0, needed, batch_size)]
