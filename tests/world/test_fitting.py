"""The response model against planted parameters, and faults that calibration must show."""

import numpy as np
import pytest
import torch

from recolam.contracts.dataset import LoggedSlates
from recolam.world.answers import Answers, contexts
from recolam.world.calibration import calibrate
from recolam.world.fitting import anchor_no_click, fit_response
from recolam.world.response import STEP_GROUPS, ResponseModel, context_after, past_features
from recolam.world.story import sample_choice

WIDTH, ITEMS, SLATE = 6, 40, 4


def planted() -> ResponseModel:
    generator = torch.Generator().manual_seed(0)
    model = ResponseModel(
        item_ND=torch.randn(ITEMS, WIDTH, generator=generator),
        popularity_N=torch.randint(1, 100, (ITEMS,), generator=generator),
        slate_size=SLATE,
    )
    with torch.no_grad():
        model.match_EDD.copy_(0.5 * torch.randn(WIDTH, WIDTH, generator=generator))
        model.popularity_E.fill_(0.3)
        model.position_EK.copy_(torch.tensor([0.0, -0.4, -0.8, -1.2]))
        model.no_click_E.fill_(2.0)
        model.reward_item_ED.normal_(generator=generator)
        model.no_click_context_EF.copy_(torch.tensor([0.2, -0.3, 0.1, 0.2]))
        model.leaving_click_E.fill_(-1.0)
        model.leaving_context_EF.copy_(torch.tensor([0.0, 0.1, 0.3, -0.2]))
        model.leaving_step_EJ.copy_(0.2 * torch.arange(STEP_GROUPS) - 1.0)
    return model


def answers_of(model: ResponseModel, count: int, seed: int) -> Answers:
    generator = torch.Generator().manual_seed(seed)
    state_SD = torch.randn(count, WIDTH, generator=generator)
    slate_SK = torch.rand(count, ITEMS, generator=generator).topk(SLATE).indices
    step_S = torch.randint(10, (count,), generator=generator)
    with torch.no_grad():
        context_SF = 2 * torch.rand(count, 4, generator=generator)
        no_click_S = model.no_click(state_SD, context_SF)[0]
        choice_S = sample_choice(model.utilities(state_SD, slate_SK)[0], no_click_S, generator)
        chosen_S1 = slate_SK.gather(1, choice_S.clamp(min=0)[:, None])
        reward_S = model.reward_given_choice(state_SD, chosen_S1)[:, 0]
        after_SF = context_after(context_SF, choice_S >= 0, reward_S)
        leaving_S = model.leaving_probability(choice_S >= 0, step_S, after_SF)
    return Answers(
        state_SD=state_SD,
        slate_SK=slate_SK,
        choice_S=choice_S,
        reward_S=reward_S.where(choice_S >= 0, 0.0),
        step_S=step_S,
        left_S=(torch.rand(count, generator=generator) < leaving_S).float(),
        user_S=torch.arange(count),
        session_S=torch.arange(count),
        log_shown_SK=torch.zeros(count, SLATE),
        context_SF=context_SF,
        has_no_click=True,
    )


@pytest.fixture(scope="module")
def fitted() -> ResponseModel:
    truth = planted()
    model = ResponseModel(item_ND=truth.item_ND, popularity_N=torch.ones(ITEMS), slate_size=SLATE)
    model.log_popularity_N.copy_(truth.log_popularity_N)
    fit_response(model, answers_of(truth, 40_000, 1), answers_of(truth, 5000, 2), epochs=15, learning_rate=0.02, seed=0)
    return model


def test_planted_parameters_are_recovered(fitted: ResponseModel) -> None:
    truth = planted()
    assert float((fitted.match_EDD - truth.match_EDD).detach().abs().max()) < 0.15
    assert float((fitted.popularity_E - truth.popularity_E).detach()) == pytest.approx(0.0, abs=0.08)
    assert torch.allclose(fitted.position_EK - fitted.position_EK[:, :1], truth.position_EK, atol=0.12)
    assert float((fitted.leaving_click_E - truth.leaving_click_E).detach()) == pytest.approx(0.0, abs=0.08)
    for name in ("no_click_context_EF", "leaving_context_EF"):
        assert torch.allclose(getattr(fitted, name) / fitted.context_scale_F, getattr(truth, name), atol=0.12), name
    at_mean_E = (fitted.context_mean_F * truth.leaving_context_EF).sum(dim=1)  # the fit's features are centred
    assert torch.allclose(fitted.leaving_step_EJ[:, :10] - at_mean_E, truth.leaving_step_EJ[:, :10], atol=0.15)
    state_BD = torch.zeros(1, WIDTH)
    with torch.no_grad():
        correlation = np.corrcoef(fitted.catalogue_rewards(state_BD)[0], truth.catalogue_rewards(state_BD)[0])[0, 1]
    assert correlation > 0.99


