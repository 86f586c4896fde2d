"""Random fields: runs with a generator, and scores of what was observed."""

import math

import pytest
import torch
from recsim_ng.core.network import Network
from recsim_ng.core.variable import ValueSpec, Variable, value

from recolam.world.blocks.distributions import Categorical, Normal
from recolam.world.log_probability import field_log_probabilities, joint_log_probability, log_probability
from recolam.world.random_fields import Given, resolve
from recolam.world.runtime import TensorSpec, TorchRuntime, Value

SCALE = 0.5


def random_walk(batch: int, *, drift: torch.Tensor | float = 0.3, name: str = "walk") -> Variable:
    """x_0 ~ N(0, 1), x' ~ N(x + drift, SCALE^2); the square of x rides along in the same value."""
    walk = Variable(name=name, spec=ValueSpec(x=TensorSpec(), square=TensorSpec()))
    square = Given(lambda x_B: x_B**2, ("x",))
    walk.initial_value = value(lambda: Value(x=Normal(torch.zeros(batch), 1.0), square=square))
    walk.value = value(lambda before: Value(x=Normal(before.get("x") + drift, SCALE), square=square), (walk.previous,))
    return walk


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_seed_gives_one_run_and_runs_do_not_disturb_each_other() -> None:
    runtime = TorchRuntime(Network(variables=[random_walk(4)]))
    first, second = runtime.trajectory(6, generator=seeded(1)), runtime.trajectory(6, generator=seeded(2))
    assert not torch.equal(first["walk"].get("x"), second["walk"].get("x"))
    torch.manual_seed(99)
    assert torch.equal(first["walk"].get("x"), runtime.trajectory(6, generator=seeded(1))["walk"].get("x"))

    # Two runs that take turns draw what each of them draws alone.
    mine, yours = seeded(1), seeded(2)
    my_value, your_value = runtime.execute(0, generator=mine), runtime.execute(0, generator=yours)
    for _ in range(5):
        my_value = runtime.execute(1, my_value, generator=mine)
        your_value = runtime.execute(1, your_value, generator=yours)
    assert torch.equal(my_value["walk"].get("x"), first["walk"].get("x")[-1])
    assert torch.equal(your_value["walk"].get("x"), second["walk"].get("x")[-1])


def test_draws_do_not_depend_on_the_order_in_which_variables_are_given() -> None:
    """Network orders its variables by their addresses; ten constructions would not agree by luck."""

    def run(names: list[str]) -> dict[str, Value]:
        network = Network(variables=[random_walk(2, name=name) for name in names])
        return dict(TorchRuntime(network).trajectory(3, generator=seeded(0)))

    names = [f"walk {index}" for index in range(6)]
    expected = run(names)
    for turn in range(10):
        again = run(names[turn % 6 :] + names[: turn % 6])
        assert all(torch.equal(expected[name].get("x"), again[name].get("x")) for name in names)


def test_a_run_without_a_generator_is_refused_and_says_what_draws() -> None:
    network = Network(variables=[random_walk(2)])
    with pytest.raises(ValueError, match="'walk' draws 'x': this run needs a generator"):
        TorchRuntime(network).execute(1)
    with pytest.raises(ValueError, match="TorchRuntime draws random fields"):
        network.initial_step()


def test_log_probability_is_the_sum_of_hand_written_normals() -> None:
    network = Network(variables=[random_walk(3)])
    trajectory = TorchRuntime(network).trajectory(5, generator=seeded(3))
    x_TB = trajectory["walk"].get("x").tolist()

    def normal(x: float, mean: float, scale: float) -> float:
        return -0.5 * ((x - mean) / scale) ** 2 - math.log(scale * math.sqrt(2 * math.pi))

    later = [sum(normal(x_TB[t][b], x_TB[t - 1][b] + 0.3, SCALE) for t in range(1, 5)) for b in range(3)]
    whole = [normal(x_TB[0][b], 0.0, 1.0) + later[b] for b in range(3)]
    assert log_probability(network, trajectory).tolist() == pytest.approx(whole, abs=1e-5)
    assert log_probability(network, trajectory, is_start_given=True).tolist() == pytest.approx(later, abs=1e-5)
    assert float(joint_log_probability(network, trajectory)) == pytest.approx(sum(whole), abs=1e-4)
    by_step_TB = field_log_probabilities(network, trajectory)["walk"].get("x")
    assert by_step_TB.shape == (5, 3)
    assert by_step_TB[0].tolist() == pytest.approx([normal(x, 0.0, 1.0) for x in x_TB[0]], abs=1e-5)


