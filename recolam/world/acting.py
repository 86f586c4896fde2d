"""Who chooses the slates: at random, greedily with the true state, or a policy."""

from collections.abc import Callable

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, SlatePolicy
from recolam.errors import ConfigError
from recolam.world.environment import SimulatedUsers, World
from recolam.world.slates import random_slates

Act = Callable[[World, Observation, torch.Generator], Tensor]
"""The environment, what may be seen of it, and what to draw from -> slates int64 [B, K]."""


def at_random(world: World, observation: Observation, generator: torch.Generator) -> Tensor:
    """Every ordered slate of different items as likely as any other."""
    users, items = len(observation.length_B), world.tokens - FIRST_ITEM
    return random_slates(users, documents=items, slate=world.slate_size, generator=generator) + FIRST_ITEM


def greedily(world: World, observation: Observation, generator: torch.Generator) -> Tensor:
    """The slate of largest expected immediate reward, knowing the true state.

    Raises:
        ConfigError: users of another package, whose best slates nobody here knows.
    """
    if not isinstance(world, SimulatedUsers):
        raise ConfigError(f"{type(world).__name__} has no greedy slates: its users are another package's")
    return world.users.greedy_slate(world.state)


def by_policy(policy: SlatePolicy, *, is_sampled: bool) -> Act:
    """The policy's slates: sampled, or the most probable ones."""

    def act(world: World, observation: Observation, generator: torch.Generator) -> Tensor:
        return policy.slates(observation, k=world.slate_size, generator=generator if is_sampled else None)

    return act
