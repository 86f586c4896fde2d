import warnings

import numpy as np
import torch
from gymnasium.utils.env_checker import check_env

from recolam.world.gymnasium import SingleUser, VectorUsers, without_repeats
from tests.world.worlds import small_environment


def test_the_single_environment_passes_the_checker() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(SingleUser(small_environment()), skip_render_check=True)


def test_vector_steps_fit_the_spaces_and_replay_from_a_seed() -> None:
    def play() -> list[np.ndarray]:
        environment = VectorUsers(small_environment(budget=2.0), users=7)
        environment.action_space.seed(0)
        observation, _ = environment.reset(seed=3)
        seen = [observation["history"]]
        for _ in range(30):
            observation, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
            assert environment.observation_space.contains(observation)
            assert reward.shape == terminated.shape == truncated.shape == (7,)
            assert not (terminated & truncated).any()
            seen += [observation["history"], reward]
        return seen

    first, second = play(), play()
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_ended_session_starts_anew_at_the_next_step() -> None:
    environment = VectorUsers(small_environment(budget=0.2, budget_bonus=0.0), users=3)
    environment.reset(seed=0)
    action = np.tile(np.arange(3), (3, 1))
    _, _, terminated, _, _ = environment.step(action)
    assert terminated.all()
    observation, reward, terminated, truncated, _ = environment.step(action)
    assert (reward == 0).all()
    assert not (terminated | truncated).any()
    assert (observation["length"] == 0).all()
    assert environment.step(action)[2].all()


def test_vector_rewards_are_those_of_the_environment_itself() -> None:
    adapter, plain = VectorUsers(small_environment(budget=1e6), users=5), small_environment(budget=1e6)
    adapter.reset(seed=11)
    plain.reset(users=5, seed=11)
    action = np.tile(np.arange(3), (5, 1))
    for _ in range(3):
        reward = plain.step(torch.from_numpy(action) + 3).reward_B
        assert np.allclose(adapter.step(action)[1], reward.double().numpy())


def test_repeated_items_keep_their_first_position() -> None:
    assert without_repeats(np.array([[5, 5, 0], [1, 2, 3], [0, 0, 0]])).tolist() == [[5, 1, 0], [1, 2, 3], [0, 1, 2]]
