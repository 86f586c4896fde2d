"""One seed, many named streams: adding a consumer never shifts the numbers another one draws."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called `names`, a pure function of both."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    return np.random.default_rng(derive(seed, *names))


def torch_generator(seed: int, *names: str | int, device: "torch.device | str" = "cpu") -> "torch.Generator":
    import torch  # table-handling rooms import this module and must not load torch

    return torch.Generator(device=device).manual_seed(derive(seed, *names))
