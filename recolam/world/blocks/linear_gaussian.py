"""Linear Gaussian state models (RecSim NG: `recsim_ng.entities.state_models.dynamic`).

    x_0 ~ N(0, L_0 L_0')        x' = A x + C u + L noise        noise ~ N(0, I)

Shape legend: B sessions, D state width, U input width.
"""

import torch
from recsim_ng.core.value import Value
from torch import Tensor

from recolam.world.blocks.distributions import MultivariateNormal, Normal
from recolam.world.blocks.state_model import batched, field_of
from recolam.world.runtime import TensorSpec


class ControlledLinearGaussianStateModel:
    """The equations above; `inputs` has `input` u, float [B, U].

    Args:
        batch_size: B.
        transition: A, float [D, D] or [B, D, D].
        control: C, float [D, U] or [B, D, U]; None adds nothing and reads no input.
        initial_scale_tril: L_0, lower triangular, float [D, D] or [B, D, D].
        noise_scale_tril: L; None for no noise (the state is then a tensor, not a distribution).

    Raises:
        ValueError: shapes that do not fit; a factor that is not lower triangular with a positive diagonal.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        transition: Tensor,
        control: Tensor | None,
        initial_scale_tril: Tensor,
        noise_scale_tril: Tensor | None = None,
    ) -> None:
        self._transition_BDD = batched(transition, batch_size=batch_size, ndim=3, name="transition")
        self._width = transition.shape[-1]
        self._control_BDU = None
        if control is not None:
            self._control_BDU = batched(control, batch_size=batch_size, ndim=3, name="control")
        self._initial_BDD = _factor(initial_scale_tril, batch_size=batch_size, name="initial_scale_tril")
        self._noise_BDD = None
        if noise_scale_tril is not None:
            self._noise_BDD = _factor(noise_scale_tril, batch_size=batch_size, name="noise_scale_tril")
        for matrix in (self._transition_BDD, self._control_BDU, self._initial_BDD, self._noise_BDD):
            if matrix is not None and matrix.shape[1] != self._width:
                raise ValueError(f"a matrix {tuple(matrix.shape[1:])} does not fit states of width {self._width}")

    def initial_state(self) -> Value:
        return Value(state=MultivariateNormal(torch.zeros_like(self._initial_BDD[:, 0]), self._initial_BDD))

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        mean_BD = (self._transition_BDD @ old_state.get("state")[..., None])[..., 0]
        if self._control_BDU is not None:
            input_BU = field_of(inputs, "input", reader=type(self).__name__)
            mean_BD = mean_BD + (self._control_BDU @ input_BU[..., None])[..., 0]
        return Value(state=mean_BD if self._noise_BDD is None else MultivariateNormal(mean_BD, self._noise_BDD))

    def specs(self) -> Value:
        return Value(state=TensorSpec(shape=(self._width,), dtype=self._transition_BDD.dtype))


class LinearGaussianStateModel:
    """x' = A x + L noise: a `ControlledLinearGaussianStateModel` without input; same arguments."""

    def __init__(
        self, *, batch_size: int, transition: Tensor, initial_scale_tril: Tensor, noise_scale_tril: Tensor | None = None
    ) -> None:
        self._model = ControlledLinearGaussianStateModel(
            batch_size=batch_size,
            transition=transition,
            control=None,
            initial_scale_tril=initial_scale_tril,
            noise_scale_tril=noise_scale_tril,
        )

    def initial_state(self) -> Value:
        return self._model.initial_state()

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        return self._model.next_state(old_state)

    def specs(self) -> Value:
        return self._model.specs()


class ControlledLinearScaledGaussianStateModel:
    """The equations above where every matrix is a multiple of the identity: x' = a x + c u + s noise.

    Args:
        batch_size: B.
        dim: D.
        transition_scales, control_scales, initial_dist_scales: a, c and the initial standard deviation, numbers or
            float [B].
        noise_scales: s, a number or float [B] above 0; None for no noise.

    Raises:
        ValueError: `dim` below 1, another shape, standard deviations not above 0.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        dim: int,
        transition_scales: Tensor | float = 1.0,
        control_scales: Tensor | float = 1.0,
        noise_scales: Tensor | float | None = None,
        initial_dist_scales: Tensor | float = 1.0,
    ) -> None:
        if dim < 1:
            raise ValueError(f"dim is {dim}, below 1")
        self._batch_size, self._dim = batch_size, dim
        self._transition_B1 = self._column(transition_scales, name="transition_scales")
        self._control_B1 = self._column(control_scales, name="control_scales")
        self._initial_B1 = self._column(initial_dist_scales, name="initial_dist_scales", is_deviation=True)
        self._noise_B1 = None
        if noise_scales is not None:
            self._noise_B1 = self._column(noise_scales, name="noise_scales", is_deviation=True)

    def initial_state(self) -> Value:
        mean_BD = torch.zeros_like(self._initial_B1).expand(-1, self._dim)
        return Value(state=Normal(mean_BD, self._initial_B1))

    def next_state(self, old_state: Value, inputs: Value | None = None) -> Value:
        input_BD = field_of(inputs, "input", reader=type(self).__name__)
        mean_BD = self._transition_B1 * old_state.get("state") + self._control_B1 * input_BD
        return Value(state=mean_BD if self._noise_B1 is None else Normal(mean_BD, self._noise_B1))

    def specs(self) -> Value:
        return Value(state=TensorSpec(shape=(self._dim,), dtype=self._initial_B1.dtype))

    def _column(self, scale: Tensor | float, *, name: str, is_deviation: bool = False) -> Tensor:
        tensor = torch.as_tensor(scale, dtype=torch.get_default_dtype() if isinstance(scale, float | int) else None)
        if is_deviation and not bool((tensor > 0).all()):
            raise ValueError(f"{name} must be above 0; the smallest is {float(tensor.min())}")
        return batched(tensor, batch_size=self._batch_size, ndim=1, name=name)[:, None]


def _factor(tril: Tensor, *, batch_size: int, name: str) -> Tensor:
    factor_BDD = batched(tril, batch_size=batch_size, ndim=3, name=name)
    if factor_BDD.shape[1] != factor_BDD.shape[2]:
        raise ValueError(f"{name} of shape {tuple(tril.shape)} is not square")
    is_lower = bool((factor_BDD.triu(1) == 0).all())
    if not is_lower or not bool((factor_BDD.diagonal(dim1=1, dim2=2) > 0).all()):
        raise ValueError(f"{name} is not lower triangular with a positive diagonal")
    return factor_BDD
