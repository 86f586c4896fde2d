"""A rollout as a lesson: the states before its slates, from one pass, and what each slate was worth.

Shape legend: B sessions, H steps, T history, S states, D width, N token ids, K slate, C candidates.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recolam.policy.rollout import Rollout
from recolam.sequence.model import SequenceModel


@dataclass(frozen=True)
class Replayed:
    """What one pass over a rollout's final histories gives.

    Attributes:
        state_SD: the state before each active step, in the order of `tensor[is_active_BH]`.
        seen_ST: what the history held then, padded with 0.
        table_ND: item embeddings.
        value_BH, after_B: the value head at every step, and after the last one.
    """

    state_SD: Tensor
    seen_ST: Tensor
    table_ND: Tensor
    value_BH: Tensor
    after_B: Tensor


def replay(model: SequenceModel, rollout: Rollout) -> Replayed:
    """Every state of a rollout from one pass: a causal model's earlier states do not depend on what came later."""
    longest = max(1, int(rollout.end_length_B.max()))
    history_BT = rollout.history_BT[:, :longest]
    table_ND = model.item_table()
    state_BSD = model(history_BT, table_ND=table_ND)
    rows_B1 = torch.arange(len(history_BT), device=history_BT.device)[:, None]
    state_BHD = state_BSD[rows_B1, rollout.length_BH]
    is_past_BHT = torch.arange(longest, device=history_BT.device) < rollout.length_BH[..., None]
    return Replayed(
        state_SD=state_BHD[rollout.is_active_BH],
        seen_ST=(history_BT[:, None] * is_past_BHT)[rollout.is_active_BH],
        table_ND=table_ND,
        value_BH=model.value_head(state_BHD)[..., 0],
        after_B=model.value_head(state_BSD[rows_B1[:, 0], rollout.end_length_B])[:, 0],
    )


@dataclass(frozen=True)
class Lesson:
    """A shard's rollout and what each slate of it was worth.

    Attributes:
        return_BH: discounted returns; what a session that the horizon cut would have earned is the value head's guess.
        after_B: that guess; 0 where the user left.
        weight_SK: what each position's log-probability is weighted by.
        reference: the pretrained policy's pass.
    """

    rollout: Rollout
    return_BH: Tensor
    after_B: Tensor
    weight_SK: Tensor
    reference: Replayed

    @property
    def slate_SK(self) -> Tensor:
        return self.rollout.slate_BHK[self.rollout.is_active_BH]

    @property
    def is_clicked_SK(self) -> Tensor:
        return self.rollout.is_clicked_BHK[self.rollout.is_active_BH]

    @cached_property
    def candidate_SC(self) -> Tensor | None:
        candidate_BHC = self.rollout.candidate_BHC
        return None if candidate_BHC is None else candidate_BHC[self.rollout.is_active_BH]

    @property
    def old_log_prob_S(self) -> Tensor:
        return self.rollout.log_prob_BH[self.rollout.is_active_BH]


def earned_before(rollout: Rollout) -> Tensor:
    """What was earned at the positions before each one, float [S, K]; a reward belongs to its step's clicks alike."""
    is_clicked_SK = rollout.is_clicked_BHK[rollout.is_active_BH].float()
    reward_S = rollout.reward_BH[rollout.is_active_BH]
    earned_SK = is_clicked_SK * (reward_S / is_clicked_SK.sum(dim=1).clamp(min=1.0))[:, None]
    return earned_SK.cumsum(dim=1) - earned_SK
