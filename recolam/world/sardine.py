"""The package `sardine-rec` as an environment: its own simulator, one session at a time behind one interface.

Shape legend: B sessions, T history, K slate, F numbers of a user's state (taste, recent topics, boredom).
"""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, StepResult
from recolam.seeding import derive
from recolam.world.story import appended, first_clicked

NAMES = ("SlateTopK-Bored", "SlateTopK-BoredInf", "SlateTopK-Uncertain")


class SardineEnvironment:
    """`recolam.contracts.protocols.Environment` over `sardine/<name>-v0`.

    The package ends a session at its horizon and calls that terminated; here it is truncated, as everywhere in recolam:
    the user would have gone on.

    Args:
        name: one of `NAMES`, or another environment of the package with one kind of slate.
        capacity: how many of the newest clicks an observation holds.
    """

    def __init__(self, name: str, *, capacity: int = 64) -> None:
        import sardine  # noqa: F401 - registers its environments

        self._name, self._capacity = f"sardine/{name}-v0", capacity
        self._sessions: list[Any] = []
        sample = self._new()
        self.slate_size, self.horizon, self.tokens = sample.slate_size, sample.H, FIRST_ITEM + sample.num_items
        self.feature_NZ = torch.zeros(self.tokens, sample.num_topics)
        self.feature_NZ[FIRST_ITEM:] = torch.from_numpy(sample.item_embedd)

    def reset(self, *, users: int, seed: int) -> Observation:
        self._sessions = self._sessions[:users] + [self._new() for _ in range(users - len(self._sessions))]
        self._history_BT = torch.zeros(users, self._capacity, dtype=torch.int64)
        self._length_B = torch.zeros(users, dtype=torch.int64)
        starts = [
            session.reset(seed=derive(seed, "sardine", row) % 2**32) for row, session in enumerate(self._sessions)
        ]
        self._steps = 0
        self.user_state_BF = _stack([info["user_state"] for _, info in starts])
        slate_BK = torch.from_numpy(np.stack([observation["slate"] for observation, _ in starts])) + FIRST_ITEM
        return self._observe(slate_BK, np.stack([observation["clicks"] for observation, _ in starts]))

    def step(self, slate_BK: Tensor) -> StepResult:
        """Raises ValueError for slates of another shape."""
        if tuple(slate_BK.shape) != (len(self._sessions), self.slate_size):
            raise ValueError(f"slates of shape {tuple(slate_BK.shape)} for {len(self._sessions)} sessions")
        was_active = self._steps < self.horizon
        index_BK = slate_BK.numpy() - FIRST_ITEM
        answers = [session.step(slate) for session, slate in zip(self._sessions, index_BK, strict=True)]
        self._steps += 1
        self.user_state_BF = _stack([info["user_state"] for *_, info in answers])
        observation = self._observe(slate_BK, np.stack([found["clicks"] for found, *_ in answers]))
        ends_B = torch.full((len(self._sessions),), self._steps == self.horizon)
        return StepResult(
            observation=observation,
            choice_B=first_clicked(self._is_clicked_BK),
            is_clicked_BK=self._is_clicked_BK,
            reward_B=self._is_clicked_BK.sum(dim=1).float() * was_active,
            terminated_B=torch.zeros_like(ends_B),
            truncated_B=ends_B,
        )

    def _new(self) -> Any:
        return gym.make(self._name).unwrapped

    def _observe(self, slate_BK: Tensor, click_BK: np.ndarray) -> Observation:
        self._is_clicked_BK = torch.from_numpy(click_BK > 0)
        self._history_BT, self._length_B = appended(
            self._history_BT, self._length_B, slate_BK.long(), self._is_clicked_BK
        )
        return Observation(history_BT=self._history_BT, length_B=self._length_B)


def _stack(states: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack(states).astype(np.float32))
