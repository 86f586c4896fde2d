"""State models: exact semantics where they are deterministic, statistics and scores where they are not."""

import numpy as np
import pytest
import torch
from recsim_ng.core.network import Network
from recsim_ng.core.value import FieldSpec
from recsim_ng.core.variable import ValueSpec, Variable, value
from scipy import stats

from recolam.world.blocks.history import FiniteHistoryStateModel
from recolam.world.blocks.linear_gaussian import (
    ControlledLinearGaussianStateModel,
    ControlledLinearScaledGaussianStateModel,
    LinearGaussianStateModel,
)
from recolam.world.blocks.markov import FiniteStateMarkovModel
from recolam.world.blocks.state_model import StateModel
from recolam.world.blocks.static import GMMVector, StaticTensor
from recolam.world.blocks.switching import (
    NoOPOrContinueStateModel,
    ResetOrContinueStateModel,
    SwitchingDynamicsStateModel,
)
from recolam.world.log_probability import log_probability
from recolam.world.runtime import NetworkValue, TorchRuntime, Value


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network_of(model: StateModel, inputs: Value | None = None) -> Network:
    """The model alone, driven by the same inputs at each step."""
    state = Variable(name="state", spec=ValueSpec(**model.specs().as_dict))
    state.initial_value = value(model.initial_state)
    state.value = value(lambda before: model.next_state(before, inputs), (state.previous,))
    return Network(variables=[state])


def run(model: StateModel, length: int, *, seed: int, inputs: Value | None = None) -> NetworkValue:
    return TorchRuntime(network_of(model, inputs)).trajectory(length, generator=seeded(seed))


def draw(fields: Value, *, seed: int) -> Value:
    """One draw of a state model's value."""
    variable = Variable(name="v", spec=ValueSpec(**fields.map(lambda _: FieldSpec()).as_dict))
    variable.initial_value = value(lambda: fields)
    return TorchRuntime(Network(variables=[variable])).execute(0, generator=seeded(seed))["v"]


# Linear Gaussian -----------------------------------------------------------------------------------------------------

TRANSITION = np.array([[0.9, 0.2], [-0.1, 0.7]])
CONTROL = np.array([[1.0], [0.5]])
INITIAL = np.array([[1.0, 0.0], [0.3, 0.8]])
NOISE = np.array([[0.4, 0.0], [-0.2, 0.3]])


def linear_model(*, transition: torch.Tensor, users: int) -> ControlledLinearGaussianStateModel:
    return ControlledLinearGaussianStateModel(
        batch_size=users,
        transition=transition,
        control=torch.tensor(CONTROL),
        initial_scale_tril=torch.tensor(INITIAL),
        noise_scale_tril=torch.tensor(NOISE),
    )


def stacked_log_density(states_TD: np.ndarray, inputs: float, transition: np.ndarray) -> float:
    """All steps as one normal vector: its mean and covariance by unrolling, its density by scipy."""
    steps = len(states_TD)
    mean, covariance = np.zeros((steps, 2)), np.zeros((steps, 2, steps, 2))
    covariance[0, :, 0] = INITIAL @ INITIAL.T
    for t in range(1, steps):
        mean[t] = transition @ mean[t - 1] + CONTROL[:, 0] * inputs
        for s in range(t):
            covariance[t, :, s] = transition @ covariance[t - 1, :, s]
            covariance[s, :, t] = covariance[t, :, s].T
        covariance[t, :, t] = transition @ covariance[t - 1, :, t - 1] @ transition.T + NOISE @ NOISE.T
    flat = covariance.reshape(2 * steps, 2 * steps)
    return float(stats.multivariate_normal(mean.ravel(), flat).logpdf(states_TD.ravel()))


