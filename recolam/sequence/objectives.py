"""The two self-supervised objectives and their weighted sum.

Shape legend: B windows, T positions, M real positions, D width, N token ids.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, MASK
from recolam.sequence.loss import blockwise_cross_entropy
from recolam.sequence.model import SequenceModel


def next_item_loss(model: SequenceModel, item_BT: Tensor, length_B: Tensor) -> Tensor:
    """Mean cross entropy of each item given those before it (SASRec's objective with the full softmax)."""
    table_ND = model.item_table()
    is_target_BT = _real(item_BT, length_B) & (item_BT >= FIRST_ITEM)
    state_BTD = model(item_BT, table_ND=table_ND)[:, :-1]  # state t predicts item t + 1
    return blockwise_cross_entropy(state_BTD[is_target_BT], table_ND[FIRST_ITEM:], item_BT[is_target_BT] - FIRST_ITEM)


def masked_item_loss(
    model: SequenceModel, item_BT: Tensor, length_B: Tensor, *, mask_share: float, generator: torch.Generator
) -> Tensor:
    """Mean cross entropy of hidden items given all others (BERT4Rec, Sun et al. 2019, arXiv:1904.06690).

    Each real item is hidden with probability `mask_share`; the last item of every window always is, so that no
    window is without a target and the position that recommending needs is trained.
    """
    table_ND = model.item_table()
    draw_BT = torch.rand(item_BT.shape, generator=generator).to(item_BT.device)
    is_last_BT = torch.arange(item_BT.shape[1], device=item_BT.device)[None] == length_B[:, None] - 1
    is_masked_BT = ((draw_BT < mask_share) | is_last_BT) & _real(item_BT, length_B) & (item_BT >= FIRST_ITEM)
    hidden_BT = item_BT.masked_fill(is_masked_BT, MASK)
    state_BTD = model(hidden_BT, length_B, is_causal=False, table_ND=table_ND)[:, 1:]  # state t sits on item t
    return blockwise_cross_entropy(state_BTD[is_masked_BT], table_ND[FIRST_ITEM:], item_BT[is_masked_BT] - FIRST_ITEM)


def pretraining_loss(
    model: SequenceModel,
    item_BT: Tensor,
    length_B: Tensor,
    *,
    next_weight: float,
    masked_weight: float,
    mask_share: float,
    generator: torch.Generator,
) -> Tensor:
    """next_weight x next-item + masked_weight x masked-item; an objective of weight 0 is not computed."""
    loss = item_BT.new_zeros((), dtype=torch.float32)
    if next_weight:
        loss = loss + next_weight * next_item_loss(model, item_BT, length_B)
    if masked_weight:
        loss = loss + masked_weight * masked_item_loss(
            model, item_BT, length_B, mask_share=mask_share, generator=generator
        )
    return loss


def _real(item_BT: Tensor, length_B: Tensor) -> Tensor:
    return torch.arange(item_BT.shape[1], device=item_BT.device)[None] < length_B[:, None]