def test_a_planted_drift_is_recovered_by_gradient_ascent() -> None:
    """200 walks of 20 steps: the drift has a standard error of SCALE / sqrt(4000) = 0.008; three are allowed."""
    trajectory = TorchRuntime(Network(variables=[random_walk(200, drift=0.7)])).trajectory(21, generator=seeded(5))
    drift = torch.zeros((), requires_grad=True)
    network = Network(variables=[random_walk(200, drift=drift)])
    optimiser = torch.optim.Adam([drift], lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        (-log_probability(network, trajectory).mean()).backward()
        optimiser.step()
    assert float(drift.detach()) == pytest.approx(0.7, abs=3 * SCALE / math.sqrt(4000))


def test_gradients_reach_the_parameters_of_the_first_step() -> None:
    mean = torch.tensor(0.4, requires_grad=True)
    variable = Variable(name="x", spec=ValueSpec(x=TensorSpec()))
    variable.initial_value = value(lambda: Value(x=Normal(mean.expand(3), 2.0)))
    x_B = torch.tensor([1.0, 2.0, -1.0])
    network = Network(variables=[variable])
    log_probability(network, {"x": Value(x=x_B[None])}).sum().backward()
    assert mean.grad is not None
    assert float(mean.grad) == pytest.approx(float((x_B - 0.4).sum()) / 4.0)


def test_a_deterministic_field_that_disagrees_is_named_with_its_step() -> None:
    network = Network(variables=[random_walk(3)])
    trajectory = dict(TorchRuntime(network).trajectory(5, generator=seeded(3)))
    square_TB = trajectory["walk"].get("square").clone()
    square_TB[2, 1] += 1.0
    trajectory["walk"] = Value(x=trajectory["walk"].get("x"), square=square_TB)
    with pytest.raises(ValueError, match=r"deterministic field 'square' of 'walk' at step 2 is .* at \(1,\)"):
        log_probability(network, trajectory)


def test_deterministic_variables_may_be_left_out_and_random_ones_may_not() -> None:
    """Without the state in the trajectory, the gain is found from the choices alone."""

    def network(gain: torch.Tensor) -> Network:
        state = Variable(name="state", spec=ValueSpec(level=TensorSpec()))
        answer = Variable(name="answer", spec=ValueSpec(choice=TensorSpec(dtype=torch.int64)))
        state.initial_value = value(lambda: Value(level=torch.zeros(400)))
        state.value = value(
            lambda before, said: Value(level=0.9 * before.get("level") + gain * (said.get("choice") - 0.5)),
            (state.previous, answer.previous),
        )
        answer.value = value(
            lambda now: Value(choice=Categorical(torch.stack([torch.zeros(400), now.get("level")], dim=1))), (state,)
        )
        return Network(variables=[answer, state])

    full = TorchRuntime(network(torch.tensor(0.8))).trajectory(30, generator=seeded(8))
    choices = {"answer": full["answer"]}
    assert torch.equal(
        log_probability(network(torch.tensor(0.8)), choices), log_probability(network(torch.tensor(0.8)), full)
    )
    gain = torch.tensor(0.1, requires_grad=True)
    optimiser = torch.optim.Adam([gain], lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        (-log_probability(network(gain), choices).mean()).backward()
        optimiser.step()
    assert float(gain.detach()) == pytest.approx(0.8, abs=0.1)
    with pytest.raises(ValueError, match="'answer' is not in the trajectory, but its field 'choice' is random"):
        log_probability(network(gain), {"state": full["state"]})


def test_wrong_trajectories_are_refused() -> None:
    network = Network(variables=[random_walk(2)])
    trajectory = TorchRuntime(network).trajectory(3, generator=seeded(0))
    with pytest.raises(ValueError, match=r"\['jog'\], which are not variables"):
        log_probability(network, {**trajectory, "jog": trajectory["walk"]})
    with pytest.raises(ValueError, match=r"fields \['square', 'x'\], the trajectory \['x'\]"):
        log_probability(network, {"walk": trajectory["walk"].at("x")})
    with pytest.raises(ValueError, match="one length of at least 1"):
        log_probability(network, {"walk": Value(x=torch.zeros(3, 2), square=torch.zeros(2, 2))})
    constant = Variable(name="c", spec=ValueSpec(x=TensorSpec()))
    constant.value = value(lambda: Value(x=torch.zeros(2)))
    with pytest.raises(ValueError, match="nothing to score"):
        log_probability(Network(variables=[constant]), {"c": Value(x=torch.zeros(3, 2))})


def test_what_sessions_share_is_scored_once() -> None:
    variables = [random_walk(1, name="shared"), random_walk(3, name="own")]
    network = Network(variables=variables)
    trajectory = TorchRuntime(network).trajectory(4, generator=seeded(1))
    with pytest.raises(ValueError, match="use joint_log_probability"):
        log_probability(network, trajectory)
    parts = [log_probability(Network(variables=[one]), {one.name: trajectory[one.name]}).sum() for one in variables]
    assert float(joint_log_probability(network, trajectory)) == pytest.approx(float(sum(parts)), abs=1e-4)


def test_given_fields_find_their_siblings_wherever_they_are_nested() -> None:
    inner = Value(b=Given(lambda a: a + 1, ("a",)), a=torch.ones(1)).prefixed_with("inner")
    outer = inner.union(Value(c=Given(lambda b: b * 10, ("inner.b",))))
    assert resolve(outer.prefixed_with("top"), lambda _, tensor: tensor).get("top.c").tolist() == [20.0]
    with pytest.raises(ValueError, match="field 'x' is given 'y', which is not among"):
        resolve(Value(x=Given(lambda y: y, ("y",))), lambda _, tensor: tensor)
    with pytest.raises(ValueError, match="wait for each other: x <- y <- x"):
        resolve(
            Value(x=Given(lambda y: y, ("y",)), y=Given(lambda x: x, ("x",))),
            lambda _, tensor: tensor,
        )
