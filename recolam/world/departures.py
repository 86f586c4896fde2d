"""When users leave: what the log says of it, its logistic regression, and the lengths of sessions that follow.

Shape legend: E members (in `sessions`: events), S slates or events, P places (departures that differ), F features of z,
J groups of steps, L steps of a session, G groups of lengths.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.seeding import numpy_generator
from recolam.world.response import CONTEXT_FEATURES, STEP_GROUPS, ResponseModel, step_group

Floats = NDArray[np.float64]

NEW_SESSION_SECONDS = 3600
_DRAWS = 100


@dataclass(frozen=True)
class Departures:
    """Whether a user left after each slate or event, with the step of the session, counted from 0.

    Attributes:
        context_SF: z of `recolam.world.response` with the step included; None where it is 0.
    """

    step_S: Tensor
    is_clicked_S: Tensor
    left_S: Tensor
    user_S: Tensor
    context_SF: Tensor | None = None

    def __len__(self) -> int:
        return len(self.step_S)

    def rows(self, index: Tensor) -> "Departures":
        context_SF = None if self.context_SF is None else self.context_SF[index]
        return Departures(
            self.step_S[index], self.is_clicked_S[index], self.left_S[index], self.user_S[index], context_SF
        )

    def context(self) -> Tensor:
        """z, float [S, F], or [1, F] where it is the same for all."""
        return torch.zeros(1, CONTEXT_FEATURES) if self.context_SF is None else self.context_SF


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


def fit_leaving(model: ResponseModel, departures: Departures, weight_ES: Tensor | None = None) -> None:
    """Logistic regression of leaving, to its optimum.

    Every group of steps also counts one answer at the base rate; the other weights have a standard normal prior.

    Args:
        weight_ES: how often each departure counts for each member; once by default.
    """
    place_S, first_P = _places(departures)
    left_S, places = departures.left_S.double(), len(first_P)
    weights = [torch.ones(len(departures)).double()] * model.members if weight_ES is None else weight_ES.double()
    count_EP = torch.stack([torch.bincount(place_S, weights=w_S, minlength=places) for w_S in weights])
    left_EP = torch.stack(
        [torch.bincount(place_S, weights=weight_S * left_S, minlength=places) for weight_S in weights]
    )
    rate_EP = left_EP / count_EP.clamp(min=1e-9)
    context_PF = model.standardised(departures.context())
    context_PF = context_PF[first_P] if len(context_PF) > 1 else context_PF.expand(places, -1)
    feature_FP = torch.cat([departures.is_clicked_S[first_P, None], context_PF], dim=1).double().T.contiguous()
    group_P, features = step_group(departures.step_S[first_P]), len(feature_FP)
    base_E1 = left_EP.sum(dim=1, keepdim=True) / count_EP.sum(dim=1, keepdim=True)
    prior_EJ = base_E1.expand(-1, STEP_GROUPS)
    start_EJ = torch.logit(prior_EJ, eps=1e-6)
    slope_EJ = torch.cat([torch.zeros(model.members, features, dtype=torch.float64), start_EJ], dim=1).requires_grad_()
    optimizer = torch.optim.LBFGS([slope_EJ], max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=1e-9)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def loss() -> Tensor:
        optimizer.zero_grad()
        weight_EF, step_EJ = slope_EJ[:, :features], slope_EJ[:, features:]
        logit_EP = weight_EF @ feature_FP + step_EJ[:, group_P]
        fit = entropy(logit_EP, rate_EP, weight=count_EP, reduction="sum")
        prior = entropy(step_EJ, prior_EJ, reduction="sum") + weight_EF.square().sum() / 2
        value = (fit + prior) / count_EP.sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        model.leaving_click_E.copy_(slope_EJ[:, 0])
        model.leaving_context_EF.copy_(slope_EJ[:, 1:features])
        model.leaving_step_EJ.copy_(slope_EJ[:, features:])


def _places(departures: Departures) -> tuple[Tensor, Tensor]:
    """The place of each departure, and one departure of each place: those without z are alike by step and click."""
    if departures.context_SF is not None:
        every_S = torch.arange(len(departures))
        return every_S, every_S
    cell_S = 2 * step_group(departures.step_S) + departures.is_clicked_S.long()
    cell_P, place_S = torch.unique(cell_S, return_inverse=True)
    first_P = torch.empty(len(cell_P), dtype=torch.int64)
    first_P[place_S] = torch.arange(len(place_S))
    return place_S, first_P


@torch.no_grad()
def leaving_probability(model: ResponseModel, departures: Departures) -> Floats:
    """The ensemble's chance of each departure, float [S]."""
    leaving_S = model.leaving_probability(departures.is_clicked_S, departures.step_S, departures.context())
    return leaving_S.double().numpy()


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
