"""Gymnasium adapters: many users as a vector environment, or one user as a plain one.

An action names items by index from 0 (token id minus `FIRST_ITEM`). Any array of the action space is a legal action: a
repeated item keeps its first position, and its later ones are filled with the lowest items not yet shown.
An observation is the history of clicked items and its length; with `is_state_visible` also every field of the user's
true state, as `full_state` of the environment has it. The info holds `choice`, the first position clicked (-1 for
none), and `is_clicked`, all of them.
Shape legend: B users, T history, K slate, F numbers of a field.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.world.environment import World

Arrays = dict[str, NDArray[Any]]


def _spaces(world: World, *, is_state_visible: bool) -> tuple[gym.spaces.Dict, gym.spaces.MultiDiscrete]:
    capacity = world.reset(users=1, seed=0).history_BT.shape[1]
    spaces: dict[str, gym.Space[Any]] = {
        "history": gym.spaces.Box(0, world.tokens - 1, shape=(capacity,), dtype=np.int64),
        "length": gym.spaces.Box(0, capacity, shape=(1,), dtype=np.int64),
    }
    if is_state_visible:
        for name, field_BF in world.full_state.items():
            spaces[name] = gym.spaces.Box(-np.inf, np.inf, shape=field_BF.shape[1:], dtype=np.float32)
    return gym.spaces.Dict(spaces), gym.spaces.MultiDiscrete([world.tokens - FIRST_ITEM] * world.slate_size)


def _arrays(world: World, observation: Observation, *, is_state_visible: bool) -> Arrays:
    arrays: Arrays = {
        "history": observation.history_BT.cpu().numpy().copy(),
        "length": observation.length_B.cpu().numpy().reshape(-1, 1).copy(),
    }
    if is_state_visible:
        arrays |= {name: field_BF.cpu().numpy().copy() for name, field_BF in world.full_state.items()}
    return arrays


def without_repeats(action_BK: NDArray[np.integer]) -> NDArray[np.int64]:
    """Actions whose repeated items are replaced by the lowest items not shown otherwise."""
    repaired_BK = np.asarray(action_BK, dtype=np.int64).copy()
    sorted_BK = np.sort(repaired_BK, axis=1)
    for row in np.flatnonzero((sorted_BK[:, 1:] == sorted_BK[:, :-1]).any(axis=1)):
        slate, seen = repaired_BK[row], set[int]()
        shown = set(slate.tolist())
        spare = (item for item in range(2 * len(slate)) if item not in shown)
        for position, item in enumerate(slate.tolist()):
            if item in seen:
                slate[position] = next(spare)
            seen.add(item)
    return repaired_BK


class VectorUsers(VectorEnv):
    """`users` sessions side by side; a session that ended starts anew at the next step (autoreset NEXT_STEP).

    At that step its action is ignored and its reward is 0; `_choice` and `_is_clicked` in the info are False there.
    """

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, environment: World, *, users: int, is_state_visible: bool = False) -> None:
        self._environment, self.num_envs, self._is_state_visible = environment, users, is_state_visible
        self.single_observation_space, self.single_action_space = _spaces(
            environment, is_state_visible=is_state_visible
        )
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, users)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, users)
        self._is_over_B = torch.zeros(users, dtype=torch.bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        self._is_over_B = torch.zeros(self.num_envs, dtype=torch.bool)
        return self._arrays(self._environment.reset(users=self.num_envs, seed=start)), {}

    def step(self, actions: NDArray[np.integer]) -> tuple[Arrays, Any, Any, Any, dict[str, Any]]:
        slate_BK = torch.from_numpy(without_repeats(actions)) + FIRST_ITEM
        was_over_B = self._is_over_B
        result = self._environment.step(slate_BK)
        observation = result.observation
        if bool(was_over_B.any()):
            observation = self._environment.reset_rows(was_over_B)
        terminated_B, truncated_B = result.terminated_B & ~was_over_B, result.truncated_B & ~was_over_B
        self._is_over_B = terminated_B | truncated_B
        info = {
            "choice": result.choice_B.where(~was_over_B, -1).numpy(),
            "is_clicked": (result.is_clicked_BK & ~was_over_B[:, None]).numpy(),
        }
        was_played_B = (~was_over_B).numpy()
        return (
            self._arrays(observation), result.reward_B.where(~was_over_B, 0.0).double().numpy(),
            terminated_B.numpy(), truncated_B.numpy(), info | {f"_{name}": was_played_B for name in info},
        )  # fmt: skip

    def _arrays(self, observation: Observation) -> Arrays:
        return _arrays(self._environment, observation, is_state_visible=self._is_state_visible)


class SingleUser(gym.Env[Arrays, NDArray[np.int64]]):
    """One session at a time."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, environment: World, *, is_state_visible: bool = False) -> None:
        self._environment, self._is_state_visible = environment, is_state_visible
        self.observation_space: gym.Space[Arrays]
        self.observation_space, self.action_space = _spaces(  # type: ignore[assignment]
            environment, is_state_visible=is_state_visible
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        start = int(self.np_random.integers(2**31))
        return self._first(self._environment.reset(users=1, seed=start)), {}

    def step(self, action: NDArray[np.int64]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        result = self._environment.step(torch.from_numpy(without_repeats(action[None])) + FIRST_ITEM)
        return (
            self._first(result.observation), float(result.reward_B), bool(result.terminated_B),
            bool(result.truncated_B), {"choice": int(result.choice_B), "is_clicked": result.is_clicked_BK[0].numpy()},
        )  # fmt: skip

    def _first(self, observation: Observation) -> Arrays:
        arrays = _arrays(self._environment, observation, is_state_visible=self._is_state_visible)
        return {name: array[0] for name, array in arrays.items()}
