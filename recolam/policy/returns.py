"""What a policy earns in a world: mean session return, several seeds, an interval over them.

Shape legend: B sessions, K slate.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.protocols import Environment, Observation
from recolam.errors import ConfigError
from recolam.intervals import student_t_interval
from recolam.policy.admission import NewToTheUser
from recolam.policy.agent import SlateAgent
from recolam.policy.constraints import SlateConstraints
from recolam.policy.exposure import Exposure
from recolam.seeding import derive
from recolam.world.assortment import LogitUsers, best_logit_slate
from recolam.world.environment import SimulatedUsers

Act = Callable[[Observation, torch.Generator], Tensor]
"""(observation, generator) -> slates int64 [B, K]."""


@torch.no_grad()
def session_returns(
    environment: Environment, act: Act, *, users: int, seed: int, exposure: Exposure | None = None
) -> float:
    """Mean over sessions of the undiscounted sum of rewards until the user leaves or the horizon cuts.

    Args:
        exposure: counts what users are shown until then.
    """
    observation = environment.reset(users=users, seed=seed)
    generator = torch.Generator(device=observation.history_BT.device).manual_seed(derive(seed, "act"))
    total, has_ended_B = 0.0, torch.zeros_like(observation.length_B, dtype=torch.bool)
    for _ in range(environment.horizon):
        if bool(has_ended_B.all()):
            break
        slate_BK = act(observation, generator)
        if exposure is not None:
            exposure.add(slate_BK[~has_ended_B])
        result = environment.step(slate_BK)
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


def static(score_N: Tensor, *, k: int, constraints: SlateConstraints | None = None) -> Act:
    """The same ranking for everybody, without what the user had: popularity."""
    admission = NewToTheUser(len(score_N), constraints)
    return lambda observation, _: admission.best(score_N.expand(len(observation.length_B), -1), observation, k=k)


def uniform(*, tokens: int, k: int, constraints: SlateConstraints | None = None) -> Act:
    """Slates of admissible items, all alike."""
    admission = NewToTheUser(tokens, constraints)
    return lambda observation, generator: admission.random(observation, k=k, generator=generator)


def myopic(environment: SimulatedUsers, constraints: SlateConstraints | None = None) -> Act:
    """The slate of largest expected immediate reward, knowing the true state: privileged, and short-sighted.

    Under constraints it is chosen item by item, which for quotas of new items beside caps of groups may miss the best.

    Raises:
        ConfigError: constraints, with users who are not known to choose by a multinomial logit.
    """
    users = environment.users
    if constraints is None:
        return lambda observation, _: users.greedy_slate(environment.state)
    if not isinstance(users, LogitUsers):
        raise ConfigError(f"users of type {type(users).__name__} have no best slate under constraints")
    admission = NewToTheUser(environment.tokens, constraints)

    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        weight_BN, reward_BN = users.logit_choice(environment.state)
        return best_logit_slate(
            weight_BN, reward_BN, k=environment.slate_size,
            pick=lambda gain_BN: admission.best(gain_BN, observation, k=environment.slate_size),
        )  # fmt: skip

    return act


def comparison_seeds(seed: int, count: int) -> list[int]:
    """The seeds on which policies are compared: the same for every policy of a run, and for its champion."""
    return [derive(seed, "policy comparison", index) for index in range(count)]


def compare(
    environment: Environment,
    policies: Mapping[str, Act],
    *,
    users: int,
    seeds: Sequence[int],
    exposures: Mapping[str, Exposure] | None = None,
) -> dict[str, dict[str, Any]]:
    """Every policy on the same seeds: {name: {"mean", "ci95": [low, high], "per_seed"}}, a t interval over seeds.

    Args:
        exposures: by policy, what counts its slates.

    Raises:
        DataError: fewer than two seeds.
    """
    table = {}
    for name, act in policies.items():
        exposure = (exposures or {}).get(name)
        per_seed = [session_returns(environment, act, users=users, seed=seed, exposure=exposure) for seed in seeds]
        table[name] = {"per_seed": per_seed, **student_t_interval(np.array(per_seed)).as_json()}
    return table
