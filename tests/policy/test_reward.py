"""Every named reward by hand, what is refused, and that a policy trained for diversity is more diverse."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, StepResult
from recolam.errors import ConfigError
from recolam.policy.returns import compare, greedy, session_returns, uniform
from recolam.policy.reward import RECENT, TERMS, Reward, Step, Surroundings
from recolam.policy.rewarded import RewardedSessions
from recolam.policy.training import PolicyTrainingConfig, train_policy
from recolam.world.learnt_reward import LearntReward
from recolam.world.runtime import Value
from tests.policy.small import small_agent, small_world
from tests.world.worlds import fixed_slates

ITEM = [FIRST_ITEM + index for index in range(4)]


class Frozen:
    """Stands for a pretrained model: item vectors chosen by hand, a state that is the history's length."""

    def item_table(self) -> torch.Tensor:
        vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
        return torch.cat([torch.zeros(FIRST_ITEM, 2), vectors])

    def last_state(self, history_BT: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        return length_B[:, None].float()


class Members:
    """Stands for users fitted as several models, whose returns are known."""

    returning = "known"

    def disagreement(self, state: Value, slate_BK: torch.Tensor) -> torch.Tensor:
        return state.get("spread")

    def return_time(self, state: Value, generator: torch.Generator) -> torch.Tensor:
        return state.get("hours")


def step_of(*, shown_G: torch.Tensor | None = None) -> Step:
    """Three sessions: two clicks, no click, and one that had ended (whose numbers must not count)."""
    slate_BK = torch.tensor([[ITEM[1], ITEM[2], ITEM[3]]] * 3)
    before = Observation(torch.tensor([[ITEM[0], ITEM[1], 0], [0, 0, 0], [ITEM[0], 0, 0]]), torch.tensor([2, 0, 1]))
    result = StepResult(
        observation=before,
        choice_B=torch.tensor([0, -1, 0]),
        is_clicked_BK=torch.tensor([[True, False, True], [False, False, False], [True, False, False]]),
        reward_B=torch.tensor([5.0, 0.0, 7.0]),
        terminated_B=torch.tensor([False, True, False]),
        truncated_B=torch.tensor([True, False, False]),
    )
    state, after = Value(spread=torch.tensor([0.5, 2.0, 9.0])), Value(hours=torch.tensor([84.0, 168.0, 1.0]))
    is_active_B = torch.tensor([True, True, False])
    return Step(Members(), before, state, after, slate_BK, result, is_active_B, shown_G, torch.Generator())


LEARNT = LearntReward(  # r(s, i) = f_i0 + s f_i1
    torch.eye(2), torch.cat([torch.zeros(FIRST_ITEM, 2), torch.arange(8.0).view(4, 2)]), discount=0.0, has_none=True
)
SURROUNDINGS = Surroundings(
    Frozen(), torch.tensor([-1] * FIRST_ITEM + [0, 0, 1, -1]), LEARNT  # type: ignore[arg-type]
)  # fmt: skip
# Distances to the mean of unit vectors (1, 0) and (0, 1), (0.5, 0.5): item 1 is 1 - 0.5, item 3 is 1 + 0.5.
# Shares with counts (4, 1) are 5/7 and 2/7: the gains are 1 - 10/7 and 1 - 4/7; item 3 has no group.
BY_HAND = {
    "clicks": [2.0, 0.0],
    "response": [5.0, 0.0],
    "stay": [1.0, 0.0],
    "return": [math.exp(-0.5), math.exp(-1.0)],  # one session was cut, the other left
    "diversity": [(0.5 + 1.5) / 2, 0.0],
    "fairness": [(-3 / 7 + 3 / 7) / 2, 0.0],
    "uncertainty": [0.5, 2.0],
    "learnt": [(2 + 2 * 3) + (6 + 2 * 7), 0.0],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_named_reward_by_hand(name: str) -> None:
    found_B = Reward({name: 1.0}, SURROUNDINGS)(step_of(shown_G=torch.tensor([4.0, 1.0])))
    torch.testing.assert_close(found_B, torch.tensor([*BY_HAND[name], 0.0]))


def test_every_name_has_a_case_by_hand() -> None:
    assert set(BY_HAND) == set(TERMS)


def test_rewards_add_up_by_their_weights() -> None:
    reward = Reward({"response": 2.0, "uncertainty": -3.0, "clicks": 0.5}, SURROUNDINGS)
    torch.testing.assert_close(reward(step_of()), torch.tensor([10.0 - 1.5 + 1.0, -6.0, 0.0]))


def test_sessions_that_go_on_have_no_return_yet() -> None:
    step = step_of()
    going = dataclasses.replace(step.result, terminated_B=torch.zeros(3, dtype=torch.bool),
                                truncated_B=torch.zeros(3, dtype=torch.bool))  # fmt: skip
    found_B = Reward({"return": 1.0}, SURROUNDINGS)(dataclasses.replace(step, result=going))
    assert found_B.tolist() == [0.0, 0.0, 0.0]


def test_fairness_favours_the_group_that_was_shown_less() -> None:
    fair = Reward({"fairness": 1.0}, SURROUNDINGS)
    slate_BK = torch.tensor([[ITEM[0]], [ITEM[2]], [ITEM[3]]])
    step = dataclasses.replace(step_of(shown_G=torch.tensor([8.0, 0.0])), slate_BK=slate_BK)
    torch.testing.assert_close(fair(step), torch.tensor([1 - 2 * 9 / 10, 1 - 2 * 1 / 10, 0.0]))  # the last had ended
    even = dataclasses.replace(step, shown_G=torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(fair(even), torch.zeros(3))


def test_diversity_looks_at_the_newest_clicks_alone() -> None:
    old, new = [ITEM[3]] * 5, [ITEM[0]] * RECENT
    history = torch.tensor([old + new])
    step = step_of()
    seen = dataclasses.replace(
        step, before=Observation(history, torch.tensor([len(old + new)])), slate_BK=step.slate_BK[:1],
        result=dataclasses.replace(
            step.result, is_clicked_BK=torch.tensor([[False, True, False]]), reward_B=torch.zeros(1)
        ), is_active_B=torch.tensor([True]),
    )  # fmt: skip
    found = Reward({"diversity": 1.0}, SURROUNDINGS)(seen)
    torch.testing.assert_close(found, torch.tensor([1 - math.sqrt(0.5)]))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"click": 1.0}, "reward 'click' is not one of clicks, response, stay, return, diversity"),
        ({}, "no weight but 0"),
        ({"clicks": 0.0}, "no weight but 0"),
        ({"clicks": float("nan")}, "weight nan is not a finite number"),
    ],
)
def test_unusable_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reward(weights)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fairness", "no tags to group them by"),
        ("uncertainty", "several models"),
        ("return", "when they came back"),
        ("learnt", "learnt_reward"),
        ("diversity", "item vectors"),
    ],
)
def test_a_reward_whose_needs_are_not_met_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"reward '{name}' needs .*{message}"):
        RewardedSessions(small_world(), Reward({name: 1.0}))


