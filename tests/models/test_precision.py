"""Contract: "auto" becomes a recorded name that the hardware is fast at; anything unknown is
refused with the nearest.
"""

from __future__ import annotations

import pytest
import torch

from radit_ray.core.errors import InputError
from radit_ray.models import precision


def test_auto_follows_the_cpu_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"avx2", "amx_bf16"})
    assert precision.resolve_precision("auto") == "bf16"
    monkeypatch.setattr(precision, "_cpu_flags", lambda: {"avx2", "avx512f"})
    assert precision.resolve_precision("auto") == "fp32"
    assert precision.resolve_precision("bf16") == "bf16"


def test_names_and_types() -> None:
    assert precision.torch_dtype("fp16") == torch.float16
    assert precision.torch_dtype(precision.resolve_precision("auto")) in {
        torch.bfloat16,
        torch.float32,
    }
    with pytest.raises(InputError, match="did you mean 'bf16'"):
        precision.resolve_precision("bf-16")
    with pytest.raises(InputError, match="one of: bf16, fp16, fp32"):
        precision.torch_dtype("auto")
