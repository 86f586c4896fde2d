"""The comparison with stock RecSim NG: the tests' own numbers, their rates, planted faults, and stock itself."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from recolam.bench.parity import WORLDS, ParityBench, ask_stock, judge
from recolam.bench.peers import RECSIM_NG, peer_python
from recolam.contracts.home import Home
from recolam.world.interest_evolution import InterestEvolutionConfig
from recolam.world.parity import dynamics as world
from recolam.world.parity.compare import Exact, TwoSample, compare_documents, compare_replays, compare_sessions, verdict
from recolam.world.parity.dynamics import (
    RECOMMENDERS,
    STOCK,
    STOCK_DYNAMICS,
    Documents,
    Dynamics,
    Sessions,
    World,
    draw_documents,
    replay,
    simulate,
    world_of,
)
from recolam.world.parity.environment import environment_world
from recolam.world.parity.story import story_world
from recolam.world.parity.two_samples import chi_square, holm, kolmogorov_smirnov, welch


def test_chi_square_by_hand() -> None:
    # Rows 30/20 and 20/30 expect 25 everywhere: X² = 4 * 25 / 25 = 4, one degree of freedom; P = erfc(sqrt(4 / 2)).
    first, second = np.repeat([0, 1], [30, 20]), np.repeat([0, 1], [20, 30])
    assert chi_square(first, second) == pytest.approx(math.erfc(math.sqrt(2)))
    # 20/30/40 and 40/30/20 expect 30 everywhere: X² = 4 * 100 / 30, two degrees of freedom; P = exp(-X² / 2).
    first, second = np.repeat([0, 1, 2], [20, 30, 40]), np.repeat([0, 1, 2], [40, 30, 20])
    assert chi_square(first, second) == pytest.approx(math.exp(-20 / 3))


def test_chi_square_counts_rare_categories_as_one() -> None:
    first, second = np.repeat([0, 1, 2, 3], [30, 20, 3, 4]), np.repeat([0, 1, 2, 3], [20, 30, 4, 3])
    merged = np.repeat([0, 1, 2], [30, 20, 7]), np.repeat([0, 1, 2], [20, 30, 7])
    assert chi_square(first, second) == pytest.approx(chi_square(*merged))
    lone = np.repeat([0, 1, 2], [30, 20, 2]), np.repeat([0, 1, 2], [20, 30, 2])  # expects 2: too few even as one
    joined = np.repeat([0, 1], [32, 20]), np.repeat([0, 1], [22, 30])
    assert chi_square(*lone) == pytest.approx(chi_square(*joined))


def test_chi_square_of_one_category_sees_nothing() -> None:
    assert chi_square(np.zeros(50, int), np.zeros(80, int)) == 1.0


def test_kolmogorov_smirnov_by_hand() -> None:
    assert kolmogorov_smirnov(np.arange(100), np.arange(100)) == 1.0
    # D = 1360 / 50000, and sqrt(50000 / 2) D = 4.3, where one term of the series is left: p = 2 exp(-2 * 4.3²).
    first = np.arange(50_000)
    assert kolmogorov_smirnov(first, first + 1360) == pytest.approx(2 * math.exp(-50_000 * 0.0272**2), rel=0.02)


def test_welch_by_hand() -> None:
    # Means 1 and 3, variances 2 and 2 with 2 values each: t = 2 / sqrt(1 + 1), 2 degrees of freedom, for which
    # P(|T| >= t) = 1 - t / sqrt(2 + t²).
    assert welch(np.array([0.0, 2.0]), np.array([2.0, 4.0])) == pytest.approx(1 - math.sqrt(2) / 2)
    # Variances 2 and 8: t² = 16 / 5, and (1 + 4)² / (1 + 16) = 25 / 17 degrees of freedom, not 2.
    expected = 2 * stats.t.sf(4 / math.sqrt(5), 25 / 17)
    assert welch(np.array([0.0, 2.0]), np.array([3.0, 7.0])) == pytest.approx(expected)
    assert welch(np.ones(3), np.ones(4)) == 1.0


def test_holm_by_hand() -> None:
    # Ascending: 0.01 * 4, 0.02 * 3, 0.03 * 2 (below the one before it), 0.9.
    assert holm(np.array([0.03, 0.01, 0.9, 0.02])).tolist() == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("test", "draw", "least"),
    [
        (chi_square, lambda generator: generator.integers(0, 4, 400), 0.03),
        (kolmogorov_smirnov, lambda generator: generator.standard_normal(400), 0.03),
        (kolmogorov_smirnov, lambda generator: generator.integers(0, 4, 400), 0.0),  # ties: conservative
        (welch, lambda generator: generator.exponential(size=400), 0.03),
    ],
)
def test_equal_distributions_are_told_apart_at_the_stated_rate(
    test: Callable[..., float], draw: Callable[[np.random.Generator], NDArray[Any]], least: float
) -> None:
    generator = np.random.default_rng(0)
    p_R = np.array([test(draw(generator), draw(generator)) for _ in range(1000)])
    error = math.sqrt(0.05 * 0.95 / 1000)
    assert least <= (p_R <= 0.05).mean() <= 0.05 + 3 * error


@pytest.mark.parametrize("test", [kolmogorov_smirnov, chi_square])
def test_an_empty_sample_is_a_difference(test: Callable[..., float]) -> None:
    assert not verdict([TwoSample("", "", test(np.arange(3), np.array([])))], []).is_same


MARKS = (1, 3)


def corpus(seed: int = 0) -> Documents:
    return draw_documents(documents=30, topics=3, seed=seed)


def sessions(
    recommender: str, seed: int, *, users: int, dynamics: Dynamics = STOCK_DYNAMICS, marks: tuple[int, ...] = MARKS
) -> Sessions:
    return simulate(corpus(), users=users, slate=2, marks=marks, recommender=recommender, seed=seed, dynamics=dynamics)


def test_two_runs_of_one_world_are_told_apart_no_more_often_than_the_level() -> None:
    level, replications, told = 0.05, 120, 0
    for replication in range(replications):
        tested: list[TwoSample] = []
        for recommender in RECOMMENDERS:
            pair = [sessions(recommender, 2 * replication + side, users=200) for side in (0, 1)]
            tested += compare_sessions(*pair, marks=MARKS, where=recommender)
        tested += compare_documents(*(corpus(seed=1000 + 2 * replication + side) for side in (0, 1)))
        told += not verdict(tested, [], level=level).is_same
    assert told / replications <= level + 3 * math.sqrt(level * (1 - level) / replications)


def double_sigmoid(quality: Tensor, length: Tensor) -> Tensor:
    return torch.sigmoid(torch.sigmoid(-quality)) * length


def swapped_positions(interest_UZ: Tensor, feature_UKZ: Tensor) -> Tensor:
    logit_UC = world.choice_logits(interest_UZ, feature_UKZ)
    return torch.cat([logit_UC[:, :-1].flip(1), logit_UC[:, -1:]], dim=1)


def louder_no_click(interest_UZ: Tensor, feature_UKZ: Tensor) -> Tensor:
    logit_UC = world.choice_logits(interest_UZ, feature_UKZ).clone()
    logit_UC[:, -1] += 0.3
    return logit_UC


def unsquashed(interest_UZ: Tensor, feature_UZ: Tensor, quality_U: Tensor, is_chosen_U: Tensor) -> Tensor:
    return interest_UZ + world.STEP * (quality_U * is_chosen_U)[:, None] * (feature_UZ - interest_UZ)


def squashed_after_choices_only(
    interest_UZ: Tensor, feature_UZ: Tensor, quality_U: Tensor, is_chosen_U: Tensor
) -> Tensor:
    after_UZ = world.next_interest(interest_UZ, feature_UZ, quality_U, is_chosen_U)
    return after_UZ.where(is_chosen_U[:, None], interest_UZ)


FAULTS = {
    "double sigmoid": (replace(STOCK_DYNAMICS, times=double_sigmoid), "consumed time"),
    "swapped positions": (replace(STOCK_DYNAMICS, logits=swapped_positions), "step 1: choice"),
    "no click": (replace(STOCK_DYNAMICS, logits=louder_no_click), "choice"),
    "no squash": (replace(STOCK_DYNAMICS, interests=unsquashed), "length of interest"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_detected_in_distribution(fault: str) -> None:
    dynamics, sign = FAULTS[fault]
    marks = (1, 10, 50)
    tested: list[TwoSample] = []
    for recommender in RECOMMENDERS:
        ours = sessions(recommender, 1, users=4000, dynamics=dynamics, marks=marks)
        tested += compare_sessions(
            ours, sessions(recommender, 2, users=4000, marks=marks), marks=marks, where=recommender
        )
    assert any(sign in name for name in verdict(tested, []).differing)


def test_the_last_bit_of_a_documents_time_is_no_difference() -> None:
    """Where one document has most of the mass, its time in the next float would look like another distribution."""
    ours = sessions("greedy", 1, users=4000)
    shifted = replace(ours, time_TU=np.nextafter(ours.time_TU, np.float32(9)))
    assert kolmogorov_smirnov(ours.time_TU[1], shifted.time_TU[1]) < 1e-6
    assert all(found.p > 0.99 for found in compare_sessions(ours, shifted, marks=MARKS, where=""))


def draws(steps: int = 5, users: int = 40) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(3)
    return {
        "interest_UZ": generator.standard_normal((users, 3)).astype(np.float32),
        "slate_TUK": np.argsort(generator.random((steps, users, 30)), axis=2)[:, :, :2],
        "noise_TUC": generator.gumbel(size=(steps, users, 3)).astype(np.float32),
    }


def replays(other: World) -> tuple[str, ...]:
    """What tells this world's answers to fed draws from those of the functions, step by step."""
    fed = draws()
    whole = replay(corpus(), **fed)
    before_TUZ = np.concatenate([fed["interest_UZ"][None], whole["interest_TUZ"][:-1]]).astype(np.float32)
    noise_TUC = fed["noise_TUC"]
    single = other.replay_steps(corpus(), before_TUZ=before_TUZ, slate_TUK=fed["slate_TUK"], noise_TUC=noise_TUC)
    found = compare_replays(single, whole, noise_TUC=noise_TUC, tolerance=2e-5, where="one step")
    found += compare_replays(other.replay(corpus(), **fed), whole, noise_TUC=noise_TUC, tolerance=1e-4, where="all")
    return verdict([], found).differing


