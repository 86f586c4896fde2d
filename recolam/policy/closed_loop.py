"""The closed loop: where the users who wrote the log are known, is a fitted world good enough to learn in?

A policy is trained in the true world and, with the same start, budget and seed, in the fitted one, without and with
the charge for what the ensemble does not know; all are scored in the true world, on held-out users and seeds that no
training saw. Then policies of many qualities are ranked by the fitted world and by the true one.
Shape legend: B sessions, K slate, N token ids.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from recolam.contracts.protocols import Observation
from recolam.errors import ConfigError
from recolam.intervals import student_t_interval
from recolam.policy import returns
from recolam.policy.agent import SlateAgent, admissible
from recolam.policy.plackett_luce import sample
from recolam.policy.returns import Act
from recolam.policy.training import PolicyTrainingConfig, train_policy
from recolam.progress import say
from recolam.seeding import derive
from recolam.world.fitted import FittedUsers
from recolam.world.saved import SavedWorld

DIRECT, FITTED, CAUTIOUS = "learnt_from_true_users", "learnt_from_fitted_users", "learnt_cautiously"


@dataclass(frozen=True)
class ClosedLoopConfig:
    """How much to train and to play.

    Attributes:
        iterations: of every training; 0 leaves the loop out.
        users, seeds: sessions a policy plays in each world.
        penalty, bonus: charged in the cautious training (see `recolam.world.cautious`).
        is_cautious: whether to train and rank with the charge, too.
    """

    iterations: int = 0
    users: int = 300
    seeds: int = 3
    penalty: float = 1.0
    bonus: float = 0.05
    is_cautious: bool = False

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.users < 1 or self.seeds < 2:
            raise ConfigError("a closed loop needs iterations of 0 or more, users of 1 or more, seeds of 2 or more")


def closed_loop(
    world: SavedWorld,
    fresh: Callable[[], SlateAgent],
    popularity_N: Tensor,
    config: ClosedLoopConfig,
    training: PolicyTrainingConfig,
    *,
    seed: int,
    scratch: Path,
) -> dict[str, Any]:
    """Trains, scores and ranks as the head of this file says.

    Args:
        fresh: the policy before training.
        popularity_N: how often each token was taken.

    Returns:
        share: by training in the fitted world, {mean, ci95, per_seed} of its true return over the direct one's (a t
            interval over the seeds that score, not over trainings), and gain: the same of what each earns above random
            slates. policies: by name, the mean return with the `true` users, with the `fitted` ones and, if cautious,
            with the `charged` ones. ranking: by the world that ranks, spearman and regret_at_1 (see `rank_agreement`).

    Raises:
        ValueError: the world's true users are not known.
    """
    if world.truth is None:
        raise ValueError("the users who wrote this log are not known")
    charge: dict[str, Any] = {"penalty": config.penalty, "bonus": config.bonus}
    places: dict[str, dict[str, Any]] = {DIRECT: {"kind": world.truth}, FITTED: {"kind": "fitted"}}
    if config.is_cautious:
        places[CAUTIOUS] = {"kind": "fitted", **charge}
    agents = {}
    for name, place in places.items():
        say(f"closed loop: {name.replace('_', ' ')}")
        agents[name] = fresh()
        environment = world.environment(population="train", **place)
        steps = replace(training, iterations=config.iterations)
        train_policy(agents[name], environment, steps, seed=derive(seed, "policy"), scratch=scratch / name)
    say("closed loop: ranking policies")
    seeds = [derive(seed, "closed loop", index) for index in range(config.seeds)]
    judges: dict[str, dict[str, Any]] = {"true": {"kind": world.truth}, "fitted": {"kind": "fitted"}}
    if config.is_cautious:
        judges["charged"] = {"kind": "fitted", **charge}
    users = world.users(kind="fitted", population="held_out")
    if not isinstance(users, FittedUsers):
        raise ValueError(f"users of type {type(users).__name__} are not fitted ones")
    policies = ladder(fresh(), agents, users, popularity_N)
    tables = {
        judge: returns.compare(
            world.environment(population="held_out", **place), policies, users=config.users, seeds=seeds
        )
        for judge, place in judges.items()
    }
    mean = {judge: {name: float(row["mean"]) for name, row in table.items()} for judge, table in tables.items()}
    shares = {name: _shares(tables["true"], name) for name in agents if name != DIRECT}
    return {
        "share": shares,
        "policies": {name: {judge: mean[judge][name] for judge in judges} for name in policies},
        "ranking": {judge: rank_agreement(mean[judge], mean["true"]) for judge in judges if judge != "true"},
        "iterations": config.iterations,
        "users": config.users,
        "seeds": config.seeds,
        "penalty": config.penalty,
        "bonus": config.bonus,
    }


def ladder(
    untrained: SlateAgent, trained: Mapping[str, SlateAgent], users: FittedUsers, popularity_N: Tensor
) -> dict[str, Act]:
    """Policies of many qualities, from the worst that one can think of to the trained ones."""
    k, tokens = users.slate_size, users.tokens
    random, greedy = returns.uniform(tokens=tokens, k=k), returns.greedy(untrained, k=k)
    tempered = replace(untrained, temperature=5.0 * untrained.temperature)
    policies = {
        "random": random,
        "popularity": returns.static(popularity_N, k=k),
        "unpopular": returns.static(-popularity_N, k=k),
        "reversed": _reversed(untrained, k=k),
        "half_random": _mixed(random, greedy),
        "tempered": returns.sampled(tempered, k=k),
        "untrained": returns.sampled(untrained, k=k),
        "pretrained_greedy": greedy,
        "best_next_click": lambda observation, _: users.best_slates(observation),
    }
    for name, agent in trained.items():
        policies[name] = returns.greedy(agent, k=k)
        policies[f"half_{name}"] = returns.greedy(_between(untrained, agent), k=k)
    return policies


def rank_agreement(guess: Mapping[str, float], truth: Mapping[str, float]) -> dict[str, float]:
    """How well guessed values rank policies.

    Returns:
        spearman: rank correlation (Spearman 1904); regret_at_1: what the policy that is guessed best earns less than
        the best, as a share of the best.
    """
    names = list(truth)
    best = max(truth.values())
    chosen = max(names, key=lambda name: guess[name])
    rank = spearmanr([guess[name] for name in names], [truth[name] for name in names]).statistic
    return {"spearman": float(rank), "regret_at_1": (best - truth[chosen]) / best}


def _shares(table: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
    own_S, direct_S, random_S = (np.array(table[policy]["per_seed"]) for policy in (name, DIRECT, "random"))
    share_S, gain_S = own_S / direct_S, (own_S - random_S) / (direct_S - random_S)
    return {
        **student_t_interval(share_S).as_json(),
        "per_seed": share_S.tolist(),
        "gain": student_t_interval(gain_S).as_json(),
    }


def _reversed(agent: SlateAgent, *, k: int) -> Act:
    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        score_BN = -agent.scores(observation.history_BT, observation.length_B)
        return sample(admissible(score_BN, observation.history_BT), k, None)

    return act


def _mixed(first: Act, second: Act) -> Act:
    """For every slate a coin decides which of the two makes it."""

    def act(observation: Observation, generator: torch.Generator) -> Tensor:
        one_BK, other_BK = first(observation, generator), second(observation, generator)
        is_first_B1 = torch.rand(len(one_BK), 1, generator=generator, device=generator.device) < 0.5
        return torch.where(is_first_B1, one_BK, other_BK)

    return act


def _between(first: SlateAgent, second: SlateAgent) -> SlateAgent:
    """The policy whose weights are the means of two others'."""
    made, other = copy.deepcopy(first), second.networks().state_dict()
    mixed = {name: (value + other[name]) / 2 for name, value in made.networks().state_dict().items()}
    made.networks().load_state_dict(mixed)
    return made
