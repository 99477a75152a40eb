"""DeepSpeed ZeRO 1-3 behind the same three calls as `ddp.DdpEngine`; imported only where a zero
stage is asked for.

Weights stay fp32 and are cast by autocast, as under DDP, so that the two agree; DeepSpeed shards
optimiser state (1), gradients (2), parameters (3). Works with gloo on CPUs; its first start
compiles a small operator (g++) into `operators_folder`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock
from torch import Tensor, nn

from radit_ray.engines.ddp import autocast
from radit_ray.engines.resources import Resources


def operators_folder() -> Path:
    """Where DeepSpeed's operators are compiled, below $TORCH_EXTENSIONS_DIR or the user's cache."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR") or Path.home() / ".cache" / "torch_extensions"
    python = f"py{sys.version_info.major}{sys.version_info.minor}"
    return Path(root) / f"radit-ray-{python}-torch{torch.__version__}"


def compile_operator() -> None:
    """Compiles DeepSpeed's communication operator, one process of this machine at a time.

    torch marks a compilation by a plain file, which a killed process leaves behind; every later one
    would wait on it for ever. The lock held here goes with its process, so whoever holds it knows
    that such a file is nobody's.
    """
    from deepspeed.comm.torch import build_shm_op

    folder = operators_folder()
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TORCH_EXTENSIONS_DIR")
    with FileLock(folder / "radit-ray.lock"):
        for left_behind in folder.glob("*/lock"):
            left_behind.unlink()
        os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
        try:
            build_shm_op()
        finally:
            os.environ.pop("TORCH_EXTENSIONS_DIR")
            if before is not None:
                os.environ["TORCH_EXTENSIONS_DIR"] = before


class ZeroEngine:
    """A DeepSpeed engine that takes one optimiser step from any number of batches."""

    def __init__(
        self, module: nn.Module, loop: Any, resources: Resources, device: torch.device
    ) -> None:
        if device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed

        compile_operator()
        self.loop, self.device, self.stage = loop, device, resources.zero_stage
        self.kind = f"zero-{self.stage}"
        self.names = [n for n, p in module.named_parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad],
            lr=loop.lr,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=loop.weight_decay,
        )
        zero: dict[str, Any] = {
            "stage": self.stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
        }
        if resources.offload:
            zero["offload_optimizer"] = {"device": "cpu"}
        settings = {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": loop.clip,
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "steps_per_print": 10**9,
        }
        if loop.precision == "bf16":
            # DeepSpeed switches an autocast around it off and computes in fp32, unless it is told;
            # no module is named, so that gradients still travel in fp32
            settings["torch_autocast"] = {
                "enabled": True,
                "dtype": "bfloat16",
                "lower_precision_safe_modules": [],
            }
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=settings
        )
        self.module = self.engine

    def step(self, task: Any, step: int, rank: int, world: int, lr: float) -> tuple[float, float]:
        """One optimiser step; every worker runs as many backward passes, since each one
        communicates.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        batches = task.batches(step, rank, world)
        most = max(len(task.batches(step, r, world)) for r in range(world))
        total = torch.zeros((), device=self.device)
        for number in range(most):
            weight = 1.0 if number < len(batches) else 0.0
            with autocast(self.device, self.loop.precision):
                loss = task.loss(self.engine, batches[min(number, len(batches) - 1)]) * weight
            self.engine.set_gradient_accumulation_boundary(number == most - 1)
            self.engine.backward(loss * world)  # DeepSpeed takes the mean over workers
            self.engine.step()
            total += loss.detach()
        if world > 1:
            dist.all_reduce(total)
        norm = self.engine.get_global_grad_norm()
        return float(total), 0.0 if norm is None else float(norm)

    def trained(self) -> dict[str, Tensor]:
        """The trained parameters by name, gathered from all workers (stage 3 shards them)."""
        import deepspeed

        found = {}
        for name, value in self.engine.module.named_parameters():
            if name not in self.names:
                continue
            with deepspeed.zero.GatheredParameters([value], enabled=self.stage == 3):
                found[name] = value.detach().float().cpu().clone()
        return found

    def save(self, folder: str, rank: int) -> None:
        """DeepSpeed's own sharded files; every worker writes its part."""
        self.engine.save_checkpoint(folder, tag="zero")

    def load(self, folder: str) -> None:
        """The inverse of `save`; the files' sha256 were checked before this call."""
        self.engine.load_checkpoint(folder, tag="zero")
