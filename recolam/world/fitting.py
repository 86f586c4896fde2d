"""Maximum-likelihood fitting of the response model, to logged slates or to plain interactions.

Shape legend: S slates (contexts), K slate, D width, C = 1 + K choices.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import DataError
from recolam.progress import Progress
from recolam.seeding import numpy_generator, torch_generator
from recolam.sequence.model import SequenceModel
from recolam.world.departures import Departures, fit_leaving, sessions
from recolam.world.fitted import ResponseModel


@dataclass(frozen=True)
class Answers:
    """What users did when shown a slate, with the state they were in.

    Attributes:
        log_shown_SK: log-probability of an item's being among the candidates, 0 where slates are real. Candidates
            drawn by us are corrected for it, so that the likelihood is that of a choice from the whole catalogue.
        has_no_click: whether leaving the slate untouched was possible (it is not in plain interaction logs).
    """

    state_SD: Tensor
    slate_SK: Tensor
    choice_S: Tensor
    reward_S: Tensor
    step_S: Tensor
    left_S: Tensor
    user_S: Tensor
    session_S: Tensor
    log_shown_SK: Tensor
    has_no_click: bool

    def __len__(self) -> int:
        return len(self.choice_S)

    @property
    def departures(self) -> Departures:
        return Departures(self.step_S, self.choice_S >= 0, self.left_S, self.user_S)

    def rows(self, index: Tensor) -> "Answers":
        tensors = {name: value[index] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return Answers(**tensors, has_no_click=self.has_no_click)


@torch.no_grad()
def encode(
    encoder: SequenceModel, dataset: TokenisedDataset, end_S: np.ndarray, user_S: np.ndarray, *, max_len: int
) -> Tensor:
    """The pretrained state of the history that ends before each event index, float [S, D]."""
    encoder.eval()
    parts = []
    order = np.argsort(np.minimum(end_S - dataset.user_offset_U1[user_S], max_len), kind="stable")
    with Progress("encoding contexts", total=len(end_S), unit="context") as progress:
        for begin in range(0, len(order), 512):
            rows = order[begin : begin + 512]
            history_BT, length_B = dataset.histories(end_S[rows], limit=max_len, user_Q=user_S[rows])
            parts.append(encoder.last_state(torch.from_numpy(history_BT.astype(np.int64)), torch.from_numpy(length_B)))
            progress.advance(len(rows))
    state_SD = torch.empty(len(end_S), encoder.config.width)
    if parts:
        state_SD[torch.from_numpy(order)] = torch.cat(parts)
    return state_SD


def logged_answers(encoder: SequenceModel, dataset: TokenisedDataset, *, split: int, max_len: int) -> Answers:
    """Answers to the slates that were logged. Slates that show an unknown item are left out of fitting."""
    slates = dataset.slates
    if slates is None:
        raise DataError("the dataset has no logged slates")
    keep = (slates.split_S == split) & (slates.slate_SK >= FIRST_ITEM).all(axis=1)
    return Answers(
        state_SD=encode(encoder, dataset, slates.history_end_S[keep], slates.user_S[keep], max_len=max_len),
        slate_SK=torch.from_numpy(slates.slate_SK[keep].astype(np.int64)),
        choice_S=torch.from_numpy(slates.choice_S[keep].astype(np.int64)),
        reward_S=torch.from_numpy(slates.reward_S[keep]),
        step_S=torch.from_numpy(slates.step_S[keep].astype(np.int64)),
        left_S=torch.from_numpy(slates.left_S[keep]).float(),
        user_S=torch.from_numpy(slates.user_S[keep]),
        session_S=torch.from_numpy(slates.session_S[keep].astype(np.int64)),
        log_shown_SK=torch.zeros(int(keep.sum()), slates.slate_SK.shape[1]),
        has_no_click=True,
    )


def interaction_answers(
    encoder: SequenceModel, dataset: TokenisedDataset, *, candidates: int, limit: int, max_len: int, seed: int
) -> Answers:
    """Answers made from plain interactions: the item taken, among items drawn by the square root of popularity.

    The drawn items' log-probabilities go with them (McFadden's sampling correction, 1978). The reward is the event's
    value (a rating, say), or 1 without one.
    """
    generator = numpy_generator(seed, "interaction answers")
    events = np.flatnonzero((dataset.event_split_E == TRAIN) & (dataset.event_item_E >= FIRST_ITEM))
    if len(events) == 0:
        raise DataError("the dataset has no train events to fit users to")
    if len(events) > limit:
        events = np.sort(generator.choice(events, size=limit, replace=False))
    user_S = dataset.user_of_event(events)
    weight_N = np.sqrt(dataset.item_count_V.astype(float))
    weight_N[:FIRST_ITEM] = 0.0
    probability_N = weight_N / weight_N.sum()
    slate_SK = generator.choice(len(weight_N), size=(len(events), candidates), p=probability_N)
    slate_SK[:, 0] = dataset.event_item_E[events]
    is_repeat_SK = slate_SK == slate_SK[:, :1]
    is_repeat_SK[:, 0] = False
    log_shown_SK = np.log(probability_N[slate_SK])
    log_shown_SK[is_repeat_SK] = np.inf  # the taken item drawn again is no alternative
    start_E, left_E = sessions(dataset)
    value_S = dataset.event_value_E[events]
    return Answers(
        state_SD=encode(encoder, dataset, events, user_S, max_len=max_len),
        slate_SK=torch.from_numpy(slate_SK.astype(np.int64)),
        choice_S=torch.zeros(len(events), dtype=torch.int64),
        reward_S=torch.from_numpy(np.where(np.isnan(value_S), 1.0, value_S).astype(np.float32)),
        step_S=torch.from_numpy(events - start_E[events]),
        left_S=torch.from_numpy(left_E[events]).float(),
        user_S=torch.from_numpy(user_S),
        session_S=torch.from_numpy(start_E[events]),
        log_shown_SK=torch.from_numpy(log_shown_SK.astype(np.float32)),
        has_no_click=False,
    )


def log_likelihood(model: ResponseModel, answers: Answers) -> Tensor:
    """Mean log-likelihood of choices; the correction for drawn candidates is inside the probabilities."""
    if answers.has_no_click:
        log_probability_SC = model.choice_log_probability(answers.state_SD, answers.slate_SK)
        return log_probability_SC.gather(1, answers.choice_S[:, None] + 1).mean()
    utility_SK = model.item_utilities(answers.state_SD, answers.slate_SK) - answers.log_shown_SK
    return torch.log_softmax(utility_SK, dim=1)[:, 0].mean()


def fit_response(
    model: ResponseModel,
    train: Answers,
    validation: Answers,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    departures: Departures | None = None,
) -> dict[str, list[list[float]]]:
    """Fits all parameters by Adam and keeps those of the best validation loss; returns the curves.

    Choice and reward have no parameter in common, so their losses are simply added. Leaving is `fit_leaving`'s, from
    `departures`, or from `train` without them.
    """

    def loss(answers: Answers) -> Tensor:
        is_clicked_S = answers.choice_S >= 0
        chosen_S1 = answers.slate_SK.gather(1, answers.choice_S.clamp(min=0)[:, None])
        error_S = model.reward_given_choice(answers.state_SD, chosen_S1)[:, 0] - answers.reward_S
        reward_loss = (error_S.square() * is_clicked_S).sum() / is_clicked_S.sum().clamp(min=1)
        return reward_loss - log_likelihood(model, answers)

    _start_at_base_rate(model, train)
    fit_leaving(model, train.departures if departures is None else departures)
    return _minimise(model, loss, train, validation, epochs=epochs, learning_rate=learning_rate, seed=seed)


@torch.no_grad()
def _start_at_base_rate(model: ResponseModel, answers: Answers) -> None:
    """The intercept at the logged mean: what is left to learn is who differs from it, and how."""
    is_clicked_S = answers.choice_S >= 0
    if bool(is_clicked_S.any()):
        model.reward_item.bias.fill_(float(answers.reward_S[is_clicked_S].mean()))


def _minimise(
    model: ResponseModel,
    loss: Callable[[Answers], Tensor],
    train: Answers,
    validation: Answers,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 512,
) -> dict[str, list[list[float]]]:
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    generator = torch_generator(seed, "fit")
    best, best_state, curve = float("inf"), None, []
    with Progress("fitting users", total=epochs, unit="epoch") as progress:
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
            for index in torch.randperm(len(train), generator=generator).split(batch_size):
                optimizer.zero_grad(set_to_none=True)
                loss(train.rows(index)).backward()
                optimizer.step()
            with torch.no_grad():
                value = float(loss(validation))
            curve.append([epoch, value])
            if value < best:
                best, best_state = value, {name: tensor.clone() for name, tensor in model.state_dict().items()}
            progress.advance(validation_loss=value)
    if best_state is None:
        raise DataError("fitting the users gave no finite validation loss")
    model.load_state_dict(best_state)
    return {"world_validation_loss": curve}


@torch.no_grad()
def anchor_no_click(model: ResponseModel, state_SD: Tensor, slate_SK: Tensor, *, click_rate: float) -> None:
    """Sets the no-click utility so that these slates are clicked with mean probability `click_rate`.

    Plain interactions say nothing about slates that were passed over: this rate is an assumption, kept in the
    config and printed in the report. Solved by bisection.
    """
    total_S = torch.logsumexp(model.utilities(state_SD, slate_SK), dim=1)
    low, high = float(total_S.min()) - 20.0, float(total_S.max()) + 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(torch.sigmoid(total_S - middle).mean()) > click_rate else (low, middle)
    model.no_click.weight.zero_()
    model.no_click.bias.fill_((low + high) / 2)
