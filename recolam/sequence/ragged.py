"""Sequences of different lengths as one row after the other, without padding.

Shape legend: B sequences, S cells of the padded rectangle, M real cells of all sequences, one sequence after the other.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Where each of M real cells stands in a [B, S] rectangle whose rows are filled from the left.

    Linear maps, norms and losses need no rectangle and run on the M cells; only attention looks along sequences.
    """

    length_B: Tensor  # real cells of each row, int64
    width: int  # S
    is_full: bool  # every cell is real: a rectangle is a reshape away

    @classmethod
    def of(cls, length_B: Tensor, *, width: int) -> "Ragged":
        return cls(length_B, width, is_full=bool((length_B == width).all()))

    @classmethod
    def full(cls, batch: int, width: int, *, device: torch.device) -> "Ragged":
        return cls(torch.full((batch,), width, device=device), width, is_full=True)

    @cached_property
    def is_real_BS(self) -> Tensor:
        return torch.arange(self.width, device=self.length_B.device)[None] < self.length_B[:, None]

    @cached_property
    def cell_M(self) -> Tensor:
        """Index of each real cell in the flattened rectangle."""
        return self.is_real_BS.flatten().nonzero()[:, 0]

    @cached_property
    def position_M(self) -> Tensor:
        """Place of each real cell in its own sequence, from 0."""
        return self.cell_M % self.width

    @cached_property
    def offset_B1(self) -> Tensor:
        """Where each sequence begins among the M cells, and M; int32, as variable-length attention wants it."""
        return torch.nn.functional.pad(self.length_B.cumsum(0), (1, 0)).to(torch.int32)

    def pack(self, value_BS: Tensor) -> Tensor:
        """[B, S, ...] -> [M, ...]."""
        flat = value_BS.flatten(0, 1)
        return flat if self.is_full else flat[self.cell_M]

    def pad(self, value_M: Tensor) -> Tensor:
        """[M, ...] -> [B, S, ...], zeros where nothing is."""
        shape = (len(self.length_B), self.width, *value_M.shape[1:])
        if self.is_full:
            return value_M.view(shape)
        flat = value_M.new_zeros((shape[0] * shape[1], *value_M.shape[1:]))
        return flat.index_copy(0, self.cell_M, value_M).view(shape)
