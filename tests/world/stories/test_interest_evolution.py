"""The demo story against its equations written in numpy, and what log-probabilities make of it."""

import numpy as np
import pytest
import torch
from recsim_ng.core.network import Network
from recsim_ng.core.value import Value
from scipy import stats

from recolam.world.blocks.corpora import ViableCorpus
from recolam.world.blocks.metrics import CoverageMetrics
from recolam.world.blocks.recommenders import RandomRecommender
from recolam.world.log_probability import field_log_probabilities, joint_log_probability, log_probability
from recolam.world.runtime import TorchRuntime
from recolam.world.stories.interest_evolution import (
    CollabFilteringModel,
    InterestEvolutionUser,
    create_interest_evolution_simulation_network,
)
from recolam.world.stories.recommendation import recs_story

NAMES = {
    "user state",
    "user response",
    "corpus state",
    "available docs",
    "slate docs",
    "recommender state",
    "metrics state",
    "user observation",
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numpy_of(trajectory: dict[str, Value], name: str) -> dict[str, np.ndarray]:
    return {field: tensor.numpy() for field, tensor in trajectory[name].as_dict.items()}


def test_ten_steps_follow_the_equations() -> None:
    network = create_interest_evolution_simulation_network(generator=seeded(0), num_users=50, num_topics=3, num_docs=20)
    trajectory = dict(TorchRuntime(network).trajectory(10, generator=seeded(1)))
    assert set(trajectory) == NAMES
    user, slate, response, metrics, corpus = (
        numpy_of(trajectory, name)
        for name in ("user state", "slate docs", "user response", "metrics state", "corpus state")
    )
    interest_TBZ, choice_TB, time_TB = user["interest.state"], response["choice"], response["consumed_time"]
    quality_N, feature_NZ = corpus["doc_quality"][0, 0], corpus["doc_features"][0, 0]
    assert np.all(corpus["doc_features"] == feature_NZ)
    total_B = np.zeros(50)
    for t in range(10):
        rank_BK = slate["doc_ranks"][t]
        assert np.all(rank_BK[:, 0] != rank_BK[:, 1])
        assert np.array_equal(slate["doc_id"][t], rank_BK + 1)
        for b in range(50):
            assert metrics["cumulative_reward"][t, b] == pytest.approx(total_B[b], abs=1e-5)
            x = interest_TBZ[t, b]
            is_chosen = choice_TB[t, b] < 2
            if is_chosen:
                document = rank_BK[b, choice_TB[t, b]]
                time = 2.0 / (1 + np.exp(quality_N[document]))
                y = x + 0.1 * quality_N[document] * (feature_NZ[document] - x)
            else:
                time, y = -1.0, x
            assert time_TB[t, b] == pytest.approx(time, abs=1e-5)
            total_B[b] += max(time, 0.0)
            if t < 9:
                np.testing.assert_allclose(interest_TBZ[t + 1, b], 20 * np.tanh(y / 20), atol=1e-5)
    assert 0 < (choice_TB == 2).mean() < 1


def test_choices_have_the_probabilities_of_the_equations_and_starts_are_standard_normal() -> None:
    network = create_interest_evolution_simulation_network(generator=seeded(0), num_users=4000)
    trajectory = dict(TorchRuntime(network).trajectory(2, generator=seeded(2)))
    x_BZ = trajectory["user state"].get("interest.state")[0].numpy()
    assert stats.kstest(x_BZ.ravel(), "norm").pvalue > 0.001
    feature_BKZ = trajectory["slate docs"].get("doc_features")[0].numpy()
    weight_BK = np.exp(2.0 - np.linalg.norm(x_BZ[:, None] - feature_BKZ, axis=2))
    probability_BC = np.concatenate([weight_BK, np.ones((4000, 1))], axis=1)
    probability_BC /= probability_BC.sum(axis=1, keepdims=True)
    choice_B = trajectory["user response"].get("choice")[0].numpy()
    scores = field_log_probabilities(network, trajectory)
    expected_B = np.log(probability_BC[np.arange(4000), choice_B])
    np.testing.assert_allclose(scores["user response"].get("choice")[0].numpy(), expected_B, atol=1e-5)
    excess_C = (choice_B[:, None] == np.arange(3)).sum(axis=0) - probability_BC.sum(axis=0)
    assert np.all(np.abs(excess_C) < 4 * np.sqrt((probability_BC * (1 - probability_BC)).sum(axis=0)))
    # All slates are equally probable: 1 / (100 * 99).
    np.testing.assert_allclose(scores["slate docs"].get("doc_ranks").numpy(), -np.log(9900), rtol=1e-5)
    start_B = stats.norm.logpdf(x_BZ).sum(axis=1)
    np.testing.assert_allclose(scores["user state"].get("interest.linear_update.state")[0].numpy(), start_B, atol=1e-4)


def test_a_seed_gives_one_run_and_a_frozen_corpus_stays() -> None:
    network = create_interest_evolution_simulation_network(generator=seeded(0), num_users=20)
    first, again, other = (TorchRuntime(network).trajectory(5, generator=seeded(seed)) for seed in (1, 1, 2))
    for name in first:
        assert all(torch.equal(tensor, again[name].get(field)) for field, tensor in first[name].as_dict.items())
    assert not torch.equal(first["slate docs"].get("doc_ranks"), other["slate docs"].get("doc_ranks"))
    assert torch.equal(first["corpus state"].get("doc_quality"), other["corpus state"].get("doc_quality"))
    thawed = create_interest_evolution_simulation_network(num_users=20)
    runs = [TorchRuntime(thawed).trajectory(2, generator=seeded(seed)) for seed in (1, 2)]
    assert not torch.equal(*[one["corpus state"].get("doc_quality") for one in runs])
    with pytest.raises(ValueError, match="use joint_log_probability"):
        log_probability(thawed, runs[0])
    assert bool(torch.isfinite(joint_log_probability(thawed, runs[0])))


def test_noise_in_the_update_is_scored() -> None:
    """With noise, linear_update is random where a document was chosen and certain where none was."""
    make = create_interest_evolution_simulation_network
    network = make(generator=seeded(0), num_users=200, interest_update_noise_scale=0.2)
    trajectory = TorchRuntime(network).trajectory(2, generator=seeded(3))
    score_B = field_log_probabilities(network, trajectory)["user state"].get("interest.linear_update.state")[1]
    is_idle_B = trajectory["user response"].get("choice")[0] == 2
    assert torch.equal(score_B[is_idle_B], torch.zeros(int(is_idle_B.sum())))
    assert bool((score_B[~is_idle_B] != 0).all())
    assert bool(torch.isfinite(score_B).all())


def test_the_interest_step_is_recovered_from_choices_alone() -> None:
    """600 users, 25 steps, planted 0.5, started from 0.1, states unseen; four standard errors are 0.016."""

    def network(step: torch.Tensor | float) -> Network:
        return create_interest_evolution_simulation_network(
            generator=seeded(0), num_users=600, num_docs=30, interest_step_size=step
        )

    full = TorchRuntime(network(0.5)).trajectory(25, generator=seeded(4))
    seen = {name: full[name] for name in ("user response", "slate docs")}
    start = full["user state"].map(lambda field: field[0])
    step = torch.tensor(0.1, requires_grad=True)
    optimiser = torch.optim.LBFGS([step], max_iter=12, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        total = -log_probability(given_start(network(step), start), seen).mean()
        total.backward()
        return total

    optimiser.step(loss)
    assert float(step.detach()) == pytest.approx(0.5, abs=0.016)


def given_start(network: Network, start: Value) -> Network:
    """The network with its users' first interests known."""
    for variable in network.variables:
        if variable.name == "user state":
            variable.initial_value = type(variable.initial_value)(fn=lambda: start)
    return Network(variables=list(network.variables))


def test_a_policy_gradient_reaches_the_recommender_and_moves_it_towards_reward() -> None:
    """The score-function estimator that RecSim NG's demo uses, with a baseline: reward per user grows."""
    model = CollabFilteringModel(num_docs=10, history_length=4, width=8).initialise(seeded(5))
    network = create_interest_evolution_simulation_network(
        generator=seeded(0), model=model, num_users=200, num_docs=10, history_length=4
    )
    runtime = TorchRuntime(network)

    def play(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        trajectory = runtime.trajectory(8, generator=seeded(seed))
        score_TB = field_log_probabilities(network, trajectory)["slate docs"].get("doc_ranks")
        return trajectory["metrics state"].get("cumulative_reward")[-1].detach(), score_TB[:-1].sum(dim=0)

    with torch.no_grad():
        before = float(torch.stack([play(100 + seed)[0] for seed in range(4)]).mean())
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for seed in range(30):
        reward_B, score_B = play(seed)
        optimiser.zero_grad()
        (-((reward_B - reward_B.mean()) * score_B).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        after = float(torch.stack([play(100 + seed)[0] for seed in range(4)]).mean())
    assert after > before + 0.3


def test_stories_take_other_blocks() -> None:
    """Providers whose viability follows clicks, in the same story: corpora change, coverage grows."""

    class TopicUser(InterestEvolutionUser):
        """The demo's user for documents without quality and length."""

        def next_response(self, previous_state: Value, slate_docs: Value) -> Value:
            return super().next_response(previous_state, _completed(slate_docs))

        def next_state(self, previous_state: Value, user_response: Value, slate_docs: Value) -> Value:
            return super().next_state(previous_state, user_response, _completed(slate_docs))

    corpus = ViableCorpus(num_docs=12, provider_means=torch.eye(3) * 2)
    variables = recs_story(
        user=TopicUser(num_users=30, num_topics=3, slate_size=2),
        corpus=corpus,
        recommender=RandomRecommender(num_users=30, slate_size=2, documents=corpus.specs().get("available_docs")),
        metrics=CoverageMetrics(num_users=30, num_docs=12),
    )
    network = Network(variables=variables)
    trajectory = TorchRuntime(network).trajectory(6, generator=seeded(6))
    clicks_T = trajectory["corpus state"].get("provider_click_count").sum(dim=(1, 2))
    chosen_T = (trajectory["user response"].get("choice") < 2).sum(dim=1)
    for t in range(5):
        assert float(clicks_T[t + 1]) == pytest.approx(0.96 * float(clicks_T[t]) + int(chosen_T[t]), rel=1e-5)
    coverage_TB = trajectory["metrics state"].get("coverage")
    assert bool((coverage_TB[1:] >= coverage_TB[:-1]).all())
    assert coverage_TB[1].unique().tolist() == pytest.approx([2 / 12])
    assert bool(torch.isfinite(joint_log_probability(network, trajectory)))


def _completed(slate: Value) -> Value:
    shape = slate.get("doc_ranks").shape
    return slate.union(Value(doc_quality=torch.full(shape, 0.5), doc_length=torch.ones(shape)))
