"""Playing sessions with slates drawn from a seed, and comparing all that happened in them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import StepResult
from recolam.world.environment import SimulatedUsers
from recolam.world.named import make_environment

DRIFT = {"shift_at": 5, "new_at": 3, "period": 4}
Record = dict[str, Tensor]


def simulated(name: str, overrides: Mapping[str, Any] | None = None, *, seed: int = 0) -> SimulatedUsers:
    """A named world that is ours."""
    environment = make_environment(name, overrides, seed=seed)
    assert isinstance(environment, SimulatedUsers)
    return environment


def play(
    environment: Any, *, users: int, steps: int, seed: int, reset_at: int | None = None, replicate_at: int | None = None
) -> list[Record]:
    """All that happens in sessions of random slates, step by step: every field of the results and of the state.

    At `reset_at` every other session starts anew, at `replicate_at` each one is doubled.
    """
    environment.reset(users=users, seed=seed)
    generator, record = torch.Generator().manual_seed(17), []
    for step in range(steps):
        if step == reset_at:
            environment.reset_rows(torch.arange(users) % 2 == 0)
        if step == replicate_at:
            environment.replicate(2)
            users *= 2
        noise_BI = torch.rand(users, environment.tokens - FIRST_ITEM, generator=generator)
        result = environment.step(noise_BI.topk(environment.slate_size).indices + FIRST_ITEM)
        record.append(all_of(result) | state_of(environment))
    return record


def all_of(result: StepResult) -> Record:
    """Every tensor of a result."""
    inside = {name: getattr(result.observation, name) for name in ("history_BT", "length_B")}
    own = {field.name: getattr(result, field.name) for field in fields(result) if field.name != "observation"}
    return {name: tensor.clone() for name, tensor in (inside | own).items()}


def state_of(environment: Any) -> Record:
    if not isinstance(environment, SimulatedUsers):
        return {"state": environment.user_state_BF.clone()}
    return {f"state.{name}": tensor.clone() for name, tensor in environment.state.as_dict.items()}


def assert_same_session(first: list[Record], second: list[Record]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            assert tensor.dtype == other[name].dtype, name
            assert torch.equal(tensor, other[name]), name
