"""Charges change what is learnt from and nothing else; the arithmetic is done by hand."""

import math

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.cautious import CautiousUsers, rareness
from recolam.world.environment import SimulatedUsers
from recolam.world.fitted import FittedUsers
from recolam.world.response import CONTEXT_FEATURES
from tests.world.test_drift import fitted


def users_who_disagree() -> FittedUsers:
    users = fitted(members=3)
    with torch.no_grad():
        users.response.reward_E.copy_(torch.tensor([1.0, 2.0, 4.0]))
        users.response.leaving_context_EF[:, 2:] = 0.4
    return users


def test_rareness_by_hand() -> None:
    """Four items shown 0, 1, 1 and 4 times: shares 1, 2, 2 and 5 of 10."""
    shown_N = torch.tensor([9, 9, 9, 0, 1, 1, 4])
    expected = [-math.log(4 * share) / math.log(4) for share in (0.1, 0.2, 0.2, 0.5)]
    assert rareness(shown_N).tolist() == pytest.approx([0.0, 0.0, 0.0, *expected])
    assert rareness(torch.full((7,), 5)).tolist() == pytest.approx([0.0] * 7)  # all alike: none is rare
    uniform = rareness(torch.tensor([0, 0, 0, 30, 30, 30, 500]))[FIRST_ITEM:]
    assert float(uniform[3]) < 0 < float(uniform[0])


def test_only_the_reward_is_charged() -> None:
    users = users_who_disagree()
    shown_N = torch.arange(users.tokens)
    cautious = CautiousUsers(users, rareness(shown_N), penalty=2.0, bonus=0.3)
    plain, charged = SimulatedUsers(users, horizon=4), SimulatedUsers(cautious, horizon=4)
    plain.reset(users=30, seed=1)
    charged.reset(users=30, seed=1)
    generator = torch.Generator().manual_seed(0)
    paid = 0.0
    for _ in range(4):
        slate_BK = torch.rand(30, users.tokens - FIRST_ITEM, generator=generator).topk(users.slate_size).indices
        slate_BK = slate_BK + FIRST_ITEM
        state, is_active_B = charged.state, charged.state.get("is_active")
        found = users.response.member_expected_rewards(state.get("taste"), state.get("context"), slate_BK)
        charge_B = 2.0 * found.std(dim=0, correction=0) - 0.3 * rareness(shown_N)[slate_BK].mean(dim=1)
        one, other = plain.step(slate_BK), charged.step(slate_BK)
        assert torch.equal(one.choice_B, other.choice_B)
        assert torch.equal(one.terminated_B, other.terminated_B)
        assert torch.allclose(one.reward_B - charge_B * is_active_B, other.reward_B, atol=1e-5)
        for name in ("history", "length", "taste", "context"):  # the session's rewards so far are those without charge
            assert torch.equal(plain.state.get(name), charged.state.get(name)), name
        paid += float(charge_B.detach().abs().sum())
    assert paid > 1.0
    assert float(plain.state.get("context")[:, 2].max()) > 0


def test_no_charge_is_the_plain_world() -> None:
    users = users_who_disagree()
    cautious = CautiousUsers(users, rareness(torch.arange(users.tokens)), penalty=0.0, bonus=0.0)
    state = SimulatedUsers(cautious, horizon=4)
    state.reset(users=5, seed=0)
    slate_BK = torch.arange(FIRST_ITEM, FIRST_ITEM + users.slate_size).expand(5, -1)
    assert bool((cautious.charge(state.state, slate_BK) == 0).all())
    assert state.state.get("context").shape == (5, CONTEXT_FEATURES)


def test_what_other_rewards_read_is_the_users_own() -> None:
    users = users_who_disagree()
    cautious = CautiousUsers(users, rareness(torch.ones(users.tokens)), penalty=1.0, bonus=0.0)
    environment = SimulatedUsers(cautious, horizon=4)
    environment.reset(users=5, seed=1)
    slate_BK = torch.arange(FIRST_ITEM, FIRST_ITEM + users.slate_size).expand(5, -1)
    expected_B = users.disagreement(environment.state, slate_BK)
    assert torch.equal(cautious.disagreement(environment.state, slate_BK), expected_B)
    assert cautious.returning is users.returning
    with pytest.raises(ValueError, match="does not tell when they came back"):
        cautious.return_time(environment.state, torch.Generator())
