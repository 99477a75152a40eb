"""Contract: a resume point that is torn anywhere is passed over for the one before it; what is read
back is bit for bit what was written; old ones go.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.engines.checkpoints import State, Store, best_weights
from radit_ray.engines.ddp import DdpEngine
from radit_ray.engines.trainer import Loop

LOOP = Loop(
    steps=20,
    batch_size=1,
    lr=1e-2,
    end_lr=0.0,
    warmup=0,
    schedule="linear",
    weight_decay=0.0,
    clip=0.0,
    eval_every=0,
    select_by="last",
    precision="fp32",
    seed=0,
)


def engine_at(steps: int) -> DdpEngine:
    """A linear layer after some steps of AdamW on its own sum."""
    torch.manual_seed(0)
    engine = DdpEngine(nn.Linear(4, 3), LOOP, torch.device("cpu"))
    for _ in range(steps):
        engine.optimizer.zero_grad()
        sum((value**2).sum() for value in engine.parameters.values()).backward()
        engine.optimizer.step()
    return engine


def store_at(folder: str, fingerprint: str = "a" * 64) -> Store:
    return Store(folder=folder, fingerprint=fingerprint, rank=0, world=1)


def same(one: DdpEngine, other: DdpEngine) -> bool:
    """Weights and moments, bit for bit."""
    pairs = zip(one.parameters.values(), other.parameters.values(), strict=True)
    return all(
        torch.equal(a, b)
        and all(
            torch.equal(value, other.optimizer.state[b][key])
            for key, value in one.optimizer.state[a].items()
        )
        for a, b in pairs
    )


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """step-5 and step-10 side by side, as a kill before the pruning leaves them; step 5 is best."""
    path = str(tmp_path / "resume")
    store = store_at(path)
    digest = store.save_best(engine_at(5), "best-000005.safetensors")
    best = {"step": 5, "value": 1.0, "dev": {}, "file": "best-000005.safetensors"}
    best["sha256"] = digest
    store.save(engine_at(5), State(step=5, best=best))
    shutil.copytree(f"{path}/step-000005", tmp_path / "kept")
    store.save(engine_at(10), State(step=10, best=best, history=[{"step": 10}], tokens=7))
    assert storage.list_folders(path) == ["step-000010"]  # the older one was dropped
    shutil.move(tmp_path / "kept", f"{path}/step-000005")
    return path


def restored(folder: str, fingerprint: str = "a" * 64) -> tuple[DdpEngine, State | None]:
    engine = engine_at(0)
    return engine, store_at(folder, fingerprint).restore(engine)


def test_the_newest_whole_one_comes_back_bit_for_bit(folder: str) -> None:
    engine, state = restored(folder)
    assert state is not None
    assert (state.step, state.tokens, state.history) == (10, 7, [{"step": 10}])
    assert same(engine, engine_at(10))


def cut(name: str, share: float) -> Callable[[Path], None]:
    """Leaves this share of a file."""

    def tear(path: Path) -> None:
        content = (path / name).read_bytes()
        (path / name).write_bytes(content[: int(share * len(content))])

    return tear


def flip(name: str) -> Callable[[Path], None]:
    def tear(path: Path) -> None:
        content = bytearray((path / name).read_bytes())
        content[-3] ^= 1
        (path / name).write_bytes(content)

    return tear


def without(name: str) -> Callable[[Path], None]:
    return lambda path: (path / name).unlink()


def rewritten(text: str) -> Callable[[Path], None]:
    return lambda path: (path / "state.json").write_text(text) and None  # type: ignore[func-returns-value]


@pytest.mark.parametrize(
    "tear",
    [
        *(cut("state.json", share) for share in (0.0, 0.1, 0.5, 0.99)),
        *(cut("model.safetensors", share) for share in (0.0, 0.02, 0.9)),
        *(cut("optimizer.safetensors", share) for share in (0.0, 0.5)),
        *(flip(name) for name in ("model.safetensors", "optimizer.safetensors")),
        *(without(name) for name in ("state.json", "model.safetensors", "optimizer.safetensors")),
        *(rewritten(text) for text in ("[]", "{}", '{"step": 10}')),
    ],
)
def test_a_torn_one_is_passed_over(folder: str, tear: Callable[[Path], None]) -> None:
    tear(Path(folder, "step-000010"))
    engine, state = restored(folder)
    assert state is not None
    assert state.step == 5
    assert same(engine, engine_at(5))


def test_both_torn_is_a_start_from_the_beginning(folder: str) -> None:
    for name in ("step-000005", "step-000010"):
        cut("model.safetensors", 0.5)(Path(folder, name))
    engine, state = restored(folder)
    assert state is None
    assert same(engine, engine_at(0))


def test_those_of_another_training_are_not_used(folder: str) -> None:
    assert restored(folder, fingerprint="b" * 64)[1] is None


@pytest.mark.parametrize(
    "tear", [cut("best-000005.safetensors", 0.5), flip("best-000005.safetensors")]
)
def test_one_whose_best_weights_are_damaged_is_not_used(
    folder: str, tear: Callable[[Path], None]
) -> None:
    tear(Path(folder))
    assert restored(folder)[1] is None


def test_damaged_best_weights_are_never_exported(folder: str, tmp_path: Path) -> None:
    best = json.loads(Path(folder, "step-000010", "state.json").read_text())["best"]
    assert best_weights(str(tmp_path), best) == f"{folder}/best-000005.safetensors"
    flip("best-000005.safetensors")(Path(folder))
    with pytest.raises(InputError, match=r"best-000005.safetensors is missing or damaged; delete"):
        best_weights(str(tmp_path), best)
    assert best_weights(str(tmp_path), {"step": 0, "file": ""}) == ""
