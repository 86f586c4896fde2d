"""The ecosystem against its equations written out, and what myopia does to it."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.intervals import paired_difference
from recolam.world.ecosystem import EcosystemConfig, EcosystemUsers, Offer, draw_offer
from recolam.world.environment import SimulatedUsers
from recolam.world.runtime import Value

MEAN_PZ = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]])
OFFER = draw_offer(20, MEAN_PZ, spread=0.1, seed=0)  # item FIRST_ITEM + i belongs to provider i % 5


def users_and_state(count: int, **settings: object) -> tuple[EcosystemUsers, Value]:
    people = EcosystemUsers(dataclasses.replace(EcosystemConfig(), **settings), OFFER)  # type: ignore[arg-type]
    return people, Value(**people.initial_state(torch.Generator().manual_seed(0), count))


def after(people: EcosystemUsers, state: Value, slate_BK: torch.Tensor, choices: list[int]) -> Value:
    response = Value(choice=torch.tensor(choices), is_leaving=torch.zeros(len(choices), dtype=torch.bool))
    return Value(**people.next_state(state, slate_BK, response, torch.Generator()))


@pytest.mark.parametrize("affinity", ["dot", "distance"])
def test_choices_and_rewards_follow_the_logit_written_out(affinity: str) -> None:
    count, taste, slate = 60_000, [0.3, -0.8], [3, 10]
    people, state = users_and_state(count, affinity=affinity, offset=0.5, sensitivity=1.5, no_click=0.2)
    state = Value(**{**state.as_dict, "taste": torch.tensor([taste]).expand(count, -1)})
    utilities = []
    for item in slate:
        feature = OFFER.feature_NZ[item].tolist()
        product = sum(a * b for a, b in zip(taste, feature, strict=True))
        utilities.append(0.5 + (product if affinity == "dot" else -math.dist(taste, feature)))
    weights = [math.exp(0.2)] + [math.exp(1.5 * utility) for utility in utilities]
    answer = people.respond(state, torch.tensor([slate]).expand(count, -1), torch.Generator().manual_seed(1))
    for column, weight in enumerate(weights):
        share = weight / sum(weights)
        observed = float((answer["choice"] == column - 1).float().mean())
        assert abs(observed - share) < 4 * math.sqrt(share * (1 - share) / count)
    wanted_B = torch.tensor([0.0, *utilities])[answer["choice"] + 1]
    torch.testing.assert_close(answer["reward"], wanted_B)


def test_viability_follows_engagement_and_a_provider_leaves_at_the_step_computed_by_hand() -> None:
    """memory 1/2, cost 0.1, from 0.6: unserved 0.6 -> 0.2 -> 0.0 -> -0.1, gone after the third step if the threshold
    is -0.05; a provider with three clicks of four 0.6 -> 0.95 -> 1.125 -> ..."""
    people, state = users_and_state(4, memory=0.5, cost=0.1, start_viability=0.6, threshold=-0.05)
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]]).expand(4, -1)
    expected = {1: [0.6, 0.95, 1.125, 1.2125, 1.25625], 2: [0.6, 0.2, 0.0, -0.1, -0.1]}
    for step in range(5):
        for provider, values in expected.items():
            torch.testing.assert_close(state.get("viability")[:, provider], torch.full((4,), values[step]))
        assert people.is_there(state)[:, 2].tolist() == [step < 3] * 4
        assert people.is_there(state)[:, 1].all()
        state = after(people, state, slate_BK, [1, 1, -1, 1])


def test_items_of_a_provider_who_left_are_never_chosen() -> None:
    count = 20_000
    people, state = users_and_state(count, no_click=-30.0)
    viability_BP = torch.tensor([[1.0, -0.1, 1.0, 1.0, -0.1]]).expand(count, -1)
    state = Value(**{**state.as_dict, "viability": viability_BP})
    slate_BK = torch.tensor([[FIRST_ITEM + 1, FIRST_ITEM + 2]]).expand(count, -1)
    assert (people.respond(state, slate_BK, torch.Generator().manual_seed(2))["choice"] == 1).all()
    gone_BK = torch.tensor([[FIRST_ITEM + 1, FIRST_ITEM + 4]]).expand(count, -1)
    answer = people.respond(state, gone_BK, torch.Generator().manual_seed(2))
    assert (answer["choice"] == -1).all()
    assert not answer["reward"].any()
    for slate_BK in (people.greedy_slate(state), people.sustaining_slate(state, reserved=1, margin=2.0)):
        assert not torch.isin(OFFER.provider_N[slate_BK], torch.tensor([1, 4])).any()
        assert (slate_BK[:, 0] != slate_BK[:, 1]).all()


def test_markets_side_by_side_are_apart_and_the_last_may_be_smaller() -> None:
    people, state = users_and_state(5, market_size=2, memory=0.5, cost=0.1, start_viability=0.6)
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]]).expand(5, -1)
    state = after(people, state, slate_BK, [0, 0, 0, -1, 1])
    wanted_BP = torch.tensor([[1.2, 0.2], [1.2, 0.2], [0.7, 0.2], [0.7, 0.2], [0.2, 1.2]])
    torch.testing.assert_close(state.get("viability")[:, :2], wanted_BP)


@pytest.mark.parametrize("market_size", [None, 3])
def test_replicas_are_markets_of_their_own(market_size: int | None) -> None:
    """Given the same clicks each copy goes as the original would; given others, only that copy changes."""
    people, state = users_and_state(6, market_size=market_size)
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]]).expand(6, -1)
    state = after(people, state, slate_BK, [0, 1, 1, -1, 0, 1])
    copies = Value(**{name: field.repeat_interleave(2, dim=0) for name, field in state.as_dict.items()})
    alone = after(people, state, slate_BK, [1, 1, -1, 0, 0, 0])
    silent = after(people, state, slate_BK, [-1] * 6)
    mixed = [choice for first in [1, 1, -1, 0, 0, 0] for choice in (first, -1)]
    both = after(people, copies, slate_BK.repeat_interleave(2, dim=0), mixed)
    torch.testing.assert_close(both.get("viability")[::2], alone.get("viability"))
    torch.testing.assert_close(both.get("viability")[1::2], silent.get("viability"))
    assert not torch.equal(alone.get("viability"), silent.get("viability"))


def test_a_session_that_starts_anew_joins_the_market_as_it_is() -> None:
    environment = SimulatedUsers(users_and_state(1, cost=0.15)[0], horizon=50)
    environment.reset(users=4, seed=0)
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 5]]).expand(4, -1)  # both of provider 0
    for _ in range(3):
        environment.step(slate_BK)
    people = environment.users
    assert isinstance(people, EcosystemUsers)
    before_BP = people.is_there(environment.state)
    assert before_BP.tolist() == [[True, False, False, False, False]] * 4
    environment.reset_rows(torch.tensor([True, False, True, True]))
    assert environment.state.get("step").tolist() == [0, 3, 0, 0]
    assert torch.equal(people.is_there(environment.state), before_BP)
    environment.step(slate_BK)
    viability_BP = environment.state.get("viability")
    assert (viability_BP == viability_BP[:1]).all()
    assert torch.equal(people.is_there(environment.state), before_BP)
    environment.reset_rows(torch.ones(4, dtype=torch.bool))
    assert people.is_there(environment.state).all()


def test_inactive_users_engage_with_nothing() -> None:
    people, state = users_and_state(4, memory=0.5, cost=0.1, start_viability=0.6)
    away = Value(**{**state.as_dict, "is_active": torch.tensor([True, True, False, False])})
    environment = SimulatedUsers(people, horizon=5)
    environment.reset(users=4, seed=0)
    environment._value = {**environment._current(), "user state": away}
    choice_B = environment.step(torch.tensor([[FIRST_ITEM, FIRST_ITEM + 5]]).expand(4, -1)).choice_B
    clicks = int((choice_B >= 0).sum())
    assert clicks > 0
    assert (choice_B[2:] == -1).all()
    torch.testing.assert_close(environment.state.get("viability")[:, 0], torch.full((4,), 0.2 + clicks / 4))


def test_the_myopic_recommender_loses_providers_and_welfare_in_the_long_run() -> None:
    """One provider in the middle of all tastes and four around it, who need one click in eight each."""
    people = EcosystemUsers(EcosystemConfig(cost=0.12), OFFER)
    environment, seeds = SimulatedUsers(people, horizon=60), range(10)
    providers: dict[str, list[int]] = {"myopic": [], "sustaining": []}
    late: dict[str, list[float]] = {"myopic": [], "sustaining": []}
    for name in providers:
        for seed in seeds:
            environment.reset(users=200, seed=seed)
            rewards = []
            for _ in range(environment.horizon):
                state = environment.state
                slate_BK = people.greedy_slate(state)
                if name == "sustaining":
                    slate_BK = people.sustaining_slate(state, reserved=1, margin=0.1)
                rewards.append(float(environment.step(slate_BK).reward_B.mean()))
            providers[name].append(int(people.is_there(environment.state)[0].sum()))
            late[name].append(float(np.mean(rewards[-20:])))
    kept = paired_difference(np.array(providers["sustaining"]), np.array(providers["myopic"]))
    welfare = paired_difference(np.array(late["sustaining"]), np.array(late["myopic"]))
    assert kept.low > 0.0
    assert welfare.low > 0.0


def test_greedy_slates_are_the_best_of_all_pairs() -> None:
    people, state = users_and_state(3, offset=1.0)
    best_BK = people.greedy_slate(state)
    utility_BN = people.utilities(state.get("taste"), torch.arange(people.tokens).expand(3, -1))

    def value(user: int, pair: tuple[int, int]) -> float:
        weights = [math.exp(people.config.sensitivity * float(utility_BN[user, item])) for item in pair]
        gains = [weight * float(utility_BN[user, item]) for weight, item in zip(weights, pair, strict=True)]
        return sum(gains) / (1 + sum(weights))

    pairs = [(a, b) for a in range(FIRST_ITEM, people.tokens) for b in range(FIRST_ITEM, a)]
    for user in range(3):
        shown = (int(best_BK[user, 0]), int(best_BK[user, 1]))
        assert value(user, shown) == pytest.approx(max(value(user, pair) for pair in pairs), rel=1e-6)


def test_offers_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="features of 23 tokens, providers of 22"):
        EcosystemUsers(EcosystemConfig(), Offer(OFFER.feature_NZ, OFFER.provider_N[:-1]))
    with pytest.raises(ValueError, match="each from 0 on has an item"):
        EcosystemUsers(EcosystemConfig(), Offer(OFFER.feature_NZ, OFFER.provider_N * 2))
    with pytest.raises(ValueError, match="market_size is 0"):
        EcosystemUsers(EcosystemConfig(market_size=0), OFFER)
    people, state = users_and_state(2)
    with pytest.raises(ValueError, match="3 positions reserved in slates of 2"):
        people.sustaining_slate(state, reserved=3, margin=0.1)
