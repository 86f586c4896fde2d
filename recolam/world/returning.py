"""When users come back: the time from a session's last event to the user's next session.

A discrete hazard over intervals of hours with edges t_0 = 1 < t_1 < ... < t_J (Cox 1972, section 6; Singer & Willett
1993, https://doi.org/10.3102/10769986018002155), for the pretrained state h at the session's end:

    P(T <= t_j | T > t_{j-1}) = sigmoid(a_j + w . h)

One a_j an interval leaves the shape of the distribution free. The fit is by maximum likelihood with a normal prior on
w; a session whose user did not return within the train period says only that T is longer than what was left of it
(censored: it counts in the intervals that it outlived). Within an interval the logarithm of T is uniform.
Shape legend: E events, S sessions, B users, D width, J intervals.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recolam.contracts.dataset import TRAIN, TokenisedDataset
from recolam.intervals import cluster_error
from recolam.seeding import numpy_generator
from recolam.sequence.model import SequenceModel
from recolam.world.answers import encode
from recolam.world.departures import sessions

_EDGES = (1, 2, 4, 8, 12, 24, 36, 48, 72, 96, 120, 168, 336, 720, 1440, 2880, 8760)  # hours
DAY, WEEK = 24, 168


@dataclass(frozen=True)
class Absences:
    """Sessions that ended in the train period.

    Attributes:
        state_SD: the pretrained state when they ended.
        hours_S: until the user's next session, or until the train period's end.
        has_returned_S: which of the two.
        left_S: hours from the session's end to the train period's: what could have been seen.
    """

    state_SD: Tensor
    hours_S: Tensor
    has_returned_S: Tensor
    left_S: Tensor
    user_S: Tensor

    def __len__(self) -> int:
        return len(self.hours_S)

    def rows(self, index: Tensor) -> "Absences":
        return Absences(**{name: value[index] for name, value in vars(self).items()})


def absences(
    encoder: SequenceModel, dataset: TokenisedDataset, *, limit: int, max_len: int, seed: int
) -> Absences | None:
    """What the log says of returns; None where it has no clock, or no time that all training data lie before.

    Args:
        limit: sessions at most; a seeded draw where there are more.
    """
    if dataset.info.get("clock") != "time" or not dataset.info.get("cut_times"):
        return None
    _, is_last_E = sessions(dataset)
    end_S = np.flatnonzero(is_last_E & (dataset.event_split_E == TRAIN))
    if len(end_S) > limit:
        end_S = np.sort(numpy_generator(seed, "absences").choice(end_S, size=limit, replace=False))
    if len(end_S) == 0:
        return None
    user_S = dataset.user_of_event(end_S)
    next_S = np.minimum(end_S + 1, len(dataset.event_item_E) - 1)
    is_next_S = (end_S + 1 < dataset.user_offset_U1[user_S + 1]) & (dataset.event_split_E[next_S] == TRAIN)
    time_E = dataset.event_time_E
    left_S = (int(dataset.info["cut_times"][0]) - time_E[end_S]) / 3600.0
    hours_S = np.where(is_next_S, (time_E[next_S] - time_E[end_S]) / 3600.0, left_S)
    return Absences(
        state_SD=encode(encoder, dataset, end_S + 1, user_S, max_len=max_len),
        hours_S=torch.from_numpy(hours_S).float(),
        has_returned_S=torch.from_numpy(is_next_S),
        left_S=torch.from_numpy(left_S).float(),
        user_S=torch.from_numpy(user_S),
    )


class ReturnModel(nn.Module):
    """The parameters above; states are standardised by those that were fitted to."""

    mean_D: Tensor
    scale_D: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.level_J = nn.Parameter(torch.zeros(len(_EDGES) - 1))
        self.weight_D = nn.Parameter(torch.zeros(width))

    def hazard_logit(self, state_BD: Tensor) -> Tensor:
        """Log-odds of returning in each interval, for who has not before; float [B, J]."""
        return self.level_J + (((state_BD - self.mean_D) / self.scale_D) @ self.weight_D)[:, None]

    def away(self, state_BD: Tensor) -> Tensor:
        """P(T > t_j) at every edge, t_0 included; float [B, J + 1]."""
        log_stay_BJ = torch.nn.functional.logsigmoid(-self.hazard_logit(state_BD))
        return torch.nn.functional.pad(log_stay_BJ.cumsum(dim=1), (1, 0)).exp()

    def within(self, state_BD: Tensor, hours: int) -> Tensor:
        """P(T <= hours), float [B]; `hours` is one of the edges."""
        return 1.0 - self.away(state_BD)[:, _EDGES.index(hours)]

    def mean_log_hours(self, state_BD: Tensor, *, most: int) -> Tensor:
        """E[log min(T, most)], float [B]; `most` is one of the edges."""
        last = _EDGES.index(most)
        away_BJ, log_edge_J = self.away(state_BD)[:, : last + 1], torch.tensor(_EDGES[: last + 1]).log()
        middle_J = (log_edge_J[1:] + log_edge_J[:-1]) / 2
        return (away_BJ[:, :-1] - away_BJ[:, 1:]) @ middle_J + away_BJ[:, -1] * math.log(most)

    def draw(self, state_BD: Tensor, generator: torch.Generator) -> Tensor:
        """Hours until the return, float [B]; the last edge for who stays away longer."""
        away_BJ = self.away(state_BD)
        draw_B1 = torch.rand(len(state_BD), 1, generator=generator, device=state_BD.device)
        edge_J = torch.tensor(_EDGES, dtype=torch.float32, device=state_BD.device)
        place_B = ((away_BJ > draw_B1).sum(dim=1) - 1).clamp(max=len(_EDGES) - 2)  # the interval that is left in
        within_B = torch.rand(len(state_BD), generator=generator, device=state_BD.device)
        low_B, high_B = edge_J[place_B].log(), edge_J[place_B + 1].log()
        hours_B = (low_B + within_B * (high_B - low_B)).exp()
        return torch.where(draw_B1[:, 0] < away_BJ[:, -1], edge_J[-1], hours_B)


def fit_return(model: ReturnModel, seen: Absences) -> None:
    """Maximum likelihood with a standard normal prior on the weights and one return in two trials an interval."""
    edge_J = torch.tensor(_EDGES, dtype=torch.float32)
    has_outlived_SJ = seen.hours_S[:, None] >= edge_J[1:]
    is_in_SJ = ~has_outlived_SJ & (seen.hours_S[:, None] >= edge_J[:-1])
    is_event_SJ = is_in_SJ & seen.has_returned_S[:, None]
    trial_SJ = (has_outlived_SJ | is_event_SJ).double()  # who is lost within an interval says nothing of it
    spread_D = seen.state_SD.std(dim=0, correction=0)
    model.mean_D.copy_(seen.state_SD.mean(dim=0))
    model.scale_D.copy_(torch.where(spread_D > 0, spread_D, 1.0))
    state_SD = ((seen.state_SD - model.mean_D) / model.scale_D).double()
    event_SJ = is_event_SJ.double()
    level_J = torch.zeros(len(_EDGES) - 1, dtype=torch.float64, requires_grad=True)
    weight_D = torch.zeros(state_SD.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([level_J, weight_D], max_iter=200, line_search_fn="strong_wolfe")
    entropy = torch.nn.functional.binary_cross_entropy_with_logits

    def loss() -> Tensor:
        optimizer.zero_grad()
        logit_SJ = level_J + (state_SD @ weight_D)[:, None]
        fit = entropy(logit_SJ, event_SJ, weight=trial_SJ, reduction="sum")
        prior = weight_D.square().sum() / 2 + 2 * entropy(level_J, torch.full_like(level_J, 0.5), reduction="sum")
        value = (fit + prior) / len(seen)
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        model.level_J.copy_(level_J)
        model.weight_D.copy_(weight_D)


@torch.no_grad()
def calibrate_return(model: ReturnModel, seen: Absences) -> dict[str, Any]:
    """Behaviours {logged, simulated, error} of held-out users: share back within a day and a week, and the mean
    logarithm of the hours away, a week at most; from sessions after which that long could be seen, so that nothing is
    censored. Those that no session can tell are missing."""
    found: dict[str, Any] = {"sessions": len(seen)}
    for name, hours in (("within_day", DAY), ("within_week", WEEK)):
        part = seen.rows(seen.left_S >= hours)
        if len(part):
            logged_S = (part.has_returned_S & (part.hours_S <= hours)).double()
            found[name] = _pair(logged_S, model.within(part.state_SD, hours), part.user_S)
    part = seen.rows(seen.left_S >= WEEK)
    if len(part):
        logged_S = part.hours_S.clamp(min=1, max=WEEK).log().double()
        found["log_hours"] = _pair(logged_S, model.mean_log_hours(part.state_SD, most=WEEK), part.user_S)
    return found


def _pair(logged_S: Tensor, simulated_S: Tensor, user_S: Tensor) -> dict[str, float]:
    error = cluster_error((simulated_S.double() - logged_S).numpy(), user_S.numpy())
    return {"logged": float(logged_S.mean()), "simulated": float(simulated_S.mean()), "error": error}
