import math

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy.response import Answers, ResponseFit, ResponseModel, root_mean_square

ITEMS, TOPICS, SLATE = 40, 5, 4
FADING = torch.tensor([0.9, 0.7, 0.5, 0.3])


def planted_world() -> tuple[Tensor, Tensor, Tensor]:
    """Features, attributes, and the true price of each item."""
    generator = torch.Generator().manual_seed(0)
    feature_NG = torch.zeros(FIRST_ITEM + ITEMS, TOPICS)
    feature_NG[FIRST_ITEM:] = torch.rand(ITEMS, TOPICS, generator=generator)
    feature_NG[FIRST_ITEM:] /= feature_NG[FIRST_ITEM:].norm(dim=1, keepdim=True)
    attribute_NZ = torch.nn.functional.one_hot(feature_NG.argmax(dim=1), TOPICS).float()
    return feature_NG, attribute_NZ, 1.0 + 2.0 * attribute_NZ[:, 0]


def clicks(user_SF: Tensor, slate_SK: Tensor, feature_NG: Tensor, generator: torch.Generator) -> Tensor:
    chance_SK = true_chance(user_SF, feature_NG).gather(1, slate_SK) * FADING
    return torch.rand(chance_SK.shape, generator=generator) < chance_SK


def true_chance(user_SF: Tensor, feature_NG: Tensor) -> Tensor:
    return torch.sigmoid(15.0 * (user_SF @ feature_NG.T - 0.7))


def answers(*, is_shuffled: bool = False) -> tuple[Answers, Tensor, Tensor]:
    feature_NG, attribute_NZ, price_N = planted_world()
    generator = torch.Generator().manual_seed(1)
    user_SF = torch.rand(6000, TOPICS, generator=generator)
    user_SF /= user_SF.norm(dim=1, keepdim=True)
    slate_SK = torch.rand(6000, ITEMS, generator=generator).topk(SLATE, dim=1).indices + FIRST_ITEM
    is_clicked_SK = clicks(user_SF, slate_SK, feature_NG, generator)
    if is_shuffled:
        is_clicked_SK = is_clicked_SK[torch.randperm(6000, generator=generator)]
    reward_S = (price_N[slate_SK] * is_clicked_SK).sum(dim=1)
    return Answers(user_SF, slate_SK, is_clicked_SK, reward_S), feature_NG, attribute_NZ


def fitted(*, is_shuffled: bool = False) -> tuple[ResponseModel, Answers]:
    data, feature_NG, attribute_NZ = answers(is_shuffled=is_shuffled)
    model = ResponseModel(feature_NG, attribute_NZ, user_size=TOPICS, slate_size=SLATE)
    fit = ResponseFit(model, learning_rate=0.01)
    generator = torch.Generator().manual_seed(2)
    first = fit.steps(data, 5, generator)
    assert fit.steps(data, 1200, generator) < first
    return model, data


def test_planted_clicks_and_prices_are_found() -> None:
    model, data = fitted()
    feature_NG, _, price_N = planted_world()
    user_BF = data.user_SF[:300]
    chance_BI = true_chance(user_BF, feature_NG)[:, FIRST_ITEM:]
    # what is looked at and what is liked are told apart up to one factor
    found_BI = model.click_chance(user_BF)[:, FIRST_ITEM:] * model.examination_K[0] / FADING[0]
    assert float((found_BI - chance_BI).abs().mean()) < 0.05
    seen_K = model.examination_K / model.examination_K[0]
    torch.testing.assert_close(seen_K, FADING / FADING[0], rtol=0.12, atol=0.0)
    worth_BN = model.expected(user_BF) * model.reward_scale / model.click_chance(user_BF)
    torch.testing.assert_close(worth_BN.mean(dim=0)[FIRST_ITEM:], price_N[FIRST_ITEM:], rtol=0.15, atol=0.0)


