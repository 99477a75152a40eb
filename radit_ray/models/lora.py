"""Low-rank adapters for LM-ft, and the export of a tuned LM as a plain Hugging Face folder.

In: a `CausalLM`. Out: a folder with safetensors in the base's precision, the tokenizer,
`radit.json` (how to prompt it) and a short model card; `AutoModelForCausalLM.from_pretrained(path)`
loads it without this library. An adapter is merged on the way out, without touching the model in
memory, so that training can go on after an export.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from radit_ray.core.errors import InputError

if TYPE_CHECKING:
    from radit_ray.models.causal_lm import CausalLM

RADIT_FILE = "radit.json"
_CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [RA-DIT]
---
# {title}

Fine-tuned from `{base}` to use retrieved text, after RA-DIT (LM-ft, arXiv 2310.01352): the loss is
on the answer only, with one retrieved chunk per training instance in front of the question.

`{file}` holds the prompt template and its markers. The settings in short:

```json
{settings}
```
"""


def add_lora(
    model: Any, *, rank: int, alpha: float, targets: str | list[str] = "all-linear"
) -> Any:
    """The model with trainable low-rank adapters (scale alpha / rank) and frozen base weights;
    starts out equal to the base.

    targets: "all-linear" (every linear layer but the head) or names of layers. No dropout, so that
    workers agree.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    if rank < 1:
        raise InputError(f"LoRA rank is {rank}, expected at least 1")
    names = [
        name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))
    ]
    wanted = [] if targets == "all-linear" else [targets] if isinstance(targets, str) else targets
    for target in wanted:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = sorted({name.rsplit(".", 1)[-1] for name in names})
            raise InputError(
                f"LoRA target {target!r} names no layer; expected all-linear or of "
                f"{', '.join(known)}"
            )
    transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2 stores W^T
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=targets if targets == "all-linear" else wanted,
        fan_in_fan_out=transposed,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def export_lm(
    lm: CausalLM, path: str | Path, *, radit: dict[str, Any], adapter: bool = False
) -> None:
    """Writes the folder; `radit` becomes radit.json.

    adapter: only the LoRA weights, for peft; else the whole model with the adapter merged. Dropout
    probabilities of the config, which are 0 while this library runs, return to what the base had.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    model, has_adapter = lm.model, hasattr(lm.model, "peft_config")
    if adapter:
        if not has_adapter:
            raise InputError(
                f"adapter export to {str(path)!r}: the LM has no LoRA; train with LoRA or export "
                "it whole"
            )
        model.save_pretrained(folder)
    else:
        base = model.get_base_model() if has_adapter else model
        base.save_pretrained(folder, state_dict=_cast(merged_state(model), lm.base_dtype))
        _restore_config(folder / "config.json", lm)
    lm.tokenizer.save_pretrained(folder)
    settings = json.dumps(radit, indent=2, ensure_ascii=False)
    (folder / RADIT_FILE).write_text(settings + "\n", encoding="utf-8")
    card = _CARD.format(title=folder.name, base=lm.name, file=RADIT_FILE, settings=settings)
    (folder / "README.md").write_text(card, encoding="utf-8")


def merged_state(model: Any) -> dict[str, Tensor]:
    """The base model's state dict with W + (alpha / rank) B A where there are adapters; tied
    tensors stay one tensor.
    """
    from peft.tuners.lora import LoraLayer

    if not hasattr(model, "peft_config"):
        return dict(model.state_dict())
    base, active = model.get_base_model(), model.active_adapter
    deltas = {
        f"{name}.weight": module.get_delta_weight(active)
        for name, module in base.named_modules()
        if isinstance(module, LoraLayer)
    }
    state: dict[str, Tensor] = {}
    for key, tensor in base.state_dict().items():
        if ".lora_" in key:
            continue
        plain = key.replace(".base_layer.", ".")
        # Summed in fp32: a small update would vanish in bf16 before the final rounding does its
        # part.
        state[plain] = tensor.float() + deltas[plain].float() if plain in deltas else tensor
    return state


def _cast(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Floating tensors in `dtype` on the CPU; two names of one tensor stay that."""
    done: dict[tuple[int, torch.Size], Tensor] = {}
    result = {}
    for key, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in done:
            target = dtype if tensor.is_floating_point() else tensor.dtype
            done[place] = tensor.detach().to("cpu", target).contiguous()
        result[key] = done[place]
    return result


def _restore_config(path: Path, lm: CausalLM) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    config.update(lm.base_dropout)
    config["dtype"] = str(lm.base_dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
