"""Contract of lm-ft: Eq. 3 on the answer's tokens only, as a naive loop over plain transformers
gives it; any number of workers, micro-batch, layout, ZeRO stage and kill leads to the same weights.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from chain import Chain
from killing import killed
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import Artifact, artifact_input, read_manifest, shard_names
from radit_ray.engines.resources import Resources
from radit_ray.engines.trainer import Loop, lr_at
from radit_ray.engines.zero import operators_folder
from radit_ray.stages.lm_ft import (
    LmFtConfig,
    LmFtTask,
    export_model,
    lm_ft,
)
from radit_ray.stages.lm_ft_instances import LmTokenWorker, choose_instances

pytestmark = pytest.mark.ray
STEPS = 16
ONE = Resources(num_workers=1, micro_batch=1, checkpoint_every=1)
# Sums of fp32 in another order: weights of size 0.3 differ by some 5e-6 after 16 steps of AdamW,
# whose first updates are sign-like, so that a gradient near 0 counts as much as a large one.
SAME = 1e-4


def config_of(chain: Chain, **changes: Any) -> LmFtConfig:
    """A training of seconds that visibly learns."""
    config = LmFtConfig(
        lm=chain.lm,
        k_train=2,
        steps=STEPS,
        batch_size=4,
        seq_len=256,
        lr=3e-3,
        end_lr=3e-4,
        warmup=4,
        eval_every=4,
        precision="fp32",
        shares={"corpus": 0.25},
    )
    return dataclasses.replace(config, **changes)


def task_of(config: LmFtConfig, chain: Chain, folder: Path, **resources: Any) -> LmFtTask:
    """The stage's own task in this process, on the stage's own tokens."""
    ranked = artifact_input(chain.ranked, "retrieve")
    chosen = choose_instances(ranked, config)
    worker = LmTokenWorker(config=config, ranked=ranked.path, output=str(folder))
    names = shard_names(ranked)
    shards = sorted({shard for shard, _ in [*chosen.order, *chosen.dev]})
    for shard in shards:
        rows = sorted({row for at, row in [*chosen.order, *chosen.dev] if at == shard})
        worker({"name": f"{shard}.parquet", "shard": names[shard], "rows": rows})
    tokens = {
        "files": [f"{folder}/{shard}.parquet" for shard in shards],
        "shards": shards,
        "order": chosen.order,
        "dev": chosen.dev,
    }
    resource = Resources(**resources)
    return LmFtTask(config=config, tokens=tokens, resources=resource, device="cpu")


def weights(artifact: Artifact | str) -> dict[str, torch.Tensor]:
    path = artifact if isinstance(artifact, str) else artifact.path
    return load_file(f"{path}/model/model.safetensors")


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """All but a thousandth within SAME and none beyond a third of a step: where a gradient is next
    to nothing Adam makes more of the rounding of other threads (1.2e-4 was seen).
    """
    diffs = torch.cat([(a[name].float() - b[name].float()).abs().flatten() for name in a])
    assert float((diffs > SAME).float().mean()) < 1e-3
    assert furthest(a, b) < 1e-3


def furthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of two sets of weights."""
    assert a.keys() == b.keys()
    return max(float((a[name].float() - b[name].float()).abs().max()) for name in a)