@pytest.mark.parametrize(
    ("dynamics", "sign"),
    [
        (FAULTS["double sigmoid"][0], "one step: time_TU"),
        (FAULTS["swapped positions"][0], "one step: logit_TUC"),
        (FAULTS["no click"][0], "one step: probability_TUC"),
        (FAULTS["no squash"][0], "one step: interest_TUZ"),
        (replace(STOCK_DYNAMICS, interests=squashed_after_choices_only), "one step: interest_TUZ"),
    ],
)
def test_a_planted_fault_is_detected_exactly(dynamics: Dynamics, sign: str) -> None:
    assert sign in replays(world_of(dynamics))


def test_all_worlds_answer_fed_draws_alike() -> None:
    for made in WORLDS.values():
        assert replays(made) == ()


SHIPPED_FAULTS = {
    "environment, position bias": (environment_world(replace(STOCK, position_bias=0.3)), "logit_TUC"),
    "environment, budget": (environment_world(replace(STOCK, budget=2.0)), "choice_TU"),
    "environment, step": (environment_world(replace(STOCK, interest_step=0.11)), "interest_TUZ"),
    "story, no click": (story_world(no_click_mass=0.1), "probability_TUC"),
    "story, step": (story_world(interest_step_size=0.11), "interest_TUZ"),
    "story, bound": (story_world(max_user_affinity=11.0), "interest_TUZ"),
}