def test_the_fitted_model_is_calibrated_and_better_than_chance(fitted: ResponseModel) -> None:
    report = calibrate(fitted, answers_of(planted(), 20_000, 3))
    assert report["ece"] < 0.02
    assert report["nll"] < report["nll_uniform"] - 0.1
    for behaviour in ("click_rate", "leaving_rate", "reward_given_click"):
        assert report[behaviour]["simulated"] == pytest.approx(report[behaviour]["logged"], rel=0.05, abs=0.02)


def test_a_double_sigmoid_is_seen_by_calibration(fitted: ResponseModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """KuaiSim's published fault: probabilities squashed twice. A ranking measure cannot see it."""
    held_out = answers_of(planted(), 20_000, 3)
    original = fitted.choice_log_probability
    monkeypatch.setattr(
        fitted,
        "choice_log_probability",
        lambda state, context, slate: torch.log_softmax(torch.sigmoid(original(state, context, slate).exp()), dim=1),
    )
    assert calibrate(fitted, held_out)["ece"] > 0.05


def test_a_forgotten_sampling_correction_is_seen_by_the_fit() -> None:
    """Candidates drawn by popularity: without the correction, popular items look unloved."""
    generator = np.random.default_rng(0)
    count, draws = 20_000, 8
    popularity = generator.integers(1, 200, size=ITEMS)
    share = popularity / popularity.sum()
    item_ND = torch.zeros(ITEMS, 2)
    taken = generator.choice(ITEMS, size=(count, 1), p=share)  # utility = log popularity
    slate = np.concatenate([taken, generator.choice(ITEMS, size=(count, draws), p=share)], axis=1)
    log_shown = np.log(share[slate])
    log_shown[:, 1:][slate[:, 1:] == taken] = np.inf

    def weight(log_shown_SK: np.ndarray) -> float:
        model = ResponseModel(item_ND=item_ND, popularity_N=torch.from_numpy(popularity - 1), slate_size=1)
        answers = Answers(
            state_SD=torch.zeros(count, 2),
            slate_SK=torch.from_numpy(slate),
            choice_S=torch.zeros(count, dtype=torch.int64),
            reward_S=torch.ones(count),
            step_S=torch.zeros(count, dtype=torch.int64),
            left_S=torch.zeros(count),
            user_S=torch.arange(count),
            session_S=torch.arange(count),
            log_shown_SK=torch.from_numpy(log_shown_SK).float(),
            context_SF=torch.zeros(count, 4),
            has_no_click=False,
        )
        fit_response(model, answers, answers, epochs=10, learning_rate=0.05, seed=0)
        return float(model.popularity_E.detach())

    assert weight(log_shown) == pytest.approx(1.0, abs=0.1)
    assert weight(np.where(np.isinf(log_shown), np.inf, 0.0)) == pytest.approx(0.0, abs=0.2)


def test_the_assumed_click_rate_is_met() -> None:
    model = planted()
    state_SD, slate_SK = torch.randn(500, WIDTH), torch.rand(500, ITEMS).topk(SLATE).indices
    anchor_no_click(model, state_SD, slate_SK, click_rate=0.3)
    probability_SC = model.choice_log_probability(state_SD, torch.zeros(500, 4), slate_SK).exp()
    assert float(1 - probability_SC[:, 0].mean().detach()) == pytest.approx(0.3, abs=1e-4)


def test_what_a_user_has_been_through_is_counted_by_hand() -> None:
    """Two users; the first has a session of two slates, then one without a click, then one more; rows are mixed up."""
    rows = [  # user, session, step, history end, choice, reward
        (0, 50, 0, 0, 1, 2.0),
        (0, 50, 1, 1, -1, 0.0),
        (0, 90, 0, 1, -1, 0.0),
        (0, 20, 0, 1, 0, 1.0),
        (0, 20, 1, 2, 0, 3.0),
        (1, 30, 0, 9, 0, 1.0),
    ]
    order = [4, 0, 5, 2, 1, 3]
    user, session, step, end, choice, reward = (np.array(column) for column in zip(*rows, strict=True))
    one = np.zeros(6, dtype=np.int32)
    slates = LoggedSlates(
        slate_SK=one[:, None], log_propensity_S=one.astype(np.float32), choice_S=choice[order], reward_S=reward[order],
        user_S=user[order], history_end_S=end[order], session_S=session[order], step_S=step[order], left_S=one,
        split_S=one,
    )  # fmt: skip
    found_SF = contexts(slates)[torch.from_numpy(np.argsort(order))]
    assert found_SF[:, 2].tolist() == [0.0, 2.0, 0.0, 0.0, 1.0, 0.0]
    assert found_SF[:, 3].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]
    # sessions that begin at the same history are in the order of their ids: 20, with two slates and clicks, before 90
    assert torch.expm1(found_SF[:, 0]).tolist() == pytest.approx([0, 0, 4, 2, 2, 0], abs=1e-5)
    assert found_SF[:, 1].exp().tolist() == pytest.approx([1, 1, 4 / 2, 2 / 2, 2 / 2, 1])
    assert past_features(torch.tensor([4]), torch.tensor([3])).tolist() == [found_SF[2].tolist()]
