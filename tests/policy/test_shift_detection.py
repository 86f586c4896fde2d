"""The shift detector: its evidence by hand, its bound on false alarms over many seeds, how soon it notices."""

import math

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError
from recolam.policy.response import Answers, ResponseModel
from recolam.policy.shift_detection import (
    ShiftDetectionConfig,
    ShiftDetector,
    carried_on,
    first_alarm,
    log_evidence,
)

SEEDS, STEPS, USERS, SLATE = 400, 100, 5, 4


def test_evidence_is_the_likelihood_ratio_of_a_flatter_model() -> None:
    chance_SK = torch.tensor([[0.9, 0.2]])
    flat_SK = chance_SK.sqrt() / (chance_SK.sqrt() + (1 - chance_SK).sqrt())  # 0.75 and 1/3
    assert flat_SK[0].tolist() == pytest.approx([0.75, 1 / 3])
    clicked = log_evidence(chance_SK, torch.tensor([[True, True]]), flatness=0.5)
    passed_over = log_evidence(chance_SK, torch.tensor([[False, False]]), flatness=0.5)
    assert clicked[0].tolist() == pytest.approx([math.log(0.75 / 0.9), math.log(1 / 3 / 0.2)], rel=1e-5)
    assert passed_over[0].tolist() == pytest.approx([math.log(0.25 / 0.1), math.log(2 / 3 / 0.8)], rel=1e-5)


@pytest.mark.parametrize("flatness", [0.0, 0.3, 0.9])
def test_evidence_is_1_in_the_mean_where_the_model_is_right(flatness: float) -> None:
    chance_SK = torch.linspace(0.001, 0.999, 21)[None].double()
    e_clicked, e_passed = (
        log_evidence(chance_SK, torch.full_like(chance_SK, answer).bool(), flatness=flatness).exp() for answer in (1, 0)
    )
    mean_SK = chance_SK * e_clicked + (1 - chance_SK) * e_passed
    torch.testing.assert_close(mean_SK, torch.ones_like(mean_SK))


def test_evidence_that_leaves_nothing_open_stays_finite() -> None:
    sure_SK = torch.tensor([[0.0, 1.0]])
    assert bool(torch.isfinite(log_evidence(sure_SK, torch.tensor([[True, False]]), flatness=0.5)).all())


def test_the_sum_over_all_times_of_a_change() -> None:
    """R_3 = e_1 e_2 e_3 + e_2 e_3 + e_3."""
    log_sum = -math.inf
    for evidence in (2.0, 0.5, 3.0):
        log_sum = carried_on(log_sum, math.log(evidence))
    assert math.exp(log_sum) == pytest.approx(2.0 * 0.5 * 3.0 + 0.5 * 3.0 + 3.0)
    assert carried_on(1000.0, 5.0) == pytest.approx(1005.0)
    evidence_T = torch.tensor([2.0, 0.5, 3.0]).log()
    assert first_alarm(evidence_T, apart=7.5) == 2
    assert first_alarm(evidence_T, apart=7.6) is None
    assert first_alarm(evidence_T, apart=2.0) == 0


def evidence(seed: int, *, slope: float) -> Tensor:
    """log e_t of users who answer by `slope` times the logits that the model believes in, [T]."""
    generator = torch.Generator().manual_seed(seed)
    logit = 2.0 * torch.randn(STEPS, USERS * SLATE, generator=generator, dtype=torch.float64)
    is_clicked = torch.rand(logit.shape, generator=generator, dtype=torch.float64) < torch.sigmoid(slope * logit)
    return log_evidence(torch.sigmoid(logit), is_clicked, flatness=0.5).sum(dim=1)


def alarms(*, slope: float, apart: float) -> list[int]:
    found = [first_alarm(evidence(seed, slope=slope), apart=apart) for seed in range(SEEDS)]
    return [index for index in found if index is not None]


@pytest.mark.parametrize("apart", [200.0, 1000.0])
def test_false_alarms_keep_their_bound(apart: float) -> None:
    share, bound = len(alarms(slope=1.0, apart=apart)) / SEEDS, STEPS / apart
    assert share <= bound + 2.0 * math.sqrt(bound * (1 - bound) / SEEDS)
    assert share > 0  # a detector that never calls is no test of the bound


def test_a_bound_that_the_detector_does_not_keep_would_be_seen() -> None:
    """A threshold a hundred times too low breaks the bound that belongs to a hundred times more."""
    share, bound = len(alarms(slope=1.0, apart=10.0)) / SEEDS, STEPS / 1000.0
    assert share > bound + 4.0 * math.sqrt(bound * (1 - bound) / SEEDS)


def test_a_change_is_noticed_soon_and_a_clear_one_sooner() -> None:
    clear, slight = (alarms(slope=slope, apart=1e4) for slope in (-1.0, 0.3))
    assert len(clear) == SEEDS
    assert max(clear) <= 2  # observations of 20 positions
    assert len(slight) >= 0.99 * SEEDS
    assert sum(clear) / len(clear) < sum(slight) / len(slight) < 30


def test_users_who_answer_as_they_should_more_reliably_are_no_alarm() -> None:
    assert alarms(slope=2.0, apart=1e4) == []


def test_the_detector_keeps_what_it_knew_while_the_model_learns_on() -> None:
    feature_NG = torch.cat([torch.zeros(FIRST_ITEM, 3), torch.eye(3)])
    model = ResponseModel(feature_NG, feature_NG, user_size=3, slate_size=2)
    generator = torch.Generator().manual_seed(0)
    detector = ShiftDetector(model, ShiftDetectionConfig())
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    slate_SK = torch.tensor([[FIRST_ITEM, FIRST_ITEM + 1]]).expand(20, 2)

    def observe(*, sign: float) -> bool:
        """Users who like `sign` times what they are known to like answer one slate each."""
        user_SF, nothing_S = 3.0 * torch.randn(20, 3, generator=generator), torch.zeros(20)
        chance_SK = detector.model.chances(Answers(sign * user_SF, slate_SK, slate_SK > 0, nothing_S))
        is_clicked_SK = torch.rand(chance_SK.shape, generator=generator) < chance_SK
        return detector.observe(Answers(user_SF, slate_SK, is_clicked_SK, nothing_S))

    assert not any(observe(sign=1.0) for _ in range(50))
    assert any(observe(sign=-1.0) for _ in range(5))


@pytest.mark.parametrize(("values", "message"), [({"apart": 0.5}, "apart"), ({"flatness": 1.0}, "flatness")])
def test_settings_without_a_meaning_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShiftDetectionConfig(**values)  # type: ignore[arg-type]
