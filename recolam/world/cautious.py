"""Fitted users whose rewards are charged for what the ensemble does not know.

    charged reward = reward - penalty * disagreement(state, slate) + bonus * mean over the slate of rareness_i

Disagreement is the standard deviation over members of the slate's expected reward (MOPO, Yu et al. 2020,
https://arxiv.org/abs/2005.13239, charges the same for dynamics). Members agree on what the logs are full of, so the
penalty alone pulls a policy towards the items that the logging policy showed most; DORL (Gao et al. 2023,
https://arxiv.org/abs/2307.04571) adds an entropy term against that. Here, with b_i the share of item i among all items
that were shown in the logs (one added to each count) and N items,

    rareness_i = -log(N b_i) / log N

0 for an item that was shown as often as the average, above for rarer ones. Its mean under a policy pi is
(H(pi) + KL(pi || b)) / log N - 1: the policy's own entropy and its distance from the logs. An average of 0 keeps the
bonus from paying for long sessions as such.

Only what is learnt from is charged; returns that are judged are not.
Shape legend: B users, K slate, N token ids.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.fitted import FittedUsers
from recolam.world.runtime import Value


def rareness(shown_N: Tensor) -> Tensor:
    """The term above from how often each token was shown, float [N]; 0 for special tokens."""
    count_I = shown_N[FIRST_ITEM:].double() + 1.0
    if len(count_I) < 2:
        return torch.zeros(len(shown_N))
    rare_I = -(len(count_I) * count_I / count_I.sum()).log() / math.log(len(count_I))
    return torch.cat([torch.zeros(FIRST_ITEM, dtype=torch.float64), rare_I]).float()


class CautiousUsers:
    """A `UserModel`: the users' answers and dynamics, with rewards charged as above.

    Args:
        rareness_N: from `rareness`.
        penalty: reward per unit of disagreement, which is in the reward's unit: a number of standard deviations.
        bonus: reward per unit of rareness.
    """

    def __init__(self, users: FittedUsers, rareness_N: Tensor, *, penalty: float, bonus: float) -> None:
        self.users, self.rareness_N, self.penalty, self.bonus = users, rareness_N, penalty, bonus
        self.slate_size, self.tokens, self.returning = users.slate_size, users.tokens, users.returning
        self.state_spec, self.initial_state, self.next_state = users.state_spec, users.initial_state, users.next_state
        self.greedy_slate = users.greedy_slate  # the users' own best slate: charges are left out of it
        self.return_time, self.disagreement = users.return_time, users.disagreement

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        answer = self.users.respond(state, slate_BK, generator, is_available_BK=is_available_BK)
        return {**answer, "reward": answer["reward"] - self.charge(state, slate_BK)}

    def charge(self, state: Value, slate_BK: Tensor) -> Tensor:
        """What is taken off the reward of showing a slate, float [B]."""
        charge_B = -self.bonus * self.rareness_N[slate_BK].mean(dim=1)
        if self.penalty:
            charge_B = charge_B + self.penalty * self.users.disagreement(state, slate_BK)
        return charge_B
