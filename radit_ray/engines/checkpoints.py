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

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.integrity import redo_folder


@dataclasses.dataclass
class State:
    """Where a training stands."""

    step: int
    best: dict[str, Any] | None = None
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0  # of all workers' training passes


# what state.json holds
RECORD = {*(f.name for f in dataclasses.fields(State)), "fingerprint", "world", "engine", "files"}


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
        target = storage.join(self.folder, _name(state.step))
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
        step = self._newest(engine.kind) if self.rank == 0 else -1
        if self.world > 1:
            # one decides: workers on several nodes may see shared storage a moment apart
            told = torch.tensor([step], device=engine.device)
            dist.broadcast(told, 0)
            step = int(told)
        if step < 0:
            return None
        path = storage.join(self.folder, _name(step))
        engine.load(storage.local_copy(path))
        record = storage.read_json(storage.join(path, "state.json"))
        return State(**{field.name: record[field.name] for field in dataclasses.fields(State)})

    def _newest(self, kind: str) -> int:
        """The step of the newest whole checkpoint, -1 where there is none."""
        steps = (
            int(name.removeprefix("step-"))
            for name in sorted(self._names(), reverse=True)
            if self._is_whole(storage.join(self.folder, name), kind)
        )
        return next(steps, -1)

    def save_best(self, engine: Any, name: str) -> str:
        """The trained parameters of this step as one safetensors file, and its sha256 (on rank 0);
        every worker takes part.
        """
        tensors, digest = engine.trained(), ""
        if self.rank == 0:
            plain = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
            with storage.atomic_file(storage.join(self.folder, name)) as file:
                save_file(plain, file)
                digest = storage.sha256_of(file)
        self._barrier()
        return digest

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

    def _is_whole(self, path: str, kind: str) -> bool:
        """Whether the checkpoint is complete, of this identity and unchanged."""
        file = storage.join(path, "state.json")
        if not storage.exists(file):
            return False
        try:
            record = storage.read_json(file)
        except InputError:
            return False  # it breaks off
        if not isinstance(record, dict) or not record.keys() >= RECORD:
            return False
        if record["fingerprint"] != self.fingerprint or record["engine"] != kind:
            return False  # another training's, or written by DDP where now ZeRO runs
        if kind != "ddp" and record["world"] != self.world:
            return False  # DeepSpeed's shards fit the number of workers that wrote them
        files = {storage.join(path, name): digest for name, digest in record["files"].items()}
        if record["best"] and record["best"]["file"]:
            best = record["best"]
            files[storage.join(self.folder, best["file"])] = best.get("sha256")
        return all(
            storage.exists(part) and storage.sha256_of(part) == digest
            for part, digest in files.items()
        )

    def _prune(self, state: State) -> None:
        kept = {_name(state.step), state.best["file"] if state.best else ""}
        for name in {n.split("/")[0] for n in storage.list_files(self.folder)}:
            if name.startswith(("step-", "best-")) and name not in kept:
                storage.remove(storage.join(self.folder, name))

    def _barrier(self) -> None:
        if self.world > 1:
            dist.barrier()


def _name(step: int) -> str:
    return f"step-{step:06d}"


def best_weights(output: str, best: dict[str, Any]) -> str:
    """The safetensors file with the trained parameters of a training's best step (`State.best`); ""
    where that is step 0, the base weights. InputError where it is not the one that was written.
    """
    if not best["file"]:
        return ""
    file = storage.join(output, "resume", best["file"])
    if not storage.exists(file) or storage.sha256_of(file) != best["sha256"]:
        raise InputError(f"{file} is missing or damaged; {redo_folder(output)}")
    return file


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
