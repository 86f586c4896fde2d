"""Can a classifier tell held-out sessions from the same sessions with simulated clicks?

Shape legend: S slates, K slate, N token ids, D width, Q sessions, R sessions of both kinds, F features.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from recolam.seeding import numpy_generator
from recolam.world.answers import Answers
from recolam.world.response import ResponseModel

Floats = NDArray[np.float64]


def told_apart(model: ResponseModel, answers: Answers, probability_SK: Floats, *, seed: int) -> dict[str, Any]:
    """Draws one click a slate from the model, with slates and histories as logged, and compares session by session.

    A logistic regression learns on half of the users to tell real from simulated sessions by what was clicked (mean
    item vector and its spread, popularity, position, repetitions, number of clicks, fit to the user's state), and is
    judged on the other half; both ways round.

    Args:
        probability_SK: of a click on each shown item; what is missing to 1 is no click.

    Returns:
        auc: near 0.5 where the two cannot be told apart (they are tied pairwise, so chance may fall below it);
        diversity: {logged, simulated} number of distinct items clicked, and their mean within-session cosine.
    """
    real_S, drawn_S = answers.choice_S.numpy(), draw(probability_SK, seed=seed)
    session_S = torch.unique(answers.session_S, return_inverse=True)[1]
    sides = [session_features(model, answers, choice_S, session_S) for choice_S in (real_S, drawn_S)]
    user_Q = np.zeros(int(session_S.max()) + 1, dtype=np.int64)
    user_Q[session_S.numpy()] = answers.user_S.numpy()
    fold_of_user = numpy_generator(seed, "told apart").permutation(int(user_Q.max()) + 1) % 2
    return {
        "auc": _cross_fitted_auc(sides[0], sides[1], fold_of_user[user_Q]),
        "sessions": len(user_Q),
        "distinct_items": _both(_distinct(answers, real_S), _distinct(answers, drawn_S)),
        "cosine_within_session": _both(float(sides[0][:, -1].mean()), float(sides[1][:, -1].mean())),
    }


def draw(probability_SK: Floats, *, seed: int) -> NDArray[np.int64]:
    """A position for every slate, -1 for none, int64 [S]."""
    draw_S1 = numpy_generator(seed, "simulated clicks").random((len(probability_SK), 1))
    place_S = (probability_SK.cumsum(axis=1) <= draw_S1).sum(axis=1)
    return np.where(place_S == probability_SK.shape[1], -1, place_S).astype(np.int64)


@torch.no_grad()
def session_features(model: ResponseModel, answers: Answers, choice_S: NDArray[np.int64], session_S: Tensor) -> Floats:
    """What was clicked in each session, float [Q, F]; the last one is the mean cosine of its clicked items."""
    place_S1 = torch.from_numpy(choice_S)[:, None]
    is_clicked_S = (place_S1[:, 0] >= 0).float()
    item_S = answers.slate_SK.gather(1, place_S1.clamp(min=0))[:, 0]
    vector_SD = torch.nn.functional.normalize(model.item_ND[item_S], dim=1) * is_clicked_S[:, None]
    single_S = torch.stack(
        [
            is_clicked_S,
            is_clicked_S * model.log_popularity_N[item_S],
            is_clicked_S * place_S1[:, 0] * float(answers.has_no_click),  # candidates' places mean nothing
            is_clicked_S * model.item_utilities(answers.state_SD, item_S[:, None]).mean(dim=0)[:, 0],
        ],
        dim=1,
    )
    sessions = int(session_S.max()) + 1
    sum_QD = torch.zeros(sessions, vector_SD.shape[1]).index_add_(0, session_S, vector_SD)
    sum_QF = torch.zeros(sessions, single_S.shape[1]).index_add_(0, session_S, single_S)
    length_Q1 = torch.zeros(sessions, 1).index_add_(0, session_S, torch.ones(len(session_S), 1))
    clicks_Q1 = sum_QF[:, :1].clamp(min=1)
    pairs_Q1 = (clicks_Q1 * (clicks_Q1 - 1)).clamp(min=1)
    cosine_Q1 = (sum_QD.square().sum(dim=1, keepdim=True) - sum_QF[:, :1]) / pairs_Q1
    parts = [sum_QD / clicks_Q1, sum_QF[:, 1:] / clicks_Q1, sum_QF[:, :1] / length_Q1, cosine_Q1]
    return torch.cat(parts, dim=1).double().numpy()


def _cross_fitted_auc(real_QF: Floats, simulated_QF: Floats, fold_Q: NDArray[np.int64]) -> float:
    """Simulated is 1; the ridge keeps the weights of features, in standard deviations, near 0."""
    if len(set(fold_Q)) < 2:
        return float("nan")
    feature_RF, fold_R = np.concatenate([real_QF, simulated_QF]), np.concatenate([fold_Q, fold_Q])
    is_simulated_R = np.repeat([0, 1], [len(real_QF), len(simulated_QF)])
    values = []
    for held_out in (0, 1):
        is_test_R = fold_R == held_out
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.5))
        classifier.fit(feature_RF[~is_test_R], is_simulated_R[~is_test_R])
        score_R = classifier.decision_function(feature_RF[is_test_R])
        values.append(roc_auc_score(is_simulated_R[is_test_R], score_R))
    return float(np.mean(values))


def _distinct(answers: Answers, choice_S: NDArray[np.int64]) -> float:
    is_clicked_S = choice_S >= 0
    rows_S = np.flatnonzero(is_clicked_S)
    return float(len(np.unique(answers.slate_SK.numpy()[rows_S, choice_S[rows_S]])))


def _both(logged: float, simulated: float) -> dict[str, float]:
    return {"logged": logged, "simulated": simulated}
