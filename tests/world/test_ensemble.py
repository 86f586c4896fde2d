"""The ensemble: members fitted together are what each would be alone, and they disagree where the logs are silent."""

import dataclasses

import numpy as np
import pytest
import torch

from recolam.errors import ConfigError
from recolam.world.answers import Answers
from recolam.world.calibration import calibrate, disagreement
from recolam.world.departures import fit_leaving
from recolam.world.fitting import bootstrap_weights, fit_response
from recolam.world.response import ResponseModel
from recolam.world.stage import WorldConfig
from tests.world.test_fitting import ITEMS, SLATE, WIDTH, answers_of, planted


def unfitted(members: int) -> ResponseModel:
    truth = planted()
    model = ResponseModel(item_ND=truth.item_ND, popularity_N=torch.ones(ITEMS), slate_size=SLATE, members=members)
    model.log_popularity_N.copy_(truth.log_popularity_N)
    return model


def members_of(model: ResponseModel, member: int) -> dict[str, torch.Tensor]:
    return {name: value[member : member + 1].detach() for name, value in model.named_parameters()}


def clustered(count: int, seed: int, *, per_user: int = 10) -> Answers:
    answers = answers_of(planted(), count, seed)
    return dataclasses.replace(answers, user_S=torch.arange(count) // per_user)


@pytest.fixture(scope="module")
def fitted() -> ResponseModel:
    train, model = clustered(4000, 1), unfitted(5)
    weight_ES = bootstrap_weights(train.user_S, members=5, seed=0)
    fit_response(model, train, clustered(2000, 2), epochs=8, learning_rate=0.03, seed=0, weight_ES=weight_ES)
    return model


def test_members_fitted_together_are_what_each_would_be_alone() -> None:
    train, rest = clustered(1000, 1), clustered(500, 2)
    weight_ES = bootstrap_weights(train.user_S, members=3, seed=0)
    together = unfitted(3)
    fit_response(together, train, rest, epochs=3, learning_rate=0.03, seed=4, weight_ES=weight_ES)
    for member in range(3):
        alone = unfitted(1)
        weight_1S = weight_ES[member : member + 1]
        fit_response(alone, train, rest, epochs=3, learning_rate=0.03, seed=4, weight_ES=weight_1S)
        for name, value in members_of(together, member).items():
            assert torch.allclose(value, dict(alone.named_parameters())[name], atol=2e-3), name


def test_a_weight_of_two_is_an_answer_seen_twice() -> None:
    answers, weighted, repeated = clustered(600, 1), unfitted(1), unfitted(1)
    weight_1S = 1.0 + (answers.user_S % 2 == 0).float()[None]
    fit_leaving(weighted, answers.departures, weight_1S)
    fit_leaving(repeated, answers.rows(torch.arange(600).repeat_interleave(weight_1S[0].long())).departures)
    assert torch.allclose(weighted.leaving_step_EJ, repeated.leaving_step_EJ, atol=1e-4)
    assert torch.allclose(weighted.leaving_click_E, repeated.leaving_click_E, atol=1e-4)


def test_users_are_drawn_whole_and_with_replacement() -> None:
    user_S = torch.tensor([7, 7, 3, 9, 9, 9])
    weight_ES = bootstrap_weights(user_S, members=200, seed=0)
    assert torch.equal(weight_ES[:, 0], weight_ES[:, 1])
    assert torch.equal(weight_ES[:, 3], weight_ES[:, 5])
    assert torch.equal(weight_ES[:, [0, 2, 3]].sum(dim=1), torch.full((200,), 3.0))  # three users each
    assert float((weight_ES[:, 2] == 0).float().mean()) == pytest.approx((2 / 3) ** 3, abs=0.1)
    assert torch.equal(weight_ES, bootstrap_weights(user_S, members=200, seed=0))
    assert torch.equal(weight_ES[:3], bootstrap_weights(user_S, members=3, seed=0))  # more members change none
    assert not torch.equal(weight_ES, bootstrap_weights(user_S, members=200, seed=1))
    assert torch.equal(bootstrap_weights(user_S, members=1, seed=0), torch.ones(1, 6))


def test_the_ensemble_answers_with_the_mean_of_the_members_probabilities() -> None:
    model = unfitted(2)
    with torch.no_grad():
        model.match_EDD.zero_()
        model.no_click_E.copy_(torch.tensor([0.0, float(np.log(2.0))]))
        model.position_EK[1, 0] = float(np.log(3.0))
        model.reward_E.copy_(torch.tensor([1.0, 3.0]))
        state_BD, context_BF, slate_BK = torch.zeros(1, WIDTH), torch.zeros(1, 4), torch.tensor([[3, 4]])
        probability_C = model.choice_log_probability(state_BD, context_BF, slate_BK).exp()[0]
        # members: 1/3 each; and weights 2, 3, 1 of 6
        assert probability_C.tolist() == pytest.approx([1 / 3, (1 / 3 + 1 / 2) / 2, (1 / 3 + 1 / 6) / 2])
        # expected rewards 2/3 of 1 and 4/6 of 3
        assert model.member_expected_rewards(state_BD, context_BF, slate_BK)[:, 0].tolist() == pytest.approx(
            [2 / 3, 2.0]
        )
        assert float(model.disagreement(state_BD, context_BF, slate_BK)) == pytest.approx(2 / 3)
        assert float(model.expected_reward(state_BD, context_BF, slate_BK)) == pytest.approx(2 / 3 * 2.0)
        hidden_BK = torch.tensor([[False, True]])
        left_C = model.choice_log_probability(state_BD, context_BF, slate_BK, is_available_BK=hidden_BK).exp()[0]
        assert left_C.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, 0.0, (1 / 2 + 1 / 3) / 2])
        model.leaving_step_EJ.copy_(torch.tensor([[0.0], [float(np.log(3.0))]]))
        leaving_B = model.leaving_probability(torch.tensor([False]), torch.tensor([0]), context_BF)
        assert float(leaving_B) == pytest.approx((1 / 2 + 3 / 4) / 2)


