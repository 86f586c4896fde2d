"""The pipeline's comparison: everybody plays by the same rules, and what is shown is counted."""

import itertools

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.policy import returns
from recolam.policy.admission import Anything, NewToTheUser
from recolam.policy.agent import SlateAgent
from recolam.policy.comparison import PolicyBudget, contestants, learnt_rivals
from recolam.policy.constraints import SlateConstraints
from recolam.policy.exposure import Exposure, coverage_of
from recolam.policy.returns import compare, myopic, session_returns
from recolam.world.environment import SimulatedUsers
from recolam.world.runtime import Value
from tests.policy.small import ITEMS, small_agent, small_world

TOKENS = FIRST_ITEM + ITEMS
SALES_N = torch.cat([torch.zeros(FIRST_ITEM), torch.arange(ITEMS).float()])
LEARNING = {"gamma": 0.9, "seed": 0}


def capped() -> SlateConstraints:
    """Item 3 blocked, item 7 first in every slate, at most one of each of four groups, an item of the last twelve."""
    is_blocked_N, is_new_N = torch.zeros(TOKENS, dtype=torch.bool), torch.zeros(TOKENS, dtype=torch.bool)
    is_blocked_N[FIRST_ITEM] = True
    is_new_N[-12:] = True
    return SlateConstraints(
        is_blocked=is_blocked_N, group=torch.arange(TOKENS) % 4, at_most=1, is_new=is_new_N, at_least_new=1,
        fixed={0: FIRST_ITEM + 4},
    )  # fmt: skip


def agent_under(constraints: SlateConstraints | None) -> SlateAgent:
    agent = small_agent()
    agent.constraints = constraints
    return agent


def with_histories(world: SimulatedUsers) -> SimulatedUsers:
    """Users who had three items each."""
    start, generator = world.users.start, torch.Generator().manual_seed(1)
    start.history_PT[:, :3] = torch.rand(len(start.length_P), ITEMS, generator=generator).topk(3).indices + FIRST_ITEM
    start.length_P[:] = 3
    return world


@pytest.mark.parametrize("constraints", [None, capped()], ids=["free", "constrained"])
def test_everybody_plays_by_the_policy_s_rules(constraints: SlateConstraints | None) -> None:
    agent, world = agent_under(constraints), with_histories(small_world())
    learnt, steps = learnt_rivals(
        with_histories(small_world()), agent, SALES_N, PolicyBudget(sessions=64, user_steps=300, most=10**6), **LEARNING
    )
    policies = contestants(agent, agent, world, SALES_N) | learnt
    assert set(policies) == {
        "random", "popularity", "untrained", "pretrained_greedy", "trained", "trained_sampled", "myopic", "bandit",
        "slateq",
    }  # fmt: skip
    assert {row["sessions"] for row in steps.values()} == {64}
    assert all(64 <= row["user_steps"] <= 64 * world.horizon for row in steps.values())
    fixed = [] if constraints is None else list(constraints.fixed.values())
    for name, act in policies.items():
        generator, observation = torch.Generator().manual_seed(0), world.reset(users=50, seed=8)
        for _ in range(3):
            slate_BK = act(observation, generator)
            assert all(len(set(row)) == 3 for row in slate_BK.tolist()), name
            is_had_BK = (slate_BK[..., None] == observation.history_BT[:, None]).any(dim=2)
            assert not bool((is_had_BK & ~torch.isin(slate_BK, torch.tensor(fixed))).any()), name
            assert constraints is None or bool(constraints.are_kept(slate_BK).all()), name
            observation = world.step(slate_BK).observation


def test_rivals_that_learn_do_so_again_to_the_same_slates() -> None:
    observation = with_histories(small_world()).reset(users=30, seed=2)
    shown = []
    for _ in range(2):
        budget = PolicyBudget(sessions=32, user_steps=100, most=10**6)
        acts, _ = learnt_rivals(with_histories(small_world()), small_agent(), SALES_N, budget, **LEARNING)
        shown.append({name: act(observation, torch.Generator().manual_seed(0)) for name, act in acts.items()})
    for name, slate_BK in shown[0].items():
        assert torch.equal(slate_BK, shown[1][name])


def test_a_rival_stops_where_its_steps_are_spent() -> None:
    whole = PolicyBudget(sessions=30_720, user_steps=300_000, most=300_000).of_rivals(12)
    assert (whole.steps, whole.users) == (30_720 * 12, 256)
    third = PolicyBudget(sessions=30_720, user_steps=300_000, most=100_000).of_rivals(12)
    assert third.steps == 10_240 * 12
    few = PolicyBudget(sessions=16, user_steps=100, most=100_000).of_rivals(12)
    assert (few.steps, few.users) == (16 * 12, 16)


