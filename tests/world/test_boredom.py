"""The boredom world against the package it was rebuilt from, and against its equations."""

import dataclasses

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.boredom import BORED, BORED_INFLUENCED, UNCERTAIN, BoredomConfig, BoredomUsers, draw_items
from recolam.world.environment import SimulatedUsers
from recolam.world.runtime import Value
from recolam.world.sardine import SardineEnvironment

CONFIGS = {"SlateTopK-Bored": BORED, "SlateTopK-BoredInf": BORED_INFLUENCED, "SlateTopK-Uncertain": UNCERTAIN}


def ours_beside(session: object, people: BoredomUsers) -> Value:
    """Our state of a user of the package who has just been reset."""
    start = people.initial_state(torch.Generator().manual_seed(0), 1)
    clicks = list(zip(session.clicked_item_topics, session.clicked_step, strict=True))  # type: ignore[attr-defined]
    room = people.config.memory - len(clicks)
    return Value(
        **{
            **start,
            "taste": torch.tensor(session.user_embedd, dtype=torch.float32)[None],  # type: ignore[attr-defined]
            "clicked_topic": torch.tensor([[int(topic) for topic, _ in clicks] + [0] * room]),
            "clicked_step": torch.tensor([[int(step) - 1 for _, step in clicks] + [0] * room]),
            "clicks": torch.tensor([len(clicks)]),
            "is_bored": torch.tensor(session.bored)[None],  # type: ignore[attr-defined]
            "bored_steps": torch.tensor(session.bored_timeout)[None],  # type: ignore[attr-defined]
        }
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_given_the_same_clicks_every_user_goes_the_package_s_way(name: str) -> None:
    """Slates mix what the user likes and chance, so that boredom comes and goes."""
    theirs = SardineEnvironment(name)
    people = BoredomUsers(dataclasses.replace(CONFIGS[name], is_scalar_influence=True), theirs.feature_NZ)
    generator, bored_steps = np.random.default_rng(0), 0
    for user in range(6):
        theirs.reset(users=1, seed=user)
        session = theirs._sessions[0]
        state = ours_beside(session, people)
        for step in range(theirs.horizon):
            best = people.greedy_slate(state)[0].numpy() - FIRST_ITEM
            drawn = generator.choice(1000, size=10, replace=False)
            slate = np.where(generator.random(10) < 0.5, best, drawn)
            _, _, is_over, _, info = session.step(slate)
            slate_BK = torch.from_numpy(slate)[None] + FIRST_ITEM
            probability_K = people.click_probability(state, slate_BK)[0].numpy()
            np.testing.assert_allclose(probability_K, info["relevances"] * session.propensities, rtol=2e-3, atol=1e-6)
            response = Value(
                is_clicked=torch.from_numpy(info["clicks"] > 0)[None], is_leaving=torch.tensor([False]),
                reward=torch.zeros(1), choice=torch.zeros(1, dtype=torch.int64),
            )  # fmt: skip
            state = Value(**people.next_state(state, slate_BK, response, torch.Generator()))
            np.testing.assert_array_equal(state.get("is_bored")[0].numpy(), session.bored)
            np.testing.assert_array_equal(state.get("bored_steps")[0].numpy(), session.bored_timeout)
            np.testing.assert_allclose(state.get("taste")[0].numpy(), session.user_embedd, atol=1e-5)
            np.testing.assert_allclose(people.present_taste(state)[0].numpy(), session.cur_user_embedd, atol=1e-5)
            bored_steps += bool(session.bored.any())
            assert is_over == (step == theirs.horizon - 1)
    assert bored_steps > 30


def test_users_begin_as_in_the_package() -> None:
    theirs = SardineEnvironment("SlateTopK-Bored")
    theirs.reset(users=1, seed=0)
    session, counts, firsts = theirs._sessions[0], [], []
    for _ in range(4000):
        session._reset_user_embedds()
        counts.append(int((session.user_embedd > 0).sum()))
        firsts.append(session.user_embedd[0])
    people = BoredomUsers(dataclasses.replace(BORED, slate_size=1), theirs.feature_NZ)
    taste_BZ = people.initial_state(torch.Generator().manual_seed(1), 40_000)["taste"]
    ours = (taste_BZ > 0).sum(dim=1)
    for count in (3, 4, 5):
        share = float(np.mean(np.array(counts) == count))
        assert abs(float((ours == count).float().mean()) - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert set(ours.tolist()) == {3, 4, 5}
    error = float(np.std(firsts)) / 4000**0.5
    assert abs(float(taste_BZ[:, 0].mean()) - float(np.mean(firsts))) < 4 * error
    torch.testing.assert_close(taste_BZ.norm(dim=1), torch.ones(40_000))


def session_return(environment: SimulatedUsers, *, is_greedy: bool, users: int) -> tuple[float, float]:
    """Mean return and its standard error."""
    environment.reset(users=users, seed=3)
    generator, total_B = torch.Generator().manual_seed(4), torch.zeros(users)
    for _ in range(environment.horizon):
        noise_BN = torch.rand(users, environment.tokens - FIRST_ITEM, generator=generator)
        slate_BK = noise_BN.topk(environment.slate_size, dim=1).indices + FIRST_ITEM
        if is_greedy:
            slate_BK = environment.users.greedy_slate(environment.state)
        total_B += environment.step(slate_BK).reward_B
    return float(total_B.mean()), float(total_B.std()) / users**0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_returns_are_those_of_the_package(name: str) -> None:
    """Of random slates; and of greedy ones, which boredom punishes."""
    theirs = SardineEnvironment(name)
    config = dataclasses.replace(CONFIGS[name], is_scalar_influence=True)
    ours = SimulatedUsers(BoredomUsers(config, theirs.feature_NZ), horizon=100)
    generator, users = torch.Generator().manual_seed(5), 30
    for is_greedy in (False, True):
        mean, error = session_return(ours, is_greedy=is_greedy, users=400)
        theirs.reset(users=users, seed=8)
        total_B = torch.zeros(users)
        for _ in range(theirs.horizon):
            drawn_BK = torch.rand(users, 1000, generator=generator).topk(10, dim=1).indices
            score_BN = theirs.user_state_BF[:, :10] @ theirs.feature_NZ[FIRST_ITEM:].T
            slate_BK = (score_BN.topk(10, dim=1).indices if is_greedy else drawn_BK) + FIRST_ITEM
            total_B += theirs.step(slate_BK).reward_B
        their_error = float(total_B.std()) / users**0.5
        assert abs(mean - float(total_B.mean())) < 4 * (error**2 + their_error**2) ** 0.5


def test_a_user_is_bored_for_the_window_and_no_longer() -> None:
    people = BoredomUsers(BoredomConfig(slate_size=2, boredom="topic", threshold=2, window=3), torch.eye(13)[:, :10])
    state = Value(**people.initial_state(torch.Generator().manual_seed(0), 1))
    slate_BK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]])
    topic = int(people.topic_N[FIRST_ITEM])
    seen = []
    for step in range(6):
        is_clicked_BK = torch.tensor([[step < 2, False]])
        response = Value(is_clicked=is_clicked_BK, is_leaving=torch.tensor([False]))
        state = Value(**people.next_state(state, slate_BK, response, torch.Generator()))
        seen.append(bool(state.get("is_bored")[0, topic]))
        assert not state.get("is_bored")[0, [z for z in range(10) if z != topic]].any()
    assert seen == [False, True, True, True, False, False]  # the second click bores, for three steps


