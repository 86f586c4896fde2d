"""State models that choose, session by session, between two others (RecSim NG: `SwitchingDynamicsStateModel`).

`inputs` has `condition`, bool [B]. Where RecSim NG carries both branches' draws as extra fields (`tbranch`, `fbranch`),
the value here has the model's own fields only: what is observed is scored under the branch that was taken.
"""

from collections.abc import Callable

import torch
from recsim_ng.core.value import Value
from torch import Tensor

from recolam.world.blocks.distributions import Switch, where_session
from recolam.world.blocks.state_model import StateModel, field_of
from recolam.world.random_fields import Content, Given


class SwitchingDynamicsStateModel:
    """The next state is `dynamics_tbranch`'s where the condition holds and `dynamics_fbranch`'s elsewhere.

    States begin as `dynamics_tbranch` says. Both models have the same fields.

    Raises:
        ValueError: models of different fields.
    """

    def __init__(self, dynamics_tbranch: StateModel, dynamics_fbranch: StateModel) -> None:
        true, false = dynamics_tbranch.specs().as_dict, dynamics_fbranch.specs().as_dict
        if true.keys() != false.keys():
            raise ValueError(f"one model has the fields {sorted(true)}, the other {sorted(false)}")
        self._true, self._false = dynamics_tbranch, dynamics_fbranch

    def initial_state(self) -> Value:
        return self._true.initial_state()

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        condition_B = field_of(inputs, "condition", reader=type(self).__name__)
        return _switched(
            condition_B, self._true.next_state(old_state, inputs), self._false.next_state(old_state, inputs)
        )

    def specs(self) -> Value:
        return self._true.specs()


class NoOPOrContinueStateModel:
    """The state stays as it was where `condition` is True; elsewhere `state_model` goes on."""

    def __init__(self, state_model: StateModel) -> None:
        self._model = state_model

    def initial_state(self) -> Value:
        return self._model.initial_state()

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        condition_B = field_of(inputs, "condition", reader=type(self).__name__)
        kept = old_state.at(*self.specs().as_dict)
        return _switched(condition_B, kept, self._model.next_state(old_state, inputs))

    def specs(self) -> Value:
        return self._model.specs()


class ResetOrContinueStateModel:
    """The state is drawn anew as at the start where `condition` is True; elsewhere `state_model` goes on."""

    def __init__(self, state_model: StateModel) -> None:
        self._model = state_model

    def initial_state(self) -> Value:
        return self._model.initial_state()

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        condition_B = field_of(inputs, "condition", reader=type(self).__name__)
        return _switched(condition_B, self._model.initial_state(), self._model.next_state(old_state, inputs))

    def specs(self) -> Value:
        return self._model.specs()


def _switched(condition_B: Tensor, first: Value, second: Value) -> Value:
    if condition_B.dtype != torch.bool:
        raise ValueError(f"the condition is {condition_B.dtype}, not bool")
    return Value(**{name: _choose(condition_B, first.get(name), second.get(name)) for name in first.as_dict})


def _choose(condition_B: Tensor, first: Content, second: Content) -> Content:
    if isinstance(first, Given) or isinstance(second, Given):
        make_first, first_needs = _as_function(first)
        make_second, second_needs = _as_function(second)
        split = len(first_needs)
        return Given(
            lambda *known: _choose(condition_B, make_first(*known[:split]), make_second(*known[split:])),
            first_needs + second_needs,
        )
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return where_session(condition_B, first, second)
    return Switch(condition_B, first, second)


def _as_function(content: Content) -> tuple[Callable[..., Content], tuple[str, ...]]:
    return (content.function, content.fields) if isinstance(content, Given) else (lambda: content, ())
