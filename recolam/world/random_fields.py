"""Random and dependent fields: what a variable's function may put in a `Value` besides tensors.

A function says how a field is distributed, not what it is. `TorchRuntime` draws the fields with a run's generator;
`recolam.world.log_probability` scores observed ones. So a network is written once for both.

    Value(
        topic=Categorical(logits_BNZ),
        quality=Given(lambda topic_BN: Normal(mean_Z[topic_BN], 0.1), ("topic",)),
    )

Shape legend: B sessions.
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass

import torch
from recsim_ng.core.value import Value
from torch import Tensor


class Distribution(abc.ABC):
    """The distribution of a field of shape [B, ...]; sessions are independent given the parameters."""

    @abc.abstractmethod
    def sample(self, generator: torch.Generator) -> Tensor:
        """One value of the field, [B, ...]."""

    @abc.abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability (or log-density) of each session's value, float [B]."""


@dataclass(frozen=True)
class Given:
    """A field that follows from other fields of the same value, as `variable.value` follows from other variables.

    Args:
        function: the tensors of `fields`, in their order -> a tensor, a distribution or again a `Given`.
        fields: names as they are in the `Value` that this field is put in; they keep their meaning when that value is
            nested in another one.
    """

    function: Callable[..., "Tensor | Distribution | Given"]
    fields: tuple[str, ...]


Content = Tensor | Distribution | Given
"""What a field may hold before a run or an observation settles it."""


def resolve(value: Value, settle: Callable[[str, "Tensor | Distribution"], Tensor]) -> Value:
    """The value with every field settled to a tensor, what a field depends on first.

    Args:
        settle: (field name, tensor or distribution) -> the field's tensor.

    Raises:
        ValueError: a `Given` names a field that the value does not have, or fields wait for each other.
    """
    contents = value.as_dict
    known: dict[str, Tensor] = {}

    def find(name: str, waiting: tuple[str, ...]) -> Tensor:
        if name in known:
            return known[name]
        if name in waiting:
            raise ValueError(f"fields wait for each other: {' <- '.join((*waiting, name))}")
        if name not in contents:
            raise ValueError(f"field '{waiting[-1]}' is given '{name}', which is not among {sorted(contents)}")
        content = contents[name]
        while isinstance(content, Given):
            prefix = name.rpartition(".")[0]
            needed = [f"{prefix}.{field}" if prefix else field for field in content.fields]
            content = content.function(*[find(field, (*waiting, name)) for field in needed])
        known[name] = settle(name, content)
        return known[name]

    return Value(**{name: find(name, ()) for name in contents})


def draw(value: Value, generator: torch.Generator) -> Value:
    """The value with its random fields drawn: for what is drawn once, outside of any network."""
    return resolve(
        value, lambda _, content: content.sample(generator) if isinstance(content, Distribution) else content
    )