def test_influence_is_the_mean_of_the_clicked_items() -> None:
    feature_NZ = draw_items(30, topics=10, seed=1)
    people = BoredomUsers(dataclasses.replace(BORED_INFLUENCED, slate_size=3), feature_NZ)
    state = Value(**people.initial_state(torch.Generator().manual_seed(0), 1))
    slate_BK = torch.tensor([[5, 9, 20]])
    response = Value(is_clicked=torch.tensor([[True, False, True]]), is_leaving=torch.tensor([False]))
    after = people.next_state(state, slate_BK, response, torch.Generator())
    wanted = 0.95 * state.get("taste")[0] + 0.05 * (feature_NZ[5] + feature_NZ[20]) / 2
    torch.testing.assert_close(after["taste"][0], wanted / wanted.norm())


def test_a_crowded_slate_is_less_attractive() -> None:
    feature_NZ = torch.eye(13)[:, :10].repeat(2, 1)
    people = BoredomUsers(BoredomConfig(slate_size=3, crowd=2, crowding_penalty=2.0, slope=5.0), feature_NZ)
    state = Value(**people.initial_state(torch.Generator().manual_seed(0), 1))
    plain, crowded = torch.tensor([[4, 5, 6]]), torch.tensor([[4, 17, 6]])  # 17 is of the topic of 4
    ratio = people.click_probability(state, crowded)[0, [0, 2]] / people.click_probability(state, plain)[0, [0, 2]]
    torch.testing.assert_close(ratio, torch.full((2,), 0.5))


def test_features_of_another_world_are_refused() -> None:
    with pytest.raises(ValueError, match="features over 4 topics in a world of 10"):
        BoredomUsers(BORED, torch.zeros(5, 4))
