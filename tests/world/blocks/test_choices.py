"""Choice models against enumeration and hand formulas; affinities against their formulas."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from recolam.world.blocks.affinities import SIMILARITY_TYPES, TargetPointSimilarity
from recolam.world.blocks.choices import (
    CascadeChoiceModel,
    IteratedMultinomialLogitChoiceModel,
    MultinomialLogitChoiceModel,
    PositionBiasedChoiceModel,
    get_chosen,
)
from recolam.world.random_fields import Distribution
from recolam.world.runtime import Value

DRAWS = 20_000
LOGITS = [0.5, -1.0, 1.5]


def many(logits: list[float] = LOGITS) -> torch.Tensor:
    return torch.tensor(logits).expand(DRAWS, len(logits))


def check(distribution: Distribution, probability_of: dict[tuple[int, ...], float], *, seed: int) -> None:
    """log_prob equals the hand-made probabilities, which sum to 1; frequencies follow them (chi-square, 0.001)."""
    assert sum(probability_of.values()) == pytest.approx(1.0, abs=1e-6)
    draw = distribution.sample(torch.Generator().manual_seed(seed)).view(DRAWS, -1).long()
    drawn = [tuple(row) for row in draw.tolist()]
    counts = dict.fromkeys(probability_of, 0)
    for outcome in drawn:
        counts[outcome] += 1
    shape = distribution.sample(torch.Generator()).shape
    dtype = distribution.sample(torch.Generator()).dtype
    for outcome, probability in probability_of.items():
        value = torch.tensor(outcome).to(dtype).expand(DRAWS, len(outcome)).reshape(shape)
        assert float(distribution.log_prob(value)[0].exp()) == pytest.approx(probability, abs=1e-6)
    expected = np.array(list(probability_of.values())) * DRAWS
    assert stats.chisquare(list(counts.values()), expected / expected.sum() * DRAWS).pvalue > 0.001


def test_multinomial_logit_with_no_click_and_positional_bias() -> None:
    choice = MultinomialLogitChoiceModel(nochoice_logits=0.2, positional_bias=-0.4).choice(many()).get("choice")
    weight = [math.exp(s - 0.4 * k) for k, s in enumerate(LOGITS)] + [math.exp(0.2)]
    check(choice, {(k,): w / sum(weight) for k, w in enumerate(weight)}, seed=1)


def test_multinomial_logit_without_a_no_click_option_always_chooses() -> None:
    model = MultinomialLogitChoiceModel(nochoice_logits=-math.inf)
    choice_B = model.choice(many()).get("choice").sample(torch.Generator().manual_seed(0))
    assert choice_B.unique().tolist() == [0, 1, 2]


def test_iterated_multinomial_logit_over_all_ordered_outcomes() -> None:
    """Every ordered pair of the three documents and "no choice", renormalised step by step."""
    model = IteratedMultinomialLogitChoiceModel(num_choices=2, nochoice_logits=0.2, positional_bias=-0.4)
    weight = [math.exp(s - 0.4 * k) for k, s in enumerate(LOGITS)] + [math.exp(0.2)]
    probability_of = {
        (i, j): weight[i] / sum(weight) * weight[j] / (sum(weight) - weight[i])
        for i, j in itertools.permutations(range(4), 2)
    }
    check(model.choice(many()).get("choice"), probability_of, seed=2)
    with pytest.raises(ValueError, match="slates of 9 out of 4"):
        IteratedMultinomialLogitChoiceModel(num_choices=9, nochoice_logits=0.0).choice(many())


@pytest.mark.parametrize("attention", [1.0, 0.6])
def test_cascade(attention: float) -> None:
    attraction = [attention / (1 + math.exp(-s)) for s in LOGITS]
    probability_of, passed = {}, 1.0
    for k, a in enumerate(attraction):
        probability_of[(k,)] = passed * a
        passed *= 1 - a
    probability_of[(3,)] = passed
    check(CascadeChoiceModel(attention_prob=attention).choice(many()).get("choice"), probability_of, seed=3)


def test_position_biased_clicks_are_independent() -> None:
    examination = [1.0, 0.5, 0.25]
    click = [g / (1 + math.exp(-s)) for g, s in zip(examination, LOGITS, strict=True)]
    probability_of = {
        outcome: math.prod(p if clicked else 1 - p for p, clicked in zip(click, outcome, strict=True))
        for outcome in itertools.product([0, 1], repeat=3)
    }
    model = PositionBiasedChoiceModel(examination=torch.tensor(examination))
    check(model.choice(many()).get("clicks"), probability_of, seed=4)


def test_extreme_logits_have_finite_scores_and_gradients() -> None:
    logits = torch.tensor([[60.0, -60.0, 0.0]], requires_grad=True)
    for model, name, outcome in (
        (CascadeChoiceModel(), "choice", torch.tensor([2])),
        (CascadeChoiceModel(attention_prob=0.5), "choice", torch.tensor([3])),
        (PositionBiasedChoiceModel(examination=torch.ones(3)), "clicks", torch.tensor([[False, True, True]])),
    ):
        score = model.choice(logits).get(name).log_prob(outcome)
        (gradient,) = torch.autograd.grad(score.sum(), logits)
        assert bool(torch.isfinite(score).all())
        assert bool(torch.isfinite(gradient).all())


def test_bad_arguments_are_refused() -> None:
    for attention in (0.0, 1.5):
        with pytest.raises(ValueError, match="attention_prob is"):
            CascadeChoiceModel(attention_prob=attention)
    for examination in ([0.5, 0.0], [[0.5]], [1.1]):
        with pytest.raises(ValueError, match="examination is"):
            PositionBiasedChoiceModel(examination=torch.tensor(examination))
    with pytest.raises(ValueError, match="slates of 3 for 2 places"):
        PositionBiasedChoiceModel(examination=torch.tensor([1.0, 0.5])).choice(many())
    with pytest.raises(ValueError, match="similarity_type is 'manhattan'"):
        TargetPointSimilarity(slate_size=2, similarity_type="manhattan")


def test_the_chosen_document_or_the_stand_in_for_none() -> None:
    slate = Value(length=torch.tensor([[1.0, 2.0], [3.0, 4.0]]), feature=torch.arange(12.0).view(2, 2, 3))
    chosen = get_chosen(slate, torch.tensor([1, 2]))
    assert chosen.get("length").tolist() == [2.0, -1.0]
    assert chosen.get("feature").tolist() == [[3.0, 4.0, 5.0], [-1.0, -1.0, -1.0]]


def test_similarities_by_their_formulas() -> None:
    generator = torch.Generator().manual_seed(0)
    u_BZ, v_BKZ = torch.randn(2, 3, generator=generator), torch.randn(2, 4, 3, generator=generator)
    peak_BZ = torch.rand(2, 3, generator=generator)

    def by_hand(kind: str, u: np.ndarray, v: np.ndarray, p: np.ndarray) -> float:
        return {
            "inverse_euclidean": lambda: 1 / np.linalg.norm(u - v),
            "negative_euclidean": lambda: -np.linalg.norm(u - v),
            "dot": lambda: u @ v,
            "cosine": lambda: u @ v / np.linalg.norm(u) / np.linalg.norm(v),
            "negative_cosine": lambda: u @ v / np.linalg.norm(u) / np.linalg.norm(v),
            "single_peaked": lambda: sum(p - abs(u * v - p)),
        }[kind]()

    for kind in SIMILARITY_TYPES:
        model = TargetPointSimilarity(slate_size=4, similarity_type=kind)
        found_BK = model.affinities(u_BZ, v_BKZ, affinity_peaks=peak_BZ).get("affinities")
        one_B = model.affinities(u_BZ, v_BKZ[:, 2], broadcast=False, affinity_peaks=peak_BZ).get("affinities")
        shared_BK = model.affinities(u_BZ, v_BKZ[:1], affinity_peaks=peak_BZ).get("affinities")
        for b, k in itertools.product(range(2), range(4)):
            expected = by_hand(kind, u_BZ[b].numpy(), v_BKZ[b, k].numpy(), peak_BZ[b].numpy())
            assert float(found_BK[b, k]) == pytest.approx(float(expected), rel=1e-4)
        assert torch.equal(one_B, found_BK[:, 2])
        assert torch.equal(shared_BK[0], found_BK[0])
    with pytest.raises(ValueError, match="needs affinity_peaks"):
        TargetPointSimilarity(slate_size=4, similarity_type="single_peaked").affinities(u_BZ, v_BKZ)
    with pytest.raises(ValueError, match="width 3, documents of width 2"):
        TargetPointSimilarity(slate_size=4).affinities(u_BZ, v_BKZ[..., :2])


def test_a_document_on_the_target_has_finite_gradients() -> None:
    for kind in ("negative_euclidean", "inverse_euclidean", "cosine"):
        target = torch.zeros(1, 2, requires_grad=True)
        model = TargetPointSimilarity(slate_size=1, similarity_type=kind)
        model.affinities(target, torch.zeros(1, 1, 2)).get("affinities").sum().backward()
        assert target.grad is not None
        assert bool(torch.isfinite(target.grad).all())