def test_members_disagree_more_the_less_they_have_seen(fitted: ResponseModel) -> None:
    few, model = clustered(400, 1), unfitted(5)
    weight_ES = bootstrap_weights(few.user_S, members=5, seed=0)
    fit_response(model, few, clustered(2000, 2), epochs=8, learning_rate=0.03, seed=0, weight_ES=weight_ES)
    held_out = clustered(3000, 3)
    wide, narrow = disagreement(model, held_out), disagreement(fitted, held_out)
    assert wide["click"] > 1.2 * narrow["click"] > 0
    assert wide["reward"] > 1.2 * narrow["reward"] > 0


def test_members_disagree_most_about_users_unlike_any_they_met(fitted: ResponseModel) -> None:
    held_out = clustered(2000, 3)
    with torch.no_grad():
        usual_S = fitted.disagreement(held_out.state_SD, held_out.context_SF, held_out.slate_SK)
        strange_S = fitted.disagreement(4.0 * held_out.state_SD, held_out.context_SF, held_out.slate_SK)
    assert float(strange_S.mean()) > 2 * float(usual_S.mean())


def test_the_report_tells_of_the_disagreement(fitted: ResponseModel) -> None:
    found = calibrate(fitted, clustered(3000, 3))["disagreement"]
    assert found["members"] == 5
    assert 0 < found["click"] < 0.1
    assert 0 < found["reward"] < found["expected_reward"] if found["expected_reward"] > 0 else True
    assert -1 <= found["error_correlation"] <= 1
    alone = unfitted(1)
    assert disagreement(alone, clustered(100, 3)) | {"expected_reward": 0.0} == {
        "members": 1, "click": 0.0, "reward": 0.0, "expected_reward": 0.0, "error_correlation": 0.0,
    }  # fmt: skip


def test_an_ensemble_of_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="members 0"):
        WorldConfig(members=0)
