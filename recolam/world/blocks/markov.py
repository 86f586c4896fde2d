"""A controlled Markov chain over finitely many states (RecSim NG: `FiniteStateMarkovModel`).

    P(s_0 = s) ~ exp(initial_s)        P(s' = r | s, action a) ~ exp(transition_{a, s, r})

Shape legend: B sessions, A actions, S states.
"""

import torch
from recsim_ng.core.value import Value
from torch import Tensor

from recolam.world.blocks.distributions import Categorical
from recolam.world.blocks.state_model import batched, field_of
from recolam.world.runtime import TensorSpec


class FiniteStateMarkovModel:
    """The equations above; `state` is int64 [B]. `inputs` has `input`, the action, int64 [B].

    Args:
        batch_size: B.
        transition_parameters: logits, float [A, S, S] or [B, A, S, S]; -inf for impossible transitions.
        initial_dist_logits: float [S] or [B, S].

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(self, *, batch_size: int, transition_parameters: Tensor, initial_dist_logits: Tensor) -> None:
        self._initial_BS = batched(initial_dist_logits, batch_size=batch_size, ndim=2, name="initial_dist_logits")
        self._transition_BASS = batched(
            transition_parameters, batch_size=batch_size, ndim=4, name="transition_parameters"
        )
        states = self._initial_BS.shape[1]
        if self._transition_BASS.shape[2:] != (states, states):
            raise ValueError(f"transitions {tuple(transition_parameters.shape)} for {states} states")

    def initial_state(self) -> Value:
        return Value(state=Categorical(self._initial_BS))

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        """Raises ValueError for an action that does not exist."""
        action_B, actions = field_of(inputs, "input", reader=type(self).__name__), self._transition_BASS.shape[1]
        if not bool(((action_B >= 0) & (action_B < actions)).all()):
            raise ValueError(f"actions from {int(action_B.min())} to {int(action_B.max())}; there are {actions}")
        row_B = torch.arange(len(self._initial_BS), device=action_B.device)
        return Value(state=Categorical(self._transition_BASS[row_B, action_B, old_state.get("state")]))

    def specs(self) -> Value:
        return Value(state=TensorSpec(dtype=torch.int64))
