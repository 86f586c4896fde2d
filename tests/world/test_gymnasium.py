"""The Gymnasium adapters: what Gymnasium's checker asks of one user, and its own vector of such users of many.

Gymnasium 1.4 has no checker for vector environments; `SyncVectorEnv` over single ones is the reference here.
"""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.gymnasium import SingleUser, VectorUsers, without_repeats
from recolam.world.named import NAMES, SIMULATED, make_environment
from tests.world.playing import DRIFT, simulated
from tests.world.worlds import small_environment

every_world = pytest.mark.parametrize("name", NAMES)
partial_and_full = pytest.mark.parametrize("is_state_visible", [False, True], ids=["partial", "full"])


def check(environment: Any, *, is_state_visible: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if is_state_visible:  # the fields of a state have no bounds
            warnings.filterwarnings("ignore", message=".*A Box observation space (minimum|maximum) value is -?infinity")
        check_env(environment, skip_render_check=True)


@partial_and_full
@every_world
def test_the_single_environment_passes_the_checker(name: str, is_state_visible: bool) -> None:
    check(SingleUser(make_environment(name), is_state_visible=is_state_visible), is_state_visible=is_state_visible)


@pytest.mark.parametrize("name", SIMULATED)
def test_drifting_worlds_pass_the_checker(name: str) -> None:
    check(SingleUser(simulated(name, {"drift": DRIFT}), is_state_visible=True), is_state_visible=True)


@partial_and_full
@every_world
def test_a_vector_is_what_a_vector_of_singles_is(name: str, is_state_visible: bool) -> None:
    """Spaces, shapes, types, the keys of the info, and when sessions end and start anew; draws differ."""
    overrides = {} if name == "sardine" else {"horizon": 4}
    steps = 12 if overrides else 3

    def single() -> SingleUser:
        return SingleUser(make_environment(name, overrides), is_state_visible=is_state_visible)

    reference = SyncVectorEnv([single] * 3)
    ours = VectorUsers(make_environment(name, overrides), users=3, is_state_visible=is_state_visible)
    assert ours.metadata["autoreset_mode"] == reference.metadata["autoreset_mode"] == AutoresetMode.NEXT_STEP
    for space in ("single_observation_space", "single_action_space", "observation_space", "action_space"):
        assert getattr(ours, space) == getattr(reference, space), space
    reference.action_space.seed(0)
    ours.reset(seed=0)
    reference.reset(seed=0)
    for step in range(steps):
        action = reference.action_space.sample()
        mine, theirs = ours.step(action), reference.step(action)
        assert ours.observation_space.contains(mine[0])
        assert signature(mine[:4]) == signature(theirs[:4])
        for over in (2, 3):
            assert np.array_equal(mine[over], theirs[over])
        is_new = step % 5 == 4
        assert (mine[3] == (step % 5 == 3)).all()
        assert is_new == bool((mine[1] == 0).all() and not mine[4]["_choice"].any())
        assert set(mine[4]) == {"choice", "is_clicked", "_choice", "_is_clicked"}
        if not is_new:  # the reference names nothing where all rows start anew
            assert signature({name: mine[4][name] for name in theirs[4]}) == signature(theirs[4])


def signature(data: Any) -> Any:
    """The shapes and types of arrays, in whatever they are held."""
    if isinstance(data, dict):
        return {name: signature(value) for name, value in data.items()}
    if isinstance(data, tuple):
        return tuple(signature(value) for value in data)
    return data.shape, data.dtype


def test_vector_environments_replay_from_a_seed_and_share_no_memory() -> None:
    ours, again = (VectorUsers(simulated("bored"), users=3, is_state_visible=True) for _ in range(2))
    first, second = ours.reset(seed=5)[0], again.reset(seed=5)[0]
    ours.action_space.seed(0)
    for _ in range(5):
        assert data_equivalence(first, second, exact=True)
        kept = {name: array.copy() for name, array in first.items()}
        action, before = ours.action_space.sample(), first
        (first, *rest), (second, *others) = ours.step(action), again.step(action)
        assert data_equivalence(tuple(rest), tuple(others), exact=True)
        assert data_equivalence(before, kept, exact=True)


def test_several_clicks_are_in_the_info_and_are_the_reward() -> None:
    environment = VectorUsers(simulated("uncertain"), users=50)
    environment.reset(seed=0)
    environment.action_space.seed(0)
    most = 0
    for _ in range(10):
        _, reward, _, _, info = environment.step(environment.action_space.sample())
        clicks = info["is_clicked"].sum(axis=1)
        assert np.array_equal(clicks, reward)
        assert np.array_equal(info["choice"], np.where(clicks > 0, info["is_clicked"].argmax(axis=1), -1))
        most = max(most, int(clicks.max()))
    assert most > 1


def test_the_full_state_is_the_world_s_own() -> None:
    adapter, plain = (make_environment("bored", {"items": 30}) for _ in range(2))
    observation, _ = VectorUsers(adapter, users=4, is_state_visible=True).reset(seed=7)
    plain.reset(users=4, seed=7)
    assert set(observation) == {
        "history", "length", "step", "taste", "clicked_topic", "clicked_step", "clicks", "is_bored", "bored_steps",
    }  # fmt: skip
    for name in ("taste", "clicked_topic", "is_bored"):
        expected = plain.state.get(name).float().reshape(4, -1).numpy()  # type: ignore[union-attr]
        assert np.array_equal(observation[name], expected)
    assert set(make_state("interest_evolution")) == {"step", "interest", "budget"}
    assert set(make_state("choc_kale")) == {"step", "exposure"}
    assert set(make_state("ecosystem")) == {"step", "taste", "viability", "seat", "age"}


def make_state(name: str) -> dict[str, torch.Tensor]:
    environment = simulated(name, {"drift": DRIFT})
    environment.reset(users=2, seed=0)
    return environment.full_state


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
        reward = plain.step(torch.from_numpy(action) + FIRST_ITEM).reward_B
        assert np.allclose(adapter.step(action)[1], reward.double().numpy())


def test_repeated_items_keep_their_first_position() -> None:
    assert without_repeats(np.array([[5, 5, 0], [1, 2, 3], [0, 0, 0]])).tolist() == [[5, 1, 0], [1, 2, 3], [0, 1, 2]]
    assert without_repeats(np.array([[1, 1, 1, 0]])).tolist() == [[1, 2, 3, 0]]
