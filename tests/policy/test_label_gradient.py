"""The gradient of item labels against enumeration: over the catalogue, over candidates, under constraints."""

import itertools
from typing import get_args

import pytest
import torch
from torch import Tensor

from recolam.policy import constrained
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution
from recolam.policy.label_gradient import Form, label_gradient_loss
from recolam.policy.pl_rank import conditional_pl_rank
from tests.policy.enumeration import (
    CLICK_N,
    EXPOSURE_K,
    SCORE_N,
    SLATE_AK,
    WRONG_CLICK_N,
    exact_gradient,
    position_reward,
    probabilities,
    row_gradients,
)
from tests.policy.test_autoregressive import spread, stirred

FORMS: tuple[Form, ...] = get_args(Form)
RULES = SlateConstraints(
    is_blocked=torch.tensor([False, False, False, True, False, False]),
    group=torch.tensor([0, 0, 1, 1, -1, 1]), at_most=2,
    is_new=torch.tensor([False, True, False, False, True, True]), at_least_new=1, fixed={1: 2},
)  # fmt: skip


def expectation(
    form: Form, *, label_N: Tensor = CLICK_N, rules: SlateConstraints | None = None, correction: float = 0.0
) -> Tensor:
    """Of the estimate over every slate by its probability; a correction is told the true expected rewards."""
    slate_AK, chance_A = possible(rules)
    weight_AK = reward(slate_AK)[:, None].expand(-1, 3)

    def loss(score_AN: Tensor) -> Tensor:
        return label_gradient_loss(
            SlateDistribution(score_AN, None, rules), slate_AK, label_N.expand_as(score_AN), EXPOSURE_K, form=form,
            correction=correction, weight_SK=weight_AK,
        )  # fmt: skip

    return (chance_A[:, None] * row_gradients(loss, slate_AK)).sum(dim=0)


def reward(slate_AK: Tensor) -> Tensor:
    return (EXPOSURE_K * CLICK_N[slate_AK]).sum(dim=1)


def possible(rules: SlateConstraints | None, score_N: Tensor = SCORE_N) -> tuple[Tensor, Tensor]:
    """The slates that keep the constraints, and their probabilities."""
    if rules is None:
        return SLATE_AK, probabilities(score_N)
    slate_AK = SLATE_AK[rules.are_kept(SLATE_AK)]
    return slate_AK, constrained.log_prob(score_N.expand(len(slate_AK), -1), slate_AK, rules).exp()


def constrained_gradient(rules: SlateConstraints) -> Tensor:
    leaf_N = SCORE_N.clone().requires_grad_()
    slate_AK, chance_A = possible(rules, leaf_N)
    assert float(chance_A.sum().detach()) == pytest.approx(1.0)
    assert 5 < len(slate_AK) < 100
    (gradient_N,) = torch.autograd.grad((chance_A * reward(slate_AK)).sum(), leaf_N)
    return gradient_N


@pytest.mark.parametrize("form", FORMS)
def test_known_labels_give_the_exact_gradient(form: Form) -> None:
    torch.testing.assert_close(expectation(form), exact_gradient(position_reward()), rtol=0, atol=1e-12)
    wrong = expectation(form, label_N=WRONG_CLICK_N)
    assert (wrong - exact_gradient(position_reward())).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rules", [RULES, SlateConstraints(is_blocked=RULES.is_blocked)])
