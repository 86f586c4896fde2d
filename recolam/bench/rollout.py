"""Steps of a slate policy a second, with the transformer in the loop, alone and in training; where the time goes.

A step costs less where keys and values of earlier ones are kept than where whole histories are read again.

Shape legend: B users, T history, K slate, N token ids.
"""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, StepResult
from recolam.errors import ConfigError
from recolam.policy.agent import SlateAgent
from recolam.policy.clock import Clock
from recolam.policy.config import PolicyTrainingConfig
from recolam.policy.distribution import SlateDistribution
from recolam.policy.exposure import CollapseFloors
from recolam.policy.training import train_policy
from recolam.progress import Progress
from recolam.seeding import torch_generator
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.training import resolve_device
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates
from recolam.world.runtime import Value

_TOPICS = 20
_WINDOW = 5  # steps around a mark whose median is told
_REPLICAS = PolicyTrainingConfig.replicas


@dataclass(frozen=True)
class RolloutBench:
    """`users` sessions of `steps` slates of `slate` out of `items`; a model of `width` and `blocks`.

    Each way is played `repeats` times. The trainer takes `iterations`, of as many sessions each, and validates as
    `PolicyTrainingConfig` has it; `device` is auto, cpu or cuda.
    """

    users: int = 256
    items: int = 1000
    slate: int = 5
    steps: int = 105
    width: int = 64
    blocks: int = 2
    repeats: int = 3
    iterations: int = 4
    device: str = "auto"


def rollout(config: RolloutBench) -> dict[str, Any]:
    """Milliseconds of a policy's step at several lengths, both ways in turn; user-steps a second of the whole training.

    Users choose one item a slate, so that histories grow by one a step; nobody leaves. Shares are of the time in the
    world, in the policy, in learning, and in validation, which has its own steps of world and policy.

    Raises:
        ConfigError: fewer than 10 steps, slates larger than the catalogue leaves room for, or fewer users than the
            trainer deals out.
    """
    if config.steps < 2 * _WINDOW or config.items < config.slate + config.steps:
        raise ConfigError(f"{config.steps} steps with slates of {config.slate} out of {config.items} items")
    training = PolicyTrainingConfig(
        iterations=config.iterations, users=config.users // _REPLICAS, validate_every=config.iterations,
        floors=CollapseFloors(effective_slates=0.0, entropy=0.0),
    )  # fmt: skip
    device = resolve_device(config.device)
    agent, environment = _agent(config, device), _environment(config, device)
    ways: dict[str, Callable[[], Callable[[Observation], SlateDistribution]]] = {
        "incremental": agent.following,
        "re-encoding": lambda: agent.distribution,
    }
    seconds: dict[str, list[list[float]]] = {name: [] for name in ways}
    shares = {"world": 0.0, "policy": 0.0}
    with Progress("bench rollout", total=2 * config.repeats) as progress:
        for seed in range(config.repeats):
            for name, begin in ways.items():
                clock = _play(environment, begin(), config, seed=seed, device=device)
                seconds[name].append(clock.seconds["policy"])
                if name == "incremental":
                    shares = {part: shares[part] + clock.total(part) for part in shares}
                progress.advance()
    marks = [mark for mark in (5, 20, 50, 100) if mark + _WINDOW <= config.steps]
    milliseconds = {name: {str(mark): 1e3 * _median(runs, mark) for mark in marks} for name, runs in seconds.items()}
    total = sum(shares.values())
    last = str(marks[-1])
    return {
        "milliseconds": milliseconds,
        "policy_steps_per_s": {name: 1e3 * config.users / values[last] for name, values in milliseconds.items()},
        "ratio": milliseconds["re-encoding"][last] / milliseconds["incremental"][last],
        "ratio_at_step": int(last),
        "shares_of_rollout": {part: value / total for part, value in shares.items()},
        "training": _train(agent, environment, training, device),
        "ran_on": str(device),
    }


