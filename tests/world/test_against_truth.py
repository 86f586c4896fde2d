"""The demo world's truth is known: the estimators and the fitted users are held against it."""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from recolam.contracts.artifact import Artifact
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.home import Home
from recolam.evaluate.estimators import estimate_all
from recolam.world import demo
from recolam.world.answers import Answers
from recolam.world.fitting import fit_response
from recolam.world.interest_evolution import Corpus, InterestEvolutionUsers, StartStates
from recolam.world.response import ResponseModel
from tests.world.test_demo import simulate

CONFIG = demo.DemoConfig(users=6000, items=12, sessions=1, horizon=1, second_share=0.25)  # 9 videos: 504 slates
ITEMS = 9


class World(NamedTuple):
    slates: pl.DataFrame
    users: InterestEvolutionUsers
    interest_SZ: Tensor
    shown_SK: Tensor


def open_world(logs: Artifact) -> World:
    """The video domain, first step of everybody: the true interest then is the one everybody began with."""
    truth, names = load_file(logs.file("truth.safetensors")), logs.json("truth.json")["domains"]["video"]
    slates = pl.read_parquet(logs.file("slates.parquet")).filter(pl.col("slate_id").str.starts_with("video"))
    row_of = {user: row for row, user in enumerate(names["users"])}
    interest_SZ = truth["video.interest_SUZ"][0, [row_of[user] for user in slates["user_id"]]]
    token_of = {item: FIRST_ITEM + row for row, item in enumerate(names["items"])}
    shown_SK = torch.tensor([[token_of[item] for item in slate] for slate in slates["items"].to_list()])
    features = [truth[f"video.{name}"] for name in ("feature_NZ", "quality_N", "length_N")]
    corpus = Corpus(*(torch.cat([torch.zeros(FIRST_ITEM, *value.shape[1:]), value]) for value in features))
    nobody = torch.zeros(1, 4, dtype=torch.int64)
    start = StartStates(nobody, nobody[:, 0], interest_SZ[:1])
    return World(slates, InterestEvolutionUsers(CONFIG.world, corpus, start), interest_SZ, shown_SK)


def true_choice(world: World, slate_SK: Tensor) -> Tensor:
    """P(no click), P(position) of the true users, [S, 1 + K]."""
    utility_SK = world.users.utilities(world.interest_SZ, slate_SK)
    no_click_S1 = torch.full((len(slate_SK), 1), CONFIG.world.no_click)
    return torch.softmax(torch.cat([no_click_S1, utility_SK], dim=1), dim=1)


def true_reward(world: World, slate_SK: Tensor) -> Tensor:
    return (true_choice(world, slate_SK)[:, 1:] * world.users.watch_time(slate_SK)).sum(dim=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return open_world(simulate(Home(tmp_path_factory.mktemp("truth")), CONFIG))


def test_estimates_from_the_demo_s_logs_meet_the_true_value_of_another_policy(world: World) -> None:
    """The target shows all 504 ordered slates alike: its true value is an average that can be written out."""
    all_slates = FIRST_ITEM + torch.tensor(list(itertools.permutations(range(ITEMS), 3)))
    value_S = torch.stack(
        [true_reward(world, slate.expand(len(world.shown_SK), -1)) for slate in all_slates[::7]]
    ).mean(dim=0)
    truth = float(value_S.mean())
    reward_S = world.slates["reward"].to_numpy()
    wrong_model = np.full(len(reward_S), 0.3)
    estimates = estimate_all(
        reward_S=reward_S,
        log_propensity_S=world.slates["log_propensity"].to_numpy(),
        log_target_S=np.full(len(reward_S), -np.log(len(all_slates))),
        q_logged_S=wrong_model,
        q_target_S=wrong_model,
    )
    assert abs(float(reward_S.mean()) - truth) > 0.05  # the logging policy itself earns something else
    for name in ("ips", "snips", "dr"):
        low, high = estimates[name].ci95
        assert abs(estimates[name].value - truth) < 3 * (high - low) / (2 * 1.96), name


def test_fitted_choices_are_close_to_the_true_ones(world: World) -> None:
    """Fitted with the true interests as representation, the response model finds the true probabilities."""
    count = len(world.shown_SK)
    feature_NZ = world.users.corpus.feature_NZ
    # -||x - f|| is no bilinear form of x and f; with the norms beside them, one comes close
    norm_S1, norm_N1 = world.interest_SZ.norm(dim=1, keepdim=True), feature_NZ.norm(dim=1, keepdim=True)
    state_SD = torch.cat([world.interest_SZ, torch.ones(count, 1), norm_S1], dim=1)
    item_ND = torch.cat([feature_NZ, norm_N1.square(), torch.ones(len(feature_NZ), 1)], dim=1)
    choice_S = torch.tensor(world.slates["choice"].to_list())
    answers = Answers(
        state_SD=state_SD,
        slate_SK=world.shown_SK,
        choice_S=choice_S,
        reward_S=torch.tensor(world.slates["reward"].to_list(), dtype=torch.float32),
        step_S=torch.zeros(count, dtype=torch.int64),
        left_S=torch.tensor(world.slates["left"].to_list(), dtype=torch.float32),
        user_S=torch.arange(count),
        session_S=torch.arange(count),
        log_shown_SK=torch.zeros(world.shown_SK.shape),
        context_SF=torch.zeros(count, 4),
        has_no_click=True,
    )
    train, rest = answers.rows(torch.arange(0, 3500)), answers.rows(torch.arange(3500, count))
    model = ResponseModel(item_ND=item_ND, popularity_N=torch.zeros(len(item_ND)), slate_size=3)
    fit_response(model, train, rest, epochs=150, learning_rate=0.05, seed=0)
    with torch.no_grad():
        fitted_SC = model.choice_log_probability(rest.state_SD, rest.context_SF, rest.slate_SK).exp()
    truth_SC = true_choice(world, world.shown_SK)[3500:]
    base_C = torch.bincount(train.choice_S + 1, minlength=4) / len(train)
    error, base_error = float((fitted_SC - truth_SC).abs().mean()), float((base_C - truth_SC).abs().mean())
    assert error < 0.06
    assert error < 0.5 * base_error
    assert fitted_SC.mean(dim=0).tolist() == pytest.approx(truth_SC.mean(dim=0).tolist(), abs=0.03)


def test_the_planted_truth_can_be_told_from_a_wrong_one(world: World, tmp_path: Path) -> None:
    """Swapped positions are no better than they should be: the check above can fail."""
    truth_SC = true_choice(world, world.shown_SK)
    swapped_SC = true_choice(world, world.shown_SK.flip(1))
    assert float((truth_SC - swapped_SC).abs().mean()) > 0.06
