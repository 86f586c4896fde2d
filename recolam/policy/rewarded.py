"""An environment under another reward: what is played stays as it was, what it earns is composed.

Shape legend: B sessions, A those of them that have not ended, K slate, G groups, X shown items with a group.
"""

from dataclasses import replace

import torch
from torch import Tensor

from recolam.contracts.protocols import Observation, StepResult
from recolam.policy.reward import Reward, Step
from recolam.policy.rollout import Sessions
from recolam.seeding import derive
from recolam.world.environment import SimulatedUsers
from recolam.world.runtime import Value


def under(reward: Reward, environment: SimulatedUsers) -> Sessions:
    """The environment under this reward; as it is, where that is its own. Raises ConfigError as `RewardedSessions`."""
    return environment if reward.is_worlds_own else RewardedSessions(environment, reward)


class RewardedSessions:
    """An environment whose reward is a composed one; all else is the environment's.

    Raises:
        ConfigError: see `Reward.check`.
    """

    def __init__(self, environment: SimulatedUsers, reward: Reward) -> None:
        reward.check(environment.users)
        self.environment, self.reward = environment, reward
        self.users, self.horizon = environment.users, environment.horizon
        self._before: Observation | None = None
        self._shown_G = self._nothing_shown()

    @property
    def tokens(self) -> int:
        return self.environment.tokens

    @property
    def slate_size(self) -> int:
        return self.environment.slate_size

    @property
    def state(self) -> Value:
        return self.environment.state

    def reset(self, *, users: int, seed: int) -> Observation:
        self._shown_G = self._nothing_shown()
        self._before = self.environment.reset(users=users, seed=seed)
        device = self._before.length_B.device
        self._generator = torch.Generator(device=device).manual_seed(derive(seed, "reward"))
        return self._before

    def replicate(self, replicas: int) -> Observation:
        self._before = self.environment.replicate(replicas)
        return self._before

    @torch.no_grad()
    def step(self, slate_BK: Tensor) -> StepResult:
        if self._before is None:
            raise ValueError("the environment was not reset")
        before, state = self._before, self.environment.state
        is_active_B = state.get("is_active")
        result = self.environment.step(slate_BK)
        after = self.environment.state
        reward_B = self.reward(
            Step(self.users, before, state, after, slate_BK, result, is_active_B, self._shown_G, self._generator)
        )
        self._count(slate_BK[is_active_B])
        self._before = result.observation
        return replace(result, reward_B=reward_B)

    def _nothing_shown(self) -> Tensor | None:
        group_N = self.reward.surroundings.group_N
        return None if group_N is None else torch.zeros(max(int(group_N.max()), 0) + 1, device=group_N.device)

    def _count(self, slate_AK: Tensor) -> None:
        if self._shown_G is not None and self.reward.surroundings.group_N is not None:
            group_X = self.reward.surroundings.group_N[slate_AK].flatten()
            self._shown_G = self._shown_G + torch.bincount(group_X[group_X >= 0], minlength=len(self._shown_G))
