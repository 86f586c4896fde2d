"""The example of "Porting a RecSim NG story", run as it stands in the text."""

from typing import Any

import pytest

EXAMPLE = """
import torch
from recsim_ng.core.network import Network
from recsim_ng.core.variable import Value, ValueSpec, Variable, value

from recolam.world.blocks.distributions import Categorical, Normal
from recolam.world.log_probability import log_probability
from recolam.world.runtime import TensorSpec, TorchRuntime

def story(drift):  # 500 users like genre 1 over genre 0 by `taste`, which drifts with what they choose
    user = Variable(name="user", spec=ValueSpec(taste=TensorSpec()))
    answer = Variable(name="answer", spec=ValueSpec(choice=TensorSpec(dtype=torch.int64)))
    user.initial_value = value(lambda: Value(taste=Normal(torch.zeros(500), 1.0)))
    user.value = value(lambda before, said: Value(taste=Normal(
        before.get("taste") + drift * (said.get("choice") - 0.5), 0.1)), (user.previous, answer.previous))
    answer.value = value(lambda now: Value(choice=Categorical(
        torch.stack([torch.zeros(500), now.get("taste")], dim=1))), (user,))
    return Network(variables=[user, answer])

seen = TorchRuntime(story(drift=0.3)).trajectory(20, generator=torch.Generator().manual_seed(0))
drift = torch.tensor(0.0, requires_grad=True)
optimiser = torch.optim.Adam([drift], lr=0.02)
for _ in range(150):
    optimiser.zero_grad()
    (-log_probability(story(drift), seen).mean()).backward()
    optimiser.step()
print(drift.item())  # 0.30: the planted drift
"""


def test_the_example_runs_and_finds_the_planted_drift() -> None:
    """9,500 moves of 0.5 drift with noise 0.1: a standard error of 0.002."""
    names: dict[str, Any] = {}
    exec(compile(EXAMPLE, "example", "exec"), names)  # noqa: S102
    assert names["drift"].item() == pytest.approx(0.3, abs=0.008)
