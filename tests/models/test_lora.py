"""Contract: an adapter starts as the base, trains alone, and its merged export is the tuned LM in a
plain folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from radit_ray.core.errors import InputError
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.lora import add_lora, export_lm

IDS = torch.arange(10, 40)[None]
RADIT = {"template": "radit", "eos": "</s>", "k": 10}


def trained(lm: CausalLM) -> torch.Tensor:
    """One step of SGD on every trainable weight; returns the logits after it."""
    loss = lm.model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.grad is not None:
                parameter -= 0.05 * parameter.grad
    # B starts at 0, so A needs a second step to matter; one is enough to differ from the base.
    return lm.model(input_ids=IDS).logits.detach()


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gpt2", "bert"])
def test_merged_export_is_the_tuned_model(
    lm_folder: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    base_logits = lm.model(input_ids=IDS).logits.detach()
    base_weights = {name: p.clone() for name, p in lm.model.named_parameters()}
    num_base = lm.num_parameters
    lm.model = add_lora(lm.model, rank=4, alpha=8)
    torch.testing.assert_close(lm.model(input_ids=IDS).logits, base_logits, atol=1e-6, rtol=0)
    trainable = [name for name, p in lm.model.named_parameters() if p.requires_grad]
    assert trainable
    assert all(".lora_" in name for name in trainable)
    tuned = trained(lm)
    assert (tuned - base_logits).abs().max() > 1e-2

    export_lm(lm, tmp_path / "out", radit=RADIT)
    torch.testing.assert_close(lm.model(input_ids=IDS).logits, tuned, atol=0, rtol=0)  # untouched
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    # 1e-4: W + BA rounded once against two products summed
    torch.testing.assert_close(exported(input_ids=IDS).logits, tuned, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in exported.parameters()) == num_base  # ties survive
    assert json.loads((tmp_path / "out" / "radit.json").read_text()) == RADIT
    assert "2310.01352" in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out").glob("*.bin"))
    again = CausalLM.load(str(tmp_path / "out"))
    assert (again.bos_ids, again.eos_id, again.base_dropout) == (
        lm.bos_ids,
        lm.eos_id,
        lm.base_dropout,
    )
    for name, parameter in lm.model.get_base_model().named_parameters():
        if ".lora_" not in name:
            assert torch.equal(parameter, base_weights[name.replace(".base_layer.", ".")])


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "bert"])
def test_export_without_adapter_keeps_ties(
    lm_folder: Callable[[str], str], tmp_path: Path, kind: str
) -> None:
    lm = CausalLM.load(lm_folder(kind))
    tuned = trained(lm)
    export_lm(lm, tmp_path, radit=RADIT)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(exported(input_ids=IDS).logits, tuned, atol=1e-6, rtol=0)
    head, table = exported.get_output_embeddings(), exported.get_input_embeddings()
    assert head.weight.data_ptr() == table.weight.data_ptr()


def test_weights_leave_in_the_bases_precision(
    lm_folder: Callable[[str], str], tmp_path: Path
) -> None:
    base = AutoModelForCausalLM.from_pretrained(lm_folder("qwen2"), dtype=torch.bfloat16)
    base.save_pretrained(tmp_path / "base")
    CausalLM.load(lm_folder("qwen2")).tokenizer.save_pretrained(tmp_path / "base")
    lm = CausalLM.load(str(tmp_path / "base"), precision="fp32")
    assert next(lm.model.parameters()).dtype == torch.float32
    export_lm(lm, tmp_path / "out", radit=RADIT)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_adapter_export_loads_with_peft(lm_folder: Callable[[str], str], tmp_path: Path) -> None:
    from peft import PeftModel

    lm = CausalLM.load(lm_folder("llama"))
    with pytest.raises(InputError, match="the LM has no LoRA"):
        export_lm(lm, tmp_path / "none", radit=RADIT, adapter=True)
    lm.model = add_lora(lm.model, rank=2, alpha=4, targets=["q_proj", "v_proj"])
    tuned = trained(lm)
    export_lm(lm, tmp_path / "adapter", radit=RADIT, adapter=True)
    base = AutoModelForCausalLM.from_pretrained(lm_folder("llama"))
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(loaded(input_ids=IDS).logits, tuned, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match="is a LoRA adapter without its base model"):
        CausalLM.load(str(tmp_path / "adapter"))


def test_bad_settings(lm_folder: Callable[[str], str]) -> None:
    model = CausalLM.load(lm_folder("llama")).model
    with pytest.raises(InputError, match="rank is 0"):
        add_lora(model, rank=0, alpha=1)
    with pytest.raises(InputError, match=r"target 'query' names no layer.*q_proj"):
        add_lora(model, rank=1, alpha=1, targets=["query"])
