"""Gradients of shards, added in their order, whoever computed them: the steps of one process, bit for bit.

Shape legend: P parameters' numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from recolam.sequence.distributed import Processes


def flat_gradient(parameters: Sequence[Tensor]) -> Tensor:
    """The gradients that these parameters hold, one after the other, 0 where there is none; float [P]."""
    return torch.cat([
        (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()
        for parameter in parameters
    ])  # fmt: skip


def leave_sum(parameters: Sequence[Tensor], gradients: Sequence[Tensor], processes: Processes, *, shards: int) -> None:
    """Leaves the sum of all shards' flat gradients in the parameters; `gradients` are those of this process's own."""
    gradient_P = processes.all_blocks(torch.stack(list(gradients)), count=shards).sum(dim=0)
    sizes = [parameter.numel() for parameter in parameters]
    for parameter, part in zip(parameters, gradient_P.split(sizes), strict=True):
        parameter.grad = part.view_as(parameter)
