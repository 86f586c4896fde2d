"""The network that every world here is: user state, slate, response.

    user state(t) -> slate(t + 1) -> response(t + 1) -> user state(t + 1)

A user model says how users begin, answer and change; the recommender is any function of the user state.
Shape legend: B users, T history, K slate positions, C options of a choice, N token ids.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from recsim_ng.core import network, variable
from torch import Tensor

from recolam.world.runtime import TensorSpec, Value

STATE, SLATE, RESPONSE = "user state", "slate", "response"

Recommender = Callable[[Value], Tensor]
"""user state -> slate int64 [B, K]."""


class Choose(Protocol):
    """How one item of a slate is chosen, or none: `sample_choice`, or what a comparison puts in its place."""

    def __call__(
        self,
        utility_BK: Tensor,
        no_click_B: Tensor,
        generator: torch.Generator,
        *,
        is_available_BK: Tensor | None = None,
    ) -> Tensor: ...


class UserModel(Protocol):
    """Users, side by side. Fields of the state common to all: history, length, step, is_active."""

    slate_size: int
    tokens: int

    def state_spec(self) -> Mapping[str, TensorSpec]: ...

    def initial_state(self, generator: torch.Generator, users: int) -> Mapping[str, Tensor]: ...

    def respond(
        self, state: Value, slate_BK: Tensor, generator: torch.Generator, *, is_available_BK: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        """For active users: reward float [B], is_leaving bool [B], and what was clicked: choice int64 [B] (a position,
        -1 for none) where one item is chosen at most, is_clicked bool [B, K] where several may be.

        An item that is not available is shown but is no option: the others are chosen as if it could not be. Without
        the argument all are available.
        """

    def next_state(
        self, state: Value, slate_BK: Tensor, response: Value, generator: torch.Generator
    ) -> Mapping[str, Tensor]: ...

    def greedy_slate(self, state: Value, *, is_available_BN: Tensor | None = None) -> Tensor:
        """The slate of largest expected immediate reward, knowing the true state; int64 [B, K]. What is not available
        is shown only where nothing else is left."""


def build_network(
    users: UserModel, recommender: Recommender, *, batch: int, generator: torch.Generator
) -> network.Network:
    """The RecSim NG network of `batch` users of this model under this recommender."""
    state = variable.Variable(name=STATE, spec=variable.ValueSpec(**users.state_spec()))
    slate_spec = TensorSpec(shape=(users.slate_size,), dtype=torch.int64)
    slate = variable.Variable(name=SLATE, spec=variable.ValueSpec(items=slate_spec))
    response = variable.Variable(
        name=RESPONSE,
        spec=variable.ValueSpec(
            choice=TensorSpec(dtype=torch.int64),
            is_clicked=TensorSpec(shape=(users.slate_size,), dtype=torch.bool),
            reward=TensorSpec(),
            is_leaving=TensorSpec(dtype=torch.bool),
        ),
    )
    state.initial_value = variable.value(lambda: Value(**users.initial_state(generator, batch)))
    slate.initial_value = variable.value(
        lambda now: Value(items=torch.zeros(batch, users.slate_size, dtype=torch.int64, device=_device(now))), (state,)
    )
    response.initial_value = variable.value(lambda now: _silence(batch, users.slate_size, _device(now)), (state,))
    slate.value = variable.value(lambda before: Value(items=recommender(before)), (state.previous,))
    response.value = variable.value(
        lambda before, shown: _respond(users, before, shown.get("items"), generator), (state.previous, slate)
    )
    state.value = variable.value(
        lambda before, shown, answer: Value(**users.next_state(before, shown.get("items"), answer, generator)),
        (state.previous, slate, response),
    )
    return network.Network(variables=[state, slate, response])


def _respond(users: UserModel, state: Value, slate_BK: Tensor, generator: torch.Generator) -> Value:
    """The response of active users; those who left choose nothing and earn nothing."""
    answer = users.respond(state, slate_BK, generator)
    is_active_B = state.get("is_active")
    if "is_clicked" in answer:
        is_clicked_BK = answer["is_clicked"] & is_active_B[:, None]
        choice_B = first_clicked(is_clicked_BK)
    else:
        choice_B = answer["choice"].where(is_active_B, -1)
        is_clicked_BK = choice_B[:, None] == torch.arange(slate_BK.shape[1], device=slate_BK.device)
    return Value(
        choice=choice_B,
        is_clicked=is_clicked_BK,
        reward=answer["reward"].where(is_active_B, 0.0),
        is_leaving=answer["is_leaving"] & is_active_B,
    )


def first_clicked(is_clicked_BK: Tensor) -> Tensor:
    """The first position clicked, int64 [B]; -1 where there is none."""
    return is_clicked_BK.int().argmax(dim=1).where(is_clicked_BK.any(dim=1), -1)


def _silence(batch: int, slate_size: int, device: torch.device) -> Value:
    return Value(
        choice=torch.full((batch,), -1, device=device),
        is_clicked=torch.zeros(batch, slate_size, dtype=torch.bool, device=device),
        reward=torch.zeros(batch, device=device),
        is_leaving=torch.zeros(batch, dtype=torch.bool, device=device),
    )


def _device(state: Value) -> torch.device:
    return state.get("is_active").device


def common_spec(*, capacity: int) -> dict[str, TensorSpec]:
    """Spec of the fields that all user states share."""
    return {
        "history": TensorSpec(shape=(capacity,), dtype=torch.int64),
        "length": TensorSpec(dtype=torch.int64),
        "step": TensorSpec(dtype=torch.int64),
        "is_active": TensorSpec(dtype=torch.bool),
    }


def common_initial(history_BT: Tensor, length_B: Tensor) -> dict[str, Tensor]:
    return {
        "history": history_BT,
        "length": length_B,
        "step": torch.zeros_like(length_B),
        "is_active": torch.ones_like(length_B, dtype=torch.bool),
    }


def common_next(state: Value, item_BJ: Tensor, is_clicked_BJ: Tensor, response: Value) -> dict[str, Tensor]:
    """Appends what was clicked to the history and notes who left.

    Args:
        item_BJ: tokens that may have been clicked: the slate, or [B, 1] where one was at most.
        is_clicked_BJ: which of them were.
    """
    history_BT, length_B = appended(state.get("history"), state.get("length"), item_BJ, is_clicked_BJ)
    is_active_B = state.get("is_active")
    return {
        "history": history_BT,
        "length": length_B,
        "step": state.get("step") + is_active_B,
        "is_active": is_active_B & ~response.get("is_leaving"),
    }


def appended(row_BT: Tensor, length_B: Tensor, new_BJ: Tensor, is_new_BJ: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with new values behind their own; the oldest fall out of full ones. 0 stands behind a row's end.

    Returns:
        int64 [B, T] and the new lengths.
    """
    capacity, most = row_BT.shape[1], new_BJ.shape[1]
    total_BJ = length_B[:, None] + is_new_BJ.cumsum(dim=1)  # where a new value goes, counted from 1
    place_BJ = total_BJ.where(is_new_BJ, capacity + most + 1)  # the last column is thrown away, as the first is
    wide_BT = torch.nn.functional.pad(row_BT, (1, most + 1)).scatter_(1, place_BJ, new_BJ)
    total_B = total_BJ[:, -1]
    dropped_B = (total_B - capacity).clamp_(min=0)
    kept_BT = torch.arange(1, 1 + capacity, device=row_BT.device) + dropped_B[:, None]
    return wide_BT.gather(1, kept_BT), total_B - dropped_B