def test_of_answers_that_belong_to_others_nothing_is_learnt() -> None:
    model, data = fitted(is_shuffled=True)
    feature_NG, _, _ = planted_world()
    chance_BI = true_chance(data.user_SF[:300], feature_NG)[:, FIRST_ITEM:]
    found_BI = model.click_chance(data.user_SF[:300])[:, FIRST_ITEM:]
    assert float(found_BI.std()) < 0.25 * float(chance_BI.std())


def test_worth_of_clicks_stays_one_where_rewards_count_clicks() -> None:
    data, feature_NG, attribute_NZ = answers()
    model = ResponseModel(feature_NG, attribute_NZ, user_size=TOPICS, slate_size=SLATE)
    counted = Answers(data.user_SF, data.slate_SK, data.is_clicked_SK, data.is_clicked_SK.sum(dim=1).float())
    ResponseFit(model).steps(counted, 50, torch.Generator().manual_seed(0))
    assert float(model.worth.detach().abs().max()) < 1e-5


def test_affinities_by_squared_distance_are_of_the_models_form() -> None:
    """1 - |u - f|^2 = 2 u f - (|u|^2 - 1) - |f|^2, set by hand; users far out like nothing."""
    generator = torch.Generator().manual_seed(0)
    feature_NG, user_BF = torch.randn(FIRST_ITEM + 9, 2, generator=generator), torch.randn(7, 2, generator=generator)
    model = ResponseModel(feature_NG, torch.zeros(len(feature_NG), 1), user_size=2, slate_size=1)
    unit = root_mean_square(feature_NG[FIRST_ITEM:])
    with torch.no_grad():
        model.log_scale.zero_()
        model.affinity.zero_()
        model.affinity[0, 0] = model.affinity[1, 1] = 2.0 * unit
        model.affinity[2, -1], model.affinity[-1, -2], model.affinity[-1, -1] = -1.0, -(unit**2), 0.0
    expected_BN = torch.sigmoid(1.0 - (user_BF[:, None] - feature_NG).square().sum(dim=2))
    torch.testing.assert_close(model.click_chance(user_BF), expected_BN)


def test_worth_of_clicks_by_hand() -> None:
    """One number of a user, one feature, worth exp(u f): of the clicked items alone."""
    feature_NG = torch.ones(FIRST_ITEM + 2, 1)
    feature_NG[-1] = -1.0  # root mean square 1
    model = ResponseModel(feature_NG, torch.zeros(len(feature_NG), 1), user_size=1, slate_size=2)
    with torch.no_grad():
        model.worth[0, 0] = 1.0
    slate_SK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]]).expand(3, -1)
    is_clicked_SK = torch.tensor([[True, False], [True, True], [False, False]])
    answers = Answers(torch.full((3, 1), 2.0), slate_SK, is_clicked_SK, torch.tensor([50.0, 1.0, 0.0]))
    expected = torch.tensor([math.exp(2.0), math.exp(2.0) + math.exp(-2.0), 0.0])
    torch.testing.assert_close(model.worth_of_clicks(answers), expected)


def test_units_are_root_mean_squares() -> None:
    assert float(root_mean_square(torch.tensor([[3.0, 4.0], [0.0, 5.0]]))) == pytest.approx(5.0)
    assert float(root_mean_square(torch.zeros(4, 2))) == 1.0


def test_rewards_below_0_count_as_0() -> None:
    torch.manual_seed(0)
    feature_NG = torch.rand(FIRST_ITEM + 4, 2)
    model = ResponseModel(feature_NG, feature_NG, user_size=2, slate_size=2)
    slate_SK, is_clicked_SK = torch.tensor([[3, 4], [5, 6]]), torch.tensor([[True, False], [True, True]])
    user_SF, loss = torch.rand(2, 2), {}
    for name, reward in (("mixed", [-9.0, 2.0]), ("clamped", [0.0, 2.0]), ("paid", [9.0, 2.0])):
        loss[name] = float(model.loss(Answers(user_SF, slate_SK, is_clicked_SK, torch.tensor(reward))).detach())
    assert loss["mixed"] == loss["clamped"] != loss["paid"]
