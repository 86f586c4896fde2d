from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recolam import bench
from recolam.bench.shift import ShiftBench, measured, pupils, regained_after
from recolam.errors import ConfigError, DataError
from recolam.policy.decoder_agent import DecoderAgent
from recolam.world.named import make_environment
from recolam.world.sight import Sighted, sighted

SMALL = ShiftBench(steps=2400, steps_after=2400, seeds=2, users=20, evaluation_users=50)
CONTINUAL = ["continual", "continual, random first", "continual, responses anew"]


def small_world() -> Sighted:
    return sighted(make_environment("bored", {"items": 100, "horizon": 20}), is_full=True)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return measured(SMALL, small_world)


def test_the_shift_costs_returns_and_only_learning_brings_them_back(found: dict[str, Any]) -> None:
    returns = {name: row["per_seed"] for name, row in found["returns"].items()}
    for index in range(2):
        before, frozen = returns["before"][index], returns["frozen"][index]
        middle = (frozen + found["optimum"]) / 2
        assert frozen < middle < before
        assert returns["scratch"][index] > middle
        assert max(returns[arm][index] for arm in CONTINUAL) > middle
    assert found["regained_after"]["frozen"]["per_seed"] == [None, None]
    assert "mean" not in found["regained_after"]["frozen"]


def test_the_optimum_is_the_better_of_scratch_and_rules(found: dict[str, Any]) -> None:
    scratch = np.mean(found["returns"]["scratch"]["per_seed"])
    assert found["returns"]["scratch"]["mean"] == pytest.approx(scratch)
    assert found["optimum"] == pytest.approx(max(scratch, *found["privileged"].values()))
    assert found["privileged"][found["best_privileged"]] == max(found["privileged"].values())


def test_curves_go_on_from_the_step_of_the_shift(found: dict[str, Any]) -> None:
    for curves in found["curves"]:
        at = curves["shift_step"]
        assert curves["before"][-1][0] == at <= 2400
        assert [curves[arm][0] for arm in CONTINUAL] == [curves["frozen"][0]] * 3
        assert curves["frozen"][0][0] == at
        assert curves["scratch"][0][0] > at
        for arm in [*CONTINUAL, "detected", "scratch"]:
            steps = [step for step, _ in curves[arm]]
            assert steps == sorted(set(steps))
            assert steps[-1] - at <= 2400


def test_who_is_not_told_of_the_shift_notices_it(found: dict[str, Any]) -> None:
    for figures, curves in zip(found["detection"], found["curves"], strict=True):
        assert 48 <= figures["shift_at"] <= 288
        assert figures["false_alarms"] == 0
        assert 0 < figures["delay"] <= 400 + 200  # a round, a validation, and a segment
        assert curves["detected"][0][0] > curves["shift_step"] + figures["delay"]
    returns = {name: row["per_seed"] for name, row in found["returns"].items()}
    for index in range(2):
        frozen = returns["frozen"][index]
        assert returns["detected"][index] > frozen + (found["optimum"] - frozen) / 3


def test_seeds_side_by_side_give_the_same() -> None:
    tiny = replace(SMALL, steps=700, steps_after=1400, evaluation_users=10)
    alone, together = (measured(replace(tiny, jobs=jobs), small_world) for jobs in (1, 2))
    assert alone == together


def test_pupils_share_what_was_learnt_and_no_memory() -> None:
    world = sighted(make_environment("bored", {"items": 20}), is_full=True)
    sight = world.reset(users=2, seed=0)
    learnt, new = (DecoderAgent.for_environment(world, sight, {}, seed=seed) for seed in (0, 1))
    with torch.no_grad():
        for weight in learnt.parameters():
            weight += 0.5
    arms = {arm: pupil for arm, pupil, _ in pupils(learnt, new)}
    learnt_weights = {name: weight.clone() for name, weight in learnt.state_dict().items()}
    with torch.no_grad():
        for weight in arms["continual"].parameters():
            weight.zero_()
    for name, weight in learnt_weights.items():
        is_renewed = name.startswith("response.")
        assert torch.equal(learnt.state_dict()[name], weight)
        assert torch.equal(arms["continual, random first"].state_dict()[name], weight)
        renewed = new.state_dict()[name] if is_renewed else weight
        assert torch.equal(arms["continual, responses anew"].state_dict()[name], renewed)
    assert arms["scratch"] is new


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        ([[0, 10.0], [50, 54.9], [100, 55.0], [150, 20.0]], 100),  # 10 + .9 (60 - 10) = 55, and at is enough
        ([[0, 10.0], [50, 80.0], [100, 20.0]], 50),  # the first, even if it does not last
        ([[0, 10.0], [50, 54.9]], None),
        ([], None),
    ],
)
def test_regained_at_the_first_validation_that_reaches_the_share(
    curve: list[list[float]], expected: float | None
) -> None:
    assert regained_after(curve, fallen=10.0, optimum=60.0, share=0.9) == expected


def test_a_shift_that_costs_nothing_leaves_nothing_to_regain() -> None:
    with pytest.raises(DataError, match="cost nothing"):
        regained_after([[0, 70.0]], fallen=60.0, optimum=60.0, share=0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": "nowhere"}, "nowhere"),
        ({"world": "choc_kale"}, "no shift of tastes"),
        ({"seeds": "1"}, "takes 2"),
        ({"share": "1.5"}, "share is 1.5"),
        ({"steps_after": "10"}, "10 steps"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.run("shift", {"seeds": "2"} | options)
