"""What a model is trained for: the next item, hidden items, or both.

Shape legend: B windows, T items of the longest, R rows taken from the batch, M targets, D width, N token ids.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, MASK
from recolam.sequence.loss import Seen, blockwise_cross_entropy
from recolam.sequence.model import SequenceModel
from recolam.sequence.ragged import Ragged
from recolam.sequence.sampled import Negatives, sampled_cross_entropy
from recolam.sequence.windows import Batch


@dataclass(frozen=True)
class Rivals:
    """What a target is judged against: all items, those that its window has not shown, or sampled ones."""

    negatives: Negatives | None = None
    are_unseen: bool = False


ALL = Rivals()


class Objective(Protocol):
    """A sum of losses over targets; the trainer divides by how many targets the whole batch has.

    Targets are chosen for the whole batch before it is split over micro-batches or processes, so that no split
    changes the gradient.
    """

    @property
    def name(self) -> str: ...

    @property
    def weight(self) -> float: ...

    def targets(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Which items are targets, bool [B, T] on the CPU."""

    def loss_sum(self, model: SequenceModel, batch: Batch, is_target_BT: Tensor) -> Tensor:
        """The sum of the losses at the targets, a scalar."""


@dataclass(frozen=True)
class NextItem:
    """Cross entropy of each item given those before it (SASRec's objective with the full softmax).

    rivals: what a target is judged against.
    """

    weight: float = 1.0
    rivals: Rivals = ALL
    name: ClassVar[str] = "next"

    def targets(self, batch: Batch, generator: torch.Generator) -> Tensor:
        return batch.is_item_BT

    def loss_sum(self, model: SequenceModel, batch: Batch, is_target_BT: Tensor) -> Tensor:
        # State t has read t items and foretells item t, counting from 0: the last item is never read.
        ragged = Ragged.of(batch.length_B, width=batch.item_BT.shape[1])
        table_ND = model.item_table()
        state_MD = model.states(batch.item_BT[:, :-1], ragged, time_BS=batch.time_BT, table_ND=table_ND)
        seen = Seen(batch.item_BT - FIRST_ITEM, ragged.cell_M // ragged.width, ragged.position_M)
        return _cross_entropy_sum(state_MD, ragged, table_ND, batch.item_BT, is_target_BT, seen, self.rivals)


@dataclass(frozen=True)
class MaskedItem:
    """Cross entropy of hidden items given all others (BERT4Rec, Sun et al. 2019, arXiv:1904.06690).

    Each item is hidden with probability `share`; the last item of every window always is, so that no window is
    without a target and the position that recommending needs is trained.
    """

    weight: float = 1.0
    share: float = 0.2
    rivals: Rivals = ALL
    name: ClassVar[str] = "masked"

    def targets(self, batch: Batch, generator: torch.Generator) -> Tensor:
        draw_BT = torch.rand(batch.item_BT.shape, generator=generator).to(batch.item_BT.device)
        is_last_BT = torch.arange(batch.item_BT.shape[1], device=draw_BT.device)[None] == batch.length_B[:, None] - 1
        return ((draw_BT < self.share) | is_last_BT) & batch.is_item_BT

    def loss_sum(self, model: SequenceModel, batch: Batch, is_target_BT: Tensor) -> Tensor:
        ragged = Ragged.of(batch.length_B + 1, width=batch.item_BT.shape[1] + 1)
        table_ND = model.item_table()
        hidden_BT = batch.item_BT.masked_fill(is_target_BT, MASK)
        time_BS = None if batch.time_BT is None else torch.cat([batch.time_BT, batch.time_BT[:, -1:]], dim=1)
        state_MD = model.states(hidden_BT, ragged, time_BS=time_BS, is_causal=False, table_ND=table_ND)
        on_item_BS = torch.nn.functional.pad(batch.item_BT, (1, 0))  # state t + 1 sits on item t
        is_target_BS = torch.nn.functional.pad(is_target_BT, (1, 0))
        window_M, all_M = ragged.cell_M // ragged.width, torch.full_like(ragged.cell_M, ragged.width)
        seen = Seen(hidden_BT - FIRST_ITEM, window_M, all_M)
        return _cross_entropy_sum(state_MD, ragged, table_ND, on_item_BS, is_target_BS, seen, self.rivals)


def _cross_entropy_sum(
    state_MD: Tensor,
    ragged: Ragged,
    table_ND: Tensor,
    item_BS: Tensor,
    is_target_BS: Tensor,
    seen: Seen,
    rivals: Rivals,
) -> Tensor:
    is_target_M, item_M = ragged.pack(is_target_BS), ragged.pack(item_BS)
    if not bool(is_target_M.all()):
        state_MD, item_M = state_MD[is_target_M], item_M[is_target_M]
        seen = replace(seen, window_M=seen.window_M[is_target_M], before_M=seen.before_M[is_target_M])
    if len(item_M) == 0:
        return state_MD.sum() * 0.0
    table_ND, target_M = table_ND[FIRST_ITEM:], item_M - FIRST_ITEM
    if rivals.negatives is not None:
        return sampled_cross_entropy(state_MD, table_ND, target_M, negatives=rivals.negatives, reduction="sum")
    kept = seen if rivals.are_unseen else None
    return blockwise_cross_entropy(state_MD, table_ND, target_M, seen=kept, reduction="sum")
