"""When users leave: what the log says of it, its logistic regression, and the lengths of sessions that follow.

Shape legend: S slates or events, J groups of steps, L steps of a session, G groups of lengths.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.seeding import numpy_generator
from recolam.world.fitted import STEP_GROUPS, ResponseModel, step_group

Floats = NDArray[np.float64]

NEW_SESSION_SECONDS = 3600
_DRAWS = 100


@dataclass(frozen=True)
class Departures:
    """Whether a user left after each slate or event, with the step of the session, counted from 0."""

    step_S: Tensor
    is_clicked_S: Tensor
    left_S: Tensor
    user_S: Tensor

    def __len__(self) -> int:
        return len(self.step_S)

    def rows(self, index: Tensor) -> "Departures":
        return Departures(**{name: value[index] for name, value in vars(self).items()})


def event_departures(dataset: TokenisedDataset) -> Departures:
    """Of all train events of a log without slates; every one of them is a click."""
    events = np.flatnonzero((dataset.event_split_E == TRAIN) & (dataset.event_item_E >= FIRST_ITEM))
    start_E, left_E = sessions(dataset)
    return Departures(
        step_S=torch.from_numpy(events - start_E[events]),
        is_clicked_S=torch.ones(len(events), dtype=torch.bool),
        left_S=torch.from_numpy(left_E[events]).float(),
        user_S=torch.from_numpy(dataset.user_of_event(events)),
    )


def sessions(dataset: TokenisedDataset) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The first event of the session and whether it ends here, for every event.

    A session ends where a user's next event is more than an hour away.
    """
    events = len(dataset.event_item_E)
    is_first_E = np.zeros(events, dtype=bool)
    is_first_E[dataset.user_offset_U1[:-1][np.diff(dataset.user_offset_U1) > 0]] = True
    if dataset.info.get("clock") == "time":
        is_first_E[1:] |= np.diff(dataset.event_time_E) > NEW_SESSION_SECONDS
    start_E = np.maximum.accumulate(np.where(is_first_E, np.arange(events), 0))
    left_E = np.append(is_first_E[1:], True)
    return start_E, left_E


def fit_leaving(model: ResponseModel, departures: Departures) -> None:
    """Logistic regression of leaving, to its optimum; every group of steps also counts one answer at the base rate."""
    cell_S = 2 * step_group(departures.step_S) + departures.is_clicked_S.long()
    cells = 2 * STEP_GROUPS
    count_C = torch.bincount(cell_S, minlength=cells).double()
    left_C = torch.bincount(cell_S, weights=departures.left_S.double(), minlength=cells)
    base = float(left_C.sum() / count_C.sum())
    is_clicked_C, group_C = torch.arange(cells) % 2, torch.arange(cells) // 2
    weight_J1 = torch.zeros(1 + STEP_GROUPS, dtype=torch.float64, requires_grad=True)  # the click's first
    with torch.no_grad():
        weight_J1[1:] = float(torch.logit(torch.tensor(base), eps=1e-6))
    optimizer = torch.optim.LBFGS([weight_J1], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-9)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def loss() -> Tensor:
        optimizer.zero_grad()
        logit_C = weight_J1[0] * is_clicked_C + weight_J1[1:][group_C]
        rate_C = left_C / count_C.clamp(min=1)
        fit = entropy(logit_C, rate_C, weight=count_C, reduction="sum")
        prior = entropy(weight_J1[1:], torch.full_like(weight_J1[1:], base), reduction="sum")
        value = (fit + prior + weight_J1[0].square() / 2) / count_C.sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        model.leaving_click.copy_(weight_J1[0])
        model.leaving_step_J.copy_(weight_J1[1:])


@torch.no_grad()
def leaving_probability(model: ResponseModel, departures: Departures) -> Floats:
    """The model's chance of each departure, float [S]."""
    return torch.sigmoid(model.leaving_logit(departures.is_clicked_S, departures.step_S)).double().numpy()


def session_length_tv(departures: Departures, leaving_S: Floats, left_S: Floats | None = None) -> float:
    """Total variation, 1/2 sum |p - q|, between logged and predicted session lengths.

    Both come from the chances of leaving at each step among those who are still there (Kaplan & Meier 1958), so that
    sessions cut by a horizon count as long as they were seen; what is left behind the longest is one more length.
    Lengths above 32 are taken together by half octaves: single ones are too rare in any log to have a probability.

    Args:
        leaving_S: predicted chance of each departure.
        left_S: departures in place of the logged ones.
    """
    step_S = departures.step_S.numpy()
    present_L = np.bincount(step_S).astype(float)
    group_L = step_group(torch.arange(len(present_L))).numpy()
    distributions = []
    for leaving in (departures.left_S.double().numpy() if left_S is None else left_S, leaving_S):
        hazard_L = np.bincount(step_S, weights=leaving) / np.maximum(present_L, 1.0)
        alive_L1 = np.concatenate([[1.0], np.cumprod(1.0 - hazard_L)])
        grouped_G = np.bincount(group_L, weights=alive_L1[:-1] * hazard_L, minlength=STEP_GROUPS)
        distributions.append(np.append(grouped_G, alive_L1[-1]))
    return float(np.abs(distributions[0] - distributions[1]).sum() / 2)


def session_length_tv_by_chance(departures: Departures, leaving_S: Floats, *, seed: int) -> dict[str, float]:
    """What a perfect model would be charged, since the log is finite: the mean and standard deviation of the total
    variation when departures are drawn from the predicted chances themselves."""
    generator = numpy_generator(seed, "departures by chance")
    values = [
        session_length_tv(departures, leaving_S, (generator.random(len(leaving_S)) < leaving_S).astype(float))
        for _ in range(_DRAWS)
    ]
    return {"mean": float(np.mean(values)), "error": float(np.std(values, ddof=1))}