@pytest.mark.parametrize("fault", SHIPPED_FAULTS)
def test_other_settings_of_the_shipped_worlds_are_detected(fault: str) -> None:
    made, sign = SHIPPED_FAULTS[fault]
    assert any(sign in name for name in replays(made))


@pytest.mark.parametrize("name", ["environment", "story"])
def test_the_shipped_worlds_have_the_distributions_of_the_functions(name: str) -> None:
    marks = (1, 10, 20)
    tested: list[TwoSample] = []
    for recommender in RECOMMENDERS:
        pair = [
            made.simulate(corpus(), users=1500, slate=2, marks=marks, recommender=recommender, seed=3)
            for made in (WORLDS[name], WORLDS["functions"])
        ]
        tested += compare_sessions(*pair, marks=marks, where=recommender)
    found = verdict(tested, [])
    assert found.is_same, found.differing


def test_users_as_they_ship_are_told_from_stock_by_their_choices() -> None:
    shipped = environment_world(InterestEvolutionConfig())
    pair = [
        made.simulate(corpus(), users=1500, slate=2, marks=MARKS, recommender="greedy", seed=3)
        for made in (shipped, WORLDS["functions"])
    ]
    differing = verdict(compare_sessions(*pair, marks=MARKS, where=""), []).differing
    assert any("choice" in name for name in differing)


