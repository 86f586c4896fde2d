"""The last observations of each session (RecSim NG: `recsim_ng.entities.state_models.estimation`).

Shape legend: B sessions, H history, E the shape of an observation.
"""

import torch
from recsim_ng.core.value import Value

from recolam.world.blocks.state_model import field_of
from recolam.world.runtime import TensorSpec


class FiniteHistoryStateModel:
    """The last `history_length` inputs, oldest first, [B, H, *E]; zeros at the start. `inputs` has `input` [B, *E].

    Raises:
        ValueError: `history_length` or `batch_size` below 1.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        history_length: int,
        observation_shape: tuple[int, ...] = (),
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if history_length < 1 or batch_size < 1:
            raise ValueError(f"history_length {history_length} and batch_size {batch_size} must be at least 1")
        self._batch_size, self._shape = batch_size, (history_length, *observation_shape)
        self._dtype, self._device = dtype, device

    def initial_state(self) -> Value:
        return Value(state=torch.zeros(self._batch_size, *self._shape, dtype=self._dtype, device=self._device))

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        """Raises ValueError for an input of another shape or dtype."""
        observation_BE = field_of(inputs, "input", reader=type(self).__name__)
        expected = (self._batch_size, *self._shape[1:])
        if tuple(observation_BE.shape) != expected or observation_BE.dtype != self._dtype:
            raise ValueError(
                f"input of shape {tuple(observation_BE.shape)}, {observation_BE.dtype}; "
                f"expected {expected}, {self._dtype}"
            )
        return Value(state=torch.cat([old_state.get("state")[:, 1:], observation_BE[:, None]], dim=1))

    def specs(self) -> Value:
        return Value(state=TensorSpec(shape=self._shape, dtype=self._dtype))
