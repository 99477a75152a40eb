"""The training loop both fine-tunings share, on Ray Train: DDP or DeepSpeed ZeRO, resumable, keeps
the best of dev.

A stage gives a `Task` (what one step's batches are, their loss, the dev numbers); the loop knows
nothing of LMs or retrievers. Shares of the loss are divided by what the whole step holds, so that
any number of workers and any micro-batch give one result. State lies in `<output>/resume/` as
safetensors and JSON (DeepSpeed: its own files, checked by sha256) and goes when the stage ends.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import ray
import torch
import torch.distributed as dist
from ray import train as ray_train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer
from torch import Tensor, nn
from tqdm import tqdm

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.work import Work
from radit_ray.engines import checkpoints
from radit_ray.engines.ddp import DdpEngine
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import num_workers

SCHEDULES = ("cosine", "linear")
PRECISIONS = ("auto", "bf16", "fp32")
EXPORTED = "exported.json"  # in resume/: the result, once the best weights are exported


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loop:
    """The optimiser and the calendar of one training; the stage's config fills it."""

    steps: int
    batch_size: int  # over all workers
    lr: float
    end_lr: float
    warmup: int
    schedule: str  # "cosine" or "linear", from lr to end_lr after the warm-up
    weight_decay: float
    clip: float  # largest gradient norm, 0 = none
    eval_every: int
    select_by: str  # a dev metric; "-" in front: better when larger; "last": no choice
    precision: str
    seed: int


class Task(Protocol):
    """What a stage trains. Every worker builds its own."""

    module: nn.Module  # its parameters with requires_grad are trained
    num_tokens: int  # of this worker's training passes so far
    flops_per_token: float  # forward and backward

    def batches(self, step: int, rank: int, world: int) -> list[Any]:
        """This worker's batches of one step, each small enough for one forward and backward
        pass.
        """
        ...

    def loss(self, module: nn.Module, batch: Any) -> Tensor:
        """This batch's share of the step's loss: all shares of all workers sum to it."""
        ...

    def dev_sums(self, rank: int, world: int) -> dict[str, float]:
        """Sums over this worker's dev examples; workers' sums are added."""
        ...

    def dev_metrics(self, sums: dict[str, float]) -> dict[str, float]:
        """Dev metrics from the added sums."""
        ...