def test_a_replay_by_hand() -> None:
    """One user at the origin, one document of quality -1 at distance 2, noise that lets it be chosen."""
    documents = Documents(
        topic_D=np.array([0], np.int32), quality_D=np.array([-1.0], np.float32),
        feature_DZ=np.array([[0.0, 2.0]], np.float32), length_D=np.array([2.0], np.float32),
    )  # fmt: skip
    noise_TUC = np.array([[[1.0, 0.0]], [[0.0, 9.0]]], np.float32)
    found = replay(
        documents, interest_UZ=np.zeros((1, 2), np.float32), slate_TUK=np.zeros((2, 1, 1), np.int64),
        noise_TUC=noise_TUC,
    )  # fmt: skip
    moved = 40 * (1 / (1 + math.exp(0.2 / 10)) - 0.5)  # 0 + 0.1 * -1 * (2 - 0) = -0.2
    assert found["logit_TUC"][0, 0].tolist() == pytest.approx([0.0, 0.0])
    assert found["probability_TUC"][0, 0].tolist() == pytest.approx([0.5, 0.5])
    assert found["choice_TU"][:, 0].tolist() == [0, 1]
    assert found["doc_id_TU"][:, 0].tolist() == [1, -1]
    assert found["time_TU"][:, 0].tolist() == pytest.approx([2 / (1 + math.exp(-1)), -1.0])
    assert found["interest_TUZ"][0, 0].tolist() == pytest.approx([0.0, moved], abs=1e-5)
    again = 40 * (1 / (1 + math.exp(-moved / 10)) - 0.5)  # squashed once more, though nothing was chosen
    assert found["interest_TUZ"][1, 0].tolist() == pytest.approx([0.0, again], abs=1e-5)


def test_a_choice_that_rounding_may_decide_is_left_out() -> None:
    fed = draws()
    whole = replay(corpus(), **fed)
    score_UC = whole["logit_TUC"][2] + fed["noise_TUC"][2]
    fed["noise_TUC"][2, 7, :] += score_UC[7].max() - score_UC[7]  # all options of user 7 tie at step 2
    found = compare_replays(whole, whole, noise_TUC=fed["noise_TUC"], tolerance=0.0, where="")
    assert {each.name: each.count for each in found}[": choice_TU"] == 5 * 40 - 3


