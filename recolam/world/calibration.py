"""Does the fitted response model say what held-out users did?

Shape legend: S slates, K slate, C = 1 + K choices.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recolam.world.fitted import ResponseModel
from recolam.world.fitting import Answers, log_likelihood


@torch.no_grad()
def calibrate(model: ResponseModel, answers: Answers, *, bins: int = 15) -> dict[str, Any]:
    """Compares predicted with observed behaviour on held-out answers.

    Returns:
        ece: expected calibration error of P(choice = k) over all shown items, in equally filled bins (Guo et al. 2017,
            https://arxiv.org/abs/1706.04599); bins: [mean predicted, observed share, count] each; nll and
            nll_uniform (all choices alike); and, per behaviour, the logged and the predicted mean.
    """
    probability_SC = _probabilities(model, answers)
    is_chosen_SC = np.zeros_like(probability_SC)
    is_chosen_SC[np.arange(len(answers)), answers.choice_S.numpy() + int(answers.has_no_click)] = 1.0
    first_item = int(answers.has_no_click)
    predicted, observed = probability_SC[:, first_item:].ravel(), is_chosen_SC[:, first_item:].ravel()
    table = reliability(predicted, observed, bins=bins)
    is_clicked_S = answers.choice_S >= 0
    chosen_S1 = answers.slate_SK.gather(1, answers.choice_S.clamp(min=0)[:, None])
    reward_S = model.reward_given_choice(answers.state_SD, chosen_S1)[:, 0]
    leaving_S = torch.sigmoid(model.leaving_logit(is_clicked_S, answers.step_S))
    report = {
        "slates": len(answers),
        "users": int(answers.user_S.unique().numel()),
        "ece": float(sum(abs(mean - share) * count for mean, share, count in table) / max(1, len(predicted))),
        "bins": table,
        "nll": -float(log_likelihood(model, answers)),
        "nll_uniform": float(np.log(probability_SC.shape[1])),
        "reward_given_click": _pair(answers.reward_S[is_clicked_S], reward_S[is_clicked_S]),
        "leaving_rate": _pair(answers.left_S, leaving_S),
    }
    if answers.has_no_click:
        report["click_rate"] = _pair(is_clicked_S.float(), torch.from_numpy(1.0 - probability_SC[:, 0]))
        report["position_rate"] = [
            {"logged": float(is_chosen_SC[:, 1 + k].mean()), "simulated": float(probability_SC[:, 1 + k].mean())}
            for k in range(probability_SC.shape[1] - 1)
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


def _probabilities(model: ResponseModel, answers: Answers) -> NDArray[np.float64]:
    if answers.has_no_click:
        return model.choice_log_probability(answers.state_SD, answers.slate_SK).exp().double().numpy()
    utility_SK = model.item_utilities(answers.state_SD, answers.slate_SK) - answers.log_shown_SK
    return torch.softmax(utility_SK, dim=1).double().numpy()


def _pair(logged: torch.Tensor, simulated: torch.Tensor) -> dict[str, float]:
    return {"logged": float(logged.float().mean()), "simulated": float(simulated.float().mean())}
