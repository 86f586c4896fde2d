"""What a behaviour log of random slates holds: who was shown what, and what was clicked.

Shape legend: S slates, K positions, C clicks, N token ids.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.contracts.protocols import SightedEnvironment
from recolam.policy.decoder_rollout import Sessions, random_slates
from recolam.policy.response import Answers
from recolam.seeding import derive, torch_generator


@dataclass(frozen=True)
class Budget:
    """`steps` user-steps, in rounds of `users` sessions side by side; what is less than a round is not played."""

    steps: int
    users: int

    def rounds(self, environment: SightedEnvironment, *, seed: int) -> Iterator[tuple[Sessions, torch.Generator]]:
        for index in range(max(1, self.steps // (self.users * environment.horizon))):
            sessions = Sessions(environment, users=self.users, seed=derive(seed, "learning", index))
            yield sessions, torch_generator(seed, "round", index)


@dataclass(frozen=True)
class RandomLog:
    """Slates of items drawn alike, in order of time.

    Attributes:
        session_S: to which session each slate was shown, from 0.
        seconds: how long playing took.
    """

    answers: Answers
    session_S: Tensor
    seconds: float

    def clicks(self) -> tuple[Tensor, Tensor]:
        """Session and item of every click, int64 [C] both: by session, then by time, then by position."""
        slate_C, position_C = self.answers.is_clicked_SK.nonzero(as_tuple=True)
        session_C, order_C = self.session_S[slate_C].sort(stable=True)
        return session_C, self.answers.slate_SK[slate_C, position_C][order_C]


def random_log(environment: SightedEnvironment, budget: Budget, *, seed: int) -> RandomLog:
    """The whole budget spent on random slates."""
    begin, parts, sessions_of, users = time.perf_counter(), list[Answers](), list[Tensor](), 0
    act = random_slates(environment)
    for sessions, generator in budget.rounds(environment, seed=seed):
        while bool(sessions.is_active_B.any()):
            sessions_of.append(users + sessions.is_active_B.nonzero()[:, 0])
            sessions.play_by(act, generator, steps=1)
        parts += sessions.answers
        users += budget.users
    return RandomLog(Answers.joined(parts), torch.cat(sessions_of), time.perf_counter() - begin)