def test_replays_of_other_shapes_are_refused() -> None:
    fed = draws()
    whole = replay(corpus(), **fed)
    short = {**whole, "time_TU": whole["time_TU"][:-1]}
    with pytest.raises(ValueError, match=r"time_TU is of shape \(4, 40\) and \(5, 40\)"):
        compare_replays(short, whole, noise_TUC=fed["noise_TUC"], tolerance=0.0, where="")
    with pytest.raises(ValueError, match="replays hold"):
        compare_replays({}, whole, noise_TUC=fed["noise_TUC"], tolerance=0.0, where="")


def test_a_difference_that_is_no_number_is_a_difference() -> None:
    assert verdict([], [Exact("logit", math.nan, 1.0, 3)]).differing == ("logit",)
    assert verdict([TwoSample("reward", "Welch", math.nan)], []).differing == ("reward",)


def test_a_replay_in_which_every_choice_is_open_proves_nothing() -> None:
    fed = draws()
    whole = replay(corpus(), **fed)
    found = compare_replays(whole, whole, noise_TUC=-whole["logit_TUC"], tolerance=1.0, where="")
    assert len(verdict([], found).differing) == len(whole)


def test_choices_have_the_probabilities_of_their_logits() -> None:
    logit_UC = torch.tensor([0.5, -1.0, 0.0]).repeat(30_000, 1)
    counts = torch.bincount(world.draw_choice(logit_UC, generator=torch.Generator().manual_seed(0)), minlength=3)
    expected = torch.softmax(logit_UC[0], dim=0) * 30_000
    assert float(((counts - expected) ** 2 / expected).sum()) < stats.chi2.isf(0.001, df=2)


def test_documents_have_the_qualities_of_their_topics() -> None:
    drawn = draw_documents(documents=50_000, topics=10, seed=0)
    mean_Z = [float(drawn.quality_D[drawn.topic_D == topic].mean()) for topic in range(10)]
    expected_Z = [-1, -5 / 6, -4 / 6, -3 / 6, -2 / 6, -1 / 6, 0, 0, 0.5, 1]
    assert mean_Z == pytest.approx(expected_Z, abs=0.01)
    own_D = drawn.feature_DZ[np.arange(50_000), drawn.topic_D]
    assert (own_D.mean(), own_D.std()) == pytest.approx((1.0, 0.7), abs=0.02)


def test_an_unknown_recommender_is_refused() -> None:
    with pytest.raises(ValueError, match="recommender 'best' is not one of random, greedy"):
        sessions("best", 0, users=3)


@pytest.mark.parametrize("name", ["environment", "story"])
def test_an_unknown_recommender_is_refused_by_the_shipped_worlds(name: str) -> None:
    with pytest.raises(ValueError, match="recommender 'best' is not one of random, greedy"):
        WORLDS[name].simulate(corpus(), users=3, slate=2, marks=MARKS, recommender="best", seed=0)


@pytest.mark.slow
def test_stock_recsim_ng_and_the_torch_worlds_are_the_same(tmp_path: Path) -> None:
    """Stock answers once; the world without a fault passes, and worlds with one fail on the same answers."""
    config = ParityBench()
    ask_stock(config, tmp_path, python=peer_python(RECSIM_NG, Home.at(None)))
    same = judge(config, tmp_path, WORLDS)
    assert same.is_same, same.differing
    assert len(same.tested) == len(WORLDS) * 2 * 3 * (3 * (2 + 10 + 1) + 2) + 3 + 10
    assert len(same.exact) == len(WORLDS) * 2 * 6
    faults = {name: (world_of(dynamics), sign) for name, (dynamics, sign) in FAULTS.items()}
    small_fault = replace(STOCK_DYNAMICS, interests=squashed_after_choices_only)
    faults |= SHIPPED_FAULTS | {"squash": (world_of(small_fault), "one step: interest_TUZ")}
    for name, (made, sign) in faults.items():
        assert any(sign in each for each in judge(config, tmp_path, {name: made}).differing), name
