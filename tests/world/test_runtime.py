import pytest
import torch
from recsim_ng.core.network import Network
from recsim_ng.core.variable import ValueSpec, Variable, value
from recsim_ng.lib.runtime import Runtime

from recolam.world.runtime import TensorSpec, TorchRuntime, Value, select_rows


def fibonacci(batch: int) -> Network:
    """RecSim NG's own example: a value that holds the last two numbers of the sequence."""
    variable = Variable(name="fib", spec=ValueSpec(n0=TensorSpec(), n1=TensorSpec()))
    variable.initial_value = value(lambda: Value(n0=torch.zeros(batch), n1=torch.ones(batch)))
    variable.value = value(
        lambda before: Value(n0=before.get("n1"), n1=before.get("n0") + before.get("n1")), (variable.previous,)
    )
    return Network(variables=[variable])


def test_it_is_a_recsim_ng_runtime_and_steps_as_the_network_does() -> None:
    network = fibonacci(2)
    runtime = TorchRuntime(network)
    assert isinstance(runtime, Runtime)
    assert runtime.execute(10)["fib"].get("n0").tolist() == [55.0, 55.0]
    assert runtime.execute(4, runtime.execute(6))["fib"].get("n0").tolist() == [55.0, 55.0]


def test_a_trajectory_stacks_all_steps() -> None:
    runtime = TorchRuntime(fibonacci(1))
    trajectory = runtime.trajectory(6)
    assert trajectory["fib"].get("n0")[:, 0].tolist() == [0, 1, 1, 2, 3, 5]
    assert torch.equal(runtime.trajectory(2, runtime.execute(4))["fib"].get("n0")[:, 0], torch.tensor([3.0, 5.0]))


def test_gradients_flow_through_time() -> None:
    seed = torch.ones(1, requires_grad=True)
    variable = Variable(name="x", spec=ValueSpec(v=TensorSpec()))
    variable.initial_value = value(lambda: Value(v=seed))
    variable.value = value(lambda before: Value(v=before.get("v") * 2), (variable.previous,))
    TorchRuntime(Network(variables=[variable])).execute(5)["x"].get("v").sum().backward()
    assert seed.grad is not None
    assert float(seed.grad) == 32.0


def test_wrong_values_and_lengths_are_refused() -> None:
    variable = Variable(name="x", spec=ValueSpec(v=TensorSpec(shape=(3,))))
    variable.initial_value = value(lambda: Value(v=torch.zeros(2, 4)))
    runtime = TorchRuntime(Network(variables=[variable]))
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        runtime.execute(0)
    with pytest.raises(ValueError, match="below 1"):
        TorchRuntime(fibonacci(1)).trajectory(0)
    with pytest.raises(ValueError, match="below 0"):
        TorchRuntime(fibonacci(1)).execute(-1)


def test_rows_can_be_taken_from_another_value() -> None:
    runtime = TorchRuntime(fibonacci(3))
    mixed = select_rows(runtime.execute(6), runtime.execute(0), from_other_B=torch.tensor([False, True, False]))
    assert mixed["fib"].get("n0").tolist() == [8.0, 0.0, 8.0]
