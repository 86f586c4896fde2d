"""How much of a planted reward comes back from choices, and what a policy that follows the learnt one earns.

Shape legend: S states, N items, A actions.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from recolam.bench.planted_rewards import Planted, choc_kale_grid, satisfaction_ladder
from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import DataError
from recolam.intervals import student_t_interval
from recolam.policy.agent import SlateAgent
from recolam.policy.returns import greedy, myopic, session_returns, uniform
from recolam.policy.training import PolicyTrainingConfig, train_policy
from recolam.progress import Progress
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.world.environment import SimulatedUsers
from recolam.world.finite_users import FiniteUsers
from recolam.world.inverse_rl import learn_reward, plan_of
from recolam.world.learnt_reward import LearntReward, RewardedUsers
from recolam.world.slate_world import SlateProblem
from recolam.world.soft_planning import up_to_shaping

WORLDS: dict[str, Callable[[int], Planted]] = {
    "satisfaction ladder": satisfaction_ladder,
    "choc and kale": choc_kale_grid,
}
HORIZON = 15
EVALUATED = 2000  # sessions that a return is the mean of


@dataclass(frozen=True)
class InverseRLBench:
    """`rows` logged choices in each of `seeds` worlds of each kind; a quarter as many choose the ridge.

    `policies` trains a slate policy twice in each, on the true and on the learnt reward, for `iterations`.
    """

    seeds: int = 6
    rows: int = 12_000
    policies: bool = True
    iterations: int = 30


def inverse_rl(config: InverseRLBench) -> dict[str, Any]:
    """For each kind of world, over seeds, mean with 95 % t interval and every seed:

    - spearman: rank correlation of learnt and true reward, up to shaping, over all actions in states that the log does
      not hold.
    - planned: true return of the slates planned exactly for the learnt reward, over that of the best.
    - planned_gain: the same of what they earn above the logging policy.
    - trained: true return of a policy trained by policy gradient on the learnt reward, over that of one trained on the
      true reward; for the scale of it, random (slates) and myopic (the slates of largest reward now) over the same.

    Raises:
        DataError: fewer than two seeds.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in WORLDS}
    if config.seeds < 2:
        raise DataError(f"an interval over {config.seeds} seed")
    with Progress("bench inverse-rl", total=config.seeds * len(WORLDS)) as progress:
        for name, make in WORLDS.items():
            for seed in range(config.seeds):
                for what, value in measured(make(seed), config, seed=seed).items():
                    found[name].setdefault(what, []).append(value)
                progress.advance()
    return {
        "worlds": {
            name: {
                what: {**student_t_interval(np.array(values)).as_json(), "least": min(values), "per_seed": values}
                for what, values in table.items()
            }
            for name, table in found.items()
        }
    }


def measured(planted: Planted, config: InverseRLBench, *, seed: int) -> dict[str, float]:
    """The figures of one world."""
    train, validation = planted.log(config.rows, seed=10 + seed), planted.log(max(1, config.rows // 4), seed=20 + seed)
    fitted = learn_reward(train, validation, world=planted.world, state_SD=planted.state_SD, item_NF=planted.item_NF)
    reward_SN = fitted.reward.catalogue(planted.state_SD)
    true_SA, found_SA = planted.world.with_none(planted.reward_SN), planted.world.with_none(reward_SN)
    planned, planned_gain = kept(planted, reward_SN)
    figures = {
        "spearman": agreement(planted, found_SA, true_SA), "planned": planned, "planned_gain": planned_gain,
    }  # fmt: skip
    if config.policies:
        figures |= trained(planted, fitted.reward, iterations=config.iterations, seed=seed)
    return figures


def agreement(planted: Planted, reward_SA: Tensor, other_SA: Tensor, *, is_canonical: bool = True) -> float:
    """Spearman correlation over the held-out states and all actions, up to shaping."""
    if is_canonical:
        reward_SA, other_SA = (
            up_to_shaping(each, transition_SAZ=planted.world.transition_SAZ, discount=planted.world.discount)
            for each in (reward_SA, other_SA)
        )
    held_out = planted.is_held_out_S
    return float(spearmanr(reward_SA[held_out].flatten(), other_SA[held_out].flatten()).statistic)


def kept(planted: Planted, reward_SN: Tensor) -> tuple[float, float]:
    """True return of the slates planned for this reward (and for the choices that it predicts): its share of the best,
    and the share of what the best slates gain over the logging policy. Uniform over first states."""
    world = planted.world
    true_SA, found_SA = world.with_none(planted.reward_SN), world.with_none(reward_SN)
    truth = SlateProblem(world, plan_of(planted.reward_SN, world).q_SA, true_SA)
    found = SlateProblem(world, plan_of(reward_SN, world).q_SA, found_SA)
    best, got, logging = (
        float(value_S.mean())
        for value_S in (truth.values(truth.best_slates()), truth.values(found.best_slates()), truth.values_of_logging())
    )
    return got / best, (got - logging) / (best - logging)


def trained(planted: Planted, reward: LearntReward, *, iterations: int, seed: int) -> dict[str, float]:
    """True returns of `HORIZON` slates, over that of a policy trained on the true reward: of one trained alike on the
    learnt reward, of random slates, and of the slates of largest true reward now. Policies see histories only."""
    users = FiniteUsers(planted.world, plan_of(planted.reward_SN, planted.world).q_SA, planted.reward_SN, capacity=2)
    learnt = RewardedUsers(users, reward.by_token(), features=lambda state: planted.state_SD[state.get("place")])
    true_world, k = SimulatedUsers(users, horizon=HORIZON), users.slate_size
    agents = {
        "best": _trained_in(true_world, iterations=iterations, seed=seed),
        "trained": _trained_in(SimulatedUsers(learnt, horizon=HORIZON), iterations=iterations, seed=seed),
    }
    acts = {name: greedy(agent, k=k) for name, agent in agents.items()}
    acts |= {"random": uniform(tokens=users.tokens, k=k), "myopic": myopic(true_world)}
    earned = {name: session_returns(true_world, act, users=EVALUATED, seed=1000 + seed) for name, act in acts.items()}
    best = earned.pop("best")
    return {name: value / best for name, value in earned.items()}


def _trained_in(world: SimulatedUsers, *, iterations: int, seed: int) -> SlateAgent:
    agent = new_agent(world.tokens, slate=world.slate_size, seed=seed)
    config = PolicyTrainingConfig(
        iterations=iterations, users=32, gamma=1.0, learning_rate=0.03, item_rate=1.0, validation_seeds=1
    )
    with tempfile.TemporaryDirectory() as scratch:
        train_policy(agent, world, config, seed=seed, scratch=Path(scratch))
    return agent


def new_agent(tokens: int, *, slate: int, seed: int) -> SlateAgent:
    """A small policy with weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = SequenceConfig(tokens=tokens, max_len=2, width=16, blocks=1, heads=2, dropout=0.0)
        model = SequenceModel(shape).eval()
    items = tuple(f"item-{index}" for index in range(tokens - FIRST_ITEM))
    return SlateAgent(model, 1.0, items, {"slate_size": slate, "domain": "main"})
