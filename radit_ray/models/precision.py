"""Which floating point format the weights get on this hardware.

In: "auto", "bf16", "fp16" or "fp32" and a device. Out: one of the three names, never "auto", so
that what ran can be recorded in a manifest; `torch_dtype` turns the name into a torch dtype.
"""

from __future__ import annotations

from pathlib import Path

import torch

from radit_ray.core.errors import InputError, nearest

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# CPU flags with which a bf16 matrix product is faster than an fp32 one; without them bf16 is
# emulated and slower.
_FAST_BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16"})
_MIN_CUDA_CAPABILITY = 8  # Ampere; earlier GPUs accept bf16 tensors and compute in fp32


def torch_dtype(precision: str) -> torch.dtype:
    """The torch dtype of "bf16", "fp16" or "fp32".

    >>> torch_dtype("bf16")
    torch.bfloat16
    """
    if precision not in _DTYPES:
        raise InputError(f"precision {precision!r} is unknown{nearest(precision, _DTYPES)}")
    return _DTYPES[precision]


def has_fast_bf16(device: str | torch.device = "cpu") -> bool:
    """Whether bf16 has hardware support on the device (CUDA: capability >= 8; CPU: AVX512_BF16 or
    AMX).
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= _MIN_CUDA_CAPABILITY
    return kind == "cpu" and not _FAST_BF16_FLAGS.isdisjoint(_cpu_flags())


def resolve_precision(precision: str = "auto", device: str | torch.device = "cpu") -> str:
    """ "auto" becomes bf16 where the hardware is fast at it, else fp32; any other known name stays.

    >>> resolve_precision("fp32", "cpu")
    'fp32'
    """
    check_precision(precision)
    if precision == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    return precision


def check_precision(precision: str, what: str = "precision") -> None:
    """InputError on a name that `resolve_precision` does not know."""
    known = ("auto", *_DTYPES)
    if precision not in known:
        raise InputError(f"{what} {precision!r} is unknown{nearest(precision, known)}")


def _cpu_flags() -> set[str]:
    """The CPU's feature flags; empty where the system does not list them (then fp32 is the safe
    answer).
    """
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return set()
    for line in info.read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()
