"""Sound models pass; every fault that published simulators had turns the gate red."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recolam.world.answers import Answers
from recolam.world.calibration import calibrate, popularity_groups, with_average_state
from recolam.world.calibration_gate import CalibrationGate, verdict
from recolam.world.departures import (
    Departures,
    fit_leaving,
    leaving_probability,
    session_length_tv,
    session_length_tv_by_chance,
)
from recolam.world.response import ResponseModel, step_group
from tests.world.test_fitting import ITEMS, SLATE, WIDTH, answers_of, planted

GATE = CalibrationGate()


@pytest.fixture(scope="module")
def held_out() -> Answers:
    answers = answers_of(planted(), 40_000, 3)
    return dataclasses.replace(answers, user_S=torch.arange(40_000) // 20, session_S=torch.arange(40_000) // 10)


def judged(model: ResponseModel, answers: Answers) -> tuple[bool, str]:
    found = verdict(calibrate(model, answers), GATE)
    return found["passed"], "; ".join(found["reasons"])


def test_the_true_model_passes(held_out: Answers) -> None:
    report = calibrate(planted(), held_out)
    assert verdict(report, GATE) == {"passed": True, "reasons": [], "within_noise": []}
    assert report["told_apart"]["auc"] == pytest.approx(0.5, abs=0.03)
    assert report["session_length_tv"] < 0.02


def squashed_clicks(model: ResponseModel) -> None:
    original = model.choice_log_probability
    model.choice_log_probability = (  # type: ignore[method-assign]
        lambda state, context, slate: torch.log_softmax(torch.sigmoid(original(state, context, slate).exp()), dim=1)
    )


def squashed_leaving(model: ResponseModel) -> None:
    original = model.leaving_logit
    model.leaving_logit = lambda clicked, step, context: torch.sigmoid(original(clicked, step, context))  # type: ignore[method-assign]


def swapped_positions(model: ResponseModel) -> None:
    with torch.no_grad():
        model.position_EK.copy_(model.position_EK.flip(1))


def mean_without_an_axis(model: ResponseModel) -> None:
    original = model.item_utilities

    def averaged(state_BD: Tensor, item_BK: Tensor) -> Tensor:
        return original(state_BD.mean(dim=0, keepdim=True).expand_as(state_BD), item_BK)

    model.item_utilities = averaged  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (squashed_clicks, "calibration error of clicks"),
        (squashed_leaving, "slates after which the user left"),
        (swapped_positions, "clicks at position 1"),
        (mean_without_an_axis, "users are not told apart"),
    ],
)
def test_planted_faults_turn_it_red(fault: Callable[[ResponseModel], None], reason: str, held_out: Answers) -> None:
    model = copy.deepcopy(planted())
    fault(model)
    passed, reasons = judged(model, held_out)
    assert not passed
    assert reason in reasons


@pytest.mark.parametrize("is_corrected", [True, False])
def test_a_forgotten_sampling_correction_turns_it_red(is_corrected: bool) -> None:
    """Items are taken by popularity, candidates drawn by it; without the correction popularity weighs nothing."""
    generator = np.random.default_rng(0)
    count, draws = 20_000, 8
    popularity = generator.integers(1, 200, size=ITEMS)
    share = popularity / popularity.sum()
    model = ResponseModel(item_ND=torch.eye(ITEMS), popularity_N=torch.from_numpy(popularity - 1), slate_size=1)
    state_SD = torch.nn.functional.one_hot(torch.from_numpy(generator.integers(ITEMS, size=count)), ITEMS).float()
    with torch.no_grad():  # users like one item each; what is left is popularity
        model.match_EDD.mul_(3.0)
        model.popularity_E.fill_(1.0 if is_corrected else 0.0)
    wanted_SN = share * np.exp(3.0 * state_SD.numpy())
    wanted_SN /= wanted_SN.sum(axis=1, keepdims=True)
    taken = (wanted_SN.cumsum(axis=1) < generator.random((count, 1))).sum(axis=1)[:, None]
    slate = np.concatenate([taken, generator.choice(ITEMS, size=(count, draws), p=share)], axis=1)
    log_shown = np.log(share[slate])
    log_shown[:, 1:][slate[:, 1:] == taken] = np.inf
    answers = Answers(
        state_SD=state_SD, slate_SK=torch.from_numpy(slate), choice_S=torch.zeros(count, dtype=torch.int64),
        reward_S=torch.ones(count), step_S=torch.zeros(count, dtype=torch.int64), left_S=torch.zeros(count),
        user_S=torch.arange(count) // 5, session_S=torch.arange(count) // 5,
        log_shown_SK=torch.from_numpy(log_shown).float(), context_SF=torch.zeros(count, 4), has_no_click=False,
    )  # fmt: skip
    with torch.no_grad():
        model.reward_E.fill_(1.0)
    fit_leaving(model, answers.departures)
    passed, reasons = judged(model, answers)
    assert passed == is_corrected, reasons
    assert is_corrected or "10. tenth of sales" in reasons


def test_chance_is_no_reason() -> None:
    """Few users: rates differ by more than five per cent, and the gate says that it cannot tell."""
    for seed in range(5):
        found = verdict(calibrate(planted(), answers_of(planted(), 300, 10 + seed)), CalibrationGate(ece=1.0))
        assert not [reason for reason in found["reasons"] if "session lengths" not in reason]
        assert found["within_noise"]


def test_leaving_meets_the_logged_rate_at_every_step() -> None:
    generator = torch.Generator().manual_seed(0)
    model, truth = planted(), planted()
    answers = answers_of(truth, 30_000, 5)
    step_S = torch.randint(60, (30_000,), generator=generator)
    rate_S = (0.02 + 0.5 * (step_S == 11).float() + 0.1 * (answers.choice_S < 0)).clamp(max=1)
    left_S = (torch.rand(30_000, generator=generator) < rate_S).float()
    answers = dataclasses.replace(answers, step_S=step_S, left_S=left_S)
    fit_leaving(model, answers.departures)
    with torch.no_grad():
        found_S = torch.from_numpy(leaving_probability(model, answers.departures))
    for group in step_group(step_S).unique():
        is_in_S = step_group(step_S) == group
        assert float(found_S[is_in_S].mean()) == pytest.approx(float(left_S[is_in_S].mean()), abs=0.005)


def departures(step: list[int], left: list[int]) -> Departures:
    everyone = torch.ones(len(step), dtype=torch.bool)
    return Departures(torch.tensor(step), everyone, torch.tensor(left).float(), torch.arange(len(step)))


def test_session_lengths_by_hand() -> None:
    # three sessions: left after one step, after two, and cut by the horizon after two
    logged = departures([0, 0, 1, 0, 1], [1, 0, 1, 0, 0])
    assert session_length_tv(logged, logged.left_S.double().numpy()) == 0.0
    # logged: 1/3, 1/3, 1/3 beyond; predicted half and half: 1/2, 1/4, 1/4
    assert session_length_tv(logged, np.full(5, 0.5)) == pytest.approx((1 / 6 + 1 / 12 + 1 / 12) / 2)


def test_long_sessions_are_compared_in_groups() -> None:
    """Of lengths 100 and 101 nobody knows which is likelier; of 10 and 40 one does."""

    def sessions_of(length: int) -> Departures:
        return departures(list(range(length)), [0] * (length - 1) + [1])

    longer, shorter = sessions_of(101), sessions_of(100)
    moved = np.zeros(101)
    moved[99] = 1.0
    assert session_length_tv(longer, moved) == pytest.approx(0.0)
    moved = np.zeros(100)
    moved[9] = 1.0
    assert session_length_tv(shorter, moved) == pytest.approx(1.0)


def test_a_small_log_differs_by_chance_and_a_large_one_does_not() -> None:
    found = []
    for sessions in (30, 3000):
        steps = torch.arange(10).repeat(sessions).tolist()
        found.append(session_length_tv_by_chance(departures(steps, [0] * len(steps)), np.full(len(steps), 0.2), seed=0))
    assert found[0]["mean"] > 0.08
    assert found[1]["mean"] < 0.02


def test_best_sellers_come_first_in_groups_of_equal_sales() -> None:
    group_N = popularity_groups(torch.log1p(torch.tensor([0.0, 50.0, 10.0, 10.0, 10.0, 10.0, 5.0, 5.0])))
    assert group_N.tolist() == [9, 0, 5, 6, 7, 8, 9, 9]


def test_the_average_state_forgets_who_asks() -> None:
    answers = with_average_state(answers_of(planted(), 50, 1))
    assert bool((answers.state_SD == answers.state_SD[:1]).all())
    assert answers.state_SD.shape == (50, WIDTH)
    assert answers.slate_SK.shape == (50, SLATE)


def test_few_fitted_users_widen_what_chance_may_do(held_out: Answers) -> None:
    """Off by 3.3 errors of the held-out users: a fault beside endless fitted users, not beside four times as many."""
    report = calibrate(planted(), held_out)
    report["leaving_rate"] = {"logged": 0.2, "simulated": 0.2 + 3.3 * 0.005, "error": 0.005}
    assert not verdict(report, GATE)["passed"]
    assert not verdict({**report, "users_fitted": 10 * report["users"]}, GATE)["passed"]  # 3.15 errors
    found = verdict({**report, "users_fitted": 4 * report["users"]}, GATE)  # 2.95 errors
    assert found["passed"]
    assert "slates after which the user left" in found["within_noise"][0]
