"""Gymnasium adapters: many users as a vector environment, or one user as a plain one.

An action names items by index from 0 (token id minus `FIRST_ITEM`). Any array of the action space is a legal action: a
repeated item keeps its first position, and its later ones are filled with the lowest items not yet shown.
Shape legend: B users, T history, K slate.
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.world.environment import SimulatedUsers

Arrays = dict[str, NDArray[np.int64]]


def _spaces(environment: SimulatedUsers) -> tuple[gym.spaces.Dict, gym.spaces.MultiDiscrete]:
    environment.reset(users=1, seed=0)
    capacity = environment.state.get("history").shape[1]
    observation = gym.spaces.Dict(
        {
            "history": gym.spaces.Box(0, environment.tokens - 1, shape=(capacity,), dtype=np.int64),
            "length": gym.spaces.Box(0, capacity, shape=(1,), dtype=np.int64),
        }
    )
    return observation, gym.spaces.MultiDiscrete([environment.tokens - FIRST_ITEM] * environment.slate_size)


def _arrays(observation: Observation) -> Arrays:
    return {
        "history": observation.history_BT.cpu().numpy().copy(),
        "length": observation.length_B.cpu().numpy().reshape(-1, 1).copy(),
    }


def without_repeats(action_BK: NDArray[np.integer]) -> NDArray[np.int64]:
    """Actions whose repeated items are replaced by the lowest items not shown otherwise."""
    repaired_BK = np.asarray(action_BK, dtype=np.int64).copy()
    for slate in repaired_BK:
        seen: set[int] = set()
        spare = iter(range(2 * len(slate)))
        shown = set(slate.tolist())
        for position, item in enumerate(slate.tolist()):
            if item in seen:
                slate[position] = item = next(candidate for candidate in spare if candidate not in shown | seen)
            seen.add(item)
    return repaired_BK


class VectorUsers(VectorEnv):
    """`users` sessions side by side; a session that ended starts anew at the next step (autoreset NEXT_STEP)."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, environment: SimulatedUsers, *, users: int) -> None:
        self._environment, self.num_envs = environment, users
        self.single_observation_space, self.single_action_space = _spaces(environment)
        self.observation_space = gym.vector.utils.batch_space(self.single_observation_space, users)
        self.action_space = gym.vector.utils.batch_space(self.single_action_space, users)
        self._is_over_B = torch.zeros(users, dtype=torch.bool)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        start = int(self.np_random.integers(2**31)) if seed is None else seed
        self._is_over_B = torch.zeros(self.num_envs, dtype=torch.bool)
        return _arrays(self._environment.reset(users=self.num_envs, seed=start)), {}

    def step(self, actions: NDArray[np.integer]) -> tuple[Arrays, Any, Any, Any, dict[str, Any]]:
        slate_BK = torch.from_numpy(without_repeats(actions)) + FIRST_ITEM
        was_over_B = self._is_over_B
        result = self._environment.step(slate_BK)
        observation = result.observation
        if bool(was_over_B.any()):
            observation = self._environment.reset_rows(was_over_B)
        terminated_B, truncated_B = result.terminated_B & ~was_over_B, result.truncated_B & ~was_over_B
        self._is_over_B = terminated_B | truncated_B
        reward_B = result.reward_B.where(~was_over_B, 0.0)
        return (
            _arrays(observation), reward_B.double().numpy(), terminated_B.numpy(), truncated_B.numpy(),
            {"choice": result.choice_B.where(~was_over_B, -1).numpy()},
        )  # fmt: skip


class SingleUser(gym.Env[Arrays, NDArray[np.int64]]):
    """One session at a time."""

    metadata = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own convention

    def __init__(self, environment: SimulatedUsers) -> None:
        self._environment = environment
        self.observation_space: gym.Space[Arrays]
        self.observation_space, self.action_space = _spaces(environment)  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        start = int(self.np_random.integers(2**31))
        return self._first(_arrays(self._environment.reset(users=1, seed=start))), {}

    def step(self, action: NDArray[np.int64]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        result = self._environment.step(torch.from_numpy(without_repeats(action[None])) + FIRST_ITEM)
        return (
            self._first(_arrays(result.observation)), float(result.reward_B), bool(result.terminated_B),
            bool(result.truncated_B), {"choice": int(result.choice_B)},
        )  # fmt: skip

    @staticmethod
    def _first(arrays: Arrays) -> Arrays:
        return {name: array[0] for name, array in arrays.items()}
