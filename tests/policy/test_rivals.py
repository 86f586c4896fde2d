import dataclasses

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Sight
from recolam.policy.bandit import LinearBandit
from recolam.policy.random_log import Budget, random_log
from recolam.policy.response import Answers, ResponseModel
from recolam.policy.returns import session_returns
from recolam.policy.rivals import bandit, popularity, slateq
from recolam.policy.slateq_agent import Replay, SlateQAgent, SlateQConfig, Transitions
from recolam.world.boredom import BORED, BoredomUsers, draw_items
from recolam.world.environment import SimulatedUsers
from recolam.world.sight import sighted
from tests.policy.sighted import choc_world


def two_item_bandit(*, noise: float) -> LinearBandit:
    """No numbers of the user; two items, each with a number of its own."""
    item_NV = torch.cat([torch.zeros(FIRST_ITEM, 2), torch.eye(2)])
    return LinearBandit(item_NV, user_size=0, ridge=2.0, noise=noise)


def played(item: int, rewards: list[float]) -> Answers:
    count = len(rewards)
    reward_S = torch.tensor(rewards)
    slate_SK = torch.full((count, 1), FIRST_ITEM + item)
    return Answers(torch.zeros(count, 0), slate_SK, reward_S[:, None] > 0, reward_S)


def test_the_bandit_s_belief_is_ridge_regression_by_hand() -> None:
    learner = two_item_bandit(noise=0.5)
    learner.learn(played(0, [1.0, 3.0, 0.0, 2.0]))
    assert learner._mean_D.tolist() == pytest.approx([6 / (2 + 4), 0.0])
    covariance_DD = learner._spread_DD.T @ learner._spread_DD
    torch.testing.assert_close(covariance_DD, 0.5 * torch.diag(torch.tensor([1 / 6, 1 / 2])))


def test_the_bandit_explores_what_it_does_not_know() -> None:
    learner = two_item_bandit(noise=0.5)
    learner.learn(played(0, [0.2] * 200))
    sight = Sight(
        torch.zeros(4000, 1, dtype=torch.int64), torch.zeros(4000, dtype=torch.int64),
        user_BF=torch.zeros(4000, 0), facet_BZX=torch.zeros(4000, 1, 1),
    )  # fmt: skip
    assert (learner.slates(sight, k=1, generator=None) == FIRST_ITEM).all()
    is_unknown_B = learner.slates(sight, k=1, generator=torch.Generator().manual_seed(0))[:, 0] == FIRST_ITEM + 1
    # P(Normal(0, 1/4) > 0.2) = 0.345; the known item's deviation is a 20th of it
    assert float(is_unknown_B.float().mean()) == pytest.approx(0.345, abs=0.03)


def slateq_agent() -> SlateQAgent:
    torch.manual_seed(0)
    feature_NG = torch.rand(FIRST_ITEM + 5, 2)
    response = ResponseModel(feature_NG, feature_NG, user_size=2, slate_size=2)
    return SlateQAgent(response, feature_NG, SlateQConfig(gamma=0.5), state_size=3, slate_size=2)


def test_slateq_s_target_looks_at_the_next_state_alone() -> None:
    agent = slateq_agent()
    state_SP, next_SP, next_user_SF = torch.randn(1, 3), torch.randn(1, 3), torch.rand(1, 2)
    slate_SK, is_clicked_SK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 3]]), torch.tensor([[True, False]])
    answers = Answers(torch.rand(1, 2), slate_SK, is_clicked_SK, torch.tensor([3.0]))
    loss = agent.loss(Transitions(answers, state_SP, next_SP, next_user_SF, torch.tensor([False])))
    value_SK, nothing_S = agent._values(agent.values, state_SP, slate_SK)
    share = 0.5 * float(agent.state_value(next_SP, next_user_SF)) / 2
    picked, nothing = float(value_SK[0, 0].detach()), float(nothing_S[0].detach())
    wanted = ((picked - 3.0 - share) ** 2 + (nothing - share) ** 2) / 2
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    ended = agent.loss(Transitions(answers, state_SP, next_SP, next_user_SF, torch.tensor([True])))
    assert float(ended.detach()) == pytest.approx(((picked - 3.0) ** 2 + nothing**2) / 2, rel=1e-5)


def test_slateq_shows_the_slate_of_largest_value() -> None:
    """Among all ordered slates, by the decomposition's own sum."""
    agent = slateq_agent()
    state_BP, user_BF = torch.randn(1, 3), torch.rand(1, 2)
    candidate_BC, label_BC, nothing_B = agent._labels(agent.target, state_BP, user_BF)
    seen_K = agent.response.examination_K
    sums = [
        2 * nothing_B[0] + label_BC[0, first] * seen_K[0] + label_BC[0, second] * seen_K[1]
        for first in range(5)
        for second in range(5)
        if first != second
    ]
    assert float(agent.state_value(state_BP, user_BF)) == pytest.approx(float(max(sums)), rel=1e-5)
    sight = Sight(
        torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64),
        user_BF=user_BF, facet_BZX=state_BP[:, 2:, None],
    )  # fmt: skip
    sight_state = torch.cat([user_BF, state_BP[:, 2:]], dim=1)
    _, shown_BC, _ = agent._labels(agent.values, sight_state, user_BF)
    slate_BK = agent.slates(sight, k=2, generator=None)
    assert torch.equal(slate_BK, candidate_BC.gather(1, shown_BC.topk(2, dim=1).indices))


def some_transitions(count: int, *, first: int) -> Transitions:
    number_S = torch.arange(first, first + count, dtype=torch.float32)
    answers = Answers(number_S[:, None], number_S[:, None].long(), number_S[:, None] > 3, number_S)
    states = (number_S[:, None], number_S[:, None] + 1, number_S[:, None] + 2)
    return Transitions(answers, *states, number_S > 5)


def test_a_replay_holds_what_joining_all_parts_gives() -> None:
    """Parts of uneven sizes, so that the memory grows at some and has room for others."""
    replay, parts, first = Replay(), [], 0
    for count in (3, 1, 1, 5, 20, 2):
        parts.append(some_transitions(count, first=first))
        replay.add(parts[-1])
        first += count
        known, joined = replay.transitions, Transitions.joined(parts)
        assert len(known.answers) == first
        for column, wanted in zip(known.columns, joined.columns, strict=True):
            assert torch.equal(column, wanted)


def test_popularity_shows_what_is_clicked_most() -> None:
    """Of 30 items 20 have no features at all: nobody clicks these."""
    feature_NZ = draw_items(30, topics=10, seed=0)
    feature_NZ[FIRST_ITEM + 10 :] = 0.0
    users = BoredomUsers(dataclasses.replace(BORED, slate_size=4), feature_NZ)
    world = sighted(SimulatedUsers(users, horizon=20), is_full=True)
    slate_BK = popularity(world, random_log(world, Budget(steps=4000, users=100), seed=0))(
        world.reset(users=50, seed=5), torch.Generator().manual_seed(0)
    )
    assert (slate_BK == slate_BK[0]).all()
    assert len(set(slate_BK[0].tolist())) == 4
    assert int(slate_BK.max()) < FIRST_ITEM + 10


@pytest.mark.slow
def test_slateq_sees_further_than_the_bandit() -> None:
    world = choc_world(horizon=60)
    budget = Budget(steps=12_000, users=50)
    earned = {
        "slateq": session_returns(world, slateq(world, budget, SlateQConfig(gamma=0.95), seed=0), users=300, seed=3),
        "bandit": session_returns(world, bandit(world, budget, seed=0), users=300, seed=3),
    }
    assert earned["slateq"] > 1.3 * earned["bandit"]