@pytest.fixture(scope="module")
def tuned(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """One worker, no interruption."""
    output = str(tmp_path_factory.mktemp("lm-ft") / "one")
    shown = dataclasses.replace(ONE, history=f"{output}-shown")
    return lm_ft(config_of(chain), ranked=chain.ranked, output=output, resources=shown)


def test_the_weights_are_those_of_a_naive_loop(
    tuned: Artifact, chain: Chain, tmp_path: Path
) -> None:
    """Plain transformers, one instance at a time, labels -100 on the prompt, torch's AdamW."""
    config = config_of(chain)
    task = task_of(config, chain, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(chain.lm, dtype=torch.float32).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def nll(number: int) -> torch.Tensor:
        prompt, answer = task.pairs[number]
        ids = torch.tensor([[*prompt, *answer]])
        labels = torch.tensor([[*[-100] * len(prompt), *answer]])
        return model(input_ids=ids, labels=labels).loss * len(answer)

    fields = {field.name for field in dataclasses.fields(Loop)}
    loop = Loop(**{name: getattr(config, name) for name in fields})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.0)
    best, best_nll, curve = {}, float("inf"), []
    for step in range(config.steps):
        numbers = [i for sequence in task.steps[step] for i in sequence]
        count = sum(len(task.pairs[i][1]) for i in numbers)
        optimizer.zero_grad()
        losses = [nll(i) / count for i in numbers]
        torch.stack(losses).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(loop, step)
        optimizer.step()
        curve.append(float(torch.stack(losses).detach().sum()))
        if (step + 1) % config.eval_every == 0:
            with torch.no_grad():
                dev = float(sum(nll(i) for i in task.dev)) / len(task.dev)
            if dev < best_nll:
                best_nll = dev
                best = {name: value.clone() for name, value in model.state_dict().items()}
    assert tuned.metrics["dev"]["nll"] == pytest.approx(best_nll, rel=1e-4)
    history = json.loads(Path(tuned.path, "history.json").read_text())
    assert [entry["loss"] for entry in history if "loss" in entry] == pytest.approx(curve, rel=1e-3)
    found = weights(tuned)
    same_weights(found, {name: best[name] for name in found})


def test_it_learns_and_keeps_the_best_of_dev(tuned: Artifact) -> None:
    history = json.loads(Path(tuned.path, "history.json").read_text())
    dev = {entry["step"]: entry["dev"]["nll"] for entry in history if "dev" in entry}
    assert list(dev) == [0, 4, 8, 12, 16]
    assert tuned.metrics["best_step"] == min((s for s in dev if s), key=lambda s: dev[s])
    assert tuned.metrics["dev"]["nll"] == dev[tuned.metrics["best_step"]]
    assert tuned.metrics["dev_before"]["nll"] == dev[0]
    # 16 steps of a tiny LM; the tokenizer's trainer breaks ties at random, so this varies by run
    assert tuned.metrics["dev"]["nll"] < 0.9 * dev[0]


def test_looks_at_dev_are_shown_as_they_come_and_again_by_a_rerun(
    tuned: Artifact, chain: Chain, tmp_path: Path
) -> None:
    history = json.loads(Path(tuned.path, "history.json").read_text())
    looks = [entry for entry in history if "dev" in entry]
    assert [entry["step"] for entry in looks] == [*range(0, STEPS, 4), STEPS]
    assert json.loads(Path(f"{tuned.path}-shown", "lm-ft.json").read_text()) == looks
    again = dataclasses.replace(ONE, history=str(tmp_path))
    lm_ft(config_of(chain), ranked=chain.ranked, output=tuned.path, resources=again)
    assert json.loads((tmp_path / "lm-ft.json").read_text()) == looks


def test_the_export_loads_in_plain_transformers(tuned: Artifact, chain: Chain) -> None:
    folder = Path(tuned.path, "model")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("Question: Who is the mayor of Arden?\nAnswer:", return_tensors="pt")
    out = model.generate(
        ids["input_ids"], attention_mask=ids["attention_mask"], max_new_tokens=4, do_sample=False
    )
    assert out.shape[1] > ids["input_ids"].shape[1]
    record = json.loads((folder / "radit.json").read_text())
    assert record["context_length"] == 256
    assert record["eos_id"] == tokenizer.eos_token_id
    assert record["k_train"] == 2
    assert (folder / "README.md").exists()
    assert not list(Path(tuned.path).glob("**/*.bin"))
    assert not Path(tuned.path, "resume").exists()
    manifest = read_manifest(tuned.path)
    assert manifest is not None
    assert {file["name"] for file in manifest["files"]} >= {
        "history.json",
        "model/model.safetensors",
        "model/radit.json",
    }


@pytest.mark.slow
def test_two_packed_workers_equal_one(tuned: Artifact, chain: Chain, tmp_path: Path) -> None:
    two = Resources(num_workers=2, packing=True)
    output = str(tmp_path / "two")
    artifact = lm_ft(config_of(chain), ranked=chain.ranked, output=output, resources=two)
    same_weights(weights(artifact), weights(tuned))
    manifests = [read_manifest(path) for path in (artifact.path, tuned.path)]
    assert manifests[0] is not None
    assert manifests[1] is not None
    assert manifests[0]["fingerprint"] == manifests[1]["fingerprint"]  # workers are no identity
    assert manifests[0]["cost"]["num_workers"] == 2


@pytest.mark.parametrize("stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_zero_equals_ddp(stage: int, tuned: Artifact, chain: Chain, tmp_path: Path) -> None:
    left_behind = operators_folder() / "deepspeed_shm_comm" / "lock"  # as by a killed compiler
    left_behind.parent.mkdir(parents=True, exist_ok=True)
    left_behind.touch()
    # a small token budget gives the two workers different numbers of batches
    resources = Resources(num_workers=2, zero_stage=stage, batch_tokens=300)
    output = str(tmp_path / "zero")
    artifact = lm_ft(config_of(chain), ranked=chain.ranked, output=output, resources=resources)
    same_weights(weights(artifact), weights(tuned))
    assert artifact.metrics["dev"]["nll"] == pytest.approx(tuned.metrics["dev"]["nll"], rel=1e-3)


def test_layouts_and_micro_batches_give_one_loss(chain: Chain, tmp_path: Path) -> None:
    config = config_of(chain)
    variants: list[dict[str, Any]] = [
        {},
        {"packing": True},
        {"micro_batch": 1},
        {"batch_tokens": 200},
        {"packing": True, "micro_batch": 2},
    ]
    losses, gradients = [], []
    for number, resources in enumerate(variants):
        task = task_of(config, chain, tmp_path / str(number), **resources)
        total = torch.zeros(())
        for rank in (0, 1):
            for batch in task.batches(1, rank, 2):
                loss = task.loss(task.module, batch)
                loss.backward()
                total += loss.detach()
        losses.append(float(total))
        gradients.append({n: p.grad for n, p in task.module.named_parameters()})
    assert losses == pytest.approx([losses[0]] * len(variants), rel=1e-5)
    for other in gradients[1:]:
        assert furthest(gradients[0], other) < 1e-5


def test_the_control_has_equal_steps_and_answer_tokens(chain: Chain, tmp_path: Path) -> None:
    config = config_of(chain)
    task = task_of(config, chain, tmp_path / "a")
    control = task_of(dataclasses.replace(config, background=False), chain, tmp_path / "b")
    assert control.steps == task.steps
    assert [answer for _, answer in control.pairs] == [answer for _, answer in task.pairs]
    shown = [task.lm.tokenizer.decode(prompt) for prompt, _ in task.pairs]
    bare = [control.lm.tokenizer.decode(prompt) for prompt, _ in control.pairs]
    assert all("Background:" in text for text in shown)
    assert not any("Background:" in text for text in bare)
    # one chunk each: k_train instances of a train example, a single one of a dev example
    assert len(task.dev) == 12
    assert len(task.pairs) == 2 * (36 + 20) + 12


@pytest.mark.parametrize("form", ["merged", "adapter"])
def test_lora_exports(form: str, chain: Chain, tmp_path: Path) -> None:
    """Only the adapter is trained, and what leaves is base + adapter."""
    config = config_of(chain, lora_rank=2, lora_export=form)
    task = task_of(config, chain, tmp_path / "tokens")
    trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora" in name for name in trained)
    batch = task.batches(0, 0, 1)[0]
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    before = task.loss(task.module, batch).item()
    for _ in range(5):
        optimizer.zero_grad()
        task.loss(task.module, batch).backward()
        optimizer.step()
    after = task.loss(task.module, batch).item()
    assert after < before
    file = str(tmp_path / "best.safetensors")
    save_file({name: value.detach().contiguous() for name, value in trained.items()}, file)
    (tmp_path / "out" / "resume").mkdir(parents=True)
    export_model(config, file, str(tmp_path / "out"), {"k_train": 2})
    folder = tmp_path / "out" / "model"
    assert (folder / "adapter_config.json").exists() == (form == "adapter")
    if form == "adapter":
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
    assert task.loss(model.eval(), batch).item() == pytest.approx(after, rel=1e-4)


@pytest.mark.slow
def test_a_killed_training_ends_as_an_uninterrupted_one(
    tuned: Artifact, chain: Chain, tmp_path: Path
) -> None:
    """kill -9 of the driver and all it started, then the same call again on another cluster."""
    output = str(tmp_path / "killed")
    config = config_of(chain)

    def reached() -> list[str]:
        return [n for n in storage.list_folders(f"{output}/resume") if n.startswith("step-")]

    code = (
        "from radit_ray.engines.resources import Resources\n"
        "from radit_ray.stages.lm_ft import LmFtConfig, lm_ft\n"
        f"lm_ft(LmFtConfig(**{dataclasses.asdict(config)!r}), ranked={chain.ranked!r}, "
        f"output={output!r}, resources={ONE!r})\n"
    )
    killed(code, lambda: max(reached(), default="") >= "step-000003")
    assert read_manifest(output) is None
    assert max(reached()) < f"step-{STEPS:06d}"
    artifact = lm_ft(config, ranked=chain.ranked, output=output, resources=ONE)
    assert furthest(weights(artifact), weights(tuned)) == 0.0  # bit for bit
    assert artifact.metrics["dev"] == tuned.metrics["dev"]
    histories = [json.loads(Path(a.path, "history.json").read_text()) for a in (artifact, tuned)]
    assert [e.get("loss") for e in histories[0]] == [e.get("loss") for e in histories[1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k_train": 5}, r"k_train=5, but the ranked rows hold 4 chunks"),
        ({"lora_export": "merge"}, "lora_export='merge'"),
        ({"batch_size": 0}, "batch_size=0 of LmFtConfig; expected at least 1"),
    ],
)
def test_bad_configs_are_refused(
    chain: Chain, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = str(tmp_path / "out")
    with pytest.raises(InputError, match=message) as found:
        lm_ft(config_of(chain, **changes), ranked=chain.ranked, output=output)
    assert "\n" not in str(found.value)
    assert read_manifest(output) is None
