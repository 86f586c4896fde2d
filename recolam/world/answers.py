"""What users did when shown something: from logged slates, or made from plain interactions.

Shape legend: E events, S slates (contexts), K slate, D width, T history, F features of z, Q sessions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, LoggedSlates, TokenisedDataset
from recolam.errors import DataError
from recolam.progress import Progress
from recolam.seeding import numpy_generator
from recolam.sequence.model import SequenceModel
from recolam.world.departures import Departures, sessions
from recolam.world.response import CONTEXT_FEATURES, context_after, past_features


@dataclass(frozen=True)
class Answers:
    """What users did when shown a slate, with the state they were in.

    Attributes:
        log_shown_SK: log-probability of an item's being among the candidates, 0 where slates are real. Candidates
            drawn by us are corrected for it, so that the likelihood is that of a choice from the whole catalogue.
        context_SF: what the user has been through before this answer: z of `recolam.world.response`.
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
    context_SF: Tensor
    has_no_click: bool

    def __len__(self) -> int:
        return len(self.choice_S)

    @property
    def departures(self) -> Departures:
        is_clicked_S, after_SF = self.choice_S >= 0, None
        if self.has_no_click:
            after_SF = context_after(self.context_SF, is_clicked_S, self.reward_S)
        return Departures(self.step_S, is_clicked_S, self.left_S, self.user_S, after_SF)

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
        context_SF=contexts(slates)[torch.from_numpy(keep)],
        has_no_click=True,
    )


def contexts(slates: LoggedSlates) -> Tensor:
    """z of `recolam.world.response` before each slate, float [S, F]; a user's sessions are ordered by his history."""
    row_S = np.unique(slates.session_S, return_inverse=True)[1]
    begin_Q = np.full(int(row_S.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(begin_Q, row_S, slates.history_end_S)
    order = np.lexsort((slates.step_S, row_S, begin_Q[row_S], slates.user_S))
    is_clicked_S = slates.choice_S[order] >= 0
    gained_SF = np.stack([slates.reward_S[order] * is_clicked_S, is_clicked_S, np.ones(len(order))], axis=1)
    before_SF = np.concatenate([np.zeros((1, 3)), gained_SF.cumsum(axis=0)])[:-1]
    user_S, session_S = slates.user_S[order], slates.session_S[order]
    at_user_SF, at_session_SF = (before_SF[first_of_run(unit_S)] for unit_S in (user_S, session_S))
    past_SF, within_SF = at_session_SF - at_user_SF, before_SF - at_session_SF
    context_SF = past_features(torch.from_numpy(past_SF[:, 2]), torch.from_numpy(past_SF[:, 1]))
    context_SF[:, 2:] = torch.from_numpy(within_SF[:, :2])
    return context_SF[torch.from_numpy(np.argsort(order))]


def contexts_at_train_end(dataset: TokenisedDataset, users: np.ndarray) -> Tensor:
    """z of these users when a session begins after the train period, float [P, F]; 0 where no slates were logged."""
    if dataset.slates is None:
        return torch.zeros(len(users), CONTEXT_FEATURES)
    is_train_S = dataset.slates.split_S == TRAIN
    is_clicked_S = is_train_S & (dataset.slates.choice_S >= 0)
    seen_U, clicked_U = (
        np.bincount(dataset.slates.user_S[chosen_S], minlength=len(dataset.users))
        for chosen_S in (is_train_S, is_clicked_S)
    )
    return past_features(torch.from_numpy(seen_U[users]), torch.from_numpy(clicked_U[users]))


def times_shown(dataset: TokenisedDataset) -> Tensor:
    """How often each token was shown in the train period, or taken where slates were not logged; int64 [N]."""
    if dataset.slates is None:
        return torch.from_numpy(dataset.item_count_V.astype(np.int64))
    shown = dataset.slates.slate_SK[dataset.slates.split_S == TRAIN]
    return torch.from_numpy(np.bincount(shown.ravel(), minlength=dataset.tokens).astype(np.int64))


def first_of_run(unit_S: np.ndarray) -> np.ndarray:
    """For every place, where the run of equal values that it belongs to begins, int64 [S]."""
    is_first_S = np.ones(len(unit_S), dtype=bool)
    is_first_S[1:] = unit_S[1:] != unit_S[:-1]
    return np.maximum.accumulate(np.where(is_first_S, np.arange(len(unit_S)), 0))


def interaction_answers(
    encoder: SequenceModel, dataset: TokenisedDataset, *, candidates: int, limit: int, max_len: int, seed: int
) -> Answers:
    """Answers made from plain interactions: the item taken, among items drawn by the square root of popularity.

    The drawn items' log-probabilities go with them (McFadden's sampling correction, 1978). Sessions end where a
    user's next event is more than an hour away. The reward is the event's value (a rating, say), or 1 without one.
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
        context_SF=torch.zeros(len(events), CONTEXT_FEATURES),
        has_no_click=False,
    )
