import dataclasses
import math
from pathlib import Path

import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError, PolicyCollapse
from recolam.policy.exposure import CollapseFloors, Exposure
from recolam.policy.training import PolicyTrainingConfig, train_policy
from tests.policy.small import ITEMS, small_agent, small_world

CONFIG = PolicyTrainingConfig(iterations=4, users=8, replicas=2, validate_every=2, validation_users=16)


def shown(*slates: list[int], items: int = 4) -> Exposure:
    exposure = Exposure(tokens=FIRST_ITEM + items)
    for slate in slates:
        exposure.add(torch.tensor([slate]) + FIRST_ITEM)
    return exposure


def test_figures_by_hand() -> None:
    start, now = shown([0, 1], [2, 3]), shown([0, 1], [0, 1], [0, 2])
    sales_N = torch.tensor([0.0] * FIRST_ITEM + [50.0, 5.0, 20.0, 1.0])
    found = now.figures(start.count_N, sales_N)
    assert found["coverage"] == 0.75
    entropy = -(0.5 * math.log(0.5) + (1 / 3) * math.log(1 / 3) + (1 / 6) * math.log(1 / 6))
    assert found["effective_items"] == pytest.approx(math.exp(entropy))
    assert found["exposure_drift"] == pytest.approx((0.25 + 1 / 12 + 1 / 12 + 0.25) / 2)
    assert found["popularity"] == pytest.approx(0.5 * 0.75 + (1 / 3) * 0.25 + (1 / 6) * 0.5)
    assert "popularity" not in now.figures(start.count_N, None)


def test_a_policy_that_shows_few_items_is_stopped(tmp_path: Path) -> None:
    agent = small_agent()
    frozen = dataclasses.replace(CONFIG, learning_rate=1e-9, floors=CollapseFloors(entropy=0.0, effective_slates=6.0))
    with pytest.raises(PolicyCollapse, match=r"at iteration 2: what it shows is worth .* items of 20.*floor 18\.0"):
        train_policy(agent, small_world(), frozen, seed=0, scratch=tmp_path)


def test_a_policy_that_explores_nothing_is_stopped(tmp_path: Path) -> None:
    agent = small_agent()
    agent.temperature = 1e-6
    with pytest.raises(PolicyCollapse, match=r"at iteration \d: entropy"):
        train_policy(agent, small_world(), CONFIG, seed=0, scratch=tmp_path)


def test_sound_training_logs_what_it_shows(tmp_path: Path) -> None:
    sales_N = torch.arange(FIRST_ITEM + ITEMS).float()
    curves = train_policy(small_agent(), small_world(), CONFIG, seed=0, scratch=tmp_path, popularity_N=sales_N)
    assert curves["exposure_drift"][0] == [0, 0.0]
    for name in ("coverage", "effective_items", "exposure_drift", "popularity"):
        assert [iteration for iteration, _ in curves[name]] == [0, 2, 4]
    assert all(3.6 <= value <= ITEMS for _, value in curves["effective_items"])


def test_negative_floors_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"floors of -1 slates"):
        CollapseFloors(effective_slates=-1)
