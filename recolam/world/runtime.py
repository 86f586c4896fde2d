"""RecSim NG's runtime interface on torch.

A `recsim_ng.core.network.Network` is plain Python: its variables' functions decide what the values are. Here they are
torch tensors, so a network runs batched, on CPU or GPU, and differentiably, in one graph with a policy.
"""

from collections.abc import Callable, Mapping

import torch
from recsim_ng.core import value as value_lib
from recsim_ng.core.network import Network
from recsim_ng.core.value import Value
from recsim_ng.lib import runtime
from torch import Tensor

NetworkValue = Mapping[str, Value]


class TensorSpec(value_lib.FieldSpec):
    """A field that holds a tensor of one trailing shape and dtype; the leading batch size is free.

    Args:
        shape: the shape after the batch dimension.
        dtype: the tensor's dtype.
    """

    def __init__(self, *, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> None:
        self._shape, self._dtype = shape, dtype

    def check_value(self, field_value: object) -> tuple[bool, str]:
        if not isinstance(field_value, Tensor):
            return False, f"{type(field_value).__name__} is not a tensor"
        if tuple(field_value.shape[1:]) != self._shape or field_value.dtype != self._dtype:
            return False, (
                f"tensor of shape {tuple(field_value.shape)}, {field_value.dtype} is not "
                f"[batch, {', '.join(map(str, self._shape))}], {self._dtype}"
            )
        return True, ""

    def invariant(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self._shape, self._dtype


class TorchRuntime(runtime.Runtime):
    """Runs a network step by step; the counterpart of RecSim NG's TFRuntime and JAXRuntime."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def execute(self, num_steps: int, starting_value: NetworkValue | None = None) -> NetworkValue:
        """The network's value `num_steps` after `starting_value` (by default `network.initial_step()`).

        Raises:
            ValueError: a negative number of steps.
        """
        if num_steps < 0:
            raise ValueError(f"num_steps is {num_steps}, below 0")
        value = self._network.initial_step() if starting_value is None else starting_value
        for _ in range(num_steps):
            value = self._network.step(value)
        return value

    def trajectory(self, length: int, starting_value: NetworkValue | None = None) -> NetworkValue:
        """Values from step 0 to `length` - 1; every field gains a leading time dimension.

        Raises:
            ValueError: a length below 1.
        """
        if length < 1:
            raise ValueError(f"trajectory length is {length}, below 1")
        values = [self.execute(0, starting_value)]
        for _ in range(length - 1):
            values.append(self._network.step(values[-1]))
        return {name: _stack([value[name] for value in values]) for name in values[0]}


def _stack(values: list[Value]) -> Value:
    return Value(**{field: torch.stack([value.get(field) for value in values]) for field in values[0].as_dict})


def select_rows(value: NetworkValue, other: NetworkValue, *, from_other_B: Tensor) -> NetworkValue:
    """The rows of `other` where `from_other_B` is True, of `value` elsewhere."""

    def mix(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(from_other_B.view(-1, *[1] * (mine.ndim - 1)), theirs, mine)

    return {name: _zip(value[name], other[name], mix) for name in value}


def _zip(first: Value, second: Value, function: Callable[[Tensor, Tensor], Tensor]) -> Value:
    return Value(**{field: function(tensor, second.get(field)) for field, tensor in first.as_dict.items()})
