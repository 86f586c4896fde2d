"""Return times: a planted hazard is recovered under censoring, and two faults are seen."""

import math

import numpy as np
import pytest
import torch

from recolam.world.calibration_gate import CalibrationGate, verdict
from recolam.world.returning import Absences, ReturnModel, calibrate_return, fit_return

WIDTH = 3


def planted() -> ReturnModel:
    model = ReturnModel(WIDTH)
    with torch.no_grad():
        model.level_J.copy_(torch.linspace(-3.0, 0.0, len(model.level_J)))
        model.weight_D.copy_(torch.tensor([0.8, -0.5, 0.0]))
    return model


def seen_of(model: ReturnModel, count: int, seed: int, *, until: float = 1500.0) -> Absences:
    """Sessions end at uniform times before the end of the log; later returns are not seen."""
    generator = torch.Generator().manual_seed(seed)
    state_SD = torch.randn(count, WIDTH, generator=generator)
    with torch.no_grad():
        hours_S = model.draw(state_SD, generator)
    left_S = until * torch.rand(count, generator=generator)
    return Absences(
        state_SD=state_SD,
        hours_S=torch.minimum(hours_S, left_S),
        has_returned_S=hours_S <= left_S,
        left_S=left_S,
        user_S=torch.arange(count) // 3,
    )


@pytest.fixture(scope="module")
def fitted() -> ReturnModel:
    model = ReturnModel(WIDTH)
    fit_return(model, seen_of(planted(), 20_000, 1))
    return model


def test_a_planted_hazard_is_recovered(fitted: ReturnModel) -> None:
    truth = planted()
    state_BD = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        assert torch.allclose(fitted.weight_D / fitted.scale_D, truth.weight_D, atol=0.06)
        for hours in (24, 168, 720):
            assert torch.allclose(fitted.within(state_BD, hours), truth.within(state_BD, hours), atol=0.03), hours


def test_who_was_not_seen_to_return_did_not_stay_away_for_ever(fitted: ReturnModel) -> None:
    """Taking the censored for returns, or leaving them out, makes users come back too soon."""
    seen = seen_of(planted(), 20_000, 1)
    naive = ReturnModel(WIDTH)
    fit_return(naive, seen.rows(seen.has_returned_S))
    with torch.no_grad():
        truth = float(planted().within(seen.state_SD, 168).mean())
        assert float(fitted.within(seen.state_SD, 168).mean()) == pytest.approx(truth, abs=0.01)
        assert float(naive.within(seen.state_SD, 168).mean()) > truth + 0.05


def test_draws_follow_the_distribution() -> None:
    model, state_BD = planted(), torch.zeros(40_000, WIDTH)
    with torch.no_grad():
        hours_B = model.draw(state_BD, torch.Generator().manual_seed(0))
        for hours in (2, 24, 168, 2880):
            share = float((hours_B <= hours).float().mean())
            assert share == pytest.approx(float(model.within(state_BD[:1], hours)), abs=0.01), hours
        mean = float(hours_B.clamp(max=168).log().mean())
        assert mean == pytest.approx(float(model.mean_log_hours(state_BD[:1], most=168)), abs=0.02)
        assert float(hours_B.min()) >= 1.0


def test_probabilities_by_hand() -> None:
    model = ReturnModel(WIDTH)  # one half in every interval
    with torch.no_grad():
        state_BD = torch.zeros(1, WIDTH)
        assert model.away(state_BD)[0, :4].tolist() == pytest.approx([1.0, 0.5, 0.25, 0.125])
        assert float(model.within(state_BD, 4)) == pytest.approx(0.75)
        expected = 0.5 * math.log(2) / 2 + 0.25 * (math.log(2) + math.log(4)) / 2 + 0.25 * math.log(4)
        assert float(model.mean_log_hours(state_BD, most=4)) == pytest.approx(expected)


def test_the_calibration_passes_the_truth_and_not_a_shifted_one(fitted: ReturnModel) -> None:
    held_out = seen_of(planted(), 8000, 2)
    base = {"ece": 0.0, "session_length_tv": 0.0, "nll": 0.0, "nll_impersonal": 1.0, "popularity_rate": []}
    sound = verdict({**base, "return": calibrate_return(fitted, held_out)}, CalibrationGate())
    assert sound["passed"], sound["reasons"]
    shifted = planted()
    with torch.no_grad():
        shifted.level_J.add_(0.5)
    wrong = verdict({**base, "return": calibrate_return(shifted, held_out)}, CalibrationGate())
    assert any("back within a week" in reason for reason in wrong["reasons"])


def test_short_logs_leave_out_what_they_cannot_tell() -> None:
    found = calibrate_return(planted(), seen_of(planted(), 500, 2, until=100.0))
    assert "within_day" in found
    assert not {"within_week", "log_hours"} & set(found)
    assert np.isfinite(found["within_day"]["error"])
