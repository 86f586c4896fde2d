"""The log-probability of observed trajectories under a network; differentiable, so that worlds can be fitted.

    log p(x_0, ..., x_{T-1}) = sum_t sum_random fields log p(field_t | what the field depends on, as observed)

RecSim NG's counterpart is `recsim_ng.lib.tensorflow.log_probability`. Shape legend: B sessions, T steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from recsim_ng.core.network import Network
from recsim_ng.core.value import Value
from recsim_ng.core.variable import Variable
from torch import Tensor

from recolam.world.random_fields import Distribution, resolve
from recolam.world.runtime import NetworkValue, stable_order

_RELATIVE, _ABSOLUTE = 1e-4, 1e-5  # float32 arithmetic in another order stays well below


def log_probability(network: Network, trajectory: NetworkValue, *, is_start_given: bool = False) -> Tensor:
    """Log-probability of each session's trajectory, float [B].

    Gradients reach the tensors that the network's functions close over, the first step's too. Variables that the
    trajectory leaves out are computed again from the observed ones, so leave out deterministic states that depend on
    a parameter to be fitted.

    Args:
        trajectory: what `TorchRuntime.trajectory` returns; fields [T, B, ...].
        is_start_given: step 0 is a condition and not scored, as for a trajectory from a starting value.

    Raises:
        ValueError: as `field_log_probabilities`; nothing in the network is random; random fields have different batch
            sizes, as those of a corpus that all users share (use `joint_log_probability`).
    """
    scores = field_log_probabilities(network, trajectory, is_start_given=is_start_given)
    totals = {f"{name}.{key}": tensor.sum(dim=0) for name, value in scores.items() for key, tensor in _items(value)}
    if not totals:
        raise ValueError("the network has no random field: there is nothing to score")
    sizes = {name: len(total) for name, total in totals.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"random fields of different batch sizes {sizes}: use joint_log_probability")
    return torch.stack(list(totals.values())).sum(dim=0)


def joint_log_probability(network: Network, trajectory: NetworkValue, *, is_start_given: bool = False) -> Tensor:
    """Log-probability of all sessions and of what they share, a float scalar. Args and errors as `log_probability`."""
    scores = field_log_probabilities(network, trajectory, is_start_given=is_start_given)
    totals = [tensor.sum() for value in scores.values() for _, tensor in _items(value)]
    if not totals:
        raise ValueError("the network has no random field: there is nothing to score")
    return torch.stack(totals).sum()


def field_log_probabilities(
    network: Network, trajectory: NetworkValue, *, is_start_given: bool = False
) -> Mapping[str, Value]:
    """Log-probability of each random field at each step: variable -> Value of float [T, B], 0 where it is not random.

    With `is_start_given` step 0 is 0. The scores of a recommender's slates, for instance, are what a policy gradient
    needs.

    Raises:
        ValueError: the trajectory has no step, names unknown variables or has other fields than a variable; a
            deterministic field differs from what its function gives; a variable left out is random.
    """
    unknown = set(trajectory) - {variable.name for variable in network.variables}
    if unknown:
        raise ValueError(f"the trajectory has {sorted(unknown)}, which are not variables of the network")
    steps = _length(trajectory)
    scores = _Scores(steps)
    current: dict[str, Value] = {}
    for step in range(steps):
        before, current = current, {}
        for variable in stable_order(network, is_initial=step == 0):
            definition = variable.initial_value if step == 0 else variable.value
            inputs = [
                (current if dependency.on_current_value else before)[dependency.variable_name]
                for dependency in definition.dependencies
            ]
            observed = _at(trajectory[variable.name], step) if variable.name in trajectory else None
            if observed is not None and step == 0 and is_start_given:
                current[variable.name] = observed
            else:
                current[variable.name] = _score(variable, definition.fn(*inputs), observed, step, scores)
    return scores.stacked()


@dataclass
class _Scores:
    steps: int
    score_of: dict[tuple[str, str], dict[int, Tensor]] = field(default_factory=dict)

    def add(self, variable: str, key: str, step: int, score_B: Tensor) -> None:
        self.score_of.setdefault((variable, key), {})[step] = score_B

    def stacked(self) -> Mapping[str, Value]:
        found: dict[str, dict[str, Tensor]] = {}
        for (variable, key), by_step in self.score_of.items():
            zero_B = torch.zeros_like(next(iter(by_step.values())))
            rows = [by_step.get(step, zero_B) for step in range(self.steps)]
            found.setdefault(variable, {})[key] = torch.stack(rows)
        return {variable: Value(**fields) for variable, fields in found.items()}


def _score(variable: Variable, value: Value, observed: Value | None, step: int, scores: _Scores) -> Value:
    """The observed value, with the scores of its random fields noted; the computed one where nothing was observed."""
    if observed is not None and observed.as_dict.keys() != value.as_dict.keys():
        raise ValueError(
            f"'{variable.name}' has fields {sorted(value.as_dict)}, the trajectory {sorted(observed.as_dict)}"
        )

    def settle(key: str, content: Tensor | Distribution) -> Tensor:
        if observed is None:
            if isinstance(content, Distribution):
                raise ValueError(f"'{variable.name}' is not in the trajectory, but its field '{key}' is random")
            return content
        seen = observed.get(key)
        if isinstance(content, Distribution):
            scores.add(variable.name, key, step, content.log_prob(seen))
        else:
            _check_agreement(content, seen, where=f"field '{key}' of '{variable.name}' at step {step}")
        return seen

    return variable.typecheck(resolve(value, settle))


def _check_agreement(computed: Tensor, seen: Tensor, *, where: str) -> None:
    if computed.shape != seen.shape or computed.dtype != seen.dtype:
        raise ValueError(
            f"deterministic {where}: {tuple(seen.shape)}, {seen.dtype} observed, "
            f"{tuple(computed.shape)}, {computed.dtype} computed"
        )
    if computed.is_floating_point():
        is_equal = torch.isclose(computed, seen, rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True)
    else:
        is_equal = computed == seen
    if not bool(is_equal.all()):
        place = tuple(int(index) for index in (~is_equal).nonzero()[0])
        raise ValueError(
            f"deterministic {where} is {seen[place].item()} at {place} in the trajectory, "
            f"but its function gives {computed[place].item()}"
        )


def _length(trajectory: NetworkValue) -> int:
    lengths = {len(tensor) for value in trajectory.values() for _, tensor in _items(value)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"the fields of a trajectory have one length of at least 1, not {sorted(lengths)}")
    return lengths.pop()


def _at(value: Value, step: int) -> Value:
    return Value(**{key: tensor[step] for key, tensor in _items(value)})


def _items(value: Value) -> list[tuple[str, Tensor]]:
    return list(value.as_dict.items())
