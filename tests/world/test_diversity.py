"""Distances between clicked items, by hand and against draws; a world of one taste for all is seen."""

import dataclasses

import numpy as np
import pytest
import torch

from recolam.world.calibration import calibrate
from recolam.world.calibration_gate import CalibrationGate, verdict
from recolam.world.diversity import distance_within_session
from recolam.world.told_apart import draw
from tests.world.test_fitting import ITEMS, answers_of, planted


def test_pairs_by_hand() -> None:
    """A session of three slates of one item each: two alike, one at a right angle; a second session of one slate."""
    answers = dataclasses.replace(
        answers_of(planted(), 4, 0),
        slate_SK=torch.tensor([[0], [1], [2], [0]]),
        session_S=torch.tensor([5, 5, 5, 8]),
        user_S=torch.tensor([0, 0, 0, 1]),
    )
    item_ND = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    observed_SK = np.array([[1.0], [1.0], [1.0], [1.0]])
    predicted_SK = np.array([[1.0], [1.0], [0.5], [0.0]])
    found = distance_within_session(item_ND, answers, observed_SK, predicted_SK)
    assert found is not None
    assert found["logged"] == pytest.approx(2 / 3)  # distances 0, 1, 1
    assert found["simulated"] == pytest.approx((0.5 + 0.5) / (1 + 0.5 + 0.5))
    assert distance_within_session(item_ND, answers, observed_SK * 0, predicted_SK) is None


def test_expectations_are_means_of_draws() -> None:
    model, answers = planted(), answers_of(planted(), 400, 3)
    answers = dataclasses.replace(answers, session_S=torch.arange(400) // 8, user_S=torch.arange(400) // 16)
    with torch.no_grad():
        log_probability_SC = model.choice_log_probability(answers.state_SD, answers.context_SF, answers.slate_SK)
    predicted_SK = log_probability_SC[:, 1:].exp().double().numpy()
    pairs, apart = 0.0, 0.0
    for seed in range(60):
        drawn_S = draw(predicted_SK, seed=seed)
        drawn_SK = (drawn_S[:, None] == np.arange(predicted_SK.shape[1])).astype(float)
        found = distance_within_session(model.item_ND, answers, drawn_SK, predicted_SK)
        assert found is not None
        clicks_Q = np.bincount(np.arange(400) // 8, weights=(drawn_S >= 0).astype(float))
        weight = float((clicks_Q * (clicks_Q - 1)).sum())
        pairs, apart = pairs + weight, apart + weight * found["logged"]
    assert apart / pairs == pytest.approx(found["simulated"], abs=0.01)


def test_a_world_without_tastes_is_too_diverse() -> None:
    """The same clicks for everybody: the gate names diversity among what is wrong."""
    truth = planted()
    with torch.no_grad():
        truth.match_EDD.copy_(2.0 * torch.eye(truth.match_EDD.shape[1]))
        truth.no_click_E.fill_(6.0)
    answers = answers_of(truth, 20_000, 3)
    user_S = torch.arange(20_000) // 20
    state_SD = answers.state_SD[user_S * 20]  # a user's state stays
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        mass_SC = truth.choice_log_probability(state_SD, answers.context_SF, answers.slate_SK).exp().cumsum(dim=1)
    choice_S = (mass_SC < torch.rand(20_000, 1, generator=generator)).sum(dim=1).clamp(
        max=answers.slate_SK.shape[1]
    ) - 1
    answers = dataclasses.replace(
        answers, state_SD=state_SD, choice_S=choice_S, user_S=user_S, session_S=torch.arange(20_000) // 20
    )
    sound = calibrate(truth, answers)["distance_within_session"]
    assert abs(sound["simulated"] - sound["logged"]) < 3 * sound["error"] + 0.005
    with torch.no_grad():
        truth.match_EDD.zero_()
    found = calibrate(truth, answers)
    assert found["distance_within_session"]["simulated"] > 1.05 * sound["logged"]
    assert any("distance between two items" in reason for reason in verdict(found, CalibrationGate())["reasons"])
    assert len(truth.item_ND) == ITEMS
