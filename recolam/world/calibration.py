"""Does the fitted response model say what held-out users did?

Shape legend: E members, S slates, K slate, C = 1 + K choices, G groups of items.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor

from recolam.intervals import cluster_error
from recolam.world.answers import Answers
from recolam.world.departures import (
    Departures,
    leaving_probability,
    session_length_tv,
    session_length_tv_by_chance,
)
from recolam.world.diversity import distance_within_session
from recolam.world.fitting import choice_log_probability, log_likelihood, member_choice_log_probability
from recolam.world.response import ResponseModel
from recolam.world.told_apart import told_apart

_POPULARITY_GROUPS = 10

Floats = NDArray[np.float64]


@torch.no_grad()
def calibrate(
    model: ResponseModel, answers: Answers, *, departures: Departures | None = None, bins: int = 15, seed: int = 0
) -> dict[str, Any]:
    """Compares predicted with observed behaviour on held-out answers.

    Behaviours are pairs {logged, simulated, error}: the error is the standard error of their difference, with users as
    clusters, so that a gate can tell a fault from chance.

    Args:
        departures: of the same users, where the log has more of them than answers.

    Returns:
        ece: expected calibration error of P(choice = k) over all shown items, in equally filled bins (Guo et al. 2017,
            https://arxiv.org/abs/1706.04599); bins: [mean predicted, observed share, count] each.
        nll, nll_uniform, nll_impersonal: surprise per choice; of a blind guess; and of the model when every user is
            given the average state.
        reward_given_click, leaving_rate and, where slates were logged, click_rate and position_rate: behaviours.
        popularity_rate: share of the clicks on each tenth of the train events, best-sellers first: behaviours.
        session_length_tv, session_length_tv_by_chance: see `recolam.world.departures`.
        distance_within_session: a behaviour, see `recolam.world.diversity`; missing where no session has two clicks.
        told_apart: see `recolam.world.told_apart`. disagreement: see `disagreement`.
    """
    probability_SC = choice_log_probability(model, answers).exp().double().numpy()
    first_item = int(answers.has_no_click)
    is_chosen_SC = np.zeros_like(probability_SC)
    is_chosen_SC[np.arange(len(answers)), answers.choice_S.numpy() + first_item] = 1.0
    predicted_SK, observed_SK = probability_SC[:, first_item:], is_chosen_SC[:, first_item:]
    table = reliability(predicted_SK.ravel(), observed_SK.ravel(), bins=bins)
    is_clicked_S = answers.choice_S >= 0
    chosen_S1 = answers.slate_SK.gather(1, answers.choice_S.clamp(min=0)[:, None])
    reward_S = model.reward_given_choice(answers.state_SD, chosen_S1)[:, 0]
    departures = answers.departures if departures is None else departures
    leaving_S = leaving_probability(model, departures)
    user_S = answers.user_S.numpy()
    clicked = is_clicked_S.numpy()
    report = {
        "slates": len(answers),
        "users": int(answers.user_S.unique().numel()),
        "ece": float(sum(abs(mean - share) * count for mean, share, count in table) / max(1, predicted_SK.size)),
        "bins": table,
        "nll": -float(log_likelihood(model, answers)),
        "nll_uniform": float(np.log(probability_SC.shape[1])),
        "nll_impersonal": -float(log_likelihood(model, with_average_state(answers))),
        "reward_given_click": _pair(
            answers.reward_S.double().numpy()[clicked], reward_S.double().numpy()[clicked], user_S[clicked]
        ),
        "leaving_rate": _pair(departures.left_S.double().numpy(), leaving_S, departures.user_S.numpy()),
        "popularity_rate": _by_popularity(model, answers, observed_SK, predicted_SK),
        "session_length_tv": session_length_tv(departures, leaving_S),
        "session_length_tv_by_chance": session_length_tv_by_chance(departures, leaving_S, seed=seed),
        "told_apart": told_apart(model, answers, predicted_SK, seed=seed),
        "disagreement": disagreement(model, answers),
    }
    distance = distance_within_session(model.item_ND, answers, observed_SK, predicted_SK)
    if distance is not None:
        report["distance_within_session"] = distance
    if answers.has_no_click:
        report["click_rate"] = _pair(observed_SK.sum(axis=1), predicted_SK.sum(axis=1), user_S)
        report["position_rate"] = [
            _pair(observed_SK[:, k], predicted_SK[:, k], user_S) for k in range(observed_SK.shape[1])
        ]
    return report


def reliability(
    predicted: NDArray[np.floating], observed: NDArray[np.floating], *, bins: int
) -> list[tuple[float, float, int]]:
    """[mean predicted, observed share, count] of `bins` equally filled bins, by rising prediction."""
    order = np.argsort(predicted, kind="stable")
    return [
        (float(predicted[part].mean()), float(observed[part].mean()), len(part))
        for part in np.array_split(order, bins)
        if len(part)
    ]


def with_average_state(answers: Answers) -> Answers:
    """The same answers, as if nothing were known of any user."""
    mean_1D = answers.state_SD.mean(dim=0, keepdim=True)
    return Answers(**{**vars(answers), "state_SD": mean_1D.expand_as(answers.state_SD)})


@torch.no_grad()
def disagreement(model: ResponseModel, answers: Answers) -> dict[str, float]:
    """How far the members are apart on what held-out users were shown, and whether that tells of errors.

    Returns:
        members; click: mean standard deviation over members of the probability that the item chosen would be (of no
        click where there was none); reward: the same of the expected reward of a slate, and its mean, expected_reward;
        error_correlation: Spearman's, over slates, of the latter with the absolute error of the expected reward. The
        error is of single answers and so mostly chance: a small correlation above 0 is all that can be hoped for.
    """
    first_item = int(answers.has_no_click)
    probability_ESC = member_choice_log_probability(model, answers).exp()
    chosen_ES = probability_ESC.gather(2, (answers.choice_S + first_item)[None, :, None].expand(model.members, -1, -1))[
        ..., 0
    ]
    reward_ESK = model.member_rewards(answers.state_SD, answers.slate_SK)
    expected_ES = (probability_ESC[..., first_item:] * reward_ESK).sum(dim=2)
    spread_S = expected_ES.std(dim=0, correction=0)
    error_S = (expected_ES.mean(dim=0) - answers.reward_S * (answers.choice_S >= 0)).abs()
    is_constant = bool((spread_S == spread_S[0]).all()) or bool((error_S == error_S[0]).all())
    return {
        "members": model.members,
        "click": float(chosen_ES.std(dim=0, correction=0).mean()),
        "reward": float(spread_S.mean()),
        "expected_reward": float(expected_ES.mean()),
        "error_correlation": 0.0 if is_constant else float(spearmanr(spread_S.numpy(), error_S.numpy()).statistic),
    }


def _by_popularity(
    model: ResponseModel, answers: Answers, observed_SK: Floats, predicted_SK: Floats
) -> list[dict[str, float]]:
    """Chosen and predicted shares of the slates, by the popularity of the item."""
    group_SK = popularity_groups(model.log_popularity_N)[answers.slate_SK].numpy()
    user_S = answers.user_S.numpy()
    groups = [group_SK == group for group in range(_POPULARITY_GROUPS)]
    return [
        _pair((observed_SK * is_in_SK).sum(axis=1), (predicted_SK * is_in_SK).sum(axis=1), user_S)
        for is_in_SK in groups
    ]


def popularity_groups(log_popularity_N: Tensor) -> Tensor:
    """The tenth of all train events that each token's own belong to, 0 for best-sellers; int64 [N]."""
    count_N = torch.expm1(log_popularity_N.double()).round()
    order_N = count_N.argsort(descending=True, stable=True)
    before_N = count_N[order_N].cumsum(0) - count_N[order_N]
    group_N = torch.empty(len(count_N), dtype=torch.int64)
    share_N = before_N / count_N.sum().clamp(min=1)
    group_N[order_N] = (_POPULARITY_GROUPS * share_N).long().clamp(max=_POPULARITY_GROUPS - 1)
    return group_N


def _pair(logged_S: Floats, simulated_S: Floats, user_S: NDArray[np.int64]) -> dict[str, float]:
    return {
        "logged": float(logged_S.mean()) if len(logged_S) else 0.0,
        "simulated": float(simulated_S.mean()) if len(logged_S) else 0.0,
        "error": cluster_error(simulated_S - logged_S, user_S),
    }
