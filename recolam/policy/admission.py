"""Which slates a baseline that scores items may show: one place for all of them.

Shape legend: B users, K slate, N token ids.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import over_catalogue


class Admission(Protocol):
    """From scores of items to slates of K different ones."""

    def best(self, score_BN: Tensor, observation: Observation, *, k: int) -> Tensor:
        """The slates of largest scores, int64 [B, K]."""

    def random(self, observation: Observation, *, k: int, generator: torch.Generator) -> Tensor:
        """Items drawn alike at every position, int64 [B, K]."""


class Anything:
    """Every slate of different items, whatever the user had before."""

    def __init__(self, *, tokens: int) -> None:
        self.items = tokens - FIRST_ITEM

    def best(self, score_BN: Tensor, observation: Observation, *, k: int) -> Tensor:
        return score_BN[:, FIRST_ITEM:].topk(k, dim=1).indices + FIRST_ITEM

    def random(self, observation: Observation, *, k: int, generator: torch.Generator) -> Tensor:
        draw_BN = torch.rand(len(observation.length_B), self.items, generator=generator)
        return draw_BN.topk(k, dim=1).indices + FIRST_ITEM


@dataclass(frozen=True, eq=False)
class NewToTheUser:
    """What a `SlateAgent` may show: nothing that the history holds, and under its constraints.

    Attributes:
        constraints: the policy's own; None for none.
    """

    tokens: int
    constraints: SlateConstraints | None = None

    def best(self, score_BN: Tensor, observation: Observation, *, k: int) -> Tensor:
        """Raises ValueError where a user has no slate that keeps the constraints."""
        return over_catalogue(score_BN, observation.history_BT, self.constraints).sample(k, None)

    def random(self, observation: Observation, *, k: int, generator: torch.Generator) -> Tensor:
        """Raises ValueError as `best`."""
        zero_BN = torch.zeros(len(observation.length_B), self.tokens, device=observation.length_B.device)
        return over_catalogue(zero_BN, observation.history_BT, self.constraints).sample(k, generator)
