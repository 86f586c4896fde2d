"""The environment: a world's network, one step at a time, with a slate from outside.

Shape legend: B users, K slate positions.
"""

from typing import Protocol

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Environment, Observation, StepResult
from recolam.seeding import derive
from recolam.world.runtime import NetworkValue, TorchRuntime, Value, select_rows
from recolam.world.slates import are_distinct, are_items
from recolam.world.story import RESPONSE, STATE, UserModel, build_network

_OBSERVED = ("history", "role_history", "length", "is_active")


class World(Environment, Protocol):
    """What `SimulatedUsers` have in common with the environments of other packages."""

    horizon: int

    @property
    def full_state(self) -> dict[str, Tensor]:
        """The true user state as numbers, float [B, F] a field, for those who may see all."""

    def reset_rows(self, is_reset_B: Tensor) -> Observation:
        """Starts new sessions where `is_reset_B` is True; the others go on."""


class SimulatedUsers:
    """A `World` of any user model.

    Args:
        users: the user model.
        horizon: steps after which a session is cut (truncated, not terminated).
    """

    def __init__(self, users: UserModel, *, horizon: int, device: torch.device | str = "cpu") -> None:
        if horizon < 1:
            raise ValueError(f"horizon is {horizon}, below 1")
        self.users, self.horizon, self._device = users, horizon, torch.device(device)
        self._value: NetworkValue | None = None
        self._shown_BK: Tensor | None = None

    @property
    def tokens(self) -> int:
        return self.users.tokens

    @property
    def slate_size(self) -> int:
        return self.users.slate_size

    @property
    def state(self) -> Value:
        """The true user state: for privileged baselines and tests, not for policies."""
        return self._current()[STATE]

    @property
    def full_state(self) -> dict[str, Tensor]:
        """The state but for its tokens and for who is still there, which are observed anyhow; float [B, F] a field."""
        fields = {name: field for name, field in self.state.as_dict.items() if name not in _OBSERVED}
        return {name: field.float().reshape(len(field), -1) for name, field in fields.items()}

    @property
    def is_under_way(self) -> bool:
        """Whether there are sessions: after the first `reset`."""
        return self._value is not None

    @property
    def generator(self) -> torch.Generator:
        """What the sessions that are under way draw from."""
        self._current()
        return self._generator

    def reset(self, *, users: int, seed: int) -> Observation:
        self._begin(users, torch.Generator(device=self._device).manual_seed(derive(seed, "environment")))
        self._value = self._runtime.execute(0)
        return self._observe()

    def resume(self, state: Value, generator: torch.Generator) -> Observation:
        """Goes on with sessions in this state, which draw from this generator."""
        self._begin(len(state.get("length")), generator)
        self._value = {STATE: state}
        return self._observe()

    def reset_rows(self, is_reset_B: Tensor) -> Observation:
        """Starts new sessions where `is_reset_B` is True; the others go on."""
        self._value = select_rows(self._current(), self._runtime.execute(0), from_other_B=is_reset_B)
        return self._observe()

    def replicate(self, replicas: int) -> Observation:
        """Turns each session into `replicas` sessions in the same state, side by side."""
        self._value = {
            name: Value(**{field: tensor.repeat_interleave(replicas, dim=0) for field, tensor in value.as_dict.items()})
            for name, value in self._current().items()
        }
        return self._observe()

    def step(self, slate_BK: Tensor) -> StepResult:
        """Raises ValueError for slates of another shape, with repeated items or with tokens that are no items.

        On a GPU the items are checked there, without waiting for the answer: bad ones end the process's use of the
        device with torch's RuntimeError, at this call or a later one.
        """
        self._check(slate_BK)
        was_active_B = self.state.get("is_active")
        self._shown_BK = slate_BK
        self._value = self._runtime.execute(1, self._current())
        state, response = self._value[STATE], self._value[RESPONSE]
        is_active_B = state.get("is_active")
        return StepResult(
            observation=self._observe(),
            choice_B=response.get("choice"),
            is_clicked_BK=response.get("is_clicked"),
            reward_B=response.get("reward"),
            terminated_B=was_active_B & ~is_active_B,
            truncated_B=is_active_B & (state.get("step") >= self.horizon),
        )

    def _begin(self, users: int, generator: torch.Generator) -> None:
        self._generator = generator
        self._runtime = TorchRuntime(build_network(self.users, self._slate_shown, batch=users, generator=generator))

    def _slate_shown(self, state: Value) -> Tensor:
        if self._shown_BK is None:
            raise ValueError("the network asked for a slate outside of `step`")
        return self._shown_BK

    def _current(self) -> NetworkValue:
        if self._value is None:
            raise ValueError("the environment was not reset")
        return self._value

    def _observe(self) -> Observation:
        state = self.state
        return Observation(history_BT=state.get("history"), length_B=state.get("length"))

    def _check(self, slate_BK: Tensor) -> None:
        expected = (len(self.state.get("length")), self.slate_size)
        if tuple(slate_BK.shape) != expected or slate_BK.dtype != torch.int64:
            raise ValueError(f"slates of shape {tuple(slate_BK.shape)}, {slate_BK.dtype}; expected {expected}, int64")
        is_known, is_distinct = are_items(slate_BK, tokens=self.tokens), are_distinct(slate_BK)
        if slate_BK.device.type != "cpu":  # reading them would wait for the device
            torch._assert_async(is_known & is_distinct, "a slate shows an item twice or a token that is no item")
        elif not is_known:
            raise ValueError(f"slates name tokens outside the items {FIRST_ITEM} to {self.tokens - 1}")
        elif not is_distinct:
            raise ValueError("a slate shows an item twice")
