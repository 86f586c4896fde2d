"""The users of a finite slate world as a `UserModel`: what was planned exactly can be played, and policies trained.

They choose by scores Q as `recolam.world.soft_planning` has them, and move by the world's transitions; the rest of a
row's probability leaves. Item i is token i + FIRST_ITEM.

Shape legend: B users, T history, K slate, S states, N items, A actions (the items, then "none" where it is allowed).
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from recolam.contracts.dataset import FIRST_ITEM
from recolam.world.assortment import best_logit_slate
from recolam.world.runtime import TensorSpec, Value
from recolam.world.slate_world import SlateWorld
from recolam.world.story import common_initial, common_next, common_spec, sample_choice

_CERTAIN = 20.0  # by how much the best item beats none, in logits, where none is not allowed


class FiniteUsers:
    """Users whose state, field `place` int64 [B], is one of finitely many; they begin in any, equally likely.

    Args:
        world: transitions, slate size and whether none may be chosen.
        q_SA: scores that users choose by, float [S, A].
        reward_SN: reward of choosing an item; choosing none earns 0.
        capacity: length of the histories.

    Raises:
        ValueError: scores or rewards of another shape than the world's.
    """

    def __init__(self, world: SlateWorld, q_SA: Tensor, reward_SN: Tensor, *, capacity: int = 4) -> None:
        expected = (world.states, world.items + world.has_none), (world.states, world.items)
        if (tuple(q_SA.shape), tuple(reward_SN.shape)) != expected:
            raise ValueError(f"scores {tuple(q_SA.shape)} and rewards {tuple(reward_SN.shape)}; expected {expected}")
        self.world, self.capacity = world, capacity
        self.slate_size, self.tokens = world.slate_LK.shape[1], world.items + FIRST_ITEM
        item_SN, none_S = q_SA[:, : world.items], q_SA.amax(dim=1) - _CERTAIN
        # without none, its score only shifts those of the items
        self._weight_SN = (item_SN - (q_SA[:, -1] if world.has_none else none_S)[:, None]).float()
        self._reward_SN = reward_SN.float()
        # by token: nothing chosen (token 0) moves as none does
        moved_SAZ = world.transition_SAZ.float()
        none_S1Z = moved_SAZ[:, -1:] if world.has_none else torch.eye(world.states)[:, None]
        self._moved_STZ = torch.cat([none_S1Z.expand(-1, FIRST_ITEM, -1), moved_SAZ[:, : world.items]], dim=1)

    def state_spec(self) -> Mapping[str, TensorSpec]:
        return common_spec(capacity=self.capacity) | {"place": TensorSpec(dtype=torch.int64)}

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]:
        place_B = torch.randint(self.world.states, (users,), generator=generator)
        empty_BT = torch.zeros(users, self.capacity, dtype=torch.int64)
        return common_initial(empty_BT, empty_BT[:, 0].clone()) | {"place": place_B}

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        place_B = state.get("place")
        item_BK = slate_BK - FIRST_ITEM
        none_B = torch.full(place_B.shape, 0.0 if self.world.has_none else -torch.inf)
        weight_BK = self._weight_SN[place_B[:, None], item_BK]
        choice_B = sample_choice(weight_BK, none_B, generator, is_available_BK=is_available_BK)
        reward_BK = self._reward_SN[place_B[:, None], item_BK]
        stays_B = self._moved_STZ[place_B, _at_choice(slate_BK, choice_B)].sum(dim=1)
        return {
            "choice": choice_B,
            "reward": _at_choice(reward_BK, choice_B),
            "is_leaving": torch.rand(len(place_B), generator=generator) >= stays_B + 1e-6,
        }

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        place_B, choice_B = state.get("place"), response.get("choice")
        chosen_B = _at_choice(slate_BK, choice_B)
        moved_BZ = self._moved_STZ[place_B, chosen_B].clone()
        moved_BZ[moved_BZ.sum(dim=1) == 0, 0] = 1.0  # who is certain to leave
        next_B = torch.multinomial(moved_BZ, 1, generator=generator)[:, 0]
        return common_next(state, chosen_B[:, None], choice_B[:, None] >= 0, response) | {
            "place": next_B.where(state.get("is_active"), place_B)
        }

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        place_B = state.get("place")
        weight_BN = pad(self._weight_SN[place_B].exp(), (FIRST_ITEM, 0)).scatter(1, state.get("history"), 0.0)
        if is_available_BN is not None:
            weight_BN = weight_BN * is_available_BN
        reward_BN = self._reward_SN[place_B]
        return best_logit_slate(weight_BN[:, FIRST_ITEM:], reward_BN, k=self.slate_size) + FIRST_ITEM


def _at_choice(value_BK: Tensor, choice_B: Tensor) -> Tensor:
    """The value at the chosen position, [B]; 0 where nothing was chosen."""
    return pad(value_BK, (1, 0)).gather(1, choice_B[:, None] + 1)[:, 0]
