"""State models that never change (RecSim NG: `recsim_ng.entities.state_models.static`).

Shape legend: B sessions, M components, E the shape of a state, D its width.
"""

import torch
from recsim_ng.core.value import Value
from torch import Tensor

from recolam.world.blocks.distributions import Categorical, Mixture, Normal, pick
from recolam.world.blocks.state_model import batched
from recolam.world.random_fields import Given
from recolam.world.runtime import TensorSpec


class StaticTensor:
    """One tensor of a dictionary, drawn at the start: P(state = tensor_m) is proportional to exp(logits_m).

    Args:
        batch_size: B.
        tensor_dictionary: float [M, *E] or [B, M, *E]; the batch dimension is told apart by `logits`.
        logits: float [M] or [B, M]; with [M] the dictionary has no batch dimension either.
        return_component_id: the state also has `component_id`, int64 [B], and is scored with it.

    Raises:
        ValueError: shapes that do not fit.
    """

    def __init__(
        self, *, batch_size: int, tensor_dictionary: Tensor, logits: Tensor, return_component_id: bool = False
    ) -> None:
        ndim = tensor_dictionary.ndim + (1 if logits.ndim == 1 else 0)
        self._logits_BM = batched(logits, batch_size=batch_size, ndim=2, name="logits")
        self._tensor_BME = batched(tensor_dictionary, batch_size=batch_size, ndim=ndim, name="tensor_dictionary")
        if self._tensor_BME.shape[1:2] != self._logits_BM.shape[1:]:
            raise ValueError(f"{tuple(tensor_dictionary.shape)} tensors for logits {tuple(logits.shape)}")
        self._is_component_returned = return_component_id

    def initial_state(self) -> Value:
        if not self._is_component_returned:
            return Value(state=Mixture(self._logits_BM, self._tensor_BME))
        state = Given(lambda component_B: pick(self._tensor_BME, component_B), ("component_id",))
        return Value(component_id=Categorical(self._logits_BM), state=state)

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        return old_state.at(*self.specs().as_dict)

    def specs(self) -> Value:
        return _specs(self._tensor_BME, is_component_returned=self._is_component_returned)


class GMMVector:
    """A vector of a Gaussian mixture, drawn at the start: p(x) = sum_m softmax(logits)_m N(x; mean_m, scale_m^2).

    Args:
        batch_size: B.
        mixture_logits: float [M] or [B, M].
        component_means: float [M, D] or [B, M, D].
        component_scales: standard deviations, a number or broadcastable to [B, M, D]. (RecSim NG takes a linear
            operator; here covariances are diagonal.)
        return_component_id: the state also has `component_id`, int64 [B], and is scored with it.

    Raises:
        ValueError: shapes that do not fit, scales not above 0.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        mixture_logits: Tensor,
        component_means: Tensor,
        component_scales: Tensor | float = 1.0,
        return_component_id: bool = False,
    ) -> None:
        self._logits_BM = batched(mixture_logits, batch_size=batch_size, ndim=2, name="mixture_logits")
        self._mean_BMD = batched(component_means, batch_size=batch_size, ndim=3, name="component_means")
        scale = torch.as_tensor(component_scales, dtype=component_means.dtype, device=component_means.device)
        if not bool((scale > 0).all()):
            raise ValueError(f"component_scales must be above 0; the smallest is {float(scale.min())}")
        self._scale_BMD = scale.expand_as(self._mean_BMD)
        self._mixture = Mixture(self._logits_BM, self._mean_BMD, self._scale_BMD)
        self._is_component_returned = return_component_id

    def initial_state(self) -> Value:
        if not self._is_component_returned:
            return Value(state=self._mixture)
        state = Given(
            lambda component_B: Normal(pick(self._mean_BMD, component_B), pick(self._scale_BMD, component_B)),
            ("component_id",),
        )
        return Value(component_id=Categorical(self._logits_BM), state=state)

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        return old_state.at(*self.specs().as_dict)

    def specs(self) -> Value:
        return _specs(self._mean_BMD, is_component_returned=self._is_component_returned)


def _specs(tensor_BME: Tensor, *, is_component_returned: bool) -> Value:
    specs = Value(state=TensorSpec(shape=tuple(tensor_BME.shape[2:]), dtype=tensor_BME.dtype))
    return specs.union(Value(component_id=TensorSpec(dtype=torch.int64))) if is_component_returned else specs
