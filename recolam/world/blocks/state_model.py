"""What every state model promises (RecSim NG: `recsim_ng.entities.state_models.state.StateModel`).

Differences from the stock one: a batch has one dimension, B sessions, given as `batch_size`; parameters are given to
the constructor and may be tensors that require gradients, so there is no `parameters` argument.
"""

from typing import Protocol

from recsim_ng.core.value import Value
from torch import Tensor


class StateModel(Protocol):
    """A state that begins and goes on. The values' fields may be tensors, distributions or `Given`."""

    def initial_state(self) -> Value:
        """The state at step 0; field `state` [B, ...]."""

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        """The state after `old_state`; models that are driven read `input` (and `condition`) from `inputs`."""

    def specs(self) -> Value:
        """The fields' specs."""


def field_of(inputs: Value | None, name: str, *, reader: str) -> Tensor:
    """A field of `inputs`; raises ValueError where it is missing."""
    if inputs is None or name not in inputs.as_dict:
        raise ValueError(
            f"{reader} reads '{name}' from its inputs, which have {sorted(inputs.as_dict) if inputs else []}"
        )
    return inputs.get(name)


def batched(tensor: Tensor, *, batch_size: int, ndim: int, name: str) -> Tensor:
    """`tensor` of `ndim` dimensions, the first of size `batch_size`; one without that dimension is expanded.

    Raises:
        ValueError: another shape, or a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}, below 1")
    whole = tensor[None] if tensor.ndim == ndim - 1 else tensor
    if whole.ndim != ndim or whole.shape[0] not in (1, batch_size):
        raise ValueError(
            f"{name} of shape {tuple(tensor.shape)} has neither {ndim - 1} dimensions nor {ndim} with "
            f"{batch_size} (or 1) first"
        )
    return whole.expand(batch_size, *whole.shape[1:])
