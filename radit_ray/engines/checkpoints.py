"""Resume points of a training: written whole or not at all, checked before they are read, pruned
when a newer one is complete.

`resume/step-000120/` holds safetensors (DDP) or DeepSpeed's own files, and `state.json` with the
sha256 of each; a folder without it, or whose files differ, is torn and never used. Nothing here is
a pickle except what DeepSpeed writes.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from radit_ray.data import storage


@dataclasses.dataclass
class State:
    """Where a training stands."""

    step: int
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0  # of all workers' training passes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Store:
    """The resume folder as one worker sees it; all workers see the same storage."""

    folder: str
    fingerprint: str
    rank: int
    world: int

    def save(self, engine: Any, state: State) -> None:
        """Writes step-N with its state.json last, then drops older ones and best files nobody
        names.
        """
        target = storage.join(self.folder, f"step-{state.step:06d}")
        local = self._scratch(state.step)
        engine.save(local, self.rank)
        self._barrier()
        if self.rank == 0:
            files = {
                name: storage.sha256_of(os.path.join(local, name))
                for name in storage.list_files(local)
            }
            record = {
                **dataclasses.asdict(state),
                "fingerprint": self.fingerprint,
                "world": self.world,
                "engine": engine.kind,
                "files": files,
            }
            storage.write_json(os.path.join(local, "state.json"), record)
            storage.put_folder(local, target)
            shutil.rmtree(local, ignore_errors=True)
            self._prune(state)
        self._barrier()

    def restore(self, engine: Any) -> State | None:
        """Loads the newest whole checkpoint of this training into the engine; None where there is
        none.
        """
        for name in sorted(self._names(), reverse=True):
            path = storage.join(self.folder, name)
            record = self._whole(path, engine.kind)
            if record is not None:
                engine.load(storage.local_copy(path))
                fields = {f.name for f in dataclasses.fields(State)}
                return State(**{k: v for k, v in record.items() if k in fields})
        return None

    def save_best(self, engine: Any, name: str) -> None:
        """The trained parameters of this step as one safetensors file; every worker takes part."""
        tensors = engine.trained()
        if self.rank == 0:
            plain = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
            with storage.atomic_file(storage.join(self.folder, name)) as file:
                save_file(plain, file)
        self._barrier()

    def _scratch(self, step: int) -> str:
        """A folder all workers can write to: beside the target where storage is a path."""
        if storage.is_local(self.folder):
            path = os.path.join(storage.local(self.folder), f".step-{step:06d}.tmp")
        else:
            path = os.path.join(tempfile.gettempdir(), f"radit-{self.fingerprint[:12]}-{step:06d}")
        if self.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
            os.makedirs(path)
        self._barrier()
        return path

    def _names(self) -> list[str]:
        found = {
            name.split("/")[0]
            for name in storage.list_files(self.folder)
            if name.startswith("step-")
        }
        return sorted(found)

    def _whole(self, path: str, kind: str) -> dict[str, Any] | None:
        """The state record if the checkpoint is complete, of this identity and unchanged."""
        file = storage.join(path, "state.json")
        if not storage.exists(file):
            return None
        record = dict(storage.read_json(file))
        if record["fingerprint"] != self.fingerprint or record["engine"] != kind:
            return None  # another training's, or written by DDP where now ZeRO runs
        if kind != "ddp" and record["world"] != self.world:
            return None  # DeepSpeed's shards fit the number of workers that wrote them
        for name, digest in record["files"].items():
            part = storage.join(path, name)
            if not storage.exists(part) or storage.sha256_of(part) != digest:
                return None
        if record["best"] and not storage.exists(storage.join(self.folder, record["best"]["file"])):
            return None
        return record

    def _prune(self, state: State) -> None:
        kept = {f"step-{state.step:06d}", state.best["file"] if state.best else ""}
        for name in {n.split("/")[0] for n in storage.list_files(self.folder)}:
            if name.startswith(("step-", "best-")) and name not in kept:
                storage.remove(storage.join(self.folder, name))

    def _barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


def save_adamw(
    folder: str, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Parameters and AdamW moments as two safetensors files."""
    state: dict[str, Tensor] = {}
    for name, value in parameters.items():
        for key, moment in optimizer.state.get(value, {}).items():
            state[f"{name}|{key}"] = moment.detach().cpu().contiguous()
    model = {name: value.detach().cpu().contiguous() for name, value in parameters.items()}
    save_file(model, os.path.join(folder, "model.safetensors"))
    save_file(state, os.path.join(folder, "optimizer.safetensors"))


def load_adamw(
    folder: str, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """The inverse of `save_adamw`."""
    load_trained(os.path.join(folder, "model.safetensors"), parameters)
    with safe_open(os.path.join(folder, "optimizer.safetensors"), framework="pt") as stored:
        for joined in stored.keys():  # noqa: SIM118 - a safetensors handle, not a dict
            name, _, key = joined.rpartition("|")
            value = stored.get_tensor(joined)
            # AdamW keeps its step count on the CPU, the moments where the parameter is
            place = value if key == "step" else value.to(parameters[name].device)
            optimizer.state[parameters[name]][key] = place


@torch.no_grad()
def load_trained(file: str, parameters: dict[str, Tensor]) -> None:
    """Copies the tensors of a safetensors file into parameters of the same names."""
    with safe_open(file, framework="pt") as stored:
        for name in stored.keys():  # noqa: SIM118
            parameters[name].copy_(stored.get_tensor(name))
