"""The numbers that decide on promotion, and the checks on the slates behind them.

Shape legend: B histories, T history length, K slate positions, N token ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.evaluate.seen import items_left, select
from recolam.intervals import paired_difference, student_t_interval
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import SlateDistribution


class CheckedAgent(Protocol):
    """What the checks ask of a policy: `recolam.policy.agent.SlateAgent` has it."""

    @property
    def constraints(self) -> SlateConstraints | None: ...

    @property
    def is_restricted(self) -> bool: ...

    def distribution(self, observation: Observation) -> SlateDistribution: ...

    def slates(self, observation: Observation, *, k: int, generator: Any) -> Tensor: ...

    def scores(self, history_BT: Tensor, length_B: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Standing:
    """What the gate needs to know of one policy.

    Attributes:
        policy_digest: digest of the policy's artifact.
        returns: mean return of a session, one per seed; the same seeds in the same order for every policy compared.
        ndcg10, coverage: on the test queries.
        popularity_ndcg10: of the popularity baseline on the same queries.
        slates_valid: see `are_slates_valid`.
        finite: see `are_scores_finite`.
    """

    policy_digest: str
    returns: Sequence[float]
    ndcg10: float
    coverage: float
    popularity_ndcg10: float
    slates_valid: bool
    finite: bool

    @classmethod
    def incomparable(cls, policy_digest: str) -> "Standing":
        """A champion of another catalogue: it has no standing here."""
        nan = float("nan")
        return cls(policy_digest, (), nan, nan, nan, slates_valid=False, finite=False)

    def as_json(self) -> dict[str, Any]:
        if not self.returns:
            return {"policy_digest": self.policy_digest, "is_comparable": False}
        return {
            "is_comparable": True,
            "policy_digest": self.policy_digest,
            "return_mean": float(np.mean(self.returns)),
            "return_ci95": interval_or_none(self.returns),
            "ndcg10": self.ndcg10,
            "coverage": self.coverage,
            "popularity_ndcg10": self.popularity_ndcg10,
            "slates_valid": self.slates_valid,
            "finite": self.finite,
        }


def build_gate(
    candidate: Standing,
    champion: Standing | None,
    *,
    baseline_return: float,
    coverage: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The `gate` block of report.json.

    Args:
        candidate: the policy that asks for promotion.
        champion: the policy that serves now, or None.
        baseline_return: mean return of random slates.
        coverage: from `recolam.evaluate.contest.coverage_check`.

    Returns:
        `candidate`, `champion` (or None; `is_comparable` tells whether it has numbers), `baseline_return`, `coverage`
        as given, and `difference`: the paired difference candidate minus champion over seeds, None where there is no
        champion or only one seed.

    Raises:
        DataError: the two have returns for different numbers of seeds, or some that are not finite.
    """
    difference = None
    if champion is not None and champion.returns and len(candidate.returns) > 1:
        difference = paired_difference(np.array(candidate.returns), np.array(champion.returns)).as_json()
    return {
        "candidate": candidate.as_json(),
        "champion": None if champion is None else champion.as_json(),
        "baseline_return": baseline_return,
        "coverage": None if coverage is None else dict(coverage),
        "difference": difference,
    }


def interval_or_none(values: Sequence[float]) -> list[float] | None:
    """Ends of the Student t interval over seeds; None where one seed, or a value that is not finite, allows none."""
    value_S = np.asarray(values, dtype=np.float64)
    if len(value_S) < 2 or not np.isfinite(value_S).all():
        return None
    interval = student_t_interval(value_S)
    return [interval.low, interval.high]


def are_slates_valid(slate_BK: Tensor, seen: Observation, *, tokens: int) -> bool:
    """Whether every slate has K different known items, none of them in the history that the policy was shown."""
    is_item_BK = (slate_BK >= FIRST_ITEM) & (slate_BK < tokens)
    ordered_BK = slate_BK.sort(dim=1).values
    is_repeated = bool((ordered_BK[:, 1:] == ordered_BK[:, :-1]).any())
    is_seen = bool((slate_BK[:, :, None] == seen.history_BT[:, None, :]).any())
    return bool(is_item_BK.all()) and not is_repeated and not is_seen


def are_scores_finite(score_BN: Tensor, seen: Observation) -> bool:
    """Whether every item outside the history has a finite score, and no score at all is NaN or +inf."""
    is_open_BN = torch.ones_like(score_BN, dtype=torch.bool).scatter_(1, seen.history_BT.long(), False)
    is_open_BN[:, :FIRST_ITEM] = False
    is_broken_BN = score_BN.isnan() | (score_BN == torch.inf)
    return not bool(is_broken_BN.any()) and bool(torch.isfinite(score_BN[is_open_BN]).all())


@torch.no_grad()
def check_agent(
    agent: CheckedAgent, seen: Observation, *, k: int, tokens: int, generator: torch.Generator
) -> dict[str, bool]:
    """`slates_valid` (greedy and sampled, constraints included) and `finite` of a policy on these histories.

    Histories that leave no slate of `k` items are no test of the slates and are left out.
    """
    rules = agent.constraints
    roomy = select(seen, items_left(seen, tokens=tokens) >= k)
    if agent.is_restricted and len(roomy.length_B):
        roomy = select(roomy, agent.distribution(roomy).is_possible(k))
    barred = roomy if rules is None else _but_for(roomy, rules.within(k).fixed.values())
    is_valid = True
    for stream in (None, generator):
        if len(roomy.length_B):
            slate_BK = agent.slates(roomy, k=k, generator=stream)
            is_valid &= are_slates_valid(slate_BK, barred, tokens=tokens)
            is_valid &= rules is None or bool(rules.are_kept(slate_BK).all())
    return {"slates_valid": is_valid, "finite": are_scores_finite(agent.scores(seen.history_BT, seen.length_B), seen)}


def _but_for(seen: Observation, item_X: Iterable[int]) -> Observation:
    """The histories without these items, which a policy shows whoever had them."""
    is_kept_BT = torch.ones_like(seen.history_BT, dtype=torch.bool)
    for item in item_X:
        is_kept_BT &= seen.history_BT != item
    return replace(seen, history_BT=seen.history_BT * is_kept_BT)
