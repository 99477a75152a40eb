"""What changes only the clock of a stage, never its result."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from radit_ray.core.errors import Bounds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resources:
    """Hardware for one stage call: recorded in the manifest's cost, no part of the identity."""

    num_workers: int = (
        0  # 0 = as many as the CPUs or GPUs hold; training on CPUs: one a node, with all its cores
    )
    cpus_per_worker: float = 1.0  # CPU cores of one worker
    gpus_per_worker: float = 0.0  # GPUs of one worker; > 0 puts the models on CUDA
    reserved_cpus: float = 0.0  # of the cluster, held by what started the stage (a sweep's trial)
    batch_tokens: int = 16384  # padded tokens in one forward pass of an encoder or LM
    memory_map: bool = (
        False  # retrieve: vectors of index shards stay on disk and are paged in as they are read
    )
    index_replicas: int = 1  # retrieve: actors that hold each index shard
    micro_batch: int = (
        0  # training: sequences (lm-ft) or queries (r-ft) per backward pass; 0 = the whole share
    )
    packing: bool = (
        False  # lm-ft: packed rows with block-diagonal attention instead of length-bucketed padding
    )
    zero_stage: int = 0  # training: 0 = DDP, 1-3 = DeepSpeed ZeRO
    offload: bool = False  # DeepSpeed: optimizer state in host memory
    gradient_checkpointing: bool = False  # lm-ft: recompute activations, less memory
    checkpoint_every: int = 50  # training: steps between two resume points
    max_failures: int = 1  # training: worker-group restarts before the stage fails
    history: str = ""  # training: a folder where dev metrics are shown as they come, "" = nowhere

    BOUNDS: ClassVar[Bounds] = {
        "num_workers": (0, None),
        "cpus_per_worker": (0, None),
        "gpus_per_worker": (0, None),
        "reserved_cpus": (0, None),
        "batch_tokens": (1, None),
        "index_replicas": (1, None),
        "micro_batch": (0, None),
        "zero_stage": (0, 3),
        "checkpoint_every": (1, None),
        "max_failures": (-1, None),  # -1: Ray's "without end"
    }

    @property
    def device(self) -> str:
        """Where models live: "cuda" or "cpu"."""
        return "cuda" if self.gpus_per_worker > 0 else "cpu"