def chosen_item(slate_BK: Tensor, choice_B: Tensor) -> Tensor:
    """The token at the chosen position, int64 [B]; 0, which is no item, where nothing was chosen."""
    return torch.nn.functional.pad(slate_BK, (1, 0)).gather(1, choice_B[:, None] + 1)[:, 0]


def sample_choice(
    utility_BK: Tensor,
    no_click_B: Tensor,
    generator: torch.Generator,
    *,
    is_available_BK: Tensor | None = None,
) -> Tensor:
    """Multinomial logit with a no-click option: position int64 [B], -1 for no click.

    P(k) = exp(utility_k) / (exp(no_click) + sum_j exp(utility_j)) (McFadden 1974), over the available items: one that
    is not has utility -inf and is never drawn. Where none is, there is no click, even if no_click is -inf.
    """
    if is_available_BK is not None:
        utility_BK = utility_BK.masked_fill(~is_available_BK, -torch.inf)
        no_click_B = no_click_B.where(is_available_BK.any(dim=1), 0.0)
    share_B = torch.rand(len(utility_BK), generator=generator, device=utility_BK.device)
    return choice_at(share_B, utility_BK, no_click_B)


def choice_at(share_B: Tensor, utility_BK: Tensor, no_click_B: Tensor) -> Tensor:
    """The option at a share in [0, 1) of all weights, no click first: position int64 [B], -1 for no click.

    It is the first whose cumulated weight exceeds the share, so a uniform share, one number a user, draws each with its
    probability (inversion; Devroye 1986, section III.2). A share below 1 stays so in float32: it is at most 1 - 2**-24,
    the whole at least 1, and their rounded product below the whole.
    """
    logit_BC = torch.cat([no_click_B[:, None], utility_BK], dim=1)
    mass_BC = (logit_BC - logit_BC.amax(dim=1, keepdim=True)).exp_().cumsum(dim=1)  # far faster than softmax
    return torch.searchsorted(mass_BC, share_B[:, None] * mass_BC[:, -1:], right=True)[:, 0] - 1
