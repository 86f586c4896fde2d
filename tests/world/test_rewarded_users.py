"""Finite worlds played as environments, and learnt rewards in place of users' own."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recolam.bench.inverse_rl import trained
from recolam.bench.planted_rewards import Planted, choc_kale_grid, satisfaction_ladder
from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.boredom import BORED, BoredomUsers, draw_items
from recolam.world.choc_kale import ChocKaleConfig, ChocKaleUsers, draw_choc
from recolam.world.environment import SimulatedUsers
from recolam.world.finite_users import FiniteUsers
from recolam.world.inverse_rl import learn_reward, plan_of
from recolam.world.learnt_reward import LearntReward, RewardedUsers
from recolam.world.runtime import Value
from recolam.world.slate_world import SlateProblem


def users_of(planted: Planted) -> FiniteUsers:
    return FiniteUsers(planted.world, plan_of(planted.reward_SN, planted.world).q_SA, planted.reward_SN)


@pytest.mark.parametrize("make", [satisfaction_ladder, choc_kale_grid])
def test_played_sessions_earn_what_was_planned(make: object) -> None:
    """One slate for ever: the mean discounted return of 3,000 sessions beside the exact one."""
    planted = make(0)  # type: ignore[operator]
    users, world = users_of(planted), planted.world
    always_S = torch.full((world.states,), 5)
    problem = SlateProblem(world, plan_of(planted.reward_SN, world).q_SA, world.with_none(planted.reward_SN))
    environment = SimulatedUsers(users, horizon=80)
    environment.reset(users=3000, seed=1)
    start_B = environment.state.get("place")
    slate_BK = (world.slate_LK[5] + FIRST_ITEM).expand(3000, -1)
    earned_B = torch.zeros(3000)
    for step in range(80):
        earned_B += world.discount**step * environment.step(slate_BK).reward_B
    expected_B = problem.values(always_S)[start_B]
    excess_B = earned_B - expected_B
    assert abs(float(excess_B.mean())) < 4 * float(excess_B.std()) / 3000**0.5 + 0.002 * float(expected_B.mean().abs())


def test_the_rest_of_a_row_leaves() -> None:
    planted = satisfaction_ladder(0)
    world = replace(planted.world, transition_SAZ=0.75 * planted.world.transition_SAZ)
    users = FiniteUsers(world, plan_of(planted.reward_SN, world).q_SA, planted.reward_SN)
    environment = SimulatedUsers(users, horizon=9)
    environment.reset(users=4000, seed=0)
    slate_BK = torch.arange(FIRST_ITEM, FIRST_ITEM + 3).expand(4000, -1)
    left = float(environment.step(slate_BK).terminated_B.float().mean())
    assert left == pytest.approx(0.25, abs=0.03)


def test_greedy_slates_are_the_best_of_all_slates() -> None:
    planted = satisfaction_ladder(1)
    users, world = users_of(planted), planted.world
    problem = SlateProblem(world, plan_of(planted.reward_SN, world).q_SA, world.with_none(planted.reward_SN))
    state = Value(place=torch.arange(world.states), history=torch.zeros(world.states, 4, dtype=torch.int64))
    chosen_SK = users.greedy_slate(state).sort(dim=1).values - FIRST_ITEM
    best_SK = world.slate_LK[problem.best_slates(discount=0.0)]
    assert torch.equal(chosen_SK, best_SK)


def test_scores_of_another_world_are_refused() -> None:
    planted = satisfaction_ladder(0)
    with pytest.raises(ValueError, match=r"scores \(30, 12\)"):
        FiniteUsers(planted.world, planted.reward_SN, planted.reward_SN)


def exposure(state: Value) -> Tensor:
    return state.get("exposure")[:, None]


def test_rewards_are_those_of_what_was_chosen_in_the_state_before() -> None:
    """r = 1 + 2 x + 3 c of choc and kale's exposure x and the chosen item's share of choc c."""
    plain = ChocKaleUsers(ChocKaleConfig(slate_size=2), draw_choc(10, seed=0))
    item_NF = torch.stack([torch.ones(10), plain.choc_N[FIRST_ITEM:]], dim=1)
    reward = LearntReward(torch.tensor([[1.0, 3.0], [2.0, 0.0]]), item_NF, 0.0, False)
    environment, twin = (
        SimulatedUsers(users, horizon=5)
        for users in (RewardedUsers(plain, reward.by_token(), features=exposure), plain)
    )
    for each in (environment, twin):
        each.reset(users=50, seed=3)
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 4]]).expand(50, -1)
    for _ in range(3):
        before_B = environment.state.get("exposure")
        found, same = environment.step(slate_BK), twin.step(slate_BK)
        assert torch.equal(found.choice_B, same.choice_B)  # users behave as before
        choc_B = plain.choc_N[slate_BK.gather(1, found.choice_B[:, None])[:, 0]]
        torch.testing.assert_close(found.reward_B, 1 + 2 * before_B + 3 * choc_B)
    with pytest.raises(ValueError, match="10 token ids"):
        RewardedUsers(plain, reward, features=exposure)


def test_all_that_was_clicked_is_rewarded_and_nothing_else() -> None:
    """Where several items may be clicked: 1 for each click is the number of clicks."""
    plain = BoredomUsers(BORED, draw_items(40, topics=10, seed=0))
    reward = LearntReward(torch.ones(1, 1), torch.ones(40, 1), 0.0, True).by_token()
    users = RewardedUsers(plain, reward, features=lambda state: state.get("taste")[:, :0])
    environment = SimulatedUsers(users, horizon=5)
    environment.reset(users=200, seed=0)
    slate_BK = torch.rand(200, 40).topk(10, dim=1).indices + FIRST_ITEM
    found = environment.step(slate_BK)
    assert torch.equal(found.reward_B, found.is_clicked_BK.sum(dim=1).float())
    assert 0 < float(found.reward_B.mean()) < 10


def test_a_rewarded_users_greedy_slate_is_the_best_at_discount_0() -> None:
    planted = satisfaction_ladder(2)
    world = replace(planted.world, discount=0.0)
    users = FiniteUsers(world, world.with_none(planted.reward_SN), planted.reward_SN)
    weight_EF = torch.linalg.lstsq(planted.item_NF, planted.reward_SN.T).solution  # r as a function of a one-hot state
    reward = LearntReward(torch.cat([torch.zeros(1, 5), weight_EF.T]), planted.item_NF, 0.0, True).by_token()
    rewarded = RewardedUsers(
        users, reward, features=lambda state: torch.nn.functional.one_hot(state.get("place"), 30).double()
    )
    state = Value(place=torch.arange(30), history=torch.zeros(30, 4, dtype=torch.int64))
    slates = [each.greedy_slate(state).sort(dim=1).values for each in (users, rewarded)]
    assert torch.equal(*slates)


@pytest.mark.slow
def test_policies_trained_on_learnt_rewards_keep_the_true_return() -> None:
    """Choc and kale, five worlds: the share is at least 0.9; of what was not learnt, the reward with its sign changed,
    it is not, nor is that of the slates enjoyed most now."""
    shares = []
    for seed in range(5):
        planted = choc_kale_grid(seed)
        train, validation = planted.log(12_000, seed=10 + seed), planted.log(3_000, seed=20 + seed)
        fitted = learn_reward(
            train, validation, world=planted.world, state_SD=planted.state_SD, item_NF=planted.item_NF
        )
        shares.append(trained(planted, fitted.reward, iterations=20, seed=seed))
    assert min(share["trained"] for share in shares) >= 0.9
    assert max(share["myopic"] for share in shares) < 0.9
    wrong = replace(fitted.reward, weight_EF=-fitted.reward.weight_EF)
    assert trained(planted, wrong, iterations=20, seed=4)["trained"] < 0.9