def lr_at(loop: Loop, step: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, then cosine or linear to `end_lr`
    (paper, Tables 8 and 9).
    """
    if step < loop.warmup:
        return loop.lr * (step + 1) / loop.warmup
    done = (step - loop.warmup) / max(1, loop.steps - loop.warmup)
    left = 0.5 * (1 + math.cos(math.pi * done)) if loop.schedule == "cosine" else 1 - done
    return loop.end_lr + (loop.lr - loop.end_lr) * left


def check_training(what: str, *, schedule: str, lr: float, precision: str) -> None:
    """InputError on a learning rate that `lr_at` cannot give, or a precision that no engine has;
    `what`: of which training.
    """
    if precision not in PRECISIONS:
        raise InputError(f"{what}.precision={precision!r}{nearest(precision, PRECISIONS)}")
    if schedule not in SCHEDULES:
        raise InputError(f"{what}.schedule={schedule!r}{nearest(schedule, SCHEDULES)}")
    if lr <= 0:
        raise InputError(f"{what}.lr={lr}; expected a rate above 0")


def fit(
    make_task: Callable[..., Task],
    arguments: dict[str, Any],
    loop: Loop,
    work: Work[Any],
    resources: Resources,
    label: str,
    export: Callable[[str], None],
    worker_bytes: float = 0,
) -> dict[str, Any]:
    """Trains on Ray Train and returns the result: best step, its dev metrics, history, cost.

    `export` gets the file of the best step's weights ("": the base weights), in rank 0's process
    once the training's models are let go: another process would import torch again.
    InputError where workers do not fit or the task refuses its input. A lost worker restarts the
    group from the last checkpoint.
    """
    if loop.steps < 1:
        raise InputError(f"steps={loop.steps}; expected at least 1 step")
    folder = storage.join(work.output, "resume")
    result_file = storage.join(folder, EXPORTED)
    if storage.exists(result_file):
        result = dict(storage.read_json(result_file))
        show_dev(resources, label, result["history"])
        return result
    world, cpus = _workers(loop, resources, worker_bytes)
    if resources.zero_stage and not storage.is_local(work.output):
        raise InputError(
            f"zero_stage={resources.zero_stage} with output {work.output}: DeepSpeed's checkpoints "
            "need a folder that all nodes share; use a path, or zero_stage 0"
        )
    storage.remove(storage.join(folder, "error.json"))
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "make_task": make_task,
            "arguments": arguments,
            "loop": loop,
            "resources": resources,
            "label": label,
            "output": work.output,
            "export": export,
            "fingerprint": work.identity["fingerprint"],
        },
        scaling_config=ScalingConfig(
            num_workers=world,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker={"CPU": cpus}
            | ({"GPU": resources.gpus_per_worker} if resources.gpus_per_worker else {}),
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,
            storage_path=storage.join(folder, "ray"),
            failure_config=FailureConfig(max_failures=resources.max_failures),
        ),
    )
    with _progress(storage.join(folder, "progress.json"), loop.steps, label):
        trainer.fit()
    error = storage.join(folder, "error.json")
    if storage.exists(error):
        raise InputError(storage.read_json(error)["error"])
    return dict(storage.read_json(result_file))


def show_dev(resources: Resources, label: str, history: list[dict[str, Any]]) -> None:
    """Writes the looks at dev of a training to `<resources.history>/<label>.json`, for whoever
    watches it: a sweep that stops early.
    """
    if resources.history:
        looks = [entry for entry in history if "dev" in entry]
        storage.write_json(storage.join(resources.history, f"{label}.json"), looks)


def show_finished(resources: Resources, label: str, output: str) -> None:
    """The same of a training that was finished before."""
    if resources.history:
        show_dev(resources, label, storage.read_json(storage.join(output, "history.json")))


def _workers(loop: Loop, resources: Resources, worker_bytes: float) -> tuple[int, float]:
    """(workers, CPUs of each). Workers asked for must divide the batch. By default: on GPUs as many
    as fit and divide it; on CPUs one a node with all its cores, since threads share what processes
    would each hold and add up (optimiser state, gradients).
    """
    fit = num_workers(resources, loop.batch_size, worker_bytes=worker_bytes)
    cpus = resources.cpus_per_worker
    if resources.num_workers:
        if loop.batch_size % resources.num_workers:
            raise InputError(
                f"batch_size={loop.batch_size} is no multiple of {resources.num_workers} workers; "
                "change one of them"
            )
        return resources.num_workers, cpus
    held = resources.reserved_cpus
    if not resources.gpus_per_worker and cpus + held == Resources().cpus_per_worker:
        cores = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        cores = [count for count in cores if count >= 1]
        fit, cpus = min(fit, len(cores)), math.floor(min(cores)) - held
    return max(n for n in range(1, fit + 1) if loop.batch_size % n == 0), cpus


def _worker(config: dict[str, Any]) -> None:
    """One training worker; an InputError becomes a file that the driver raises."""
    output, export = config["output"], config.pop("export")
    folder = storage.join(output, "resume")
    try:
        result = _train(**config)
        gc.collect()  # models hold cycles, on every worker, and the export loads one more
        if result:
            export(checkpoints.best_weights(output, result["best"]))
            storage.write_json(storage.join(folder, EXPORTED), result)
    except InputError as error:
        storage.write_json(storage.join(folder, "error.json"), {"error": str(error)})


def _train(
    make_task: Callable[..., Task],
    arguments: dict[str, Any],
    loop: Loop,
    resources: Resources,
    label: str,
    output: str,
    fingerprint: str,
) -> dict[str, Any]:
    """All steps, from the last checkpoint on; on rank 0 the result, on others nothing."""
    folder = storage.join(output, "resume")
    context = ray_train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray_train.torch.get_device() if resources.gpus_per_worker else torch.device("cpu")
    torch.manual_seed(loop.seed)
    task = make_task(**arguments, device=str(device))
    engine = _engine(task.module, loop, resources, device)
    store = checkpoints.Store(folder=folder, fingerprint=fingerprint, rank=rank, world=world)
    state = store.restore(engine) or checkpoints.State(step=0)
    started, seen, seen_tokens = time.perf_counter(), state.seconds, state.tokens

    def evaluate(step: int) -> None:
        if resources.zero_stage == 3:
            # every pass gathers weights from all workers, who must make as many: each looks at all
            sums = task.dev_sums(0, 1)
        else:
            sums = _all_sum(task.dev_sums(rank, world), device, world)
        metrics = task.dev_metrics(sums)
        state.history.append({"step": step, "dev": metrics})
        if rank == 0:
            show_dev(resources, label, state.history)
        value = _badness(metrics, step, loop.select_by)
        if state.best is None or value < state.best["value"]:
            # step 0 counts: where no step beats the base weights, they are what dev says to keep
            file = f"best-{step:06d}.safetensors" if step else ""
            state.best = {"step": step, "value": value, "dev": metrics, "file": file}
            if file:
                state.best["sha256"] = store.save_best(engine, file)

    if state.step == 0:
        evaluate(0)
    for step in range(state.step, loop.steps):
        loss, norm = engine.step(task, step, rank, world, lr_at(loop, step))
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} at step {step + 1}; lower lr ({loop.lr:g}) or use precision "
                "fp32"
            )
        state.history.append(
            {"step": step + 1, "loss": loss, "lr": lr_at(loop, step), "grad_norm": norm}
        )
        state.step = step + 1
        last = state.step == loop.steps
        if last or (loop.eval_every and state.step % loop.eval_every == 0):
            evaluate(state.step)
        state.seconds = seen + time.perf_counter() - started
        if last or state.step % resources.checkpoint_every == 0:
            tokens = _all_sum({"tokens": float(task.num_tokens)}, device, world)["tokens"]
            state.tokens = seen_tokens + int(tokens)
            store.save(engine, state)
        if rank == 0:
            storage.write_json(
                storage.join(folder, "progress.json"), {"step": state.step, "loss": loss}
            )
    if rank:
        return {}
    show_dev(resources, label, state.history)  # a training that was over already shows it here
    cost = {
        "device_s": state.seconds * world,
        "tokens": state.tokens,
        "flops": state.tokens * task.flops_per_token,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "num_workers": world,
    }
    return {"best": state.best, "history": state.history, "cost": cost}


def _badness(metrics: dict[str, float], step: int, select_by: str) -> float:
    """What the kept weights have the least of."""
    if select_by == "last":
        return -float(step)
    return metrics[select_by.lstrip("-")] * (-1 if select_by.startswith("-") else 1)


def _all_sum(sums: dict[str, float], device: torch.device, world: int) -> dict[str, float]:
    """The workers' sums added, in fp64."""
    if world == 1:
        return sums
    values = torch.tensor([sums[name] for name in sorted(sums)], dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(sorted(sums), values.tolist(), strict=True))


def _engine(module: nn.Module, loop: Loop, resources: Resources, device: torch.device) -> Any:
    if resources.zero_stage:
        from radit_ray.engines.zero import ZeroEngine

        return ZeroEngine(module, loop, resources, device)
    return DdpEngine(module, loop, device)


@contextlib.contextmanager
def _progress(file: str, total: int, label: str) -> Iterator[None]:
    """A progress bar that follows the file rank 0 writes."""
    stop = threading.Event()
    bar = tqdm(total=total, desc=label, unit="step", mininterval=1.0)

    def follow() -> None:
        while not stop.wait(1.0):
            with contextlib.suppress(OSError, InputError):
                seen = storage.read_json(file)
                bar.set_postfix(loss=f"{seen['loss']:.3f}", refresh=False)
                bar.update(seen["step"] - bar.n)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
        bar.update(total - bar.n)
    finally:
        stop.set()
        thread.join()
        bar.close()
