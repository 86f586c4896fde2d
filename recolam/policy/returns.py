"""What a policy earns in a world: mean session return, several seeds, an interval over them.

Shape legend: B sessions, K slate.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.protocols import Environment, Observation
from recolam.intervals import student_t_interval
from recolam.policy.agent import SlateAgent, admissible
from recolam.policy.plackett_luce import sample
from recolam.seeding import derive
from recolam.world.environment import SimulatedUsers

Act = Callable[[Observation, torch.Generator], Tensor]
"""(observation, generator) -> slates int64 [B, K]."""


@torch.no_grad()
def session_returns(environment: Environment, act: Act, *, users: int, seed: int) -> float:
    """Mean over sessions of the undiscounted sum of rewards until the user leaves or the horizon cuts."""
    observation = environment.reset(users=users, seed=seed)
    generator = torch.Generator(device=observation.history_BT.device).manual_seed(derive(seed, "act"))
    total, has_ended_B = 0.0, torch.zeros_like(observation.length_B, dtype=torch.bool)
    for _ in range(environment.horizon):
        if bool(has_ended_B.all()):
            break
        result = environment.step(act(observation, generator))
        total += float(result.reward_B.sum())
        observation, has_ended_B = result.observation, has_ended_B | result.terminated_B | result.truncated_B
    return total / users


def greedy(agent: SlateAgent, *, k: int) -> Act:
    """The most probable slates; for as long as the agent's weights stay as they are, like `sampled`."""
    following = agent.following()
    return lambda observation, _: following(observation).sample(k, None)


def sampled(agent: SlateAgent, *, k: int) -> Act:
    following = agent.following()
    return lambda observation, generator: following(observation).sample(k, generator)


def static(score_N: Tensor, *, k: int) -> Act:
    """The same ranking for everybody, without what the user had: popularity."""

    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        return sample(admissible(score_N.expand(len(observation.length_B), -1), observation.history_BT), k, None)

    return act


def uniform(*, tokens: int, k: int) -> Act:
    """Slates of admissible items, all alike."""

    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        score_BN = torch.zeros(len(observation.length_B), tokens, device=observation.length_B.device)
        return sample(admissible(score_BN, observation.history_BT), k, generator)

    return act


def myopic(environment: SimulatedUsers) -> Act:
    """The slate of largest expected immediate reward, knowing the true state: privileged, and short-sighted."""
    return lambda observation, generator: environment.users.greedy_slate(environment.state)


def comparison_seeds(seed: int, count: int) -> list[int]:
    """The seeds on which policies are compared: the same for every policy of a run, and for its champion."""
    return [derive(seed, "policy comparison", index) for index in range(count)]


def compare(
    environment: Environment, policies: dict[str, Act], *, users: int, seeds: Sequence[int]
) -> dict[str, dict[str, Any]]:
    """Every policy on the same seeds: {name: {"mean", "ci95": [low, high], "per_seed"}}, a t interval over seeds.

    Raises:
        DataError: fewer than two seeds.
    """
    table = {}
    for name, act in policies.items():
        per_seed = [session_returns(environment, act, users=users, seed=seed) for seed in seeds]
        table[name] = {"per_seed": per_seed, **student_t_interval(np.array(per_seed)).as_json()}
    return table
