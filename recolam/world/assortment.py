"""The best slate of a multinomial-logit user, for baselines that know the truth."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from recolam.world.runtime import Value


@runtime_checkable
class LogitUsers(Protocol):
    """Users who choose one item of a slate, or none, by a multinomial logit."""

    def logit_choice(self, state: "Value") -> tuple[Tensor, Tensor]:
        """Every item's weight in the choice, where no click has weight 1, and its reward; [B, N] or [1, N] each."""


def best_logit_slate(
    weight_BN: Tensor, reward_BN: Tensor, *, k: int, pick: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """argmax over sets S of k items of sum_S weight * reward / (1 + sum_S weight), int64 [B, K].

    Dinkelbach's iteration on the value: the best set for a value v is the top k by weight * (reward - v)
    (Rusmevichientong, Shen & Shmoys 2010, https://doi.org/10.1287/opre.1100.0866). From the first set's own value on,
    values rise until the best one is found; where weights differ by powers of ten that takes as many rounds as there
    are items between the heaviest and the best. Items of weight 0 come last.

    Args:
        pick: the top k of gains [B, N] where not every set may be shown, int64 [B, K].
    """
    value_B1 = torch.zeros(len(weight_BN), 1, device=weight_BN.device)
    is_first = True
    while True:
        gain_BN = weight_BN * (reward_BN - value_B1)
        if pick is None:
            slate_BK = gain_BN.masked_fill(weight_BN == 0, -torch.inf).topk(k, dim=1).indices
        else:
            slate_BK = pick(gain_BN)
        shown_BK = weight_BN.gather(1, slate_BK)
        earned_B1 = (shown_BK * reward_BN.expand_as(weight_BN).gather(1, slate_BK)).sum(dim=1, keepdim=True)
        found_B1 = earned_B1 / (1.0 + shown_BK.sum(dim=1, keepdim=True))
        if not is_first and not bool((found_B1 > value_B1).any()):
            return slate_BK
        value_B1 = found_B1 if is_first else torch.maximum(found_B1, value_B1)
        is_first = False
