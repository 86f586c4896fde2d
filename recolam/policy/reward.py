"""What a policy is trained for: a weighted sum of named rewards, each a function of one step of a session.

    r(step) = sum over names j of weight_j r_j(what was seen before, slate, answer)

Weights may be negative. `TERMS` has the names and their formulas; who composes a reward stores `Reward.definition`.
Shape legend: B sessions, T history, K slate, N token ids, D width, G groups.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, StepResult
from recolam.errors import ConfigError
from recolam.sequence.model import SequenceModel
from recolam.world.runtime import Value

WORLD_ALONE: Mapping[str, float] = {"response": 1.0}
_WEEK = 168  # hours
RECENT = 10  # clicks of the history that a new one is compared with


@dataclass(frozen=True)
class Surroundings:
    """What rewards may look at beside the step; None where there is none.

    Attributes:
        model: the pretrained model, frozen: its states and item vectors.
        group_N: each token id's group (a provider, a category), int64, -1 for none.
        learnt: (state float [B, D], items int64 [B, K]) -> reward of choosing them, float [B, K];
            `recolam.world.learnt_reward.LearntReward` is one.
    """

    model: SequenceModel | None = None
    group_N: Tensor | None = None
    learnt: Callable[[Tensor, Tensor], Tensor] | None = None

    @cached_property
    def unit_ND(self) -> Tensor:
        """The pretrained item vectors at length 1."""
        with torch.no_grad():
            return torch.nn.functional.normalize(_given(self.model).item_table(), dim=1)


@dataclass(frozen=True)
class Step:
    """One step of sessions side by side.

    Attributes:
        users: the user model.
        before: what was seen before the step.
        state, after: the users' true state then and after the step.
        generator: for what a reward draws.
        is_active_B: whose session had not ended.
        shown_G: how many items of each group were shown to all sessions of this rollout before; None without groups.
    """

    users: Any
    before: Observation
    state: Value
    after: Value
    slate_BK: Tensor
    result: StepResult
    is_active_B: Tensor
    shown_G: Tensor | None
    generator: torch.Generator


Function = Callable[[Step, Surroundings], Tensor]
Given = TypeVar("Given")


@dataclass(frozen=True)
class Term:
    """A named reward: `function` gives float [B]; `missing` says what it needs and these users or surroundings lack."""

    formula: str
    function: Function
    missing: Callable[[Any, Surroundings], str] = lambda users, surroundings: ""


def clicks(step: Step, surroundings: Surroundings) -> Tensor:
    return step.result.is_clicked_BK.sum(dim=1).float()


def response(step: Step, surroundings: Surroundings) -> Tensor:
    return step.result.reward_B


def stay(step: Step, surroundings: Surroundings) -> Tensor:
    return (~step.result.terminated_B).float()


def comes_back(step: Step, surroundings: Surroundings) -> Tensor:
    """The time is drawn by the fitted users' own model of their returns, once a session."""
    hours_B = step.users.return_time(step.after, step.generator)
    return torch.exp(-hours_B / _WEEK) * (step.result.terminated_B | step.result.truncated_B)


def diversity(step: Step, surroundings: Surroundings) -> Tensor:
    """Intra-list distance of a click to the clicks before it, after Ziegler et al. 2005,
    https://doi.org/10.1145/1060745.1060754, with the session in the list's place; 0 without clicks or history."""
    unit_ND = surroundings.unit_ND
    history_BT, length_B = step.before.history_BT, step.before.length_B
    place_BT = length_B[:, None] - 1 - torch.arange(RECENT, device=length_B.device)
    is_there_BT = (place_BT >= 0).float()
    recent_BTD = unit_ND[history_BT.gather(1, place_BT.clamp(0, history_BT.shape[1] - 1))] * is_there_BT[..., None]
    mean_BD = recent_BTD.sum(dim=1) / is_there_BT.sum(dim=1, keepdim=True).clamp(min=1.0)
    distance_BK = 1.0 - torch.einsum("bkd,bd->bk", unit_ND[step.slate_BK], mean_BD)
    is_clicked_BK = step.result.is_clicked_BK.float()
    mean_B = (distance_BK * is_clicked_BK).sum(dim=1) / is_clicked_BK.sum(dim=1).clamp(min=1.0)
    return mean_B * (length_B > 0)


def fairness(step: Step, surroundings: Surroundings) -> Tensor:
    """Minus the slope of the Herfindahl index of exposure, the sum of share^2, in a group's share; scaled and shifted.

    Every group counts one showing more than it had, so that shares begin equal. The shares are those of all sessions
    played side by side, so what one session earns depends, as one over their number, on what the others were shown.
    """
    group_BK, counted_G = _given(surroundings.group_N)[step.slate_BK], _given(step.shown_G) + 1.0
    share_G = counted_G / counted_G.sum()
    gain_G = 1.0 - len(share_G) * share_G
    has_group_BK = group_BK >= 0
    gain_BK = gain_G[group_BK.clamp(min=0)].where(has_group_BK, 0.0)
    return gain_BK.sum(dim=1) / has_group_BK.sum(dim=1).clamp(min=1)


