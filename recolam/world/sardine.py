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
    """A `recolam.world.environment.World` over `sardine/<name>-v0`.

    The package ends a session at its horizon and calls that terminated; here it is truncated, as everywhere in recolam:
    the user would have gone on.

    Args:
        name: one of `NAMES`, or another environment of the package with one kind of slate.
        capacity: how many of the newest clicks an observation holds.
    """

    def __init__(self, name: str, *, capacity: int = 64) -> None:
        import sardine  # noqa: F401 - registers its environments

        self.name, self.capacity = name, capacity
        self._id = f"sardine/{name}-v0"
        self._sessions: list[Any] = []
        sample = self._new()
        self.slate_size, self.horizon, self.tokens = sample.slate_size, sample.H, FIRST_ITEM + sample.num_items
        self.feature_NZ = torch.zeros(self.tokens, sample.num_topics)
        self.feature_NZ[FIRST_ITEM:] = torch.from_numpy(sample.item_embedd)

    @property
    def full_state(self) -> dict[str, Tensor]:
        """The user's state as the package tells it, float [B, F]."""
        return {"user_state": self.user_state_BF}

    def reset(self, *, users: int, seed: int) -> Observation:
        self._sessions = self._sessions[:users] + [self._new() for _ in range(users - len(self._sessions))]
        self._seed, self._starts = seed, [0] * users
        self._history_BT = torch.zeros(users, self.capacity, dtype=torch.int64)
        self._length_B = torch.zeros(users, dtype=torch.int64)
        self._step_B = torch.zeros(users, dtype=torch.int64)
        self._states: list[Any] = [None] * users
        return self.reset_rows(torch.ones(users, dtype=torch.bool))

    def reset_rows(self, is_reset_B: Tensor) -> Observation:
        """Starts new sessions where `is_reset_B` is True, each with one slate of the package's; the others go on."""
        shape = (len(self._sessions), self.slate_size)
        slate_BK, click_BK = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        for row in is_reset_B.nonzero()[:, 0].tolist():
            seed = derive(self._seed, "sardine", row, self._starts[row]) % 2**32
            first, info = self._sessions[row].reset(seed=seed)
            slate_BK[row], click_BK[row], self._states[row] = first["slate"], first["clicks"], info["user_state"]
            self._starts[row] += 1
        self._step_B = self._step_B.masked_fill(is_reset_B, 0)
        self._length_B = self._length_B.masked_fill(is_reset_B, 0)
        self._history_BT = self._history_BT.masked_fill(is_reset_B[:, None], 0)
        return self._observe(torch.from_numpy(slate_BK) + FIRST_ITEM, torch.from_numpy(click_BK > 0))

    def step(self, slate_BK: Tensor) -> StepResult:
        """Raises ValueError for slates of another shape."""
        if tuple(slate_BK.shape) != (len(self._sessions), self.slate_size):
            raise ValueError(f"slates of shape {tuple(slate_BK.shape)} for {len(self._sessions)} sessions")
        index_BK = slate_BK.numpy() - FIRST_ITEM
        answers = [session.step(slate) for session, slate in zip(self._sessions, index_BK, strict=True)]
        self._states = [info["user_state"] for *_, info in answers]
        was_active_B = self._step_B < self.horizon
        self._step_B = self._step_B + was_active_B
        is_clicked_BK = torch.from_numpy(np.stack([found["clicks"] for found, *_ in answers]) > 0)
        is_clicked_BK = is_clicked_BK & was_active_B[:, None]
        is_cut_B = self._step_B == self.horizon
        return StepResult(
            observation=self._observe(slate_BK, is_clicked_BK),
            choice_B=first_clicked(is_clicked_BK),
            is_clicked_BK=is_clicked_BK,
            reward_B=is_clicked_BK.sum(dim=1).float(),
            terminated_B=torch.zeros_like(is_cut_B),
            truncated_B=is_cut_B,
        )

    def _new(self) -> Any:
        return gym.make(self._id).unwrapped

    def _observe(self, slate_BK: Tensor, is_clicked_BK: Tensor) -> Observation:
        self._history_BT, self._length_B = appended(self._history_BT, self._length_B, slate_BK, is_clicked_BK)
        self.user_state_BF = torch.from_numpy(np.stack(self._states).astype(np.float32))
        return Observation(history_BT=self._history_BT, length_B=self._length_B)
