"""Every sampler against its own log_prob: chi-square or Kolmogorov-Smirnov, fixed seeds, significance 0.001."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from recolam.world.blocks.distributions import (
    Bernoulli,
    Categorical,
    Mixture,
    MultivariateNormal,
    Normal,
    PlackettLuce,
    Switch,
    invert_cdf,
    pick,
)
from recolam.world.random_fields import Distribution

DRAWS = 20_000
ALPHA = 0.001


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_frequencies(distribution: Distribution, outcomes: torch.Tensor, *, seed: int) -> None:
    """`distribution` has DRAWS equal sessions; `outcomes` [M, ...] are all that can happen."""
    probability_M = torch.stack(
        [distribution.log_prob(outcome.expand(DRAWS, *outcome.shape))[0].exp() for outcome in outcomes]
    ).double()
    assert float(probability_M.sum()) == pytest.approx(1.0, abs=1e-5)
    draw = distribution.sample(seeded(seed))
    is_outcome_BM = (draw.view(DRAWS, 1, -1) == outcomes.view(1, len(outcomes), -1)).all(dim=2)
    assert bool((is_outcome_BM.sum(dim=1) == 1).all())
    observed_M = is_outcome_BM.sum(dim=0).numpy()
    possible = probability_M.numpy() > 0
    assert observed_M[~possible].sum() == 0
    expected_M = probability_M.numpy()[possible] / probability_M.numpy()[possible].sum() * DRAWS
    assert stats.chisquare(observed_M[possible], expected_M).pvalue > ALPHA


def test_categorical() -> None:
    logits = torch.tensor([-torch.inf, 0.3, -1.0, 2.0, -torch.inf]).expand(DRAWS, 5)
    assert_frequencies(Categorical(logits), torch.arange(5), seed=1)


def test_categorical_takes_one_uniform_per_draw_and_inverts_the_cdf() -> None:
    logits = torch.log(torch.tensor([0.2, 0.5, 0.3])).expand(50, 3)
    uniform_B = torch.rand(50, generator=seeded(4))
    expected_B = np.searchsorted([0.2, 0.7, 1.0], uniform_B.numpy(), side="right")
    assert Categorical(logits).sample(seeded(4)).tolist() == expected_B.tolist()


def test_categorical_never_draws_an_impossible_class_even_at_the_ends() -> None:
    """Sums of 0.1 are not 1 in float32: a naive inverse CDF would now and then fall off the end."""
    logits = torch.cat([torch.full((1,), -torch.inf), torch.zeros(10), torch.full((3,), -torch.inf)])
    draw = Categorical(logits.expand(2_000_000, 14)).sample(seeded(0))
    assert int(draw.min()) == 1
    assert int(draw.max()) == 10
    with pytest.raises(ValueError, match="without a possible class"):
        Categorical(torch.full((2, 3), -torch.inf)).sample(seeded(0))


def test_the_ends_of_the_uniform_range_fall_on_possible_classes() -> None:
    """Shares that float32 does not hold exactly, with impossible classes on both sides."""
    for share in (0.1, 0.07):
        probability = torch.tensor([0.0, *[share] * 10, 0.0, 0.0]).expand(4, 13)
        uniform = torch.tensor([0.0, 0.5, 1.0 - 2**-24, 2**-24])
        assert invert_cdf(probability, uniform).tolist() == [1, 6, 10, 1]
    assert invert_cdf(torch.tensor([[0.5, 0.5]]), torch.tensor([0.5])).tolist() == [1]


def test_bernoulli() -> None:
    logits = torch.tensor([0.5, -2.0, 1.0]).expand(DRAWS, 3)
    outcomes = torch.tensor(list(itertools.product([False, True], repeat=3)))
    assert_frequencies(Bernoulli(logits), outcomes, seed=2)


def test_plackett_luce() -> None:
    scores = torch.tensor([0.5, -1.0, 1.5, -torch.inf]).expand(DRAWS, 4)
    outcomes = torch.tensor(list(itertools.permutations(range(4), 2)))
    assert_frequencies(PlackettLuce(scores, 2), outcomes, seed=3)
    with pytest.raises(ValueError, match="slates of 5 out of 4"):
        PlackettLuce(scores, 5)
    with pytest.raises(ValueError, match="not"):
        PlackettLuce(scores[0], 2)


def test_a_mixture_of_points() -> None:
    """Two components lie on the same point: their weights add."""
    points = torch.tensor([[0.0, 1.0], [2.0, 2.0], [0.0, 1.0]])
    mixture = Mixture(torch.tensor([0.1, 0.7, -0.5]).expand(DRAWS, 3), points[None])
    assert_frequencies(mixture, points[:2], seed=4)
    weight = torch.softmax(torch.tensor([0.1, 0.7, -0.5]), dim=0)
    assert float(mixture.log_prob(points[:1].expand(DRAWS, 2))[0].exp()) == pytest.approx(float(weight[0] + weight[2]))
    with pytest.raises(ValueError, match="do not fit mixture logits"):
        Mixture(torch.zeros(4, 3), torch.zeros(4, 2, 5))


def ks_pvalue(draw_B: torch.Tensor, distribution: Distribution, *, low: float, high: float) -> float:
    """KS test of draws against the CDF that the integrated density gives; its own log_prob is the only source."""
    grid = torch.linspace(low, high, DRAWS)
    density = distribution.log_prob(grid[:, None] if draw_B.ndim == 2 else grid).double().exp().numpy()
    step = (high - low) / (DRAWS - 1)
    cdf = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * step)])
    assert cdf[-1] == pytest.approx(1.0, abs=1e-3)
    return float(stats.kstest(draw_B.flatten().numpy(), lambda x: np.interp(x, grid.numpy(), cdf)).pvalue)


def test_normal() -> None:
    normal = Normal(torch.full((DRAWS,), 1.5), 0.7)
    assert ks_pvalue(normal.sample(seeded(5)), normal, low=-4.0, high=7.0) > ALPHA


def test_a_mixture_of_normals() -> None:
    mixture = Mixture(
        torch.tensor([0.0, 1.0]).expand(DRAWS, 2), torch.tensor([[[-2.0], [1.0]]]), torch.tensor([[[0.5], [1.0]]])
    )
    assert ks_pvalue(mixture.sample(seeded(6)), mixture, low=-8.0, high=8.0) > ALPHA


def test_multivariate_normal() -> None:
    """Each whitened coordinate is standard normal, coordinates do not correlate, and log_prob is scipy's."""
    tril = torch.tensor([[1.0, 0.0], [0.8, 0.5]])
    loc = torch.tensor([1.0, -1.0])
    normal = MultivariateNormal(loc.expand(DRAWS, 2), tril)
    draw = normal.sample(seeded(7))
    white = np.linalg.solve(tril.numpy(), (draw - loc).numpy().T)
    assert all(stats.kstest(row, "norm").pvalue > ALPHA for row in white)
    assert stats.pearsonr(*white).pvalue > ALPHA
    expected = stats.multivariate_normal(loc.numpy(), (tril @ tril.T).numpy()).logpdf(draw[:100].numpy())
    np.testing.assert_allclose(normal.log_prob(draw)[:100].numpy(), expected, atol=1e-4)