def uncertainty(step: Step, surroundings: Surroundings) -> Tensor:
    """A penalty with a negative weight (MOPO: Yu et al. 2020, https://arxiv.org/abs/2005.13239)."""
    return step.users.disagreement(step.state, step.slate_BK)


def learnt(step: Step, surroundings: Surroundings) -> Tensor:
    state_BD = _given(surroundings.model).last_state(step.before.history_BT, step.before.length_B)
    return (_given(surroundings.learnt)(state_BD, step.slate_BK) * step.result.is_clicked_BK).sum(dim=1)


def _given(value: Given | None) -> Given:
    if value is None:
        raise ValueError("a reward lacks what it needs; `Reward.check` says what")
    return value


def _lacks_model(users: Any, surroundings: Surroundings) -> str:
    return "" if surroundings.model is not None else "the pretrained model's item vectors"


def _lacks_groups(users: Any, surroundings: Surroundings) -> str:
    if surroundings.group_N is not None and int(surroundings.group_N[FIRST_ITEM:].max()) >= 1:
        return ""
    return "items of two groups at least; this log's items have no tags to group them by"


def _lacks_returns(users: Any, surroundings: Surroundings) -> str:
    is_known = hasattr(users, "return_time") and getattr(users, "returning", None) is not None
    return "" if is_known else "users fitted to a log that tells when they came back"


def _lacks_members(users: Any, surroundings: Surroundings) -> str:
    return "" if hasattr(users, "disagreement") else "fitted users that are several models; these are one"


def _lacks_learnt(users: Any, surroundings: Surroundings) -> str:
    missing = surroundings.learnt is None or surroundings.model is None
    return "a reward learnt from choices: name its folder as learnt_reward" if missing else ""


TERMS: dict[str, Term] = {
    "clicks": Term("number of items clicked", clicks),
    "response": Term("the world's own reward: watch time, dwell, rating", response),
    "stay": Term("1 where the user has not left after the step", stay),
    "return": Term(
        f"exp(-T / {_WEEK}) where the session ends, by the user or the horizon, T the hours until his next one",
        comes_back, _lacks_returns,
    ),
    "diversity": Term(
        f"mean over clicked items i of 1 - mean over the last {RECENT} items j of the history of cos(v_i, v_j), "
        "v the pretrained item vectors", diversity, _lacks_model,
    ),
    "fairness": Term(
        "mean over shown items with a group g of 1 - G share_g, share_g = (shown_g + 1) / sum over groups of "
        "(shown + 1) in the rollout so far", fairness, _lacks_groups,
    ),
    "uncertainty": Term(
        "standard deviation over the fitted models of the slate's expected reward", uncertainty, _lacks_members
    ),
    "learnt": Term("sum over clicked items i of r(state, i), r learnt from choices", learnt, _lacks_learnt),
}  # fmt: skip


@dataclass(frozen=True)
class Reward:
    """A composed reward.

    Raises:
        ConfigError: no weight, a name that `TERMS` has not, or a weight that is no finite number.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: dict(WORLD_ALONE))
    surroundings: Surroundings = field(default_factory=Surroundings)

    def __post_init__(self) -> None:
        check_weights(self.weights)

    @property
    def is_worlds_own(self) -> bool:
        return dict(self.weights) == dict(WORLD_ALONE)

    def check(self, users: Any) -> None:
        """Raises ConfigError where these users or the surroundings lack what a named reward needs."""
        for name in self.weights:
            if lacking := TERMS[name].missing(users, self.surroundings):
                raise ConfigError(f"reward {name!r} needs {lacking}")

    def __call__(self, step: Step) -> Tensor:
        """float [B]; 0 where the session had ended."""
        total_B = torch.zeros_like(step.result.reward_B)
        for name, weight in self.weights.items():
            total_B = total_B + weight * TERMS[name].function(step, self.surroundings)
        return total_B.where(step.is_active_B, 0.0)

    def definition(self, *, gamma: float) -> dict[str, Any]:
        """What a policy's file keeps: weights, formulas, discount."""
        formulas = {name: TERMS[name].formula for name in self.weights}
        return {"weights": dict(self.weights), "formulas": formulas, "gamma": gamma}


def check_weights(weights: Mapping[str, float]) -> None:
    """Raises ConfigError as `Reward` does."""
    if unknown := sorted(set(weights) - set(TERMS)):
        raise ConfigError(f"reward {unknown[0]!r} is not one of {', '.join(TERMS)}")
    if not any(weights.values()):
        raise ConfigError(f"reward {dict(weights)!r} has no weight but 0")
    for name, weight in weights.items():
        if not abs(weight) < float("inf"):
            raise ConfigError(f"reward {name!r}: weight {weight} is not a finite number")