def test_under_constraints_it_is_the_gradient_of_what_is_drawn_from(form: Form, rules: SlateConstraints) -> None:
    exact_N = constrained_gradient(rules)
    torch.testing.assert_close(expectation(form, rules=rules), exact_N, rtol=0, atol=1e-12)
    assert exact_N[3] == 0
    assert (exact_N - exact_gradient(position_reward())).abs().max() > 0.01


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rules", [None, RULES])
def test_with_the_whole_correction_wrong_labels_do_no_harm(form: Form, rules: SlateConstraints | None) -> None:
    exact_N = exact_gradient(position_reward()) if rules is None else constrained_gradient(rules)
    found_N = expectation(form, label_N=WRONG_CLICK_N, rules=rules, correction=1.0)
    torch.testing.assert_close(found_N, exact_N, rtol=0, atol=1e-12)
    half_N = expectation(form, label_N=WRONG_CLICK_N, rules=rules, correction=0.5)
    none_N = expectation(form, label_N=WRONG_CLICK_N, rules=rules)
    torch.testing.assert_close(half_N, (exact_N + none_N) / 2, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_candidates_have_the_gradients_of_their_columns(form: Form) -> None:
    """Columns in another order, under other names: item ids 10, 11, ... of which a slate shows ids."""
    order_C = torch.tensor([4, 0, 5, 2, 1, 3])
    candidate_AC = (10 + order_C).expand(len(SLATE_AK), -1)

    def loss(score_AC: Tensor) -> Tensor:
        label_AC = CLICK_N[order_C].expand_as(score_AC)
        return label_gradient_loss(
            SlateDistribution(score_AC, candidate_AC), 10 + SLATE_AK, label_AC, EXPOSURE_K, form=form
        )

    rows_AC = row_gradients(loss, SLATE_AK, SCORE_N[order_C])
    found_C = (probabilities()[:, None] * rows_AC).sum(dim=0)
    torch.testing.assert_close(found_C, exact_gradient(position_reward())[order_C], rtol=0, atol=1e-12)


def test_the_way_of_constraints_is_pl_rank_s_where_nothing_is_constrained() -> None:
    """Slate by slate, not only on average."""
    free = SlateConstraints(group=torch.full((6,), -1), at_most=1)  # no item has a group: nothing is forbidden

    def loss(score_AN: Tensor) -> Tensor:
        found = SlateDistribution(score_AN, None, free)
        assert not found.is_plackett_luce
        return label_gradient_loss(found, SLATE_AK, CLICK_N.expand_as(score_AN), EXPOSURE_K)

    size = (len(SLATE_AK), 6)
    expected_AN = conditional_pl_rank(SCORE_N.expand(size), SLATE_AK, CLICK_N.expand(size), EXPOSURE_K)
    torch.testing.assert_close(row_gradients(loss, SLATE_AK), expected_AN, rtol=0, atol=1e-12)


def test_conditional_probabilities_of_a_distribution_are_those_of_its_slates() -> None:
    for rules, candidates in itertools.product((None, RULES), (None, torch.arange(6))):
        slate_AK, chance_A = possible(rules)
        candidate_AC = None if candidates is None else candidates.expand(len(slate_AK), -1)
        found = SlateDistribution(SCORE_N.expand(len(slate_AK), -1), candidate_AC, rules)
        log_policy_AKM = found.conditional_log_probs(slate_AK)
        torch.testing.assert_close(log_policy_AKM.exp().sum(dim=2), torch.ones(slate_AK.shape, dtype=torch.float64))
        column_AK1 = found.columns_of(slate_AK)[..., None]
        torch.testing.assert_close(log_policy_AKM.gather(2, column_AK1)[..., 0].sum(dim=1).exp(), chance_A)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rules", [None, RULES])
def test_autoregressive_slates_have_the_gradient_of_their_own_distribution(
    form: Form, rules: SlateConstraints | None
) -> None:
    """With regard to the interaction's weights; labels are known, and what is shown before changes the scores alone."""
    net = stirred()
    slate_AK, _ = possible(rules)

    def drawn(rows: int) -> SlateDistribution:
        return SlateDistribution(SCORE_N.expand(rows, -1), None, rules, spread(net, rows))

    chance_A = drawn(len(slate_AK)).position_log_probs(slate_AK).sum(dim=1).exp()
    assert float(chance_A.detach().sum()) == pytest.approx(1.0)
    exact = torch.autograd.grad((chance_A * reward(slate_AK)).sum(), net.push.weight)[0]
    found = torch.zeros_like(exact)
    for chance, slate_K in zip(chance_A.detach(), slate_AK, strict=True):
        loss = label_gradient_loss(drawn(1), slate_K[None], CLICK_N[None], EXPOSURE_K, form=form)
        found -= chance * torch.autograd.grad(loss, net.push.weight)[0]
    assert float(exact.abs().max()) > 1e-3
    torch.testing.assert_close(found, exact, rtol=0, atol=1e-12)