def test_linear_gaussian_trajectories_have_the_density_of_one_big_normal_vector() -> None:
    transition = torch.tensor(TRANSITION, requires_grad=True)
    inputs = Value(input=torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64))
    model = linear_model(transition=transition, users=3)
    trajectory = run(linear_model(transition=torch.tensor(TRANSITION), users=3), 6, seed=1, inputs=inputs)
    states_TBD = trajectory["state"].get("state")
    scores_B = log_probability(network_of(model, inputs), trajectory)
    expected = [stacked_log_density(states_TBD[:, b].numpy(), (0.5, -1.0, 2.0)[b], TRANSITION) for b in range(3)]
    assert scores_B.tolist() == pytest.approx(expected, abs=1e-9)

    scores_B.sum().backward()
    assert transition.grad is not None
    for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
        ends = []
        for sign in (1, -1):
            moved = TRANSITION.copy()
            moved[place] += sign * 1e-5
            ends.append(
                sum(stacked_log_density(states_TBD[:, b].numpy(), (0.5, -1.0, 2.0)[b], moved) for b in range(3))
            )
        assert float(transition.grad[place]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_linear_gaussian_draws_have_the_mean_and_covariance_of_the_equations() -> None:
    """20,000 sessions, step 2: each whitened coordinate is standard normal (KS, 0.001)."""
    inputs = Value(input=torch.full((20_000, 1), 0.5, dtype=torch.float64))
    model = linear_model(transition=torch.tensor(TRANSITION), users=20_000)
    last_BD = run(model, 3, seed=2, inputs=inputs)["state"].get("state")[-1].numpy()
    mean = (TRANSITION + np.eye(2)) @ CONTROL[:, 0] * 0.5
    first = TRANSITION @ INITIAL @ INITIAL.T @ TRANSITION.T + NOISE @ NOISE.T
    covariance = TRANSITION @ first @ TRANSITION.T + NOISE @ NOISE.T
    white = np.linalg.solve(np.linalg.cholesky(covariance), (last_BD - mean).T)
    assert all(stats.kstest(row, "norm").pvalue > 0.001 for row in white)
    assert stats.pearsonr(*white).pvalue > 0.001


def test_without_noise_the_state_follows_the_matrix() -> None:
    """RecSim NG's example: two cycles in opposite directions."""
    cycles = torch.stack([torch.eye(3)[[1, 2, 0]], torch.eye(3)[[2, 0, 1]]])
    model = LinearGaussianStateModel(batch_size=2, transition=cycles, initial_scale_tril=torch.eye(3))
    state = model.next_state(Value(state=torch.tensor([[1.0, 0.0, 0.0]] * 2))).get("state")
    assert state.tolist() == [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_scaled_model_is_the_general_one_with_multiples_of_the_identity() -> None:
    scaled = ControlledLinearScaledGaussianStateModel(
        batch_size=2,
        dim=3,
        transition_scales=0.9,
        control_scales=torch.tensor([0.1, 0.2]),
        noise_scales=0.5,
        initial_dist_scales=2.0,
    )
    general = ControlledLinearGaussianStateModel(
        batch_size=2,
        transition=0.9 * torch.eye(3),
        control=torch.tensor([0.1, 0.2])[:, None, None] * torch.eye(3),
        initial_scale_tril=2.0 * torch.eye(3),
        noise_scale_tril=0.5 * torch.eye(3),
    )
    inputs = Value(input=torch.randn(2, 3, generator=seeded(3)))
    trajectory = run(scaled, 5, seed=4, inputs=inputs)
    scores = [log_probability(network_of(model, inputs), trajectory) for model in (scaled, general)]
    assert scores[0].tolist() == pytest.approx(scores[1].tolist(), abs=1e-4)


def test_linear_models_refuse_what_does_not_fit() -> None:
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="not lower triangular"):
        LinearGaussianStateModel(batch_size=1, transition=eye, initial_scale_tril=torch.ones(2, 2))
    with pytest.raises(ValueError, match="does not fit states of width 2"):
        LinearGaussianStateModel(batch_size=1, transition=eye, initial_scale_tril=torch.eye(3))
    with pytest.raises(ValueError, match="batch_size is 0"):
        LinearGaussianStateModel(batch_size=0, transition=eye, initial_scale_tril=eye)
    with pytest.raises(ValueError, match="dim is 0"):
        ControlledLinearScaledGaussianStateModel(batch_size=1, dim=0)
    with pytest.raises(ValueError, match="noise_scales must be above 0"):
        ControlledLinearScaledGaussianStateModel(batch_size=1, dim=1, noise_scales=0.0)
    with pytest.raises(ValueError, match="control_scales of shape"):
        ControlledLinearScaledGaussianStateModel(batch_size=2, dim=1, control_scales=torch.ones(3))
    with pytest.raises(ValueError, match="reads 'input' from its inputs"):
        linear_model(transition=torch.tensor(TRANSITION), users=1).next_state(Value(state=torch.zeros(1, 2).double()))


# Markov chains -------------------------------------------------------------------------------------------------------

KERNEL = np.array([[[0.7, 0.3, 0.0], [0.2, 0.5, 0.3], [0.1, 0.0, 0.9]], [[0.0, 1.0, 0.0]] * 3])


def chain(users: int) -> FiniteStateMarkovModel:
    return FiniteStateMarkovModel(
        batch_size=users,
        transition_parameters=torch.tensor(KERNEL).log(),
        initial_dist_logits=torch.tensor([0.2, 0.5, 0.3]).double().log(),
    )


def test_markov_transitions_and_stationary_distribution() -> None:
    action_B = torch.zeros(2_000, dtype=torch.int64)
    state_TB = run(chain(2_000), 41, seed=5, inputs=Value(input=action_B))["state"].get("state").numpy()
    assert stats.chisquare(np.bincount(state_TB[0], minlength=3), np.array([0.2, 0.5, 0.3]) * 2000).pvalue > 0.001
    for start in range(3):
        counts = np.bincount(state_TB[1:][state_TB[:-1] == start], minlength=3)
        possible = KERNEL[0, start] > 0
        assert counts[~possible].sum() == 0
        assert stats.chisquare(counts[possible], KERNEL[0, start][possible] * counts.sum()).pvalue > 0.001
    # The second eigenvalue is 0.85: after 40 steps the start is forgotten to 0.0015.
    vector = np.linalg.matrix_power(KERNEL[0], 200)[0]
    np.testing.assert_allclose(np.bincount(state_TB[-1], minlength=3) / 2000, vector, atol=3 * np.sqrt(0.25 / 2000))


def test_markov_actions_choose_the_kernel_and_scores_are_products_of_its_entries() -> None:
    inputs = Value(input=torch.tensor([0, 1]))
    trajectory = run(chain(2), 6, seed=6, inputs=inputs)
    state_TB = trajectory["state"].get("state")
    assert state_TB[1:, 1].tolist() == [1] * 5
    product = [0.2, 0.5, 0.3][state_TB[0, 0]]
    for before, after in zip(state_TB[:-1, 0].tolist(), state_TB[1:, 0].tolist(), strict=True):
        product *= KERNEL[0, before, after]
    scores_B = log_probability(network_of(chain(2), inputs), trajectory)
    assert scores_B.exp().tolist() == pytest.approx([product, [0.2, 0.5, 0.3][state_TB[0, 1]]])
    with pytest.raises(ValueError, match="actions from 0 to 2; there are 2"):
        chain(2).next_state(Value(state=torch.zeros(2, dtype=torch.int64)), Value(input=torch.tensor([0, 2])))
    with pytest.raises(ValueError, match="for 2 states"):
        FiniteStateMarkovModel(
            batch_size=1, transition_parameters=torch.zeros(1, 3, 3), initial_dist_logits=torch.zeros(2)
        )


# Static --------------------------------------------------------------------------------------------------------------


def test_static_states_never_change_and_components_are_drawn_by_their_weights() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    model = StaticTensor(batch_size=10_000, tensor_dictionary=points, logits=logits, return_component_id=True)
    trajectory = run(model, 3, seed=7)["state"]
    component_B = trajectory.get("component_id")[0]
    assert torch.equal(trajectory.get("state")[2], points[component_B])
    assert stats.chisquare(np.bincount(component_B.numpy()), np.array([0.2, 0.5, 0.3]) * 10_000).pvalue > 0.001
    with pytest.raises(ValueError, match="for logits"):
        StaticTensor(batch_size=1, tensor_dictionary=points, logits=torch.zeros(2))


def test_gmm_with_its_component_scores_the_joint_and_without_it_the_marginal() -> None:
    logits, means, scale = torch.tensor([0.3, 0.7]).log(), torch.tensor([[0.0, 0.0], [2.0, 1.0]]), 0.8
    joint = GMMVector(
        batch_size=4,
        mixture_logits=logits,
        component_means=means,
        component_scales=scale,
        return_component_id=True,
    )
    marginal = GMMVector(batch_size=4, mixture_logits=logits, component_means=means, component_scales=scale)
    trajectory = run(joint, 2, seed=8)
    component_B, state_BD = (trajectory["state"].get(name)[0] for name in ("component_id", "state"))
    each = np.stack([stats.multivariate_normal(mean, scale**2 * np.eye(2)).pdf(state_BD.numpy()) for mean in means])
    weighted = np.array([[0.3], [0.7]]) * each
    expected = np.log(weighted[component_B.numpy(), np.arange(4)])
    np.testing.assert_allclose(log_probability(network_of(joint), trajectory).numpy(), expected, atol=1e-5)
    alone = {"state": trajectory["state"].at("state")}
    expected = np.log(weighted.sum(axis=0))
    np.testing.assert_allclose(log_probability(network_of(marginal), alone).numpy(), expected, atol=1e-5)
    with pytest.raises(ValueError, match="component_scales must be above 0"):
        GMMVector(batch_size=4, mixture_logits=logits, component_means=means, component_scales=-1.0)


# Switching -----------------------------------------------------------------------------------------------------------


def test_noop_keeps_rows_and_continues_the_others() -> None:
    model = NoOPOrContinueStateModel(ControlledLinearScaledGaussianStateModel(batch_size=3, dim=2, noise_scales=0.1))
    old = Value(state=torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    inputs = Value(input=torch.ones(3, 2), condition=torch.tensor([True, False, True]))
    state = draw(model.next_state(old, inputs), seed=0).get("state")
    assert torch.equal(state[[0, 2]], old.get("state")[[0, 2]])
    assert bool(((state[1] - torch.tensor([4.0, 5.0])).abs() < 0.6).all())
    assert not torch.equal(state[1], torch.tensor([4.0, 5.0]))

    trajectory = {"state": Value(state=torch.stack([old.get("state"), state]))}
    scores_B = log_probability(network_of(model, inputs), trajectory, is_start_given=True)
    residual = (state[1] - torch.tensor([4.0, 5.0])).numpy()
    assert scores_B.tolist() == pytest.approx([0.0, stats.norm(0, 0.1).logpdf(residual).sum(), 0.0], abs=1e-3)


def test_noop_of_a_deterministic_model_is_deterministic() -> None:
    model = NoOPOrContinueStateModel(ControlledLinearScaledGaussianStateModel(batch_size=2, dim=1))
    inputs = Value(input=torch.ones(2, 1), condition=torch.tensor([True, False]))
    assert model.next_state(Value(state=torch.zeros(2, 1)), inputs).get("state").tolist() == [[0.0], [1.0]]
    with pytest.raises(ValueError, match="not bool"):
        model.next_state(Value(state=torch.zeros(2, 1)), Value(input=torch.ones(2, 1), condition=torch.ones(2)))


def test_reset_draws_from_the_start_and_scores_under_it() -> None:
    """Action 1 always leads to state 1, so who is elsewhere was reset; starts follow the initial probabilities."""
    model = ResetOrContinueStateModel(chain(3_000))
    condition_B = torch.arange(3_000) < 2_000
    inputs = Value(input=torch.ones(3_000, dtype=torch.int64), condition=condition_B)
    old = Value(state=torch.zeros(3_000, dtype=torch.int64))
    state_B = draw(model.next_state(old, inputs), seed=9).get("state")
    assert state_B[2_000:].unique().tolist() == [1]
    counts = np.bincount(state_B[:2_000].numpy(), minlength=3)
    assert stats.chisquare(counts, np.array([0.2, 0.5, 0.3]) * 2_000).pvalue > 0.001
    trajectory = {"state": Value(state=torch.stack([old.get("state"), state_B]))}
    scores_B = log_probability(network_of(model, inputs), trajectory, is_start_given=True)
    expected_B = torch.tensor([0.2, 0.5, 0.3]).double().log()[state_B].where(condition_B, 0.0)
    torch.testing.assert_close(scores_B, expected_B)


def test_switching_keeps_fields_that_depend_on_each_other_together() -> None:
    """A reset mixture: the vector stays with its own component in every row."""
    means = torch.tensor([[0.0], [100.0]])
    mixture = GMMVector(
        batch_size=500,
        mixture_logits=torch.zeros(2),
        component_means=means,
        component_scales=0.1,
        return_component_id=True,
    )
    old = draw(mixture.initial_state(), seed=1)
    condition_B = torch.arange(500) % 2 == 0
    new = draw(ResetOrContinueStateModel(mixture).next_state(old, Value(condition=condition_B)), seed=2)
    assert bool(((new.get("state") - means[new.get("component_id")]).abs() < 1.0).all())
    assert torch.equal(new.get("state")[~condition_B], old.get("state")[~condition_B])
    assert not torch.equal(new.get("component_id")[condition_B], old.get("component_id")[condition_B])


def test_switching_between_two_chains() -> None:
    """RecSim NG's example: forwards where the condition holds, backwards elsewhere."""

    def cycle(rows: list[int]) -> FiniteStateMarkovModel:
        return FiniteStateMarkovModel(
            batch_size=2, transition_parameters=torch.eye(3)[rows][None].log(), initial_dist_logits=torch.zeros(3)
        )

    model = SwitchingDynamicsStateModel(cycle([1, 2, 0]), cycle([2, 0, 1]))
    inputs = Value(input=torch.zeros(2, dtype=torch.int64), condition=torch.tensor([True, False]))
    state_B = draw(model.next_state(Value(state=torch.tensor([0, 0])), inputs), seed=0).get("state")
    assert state_B.tolist() == [1, 2]
    static = StaticTensor(batch_size=2, tensor_dictionary=torch.eye(3), logits=torch.zeros(3), return_component_id=True)
    with pytest.raises(ValueError, match=r"the fields \['state'\], the other \['component_id', 'state'\]"):
        SwitchingDynamicsStateModel(cycle([0, 1, 2]), static)


# History -------------------------------------------------------------------------------------------------------------


def test_history_is_a_list_of_the_last_inputs() -> None:
    model = NoOPOrContinueStateModel(FiniteHistoryStateModel(batch_size=5, history_length=4, dtype=torch.int64))
    state, lists = model.initial_state(), [[0] * 4 for _ in range(5)]
    generator = seeded(11)
    for _ in range(20):
        item_B = torch.randint(1, 100, (5,), generator=generator)
        is_idle_B = torch.rand(5, generator=generator) < 0.4
        state = model.next_state(state, Value(input=item_B, condition=is_idle_B))
        for user in range(5):
            if not is_idle_B[user]:
                lists[user] = [*lists[user], int(item_B[user])][-4:]
        assert state.get("state").tolist() == lists


def test_history_keeps_the_shape_of_its_inputs_and_refuses_others() -> None:
    model = FiniteHistoryStateModel(batch_size=2, history_length=3, observation_shape=(2,))
    state = model.next_state(model.initial_state(), Value(input=torch.ones(2, 2)))
    assert state.get("state").tolist() == [[[0, 0], [0, 0], [1, 1]]] * 2
    with pytest.raises(ValueError, match=r"expected \(2, 2\), torch.float32"):
        model.next_state(state, Value(input=torch.ones(2, 3)))
    with pytest.raises(ValueError, match="must be at least 1"):
        FiniteHistoryStateModel(batch_size=2, history_length=0)
