"""Small worlds for tests."""

import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import Corpus, InterestEvolutionConfig, InterestEvolutionUsers, StartStates


def small_users(*, items: int = 20, topics: int = 4, bank: int = 50, **constants: float) -> InterestEvolutionUsers:
    generator = torch.Generator().manual_seed(0)
    tokens = FIRST_ITEM + items
    corpus = Corpus(
        feature_NZ=torch.randn(tokens, topics, generator=generator),
        quality_N=torch.rand(tokens, generator=generator) * 2 - 1,
        length_N=torch.full((tokens,), 2.0),
    )
    start = StartStates(
        history_PT=torch.zeros(bank, 10, dtype=torch.int64),
        length_P=torch.zeros(bank, dtype=torch.int64),
        interest_PZ=torch.randn(bank, topics, generator=generator),
    )
    return InterestEvolutionUsers(InterestEvolutionConfig(slate_size=3, **constants), corpus, start)


def small_environment(*, horizon: int = 6, **constants: float) -> SimulatedUsers:
    return SimulatedUsers(small_users(**constants), horizon=horizon)


def fixed_slates(users: int, first: int = FIRST_ITEM) -> torch.Tensor:
    return torch.arange(first, first + 3).expand(users, -1)
