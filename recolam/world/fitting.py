"""Maximum-likelihood fitting of the response model, to logged slates or to plain interactions.

Shape legend: E members, S slates (contexts), K slate, D width, C = 1 + K choices.
"""

import numpy as np
import torch
from torch import Tensor

from recolam.errors import DataError
from recolam.progress import Progress
from recolam.seeding import numpy_generator, torch_generator
from recolam.world.answers import Answers
from recolam.world.departures import Departures, fit_leaving
from recolam.world.response import ResponseModel, mixture


def bootstrap_weights(user_S: Tensor, *, members: int, seed: int) -> Tensor:
    """How often each answer counts for each member, float [E, S]: users drawn with replacement, as many as there are.

    A user's answers go together, as they depend on each other (the bootstrap over clusters, Efron 1979; Davison &
    Hinkley 1997, section 3.8). Each member has a seed of its own. A member alone counts everybody once.
    """
    row_S = torch.unique(user_S, return_inverse=True)[1]
    users = int(row_S.max()) + 1
    if members == 1:
        return torch.ones(1, len(user_S))
    draws = [numpy_generator(seed, "member", member).integers(users, size=users) for member in range(members)]
    count_EU = torch.stack([torch.from_numpy(np.bincount(drawn, minlength=users)) for drawn in draws])
    return count_EU[:, row_S].float()


def member_choice_log_probability(model: ResponseModel, answers: Answers) -> Tensor:
    """Each member's log-probability of every choice, float [E, S, C]; [E, S, K] where there is no way to choose none.

    The correction for drawn candidates is inside the probabilities.
    """
    if answers.has_no_click:
        return model.member_log_probability(answers.state_SD, answers.context_SF, answers.slate_SK)
    utility_ESK = model.item_utilities(answers.state_SD, answers.slate_SK) - answers.log_shown_SK
    return torch.log_softmax(utility_ESK, dim=2)


def choice_log_probability(model: ResponseModel, answers: Answers) -> Tensor:
    """The ensemble's log-probability of every choice, float [S, C] or [S, K]."""
    if answers.has_no_click:
        return model.choice_log_probability(answers.state_SD, answers.context_SF, answers.slate_SK)
    return mixture(member_choice_log_probability(model, answers))


def log_likelihood(model: ResponseModel, answers: Answers) -> Tensor:
    """Mean log-likelihood of the choices under the ensemble."""
    column_S1 = answers.choice_S[:, None] + int(answers.has_no_click)
    return choice_log_probability(model, answers).gather(1, column_S1).mean()


def fit_response(
    model: ResponseModel,
    train: Answers,
    validation: Answers,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    weight_ES: Tensor | None = None,
    departures: Departures | None = None,
    departure_weight_ES: Tensor | None = None,
) -> dict[str, list[list[float]]]:
    """Fits all parameters by Adam and keeps, of each member, those of the best validation loss; returns the curves.

    Members meet the same batches and share the work on them: only the weights of answers differ. Choice and reward
    have no parameter in common, so their losses are simply added. Leaving is `fit_leaving`'s.

    Args:
        weight_ES: how often each train answer counts for each member; once by default.
        departures: what leaving is fitted to, with its weights; the train answers by default.
    """
    if weight_ES is None:
        weight_ES = torch.ones(model.members, len(train))
    model.context_mean_F.copy_(train.context_SF.mean(dim=0))
    model.context_scale_F.copy_(_spread(train.context_SF))
    _start_at_base_rate(model, train, weight_ES)
    if departures is None:
        departures, departure_weight_ES = train.departures, weight_ES
    fit_leaving(model, departures, departure_weight_ES)
    return _minimise(model, train, weight_ES, validation, epochs=epochs, learning_rate=learning_rate, seed=seed)


def _losses(model: ResponseModel, answers: Answers, weight_ES: Tensor) -> Tensor:
    """Each member's surprise per choice plus squared error of rewards, float [E]."""
    is_clicked_S = answers.choice_S >= 0
    log_probability_ESC = member_choice_log_probability(model, answers)
    column_S1 = answers.choice_S[:, None] + int(answers.has_no_click)
    surprise_ES = -log_probability_ESC.gather(2, column_S1.expand(model.members, -1, -1))[..., 0]
    chosen_S1 = answers.slate_SK.gather(1, answers.choice_S.clamp(min=0)[:, None])
    error_ES = (model.member_rewards(answers.state_SD, chosen_S1)[..., 0] - answers.reward_S) * is_clicked_S
    reward_loss_E = (weight_ES * error_ES.square()).sum(dim=1) / is_clicked_S.sum().clamp(min=1)
    return reward_loss_E + (weight_ES * surprise_ES).mean(dim=1)


def _spread(value_SF: Tensor) -> Tensor:
    """Standard deviation of each feature, 1 for what never differs; float [F]."""
    spread_F = value_SF.std(dim=0, correction=0)
    return torch.where(spread_F > 0, spread_F, 1.0)


@torch.no_grad()
def _start_at_base_rate(model: ResponseModel, answers: Answers, weight_ES: Tensor) -> None:
    """The intercept at the logged mean: what is left to learn is who differs from it, and how."""
    weight_ES = weight_ES * (answers.choice_S >= 0)
    total_E = weight_ES.sum(dim=1)
    model.reward_E.copy_((weight_ES @ answers.reward_S / total_E.clamp(min=1e-9)).where(total_E > 0, 0.0))


def _minimise(
    model: ResponseModel,
    train: Answers,
    weight_ES: Tensor,
    validation: Answers,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 512,
) -> dict[str, list[list[float]]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator, once_ES = torch_generator(seed, "fit"), torch.ones(model.members, len(validation))
    best = {name: value.detach().clone() for name, value in model.named_parameters()}
    best_E, curve = torch.full((model.members,), torch.inf), []
    with Progress("fitting users", total=epochs, unit="epoch") as progress:
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
            for index in torch.randperm(len(train), generator=generator).split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                _losses(model, train.rows(index), weight_ES[:, index]).sum().backward()
                optimizer.step()
            with torch.no_grad():
                loss_E = _losses(model, validation, once_ES)
                is_better_E = loss_E < best_E
                best_E = torch.where(is_better_E, loss_E, best_E)
                for name, value in model.named_parameters():
                    best[name][is_better_E] = value[is_better_E]
            curve.append([epoch, float(loss_E.mean())])
            progress.advance(validation_loss=curve[-1][1])
    if not bool(torch.isfinite(best_E).all()):
        raise DataError("fitting the users gave no finite validation loss")
    model.load_state_dict(best, strict=False)
    return {"world_validation_loss": curve}


@torch.no_grad()
def anchor_no_click(model: ResponseModel, state_SD: Tensor, slate_SK: Tensor, *, click_rate: float) -> None:
    """Sets each member's no-click utility so that these slates are clicked with mean probability `click_rate`.

    Plain interactions say nothing about slates that were passed over: this rate is an assumption, kept in the
    config and printed in the report. Solved by bisection.
    """
    total_ES = torch.logsumexp(model.utilities(state_SD, slate_SK), dim=2)
    low_E, high_E = total_ES.amin(dim=1) - 20.0, total_ES.amax(dim=1) + 20.0
    for _ in range(60):
        middle_E = (low_E + high_E) / 2
        is_above_E = torch.sigmoid(total_ES - middle_E[:, None]).mean(dim=1) > click_rate
        low_E, high_E = torch.where(is_above_E, middle_E, low_E), torch.where(is_above_E, high_E, middle_E)
    model.no_click_ED.zero_()
    model.no_click_context_EF.zero_()
    model.no_click_E.copy_((low_E + high_E) / 2)
