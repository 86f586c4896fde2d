import itertools
import math

import pytest
import torch
from torch import Tensor

from recolam.errors import ConfigError
from recolam.policy.gradient import policy_gradient_loss
from recolam.policy.off_policy_correction import top_k_multiplier, top_k_weights
from tests.policy.enumeration import CLICK_N, SCORE_N, exact_gradient, row_gradients
from tests.policy.enumeration import SLATE_AK as SLATES

BEHAVIOUR_N = torch.tensor([0.3, 0.1, 0.1, 0.05, 0.2, 0.25], dtype=torch.float64)
ITEM_N = torch.arange(6)


def expectation(*, k: int, cap: float = math.inf) -> Tensor:
    """Over the item that the behaviour policy logs."""

    def loss(score_SN: Tensor) -> Tensor:
        log_prob_S = score_SN.log_softmax(dim=1)[ITEM_N, ITEM_N]
        weight_S = top_k_weights(log_prob_S, BEHAVIOUR_N.log(), CLICK_N, k=k, cap=cap)
        return policy_gradient_loss(log_prob_S, weight_S)

    return (BEHAVIOUR_N[:, None] * row_gradients(loss, ITEM_N[:, None])).sum(dim=0)


def gradient_with_replacement(k: int) -> Tensor:
    """d/ds of sum_i P(i among k draws with replacement) click_i, the draws enumerated."""
    score_N = SCORE_N.clone().requires_grad_()
    policy_N = score_N.softmax(dim=0)
    draws = torch.tensor(list(itertools.product(range(6), repeat=k)))
    is_there_DN = torch.zeros(len(draws), 6, dtype=torch.float64).scatter(1, draws, 1.0)
    earned = (policy_N[draws].prod(dim=1) * (is_there_DN @ CLICK_N)).sum()
    return torch.autograd.grad(earned, score_N)[0]


@pytest.mark.parametrize("k", [1, 2, 3])
def test_uncapped_it_is_the_gradient_for_k_draws_with_replacement(k: int) -> None:
    torch.testing.assert_close(expectation(k=k), gradient_with_replacement(k), rtol=0, atol=1e-12)


def test_its_biases_are_the_slate_without_replacement_and_the_cap() -> None:
    without_N = exact_gradient(CLICK_N[SLATES].sum(dim=1))
    assert (expectation(k=3) - without_N).abs().max() > 0.02
    assert torch.cosine_similarity(expectation(k=3), without_N, dim=0) > 0.8  # yet it points there
    assert (expectation(k=3, cap=1.0) - expectation(k=3)).abs().max() > 0.02


def test_the_multiplier_by_hand() -> None:
    chance_S = torch.tensor([0.5, 1.0, 0.0])
    torch.testing.assert_close(top_k_multiplier(chance_S.log(), k=3), torch.tensor([0.75, 0.0, 3.0]))
    assert top_k_multiplier(chance_S.log(), k=1).tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ConfigError, match="k is 0"):
        top_k_weights(chance_S, chance_S, chance_S, k=0)
    with pytest.raises(ConfigError, match="cap 0"):
        top_k_weights(chance_S, chance_S, chance_S, k=1, cap=0.0)
