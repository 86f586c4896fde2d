"""Steps of a slate policy a second, with the transformer in the loop: kept keys and values against whole histories.

Shape legend: B users, T history, K slate, N token ids.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.errors import ConfigError
from recolam.policy.agent import SlateAgent
from recolam.policy.distribution import SlateDistribution
from recolam.progress import Progress
from recolam.seeding import torch_generator
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.training import resolve_device
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates

_TOPICS = 20
_WINDOW = 5  # steps around a mark whose median is told


@dataclass(frozen=True)
class RolloutBench:
    """`users` sessions of `steps` slates of `slate` out of `items`; a model of `width` and `blocks`."""

    users: int = 256
    items: int = 1000
    slate: int = 5
    steps: int = 105
    width: int = 64
    blocks: int = 2
    repeats: int = 3
    device: str = "auto"


def rollout(config: RolloutBench) -> dict[str, Any]:
    """Milliseconds of a policy's step at several lengths, both ways in turn, and where the time of a step goes.

    Users choose one item a slate, so that histories grow by one a step; nobody leaves.

    Raises:
        ConfigError: fewer than 10 steps, or slates larger than the catalogue leaves room for.
    """
    if config.steps < 2 * _WINDOW or config.items < config.slate + config.steps:
        raise ConfigError(f"{config.steps} steps with slates of {config.slate} out of {config.items} items")
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
                found = _play(environment, begin(), config, seed=seed, device=device)
                seconds[name].append(found["policy"])
                if name == "incremental":
                    shares = {part: shares[part] + sum(found[part]) for part in shares}
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
) -> dict[str, list[float]]:
    """Seconds of every step, by part."""
    observation = environment.reset(users=config.users, seed=seed)
    generator = torch.Generator(device=device).manual_seed(seed)
    seconds: dict[str, list[float]] = {"policy": [], "world": []}
    for _ in range(config.steps):
        with _timed(seconds["policy"], device):
            slate_BK = act(observation).sample(config.slate, generator)
        with _timed(seconds["world"], device):
            observation = environment.step(slate_BK).observation
    return seconds


@contextmanager
def _timed(into: list[float], device: torch.device) -> Iterator[None]:
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    into.append(time.perf_counter() - begin)