def test_one_group_is_nothing_to_be_fair_between() -> None:
    group_N = torch.zeros(23, dtype=torch.int64)
    with pytest.raises(ConfigError, match="two groups"):
        RewardedSessions(small_world(), Reward({"fairness": 1.0}, Surroundings(group_N=group_N)))


def test_the_world_s_own_reward_changes_nothing() -> None:
    world, rewarded = small_world(), RewardedSessions(small_world(), Reward())
    act = uniform(tokens=23, k=3)
    assert session_returns(world, act, users=40, seed=1) == session_returns(rewarded, act, users=40, seed=1)
    double = RewardedSessions(small_world(), Reward({"response": 2.0}))
    assert session_returns(double, act, users=40, seed=1) == 2 * session_returns(world, act, users=40, seed=1)


def test_exposure_is_counted_from_the_rollout_s_start_over_active_sessions() -> None:
    group_N = torch.tensor([-1] * FIRST_ITEM + [0, 0, 1] + [1] * 17)
    world = RewardedSessions(small_world(budget=0.5), Reward({"fairness": 1.0}, Surroundings(group_N=group_N)))
    for seed in (0, 1):
        world.reset(users=30, seed=seed)
        first = world.step(fixed_slates(30))
        torch.testing.assert_close(first.reward_B, torch.zeros(30))
        stayed = int(world.state.get("is_active").sum())
        assert 0 < stayed < 30
        world.step(fixed_slates(30))
        assert world._shown_G is not None
        assert world._shown_G.tolist() == [2.0 * (30 + stayed), 1.0 * (30 + stayed)]


def test_the_definition_says_what_was_rewarded() -> None:
    found: dict[str, Any] = Reward({"response": 1.0, "stay": -0.5}).definition(gamma=0.9)
    assert found["weights"] == {"response": 1.0, "stay": -0.5}
    assert found["gamma"] == 0.9
    assert found["formulas"] == {name: TERMS[name].formula for name in ("response", "stay")}


class TwoKinds:
    """Item vectors by quality: trash, which is watched longer, points one way and the rest the other."""

    def item_table(self) -> torch.Tensor:
        quality_N = small_world().users.corpus.quality_N  # type: ignore[attr-defined]
        return torch.where(quality_N < quality_N[FIRST_ITEM:].median(), 1.0, -1.0)[:, None]


@pytest.mark.slow
def test_policies_are_as_diverse_as_they_are_rewarded_for(tmp_path: Path) -> None:
    """The same training with three weights; all judged by diversity on seeds that none met."""
    config = PolicyTrainingConfig(iterations=40, users=16, replicas=4, learning_rate=1e-2, validation_users=64)
    surroundings = Surroundings(model=TwoKinds())  # type: ignore[arg-type]
    policies = {}
    for name, weight in (("narrow", -3.0), ("plain", 0.0), ("diverse", 3.0)):
        reward = Reward({"response": 1.0, "diversity": weight}, surroundings)
        agent = small_agent()
        world = RewardedSessions(small_world(affinity_scale=0.1), reward)
        train_policy(agent, world, config, seed=0, scratch=tmp_path / name)
        policies[name] = greedy(agent, k=3)
    judge = RewardedSessions(small_world(affinity_scale=0.1), Reward({"diversity": 1.0}, surroundings))
    table = compare(judge, policies, users=300, seeds=range(1000, 1006))
    assert table["diverse"]["ci95"][0] > table["plain"]["ci95"][1], table
    assert table["narrow"]["mean"] < 0.5 * table["diverse"]["mean"], table
