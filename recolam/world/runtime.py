"""RecSim NG's runtime interface on torch.

A `recsim_ng.core.network.Network` is plain Python: its variables' functions decide what the values are. Here they are
torch tensors, so a network runs batched, on CPU or GPU, and differentiably, in one graph with a policy. A field may
also be a distribution (`recolam.world.random_fields`), which is drawn with the generator of the run.
"""

from collections.abc import Callable, Mapping

import torch
from recsim_ng.core import value as value_lib
from recsim_ng.core.network import Network
from recsim_ng.core.value import Value
from recsim_ng.core.variable import Variable
from recsim_ng.lib import runtime
from torch import Tensor

from recolam.world.random_fields import Distribution, resolve

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
            hint = "; TorchRuntime draws random fields" if isinstance(field_value, Distribution) else ""
            return False, f"{type(field_value).__name__} is not a tensor{hint}"
        if field_value.shape[1:] != self._shape or field_value.dtype != self._dtype:
            return False, (
                f"tensor of shape {tuple(field_value.shape)}, {field_value.dtype} is not "
                f"[batch, {', '.join(map(str, self._shape))}], {self._dtype}"
            )
        return True, ""

    def invariant(self) -> tuple[tuple[int, ...], torch.dtype]:
        return self._shape, self._dtype


class TorchRuntime(runtime.Runtime):
    """Runs a network step by step; the counterpart of RecSim NG's TFRuntime and JAXRuntime.

    Random fields are drawn variable by variable in an order that depends on names alone, and field by field within a
    variable. So one seed gives the same run in every process.
    """

    def __init__(self, network: Network) -> None:
        self._initial = [_Rule(variable, is_initial=True) for variable in stable_order(network, is_initial=True)]
        self._following = [_Rule(variable, is_initial=False) for variable in stable_order(network, is_initial=False)]

    def execute(
        self,
        num_steps: int,
        starting_value: NetworkValue | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> NetworkValue:
        """The network's value `num_steps` after `starting_value` (by default the network's initial value).

        Args:
            generator: draws the random fields of this run; a network without any needs none.

        Raises:
            ValueError: a negative number of steps; a random field and no generator.
        """
        if num_steps < 0:
            raise ValueError(f"num_steps is {num_steps}, below 0")
        value = _evaluate(self._initial, {}, generator) if starting_value is None else starting_value
        for _ in range(num_steps):
            value = _evaluate(self._following, value, generator)
        return value

    def trajectory(
        self,
        length: int,
        starting_value: NetworkValue | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> NetworkValue:
        """Values from step 0 to `length` - 1; every field gains a leading time dimension.

        Raises:
            ValueError: a length below 1; a random field and no generator.
        """
        if length < 1:
            raise ValueError(f"trajectory length is {length}, below 1")
        values = [self.execute(0, starting_value, generator=generator)]
        for _ in range(length - 1):
            values.append(_evaluate(self._following, values[-1], generator))
        return {name: _stack([value[name] for value in values]) for name in values[0]}


class _Rule:
    """How one variable gets its value in a step: all that a step asks of the network, looked up once."""

    def __init__(self, variable: Variable, *, is_initial: bool) -> None:
        definition = variable.initial_value if is_initial else variable.value
        self.name: str = variable.name
        self.function: Callable[..., object] = definition.fn
        self.inputs = [(found.variable_name, found.on_current_value) for found in definition.dependencies]
        self._specs: Mapping[str, value_lib.FieldSpec] = variable.spec.as_dict
        self._is_sanitized = any(
            type(spec).sanitize is not value_lib.FieldSpec.sanitize for spec in self._specs.values()
        )

    def settled(self, value: object, generator: torch.Generator | None) -> Value:
        """The value with its random fields drawn, as `Variable.typecheck` would return it, in a fifth of the time.

        Raises:
            TypeError: not a `Value`.
            ValueError: other fields than the spec's, a field that its spec refuses, random ones without a generator.
        """
        if not isinstance(value, Value):
            raise TypeError(f"'{self.name}' yielded a {type(value).__name__} instead of a Value")
        if not all(isinstance(content, Tensor) for content in value.as_dict.values()):
            return self._checked(_drawn(self.name, value, generator))
        return self._checked(value)

    def _checked(self, value: Value) -> Value:
        fields = value.as_dict
        if fields.keys() != self._specs.keys():
            raise ValueError(f"'{self.name}' has the fields {sorted(fields)}, its spec {sorted(self._specs)}")
        for name, spec in self._specs.items():
            is_right, problem = spec.check_value(fields[name])
            if not is_right:
                raise ValueError(f"'{self.name}', field '{name}': {problem}")
        if self._is_sanitized:
            return Value(**{name: spec.sanitize(fields[name], name) for name, spec in self._specs.items()})
        return value


def _evaluate(rules: list[_Rule], before: NetworkValue, generator: torch.Generator | None) -> NetworkValue:
    """The network's next value, variable by variable; `before` is empty at the start."""
    now: dict[str, Value] = {}
    for rule in rules:
        inputs = [(now if is_current else before)[name] for name, is_current in rule.inputs]
        now[rule.name] = rule.settled(rule.function(*inputs), generator)
    return now


def stable_order(network: Network, *, is_initial: bool) -> list[Variable]:
    """The network's variables, each after those it depends on within a step; ties by name.

    Network's own order follows the addresses of its variables, so it differs between processes.
    """
    by_name = {variable.name: variable for variable in network.variables}
    ordered: dict[str, Variable] = {}

    def add(name: str) -> None:
        if name in ordered:
            return
        definition = by_name[name].initial_value if is_initial else by_name[name].value
        for dependency in sorted(definition.dependencies, key=lambda dependency: dependency.variable_name):
            if dependency.on_current_value:
                add(dependency.variable_name)
        ordered[name] = by_name[name]

    for name in sorted(by_name):
        add(name)
    return list(ordered.values())


def _drawn(name: str, value: Value, generator: torch.Generator | None) -> Value:
    """The value of the variable `name` with its random fields drawn, and those that follow from them."""

    def settle(field: str, content: Tensor | Distribution) -> Tensor:
        if not isinstance(content, Distribution):
            return content
        if generator is None:
            raise ValueError(f"'{name}' draws '{field}': this run needs a generator")
        return content.sample(generator)

    return resolve(value, settle)


def _stack(values: list[Value]) -> Value:
    return Value(**{field: torch.stack([value.get(field) for value in values]) for field in values[0].as_dict})


def select_rows(value: NetworkValue, other: NetworkValue, *, from_other_B: Tensor) -> NetworkValue:
    """The rows of `other` where `from_other_B` is True, of `value` elsewhere."""

    def mix(mine: Tensor, theirs: Tensor) -> Tensor:
        return torch.where(from_other_B.view(-1, *[1] * (mine.ndim - 1)), theirs, mine)

    return {name: _zip(value[name], other[name], mix) for name in value}


def _zip(first: Value, second: Value, function: Callable[[Tensor, Tensor], Tensor]) -> Value:
    return Value(**{field: function(tensor, second.get(field)) for field, tensor in first.as_dict.items()})