def test_log_prob_sums_over_all_dimensions_but_the_sessions() -> None:
    logits = torch.randn(3, 4, 5, generator=seeded(8))
    draw_BN = Categorical(logits).sample(seeded(9))
    assert draw_BN.shape == (3, 4)
    by_hand = [sum(float(torch.log_softmax(logits[b, n], dim=0)[draw_BN[b, n]]) for n in range(4)) for b in range(3)]
    assert Categorical(logits).log_prob(draw_BN).tolist() == pytest.approx(by_hand, abs=1e-5)
    means = torch.randn(1, 1, 5, 2, generator=seeded(10))
    value = Mixture(logits, means, 0.3).sample(seeded(11))
    assert value.shape == (3, 4, 2)
    assert Mixture(logits, means, 0.3).log_prob(value).shape == (3,)


def test_switch_mixes_rows_and_is_impossible_off_a_point_mass() -> None:
    here = torch.tensor([True, False, True])
    old = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    switch = Switch(here, old, Normal(old * 10, 1.0))
    draw = switch.sample(seeded(0))
    assert torch.equal(draw[here], old[here])
    assert not torch.equal(draw[1], old[1])
    log_prob = switch.log_prob(draw)
    assert log_prob[here].tolist() == [0.0, 0.0]
    assert float(log_prob[1]) == pytest.approx(float(Normal(old * 10, 1.0).log_prob(draw)[1]))
    assert float(switch.log_prob(draw + 0.1)[0]) == -math.inf


def test_pick_takes_one_row_for_each_index() -> None:
    table = torch.arange(24.0).reshape(2, 3, 2, 2)
    index = torch.tensor([[0, 1, 0], [1, 1, 0]])
    expected = torch.stack([torch.stack([table[b, n, index[b, n]] for n in range(3)]) for b in range(2)])
    assert torch.equal(pick(table, index), expected)
    assert torch.equal(pick(table[:1], index)[1], torch.stack([table[0, n, index[1, n]] for n in range(3)]))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Normal(p, 1.3),
        lambda p: MultivariateNormal(p, torch.eye(3)),
        lambda p: Bernoulli(p),
        lambda p: PlackettLuce(p, 2),
        lambda p: Categorical(p),
        lambda p: Mixture(p, torch.arange(3.0).expand(1, 3), 0.8),
    ],
    ids=["normal", "multivariate", "bernoulli", "plackett-luce", "categorical", "mixture"],
)
def test_gradients_of_log_prob_are_finite_differences(make: Callable[[torch.Tensor], Distribution]) -> None:
    """Central differences of step 1e-2 in float32."""
    parameter = torch.randn(2, 3, generator=seeded(12)).requires_grad_()
    value = make(parameter.detach()).sample(seeded(13))
    make(parameter).log_prob(value).sum().backward()
    assert parameter.grad is not None
    for place in itertools.product(range(2), range(3)):
        shift = torch.zeros(2, 3)
        shift[place] = 1e-2
        high, low = (make(parameter.detach() + sign * shift).log_prob(value).sum() for sign in (1, -1))
        assert float(parameter.grad[place]) == pytest.approx(float(high - low) / 2e-2, abs=5e-3)
