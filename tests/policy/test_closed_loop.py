"""Ranking by hand; the rungs of the ladder are the policies that their names promise."""

import pytest
import torch

from recolam.errors import ConfigError
from recolam.policy.closed_loop import ClosedLoopConfig, ladder, rank_agreement
from recolam.policy.returns import compare
from recolam.world.environment import SimulatedUsers
from recolam.world.fitted import FittedUsers
from tests.policy.small import small_agent
from tests.world.test_drift import fitted


def test_rank_agreement_by_hand() -> None:
    truth = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    assert rank_agreement(truth, truth) == {"spearman": pytest.approx(1.0), "regret_at_1": 0.0}
    swapped = {"a": 10.0, "b": 20.0, "c": 40.0, "d": 30.0}  # 1 - 6 x (1 + 1) / (4 x 15)
    assert rank_agreement(swapped, truth) == {"spearman": pytest.approx(0.8), "regret_at_1": 0.25}
    upside_down = {name: -value for name, value in truth.items()}
    assert rank_agreement(upside_down, truth) == {"spearman": pytest.approx(-1.0), "regret_at_1": 0.75}


@pytest.fixture(scope="module")
def users() -> FittedUsers:
    return fitted()


def test_the_ladder_has_ten_rungs_that_can_be_played(users: FittedUsers) -> None:
    agent = small_agent(tokens=users.tokens, max_len=8)
    policies = ladder(
        agent, {"learnt": small_agent(tokens=users.tokens, max_len=8, seed=1)}, users, torch.ones(users.tokens)
    )
    assert len(policies) >= 10
    environment = SimulatedUsers(users, horizon=3)
    found = compare(environment, policies, users=12, seeds=[0, 1])  # the environment refuses slates that are none
    assert len({row["mean"] for row in found.values()}) >= 8


def test_half_way_is_half_way(users: FittedUsers) -> None:
    first, second = (small_agent(tokens=users.tokens, max_len=8, seed=seed) for seed in (0, 1))
    observation = SimulatedUsers(users, horizon=3).reset(users=6, seed=0)
    generator = torch.Generator().manual_seed(0)
    same = ladder(first, {"learnt": first}, users, torch.ones(users.tokens))
    slate_BK = first.slates(observation, k=users.slate_size, generator=None)
    assert torch.equal(same["half_learnt"](observation, generator), slate_BK)
    other = ladder(first, {"learnt": second}, users, torch.ones(users.tokens))
    assert torch.equal(
        other["learnt"](observation, generator), second.slates(observation, k=users.slate_size, generator=None)
    )
    assert torch.equal(other["pretrained_greedy"](observation, generator), slate_BK)
    worst = other["reversed"](observation, generator)[:, 0]
    score_BN = first.slate_scores(observation)
    lowest_B = score_BN.masked_fill(torch.isinf(score_BN), torch.inf).amin(dim=1)
    assert torch.equal(score_BN.gather(1, worst[:, None])[:, 0], lowest_B)


def test_loops_that_prove_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="seeds of 2"):
        ClosedLoopConfig(seeds=1)
