"""Steps of simulated users a second."""

import time
from dataclasses import dataclass
from typing import Any

import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.progress import Progress
from recolam.seeding import torch_generator
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates


@dataclass(frozen=True)
class SimulateBench:
    """`users` sessions side by side, `steps` slates each, of `slate` random items out of `items`."""

    users: int = 1000
    items: int = 100
    topics: int = 20
    slate: int = 2
    steps: int = 50


def simulate(config: SimulateBench) -> dict[str, Any]:
    """Steps of simulated users a second: interest evolution, nobody leaves, slates drawn beforehand."""
    if config.slate > config.items:
        raise ConfigError(f"slates of {config.slate} out of {config.items} items")
    generator = torch_generator(0, "bench simulate")
    tokens = FIRST_ITEM + config.items
    corpus = Corpus(
        feature_NZ=torch.randn(tokens, config.topics, generator=generator),
        quality_N=torch.rand(tokens, generator=generator) * 2 - 1,
        length_N=torch.full((tokens,), 2.0),
    )
    start = StartStates(
        history_PT=torch.zeros(config.users, 8, dtype=torch.int64),
        length_P=torch.zeros(config.users, dtype=torch.int64),
        interest_PZ=torch.randn(config.users, config.topics, generator=generator),
    )
    world = InterestEvolutionConfig(slate_size=config.slate, budget=float("inf"))
    environment = SimulatedUsers(InterestEvolutionUsers(world, corpus, start), horizon=config.steps)
    drawn = torch.rand(config.steps, config.users, config.items, generator=generator).topk(config.slate).indices
    environment.reset(users=config.users, seed=0)
    begin = time.perf_counter()
    with torch.no_grad(), Progress("bench simulate", total=config.steps) as progress:
        for slate_BK in drawn + FIRST_ITEM:
            environment.step(slate_BK)
            progress.advance()
    return {"user_steps_per_s": config.users * config.steps / (time.perf_counter() - begin)}