def expected_reward(world: SimulatedUsers, slate_BK: Tensor) -> Tensor:
    weight_BN, reward_BN = world.users.logit_choice(world.state)
    weight_BK = weight_BN.gather(1, slate_BK)
    earned_B = (weight_BK * reward_BN.expand_as(weight_BN).gather(1, slate_BK)).sum(dim=1)
    return earned_B / (1.0 + weight_BK.sum(dim=1))


def test_the_myopic_slate_under_constraints_is_the_best_of_all_that_keep_them() -> None:
    rules = SlateConstraints(
        is_blocked=capped().is_blocked, group=torch.arange(TOKENS) % 4, at_most=1, fixed={1: FIRST_ITEM + 4}
    )
    world = with_histories(small_world())
    observation = world.reset(users=6, seed=0)
    shown_BK = myopic(world, rules)(observation, torch.Generator())
    assert bool(rules.are_kept(shown_BK).all())
    best_B = torch.full((6,), -torch.inf)
    for pair in itertools.permutations(range(FIRST_ITEM, TOKENS), 2):
        slate_BK = torch.tensor([pair[0], FIRST_ITEM + 4, pair[1]]).expand(6, -1)
        if FIRST_ITEM + 4 in pair or not bool(rules.are_kept(slate_BK).all()):
            continue
        best_B = torch.maximum(best_B, expected_reward(world, slate_BK))
    torch.testing.assert_close(expected_reward(world, shown_BK), best_B)
    free_BK = myopic(world)(observation, torch.Generator())
    assert not bool(rules.are_kept(free_BK).all())
    none_BK = myopic(world, SlateConstraints())(observation, torch.Generator())
    torch.testing.assert_close(expected_reward(world, none_BK), expected_reward(world, free_BK))


def test_scores_give_the_slates_that_agents_show_freely() -> None:
    """Anything goes: the best by score is what `topk` finds, and random slates are drawn from all items."""
    observation = Observation(torch.tensor([[FIRST_ITEM, 0]]), torch.tensor([1]))
    score_1N = torch.randn(1, TOKENS, generator=torch.Generator().manual_seed(0))
    slate_1K = Anything(tokens=TOKENS).best(score_1N, observation, k=3)
    assert slate_1K.tolist()[0] == (score_1N[0, FIRST_ITEM:].topk(3).indices + FIRST_ITEM).tolist()
    score_1N[0, FIRST_ITEM] = 99.0
    assert Anything(tokens=TOKENS).best(score_1N, observation, k=3)[0, 0] == FIRST_ITEM
    assert FIRST_ITEM not in NewToTheUser(TOKENS).best(score_1N, observation, k=ITEMS - 1)[0].tolist()


def test_only_what_users_who_are_there_see_is_counted() -> None:
    """Everybody leaves after the first slate: the second is shown to nobody."""

    class Leaving:
        tokens, slate_size, horizon = TOKENS, 3, 2

        def __init__(self) -> None:
            self.world = small_world()

        def reset(self, *, users: int, seed: int) -> Observation:
            return self.world.reset(users=users, seed=seed)

        def step(self, slate_BK: Tensor):  # type: ignore[no-untyped-def]  # a `StepResult`
            result = self.world.step(slate_BK)
            result.terminated_B[::2] = True
            return result

    exposure = Exposure(tokens=TOKENS)
    act = returns.static(SALES_N, k=3)
    session_returns(Leaving(), act, users=10, seed=0, exposure=exposure)
    assert exposure.showings == 3 * (10 + 5)
    world, tables = small_world(), []
    for counters in (None, {"static": Exposure(tokens=TOKENS)}):
        tables.append(compare(world, {"static": act}, users=10, seeds=[1, 2], exposures=counters))
    assert tables[0] == tables[1]


def test_the_log_s_coverage_of_as_many_showings_by_hand() -> None:
    count_N = torch.tensor([9.0] * FIRST_ITEM + [3.0, 1.0, 0.0])
    assert coverage_of(count_N, 0) == 0.0
    assert coverage_of(count_N, 1) == pytest.approx(1 / 3)
    assert coverage_of(count_N, 2) == pytest.approx(((1 - 0.25**2) + (1 - 0.75**2)) / 3)
    assert coverage_of(torch.tensor([0.0] * FIRST_ITEM + [5.0]), 10) == 1.0


def test_users_of_another_kind_have_no_best_slate_under_constraints() -> None:
    class Others:
        def greedy_slate(self, state: Value) -> Tensor:
            raise NotImplementedError

    world = small_world()
    world.users = Others()  # type: ignore[assignment]
    with pytest.raises(ValueError, match="Others have no best slate under constraints"):
        myopic(world, capped())
