"""Worlds that change: preference shifts, new items and seasons, switched on for any user model.

All three act between what is shown and what the users see; the world's equations stay as they are. A token plays a
*role*, another token or itself: the inner world answers, remembers and learns as if the role had been shown.

    role(i) = pi^[step >= shift_at]( sigma^[other season](i) )      other season: step mod period >= floor(period / 2)
    an item i of the new ones is no option of any choice while step < new_at

pi moves every item to another's place, in one cycle of a seeded order, so what was liked changes for everybody. sigma
swaps the items of a seeded half, two by two, in the second half of every period. New items are a seeded share of all;
they may be shown early, and `UserModel.respond` is told that they are not available, so that the others are chosen as
if the new ones could not be: utility -inf in a multinomial logit, probability 0 where clicks are independent.

Exact consequences, in every world: with nothing switched on, or before anything is, sessions are those of the inner
world bit for bit; from `shift_at` on they are those of the inner world shown pi(slate). `step` is the session's own,
from 0. The outer history holds what was shown and clicked, the field `role_history` what it was taken for.

What users bring with them counts as taken at step 0: start histories are translated with the roles of step 0 and may
name new items. Worlds whose greedy slates leave out what was consumed leave out roles.
Shape legend: B users, T history, J any number of tokens, K slate, N token ids, I items.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.seeding import torch_generator
from recolam.world.runtime import TensorSpec, Value
from recolam.world.story import UserModel, common_next

_ROLES = "role_history"


@dataclass(frozen=True)
class DriftConfig:
    """What changes, and when; nothing by default. Times are steps of a session, counted from 0.

    Attributes:
        shift_at: the first step at which items have exchanged their roles.
        new_at: the first step at which new items can be chosen.
        new_share: the share of items that are new, rounded to whole items.
        period: steps of a year, whose second half (longer by one if odd) is the other season.
        seed: draws which items.

    Raises:
        ValueError: a negative time, a share outside of (0, 1), a period below 2.
    """

    shift_at: int | None = None
    new_at: int | None = None
    new_share: float = 0.2
    period: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, step in (("shift_at", self.shift_at), ("new_at", self.new_at)):
            if step is not None and step < 0:
                raise ValueError(f"{name} is {step}, below 0")
        if not 0 < self.new_share < 1:
            raise ValueError(f"new_share is {self.new_share}, not between 0 and 1")
        if self.period is not None and self.period < 2:
            raise ValueError(f"period is {self.period}, below 2")


class Drifting:
    """A `UserModel`: `users` in a world that changes as above.

    Attributes:
        shift_N: pi, int64 [N]; special tokens stay in their places.
        swap_N: sigma, int64 [N].
        is_new_N: which items are new, bool [N].

    Raises:
        ValueError: a world of fewer than four items, or one that drifts already.
    """

    def __init__(self, users: UserModel, config: DriftConfig) -> None:
        items = users.tokens - FIRST_ITEM
        if items < 4:
            raise ValueError(f"{items} items cannot change places; it takes 4")
        if _ROLES in users.state_spec():
            raise ValueError(f"{type(users).__name__} keeps a {_ROLES} already: one drift at a time")
        self.users, self.config = users, config
        self.slate_size, self.tokens = users.slate_size, users.tokens
        self.shift_N, self.swap_N = torch.arange(users.tokens), torch.arange(users.tokens)
        order_I = _seeded_order(items, config.seed, "shift")
        self.shift_N[order_I] = order_I.roll(1)
        first_I, second_I = _seeded_order(items, config.seed, "season")[: items // 4 * 2].view(2, -1)
        self.swap_N[first_I], self.swap_N[second_I] = second_I, first_I
        self.is_new_N = torch.zeros(users.tokens, dtype=torch.bool)
        self.is_new_N[_seeded_order(items, config.seed, "new")[: round(config.new_share * items)]] = True
        self._unshift_N = self.shift_N.argsort()

    def state_spec(self) -> Mapping[str, TensorSpec]:
        spec = self.users.state_spec()
        return {**spec, _ROLES: spec["history"]}

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        inner = self.users.initial_state(generator, users)
        return {**inner, _ROLES: inner["history"], "history": self.shown(inner["history"], inner["step"])}

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        inner, step_B = _inner(state), state.get("step")
        is_available_BK = _both(is_available_BK, self.is_available(slate_BK, step_B))
        return self.users.respond(inner, self.roles(slate_BK, step_B), generator, is_available_BK=is_available_BK)

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        role_BK = self.roles(slate_BK, state.get("step"))
        inner = self.users.next_state(_inner(state), role_BK, response, generator)
        outer = common_next(state, slate_BK, _is_clicked(response, slate_BK), response)
        return {**inner, _ROLES: inner["history"], "history": outer["history"]}

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The inner world's, of the items that are available at this step; int64 [B, K]."""
        step_B = state.get("step")
        token_BN = torch.arange(self.tokens, device=step_B.device).expand(len(step_B), -1)
        is_available_BN = _both(is_available_BN, self.is_available(token_BN, step_B))
        if is_available_BN is not None:
            is_available_BN = is_available_BN.gather(1, self.shown(token_BN, step_B))
        return self.shown(self.users.greedy_slate(_inner(state), is_available_BN=is_available_BN), step_B)

    def roles(self, token_BJ: Tensor, step_B: Tensor) -> Tensor:
        """The roles that tokens play at a step, int64 [B, J]."""
        if self.config.period is not None:
            token_BJ = torch.where(
                _is_season(step_B, self.config.period), self.swap_N.to(token_BJ.device)[token_BJ], token_BJ
            )
        if self.config.shift_at is not None:
            is_shifted_B1 = step_B[:, None] >= self.config.shift_at
            token_BJ = torch.where(is_shifted_B1, self.shift_N.to(token_BJ.device)[token_BJ], token_BJ)
        return token_BJ

    def shown(self, role_BJ: Tensor, step_B: Tensor) -> Tensor:
        """The tokens that play these roles at a step: the inverse of `roles`, int64 [B, J]."""
        if self.config.shift_at is not None:
            is_shifted_B1 = step_B[:, None] >= self.config.shift_at
            role_BJ = torch.where(is_shifted_B1, self._unshift_N.to(role_BJ.device)[role_BJ], role_BJ)
        if self.config.period is not None:
            role_BJ = torch.where(
                _is_season(step_B, self.config.period), self.swap_N.to(role_BJ.device)[role_BJ], role_BJ
            )
        return role_BJ

    def is_available(self, token_BJ: Tensor, step_B: Tensor) -> Tensor | None:
        """Which tokens can be chosen at a step, bool [B, J]; None if new items are not switched on."""
        if self.config.new_at is None:
            return None
        return ~self.is_new_N.to(token_BJ.device)[token_BJ] | (step_B[:, None] >= self.config.new_at)


def _is_season(step_B: Tensor, period: int) -> Tensor:
    """The second half of every period, bool [B, 1]."""
    return (step_B % period >= period // 2)[:, None]


def _seeded_order(items: int, seed: int, name: str) -> Tensor:
    return torch.randperm(items, generator=torch_generator(seed, "drift", name)) + FIRST_ITEM


def _inner(state: Value) -> Value:
    """The state as the inner world left it."""
    fields = {name: field for name, field in state.as_dict.items() if name != _ROLES}
    return Value(**{**fields, "history": state.get(_ROLES)})


def _is_clicked(response: Value, slate_BK: Tensor) -> Tensor:
    """What was clicked, bool [B, K], of a response that may name a choice only."""
    if "is_clicked" in response.as_dict:
        return response.get("is_clicked")
    return response.get("choice")[:, None] == torch.arange(slate_BK.shape[1], device=slate_BK.device)


def _both(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second