def _median(runs: list[list[float]], mark: int) -> float:
    return statistics.median(value for run in runs for value in run[mark - _WINDOW : mark + _WINDOW])


def _agent(config: RolloutBench, device: torch.device) -> SlateAgent:
    sizes = SequenceConfig(
        tokens=FIRST_ITEM + config.items, max_len=config.steps + 1, width=config.width, blocks=config.blocks, heads=2
    )
    model = SequenceModel(sizes).eval().to(device)
    return SlateAgent(model, 1.0, tuple(f"item {row}" for row in range(config.items)), {"slate_size": config.slate})


def _environment(config: RolloutBench, device: torch.device) -> SimulatedUsers:
    generator = torch_generator(0, "bench rollout")
    tokens = FIRST_ITEM + config.items
    corpus = Corpus(
        feature_NZ=torch.randn(tokens, _TOPICS, generator=generator).to(device),
        quality_N=torch.zeros(tokens, device=device),
        length_N=torch.ones(tokens, device=device),
    )
    start = StartStates(
        history_PT=torch.zeros(1, config.steps + 1, dtype=torch.int64, device=device),
        length_P=torch.zeros(1, dtype=torch.int64, device=device),
        interest_PZ=torch.zeros(1, _TOPICS, device=device),
    )
    constants = InterestEvolutionConfig(slate_size=config.slate, no_click=-1e9, budget=float("inf"))
    return SimulatedUsers(InterestEvolutionUsers(constants, corpus, start), horizon=config.steps, device=device)


@torch.no_grad()
def _play(
    environment: SimulatedUsers,
    act: Callable[[Observation], SlateDistribution],
    config: RolloutBench,
    *,
    seed: int,
    device: torch.device,
) -> Clock:
    """Seconds of every step, by part."""
    observation = environment.reset(users=config.users, seed=seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    clock = Clock(device)
    for _ in range(config.steps):
        with clock.part("policy"):
            slate_BK = act(observation).sample(config.slate, generator)
        with clock.part("world"):
            observation = environment.step(slate_BK).observation
    return clock


def _train(
    agent: SlateAgent, environment: SimulatedUsers, config: PolicyTrainingConfig, device: torch.device
) -> dict[str, Any]:
    """The trainer's own iterations; validations count as often as `PolicyTrainingConfig` has them."""
    clock = Clock(device)
    with tempfile.TemporaryDirectory() as folder:
        train_policy(agent, _TimedSessions(environment, clock), config, seed=0, scratch=Path(folder), clock=clock)
    seconds = {part: clock.total(part) / config.iterations for part in ("world", "policy", "learning")}
    validation_s = clock.total("validation") / len(clock.seconds["validation"])
    seconds["validation"] = validation_s / PolicyTrainingConfig.validate_every
    total = sum(seconds.values())
    steps = config.users * config.replicas * environment.horizon
    return {
        "user_steps_per_s": steps / total,
        "user_steps_per_s_but_for_validation": steps / (total - seconds["validation"]),
        "iteration_s": total - seconds["validation"],
        "validation_s": validation_s,
        "shares": {part: value / total for part, value in seconds.items()},
    }


class _TimedSessions:
    """An environment whose time counts as "world"."""

    def __init__(self, environment: SimulatedUsers, clock: Clock) -> None:
        self.environment, self.clock = environment, clock
        self.users, self.horizon = environment.users, environment.horizon
        self.tokens, self.slate_size = environment.tokens, environment.slate_size

    @property
    def state(self) -> Value:
        return self.environment.state

    def reset(self, *, users: int, seed: int) -> Observation:
        with self.clock.part("world"):
            return self.environment.reset(users=users, seed=seed)

    def replicate(self, replicas: int) -> Observation:
        with self.clock.part("world"):
            return self.environment.replicate(replicas)

    def step(self, slate_BK: Tensor) -> StepResult:
        with self.clock.part("world"):
            return self.environment.step(slate_BK)
