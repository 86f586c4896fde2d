"""The distribution of the slates that a policy shows: from which items, under which constraints.

One object draws slates and tells their probability, so that what is stored with a slate and what is differentiated
is the distribution it was drawn from.

Shape legend: B slates, K positions, N token ids, C candidates, M columns (N, or C where there are candidates), T
history, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy import autoregressive, constrained, plackett_luce, two_stage
from recolam.policy.constraints import OpenItems, SlateConstraints
from recolam.policy.interaction import Interaction, Interplay


def admissible(score_BN: Tensor, history_BT: Tensor, *, keeping: Sequence[int] = ()) -> Tensor:
    """Scores with -inf for special tokens and for items of the history; padding may stand anywhere in it.

    Args:
        keeping: items that stay open although the history holds them.
    """
    masked_BN = score_BN.scatter(1, history_BT, -torch.inf)
    if keeping:
        masked_BN[:, list(keeping)] = score_BN[:, list(keeping)]
    masked_BN[:, :FIRST_ITEM] = -torch.inf
    return masked_BN


@dataclass(frozen=True, eq=False)
class SlateDistribution:
    """Plackett-Luce over columns, or autoregressive slates of them, under constraints.

    Attributes:
        score_BM: -inf for what a slate may not show.
        candidate_BC: the item of each column; None where columns are the catalogue's items themselves.
        constraints: on items, not on columns; None for none. An item that is fixed behind a slate's end is not shown.
        interplay: what the items of a slate do to each other's scores; None for nothing, which is Plackett-Luce.
    """

    score_BM: Tensor
    candidate_BC: Tensor | None = None
    constraints: SlateConstraints | None = None
    interplay: Interplay | None = None

    def sample(self, k: int, generator: torch.Generator | None) -> Tensor:
        """Item ids [B, k]; without a generator the best item at every position.

        Raises:
            ValueError: a row has no slate of this size that keeps the constraints; see `is_possible`.
        """
        fit = self._of_size(k)
        rules = fit._on_columns()
        if fit.interplay is not None:
            column_BK = autoregressive.sample(fit.score_BM, k, fit.interplay, rules, generator)
        elif rules is None:
            column_BK = plackett_luce.sample(fit.score_BM, k, generator)
        else:
            column_BK = constrained.sample(fit.score_BM, k, rules, generator)
        return column_BK if fit.candidate_BC is None else fit.candidate_BC.gather(1, column_BK)

    def position_log_probs(self, slate_BK: Tensor) -> Tensor:
        """log P(a_k | a_1..a_{k-1}), float [B, K], differentiable in the scores. For slates that it can show.

        Raises:
            ValueError: a row has no slate of this size at all.
        """
        fit = self._of_size(slate_BK.shape[1])
        if fit.candidate_BC is None:
            return fit._column_log_probs(slate_BK)
        return two_stage.in_columns(fit.candidate_BC, slate_BK, fit._column_log_probs)

    def _column_log_probs(self, column_BK: Tensor) -> Tensor:
        rules = self._on_columns()
        if self.interplay is not None:
            return autoregressive.position_log_probs(self.score_BM, column_BK, self.interplay, rules)
        if rules is None:
            return plackett_luce.position_log_probs(self.score_BM, column_BK)
        return constrained.position_log_probs(self.score_BM, column_BK, rules)

    def log_prob(self, slate_BK: Tensor) -> Tensor:
        """Exact log-probability of each ordered slate, float [B]; -inf for one that it never shows."""
        is_possible_B = self.is_possible(slate_BK.shape[1])
        if self.candidate_BC is None:
            is_possible_B = is_possible_B & torch.isfinite(self.score_BM.gather(1, slate_BK)).all(dim=1)
        answer_B = torch.full((len(slate_BK),), -torch.inf, device=self.score_BM.device, dtype=self.score_BM.dtype)
        if bool(is_possible_B.any()):
            part = self.rows(is_possible_B)
            answer_B[is_possible_B] = part.position_log_probs(slate_BK[is_possible_B]).sum(dim=1)
        return answer_B

    def is_possible(self, k: int) -> Tensor:
        """Which rows have a slate of k items that keeps the constraints, bool [B].

        Raises:
            ConfigError: no row of any catalogue could have one (more of a group are fixed than a slate may show).
        """
        fit = self._of_size(k)
        rules = fit._on_columns()
        if rules is None or rules.is_only_blocking:
            score_BM = fit.score_BM if rules is None else rules.barred(fit.score_BM)
            return torch.isfinite(score_BM).sum(dim=1) >= k
        return OpenItems(rules, fit.score_BM, k, is_checked=False).is_possible_B

    def first_scores(self, k: int) -> Tensor:
        """Scores of the first position that is not fixed, -inf for items not open there, float [B, M]."""
        fit = self._of_size(k)
        rules = fit._on_columns()
        score_BM = fit.score_BM
        if fit.interplay is not None:
            score_BM = autoregressive.first_scores(score_BM, fit.interplay, rules)
        if rules is None:
            return score_BM
        if rules.is_only_blocking:
            return rules.barred(score_BM)
        return score_BM.masked_fill(~OpenItems(rules, score_BM, k).first_free(), -torch.inf)

    def rows(self, chosen: Tensor) -> "SlateDistribution":
        """The distribution of some rows (a mask or indices)."""
        candidate_BC = None if self.candidate_BC is None else self.candidate_BC[chosen]
        constraints = None if self.constraints is None else self.constraints.rows(chosen)
        interplay = None if self.interplay is None else self.interplay.rows(chosen)
        return SlateDistribution(self.score_BM[chosen], candidate_BC, constraints, interplay)

    def without(self, item_BT: Tensor) -> "SlateDistribution":
        """The same without these items, repeated as may be; 0 stands for none."""
        if self.candidate_BC is None:
            return replace(self, score_BM=self.score_BM.scatter(1, item_BT, -torch.inf))
        ids = 1 + max(int(self.candidate_BC.max()), int(item_BT.max()))
        is_out_BN = torch.zeros(len(item_BT), ids, dtype=torch.bool, device=item_BT.device).scatter_(1, item_BT, True)
        return replace(self, score_BM=self.score_BM.masked_fill(is_out_BN.gather(1, self.candidate_BC), -torch.inf))

    def scores_of(self, slate_BK: Tensor) -> Tensor:
        """The scores of these slates' items at their positions, float [B, K]."""
        column_BK = self.columns_of(slate_BK)
        if self.interplay is not None:
            return autoregressive.scores_along(self.score_BM, column_BK, self.interplay)
        return self.score_BM.gather(1, column_BK)

    @property
    def is_plackett_luce(self) -> bool:
        """Whether every position is drawn from what is left of `first_scores`: no interplay, and no constraint but
        blocked items."""
        return self.interplay is None and (self.constraints is None or self.constraints.is_only_blocking)

    def columns_of(self, slate_BK: Tensor) -> Tensor:
        """In which columns these slates' items are, int64 [B, K]. For slates that it can show."""
        if self.candidate_BC is None:
            return slate_BK
        return (slate_BK[..., None] == self.candidate_BC[:, None]).long().argmax(dim=2)

    def conditional_log_probs(self, slate_BK: Tensor) -> Tensor:
        """log P(column | a_1..a_{k-1}) at every position, float [B, K, M], differentiable; -inf for what is not open.

        For slates that it can show.
        """
        fit, column_BK = self._of_size(slate_BK.shape[1]), self.columns_of(slate_BK)
        rules = fit._on_columns()
        if fit.interplay is not None:
            return autoregressive.conditional_log_probs(fit.score_BM, column_BK, fit.interplay, rules)
        if rules is None:
            return plackett_luce.conditional_log_probs(fit.score_BM, column_BK)
        return constrained.conditional_log_probs(fit.score_BM, column_BK, rules)

    def _of_size(self, k: int) -> "SlateDistribution":
        """The distribution of slates of k items."""
        behind = [] if self.constraints is None else [i for place, i in self.constraints.fixed.items() if place >= k]
        if self.constraints is None or not behind:
            return self
        item_BT = torch.tensor(behind, device=self.score_BM.device).expand(len(self.score_BM), -1)
        return replace(self.without(item_BT), constraints=self.constraints.within(k))

    def _on_columns(self) -> SlateConstraints | None:
        if self.candidate_BC is None:
            return self.constraints
        return two_stage.narrowed(self.constraints, self.candidate_BC)


def over_catalogue(
    score_BN: Tensor,
    history_BT: Tensor,
    constraints: SlateConstraints | None = None,
    interplay: Interplay | None = None,
) -> SlateDistribution:
    """Slates of all items but those of the history; fixed items are shown whether or not the history holds them."""
    keeping = () if constraints is None else tuple(constraints.fixed.values())
    return SlateDistribution(admissible(score_BN, history_BT, keeping=keeping), None, constraints, interplay)


def over_candidates(
    state_BD: Tensor,
    table_ND: Tensor,
    candidate_BC: Tensor,
    *,
    temperature: float,
    constraints: SlateConstraints | None = None,
    interaction: Interaction | None = None,
) -> SlateDistribution:
    """Slates of candidates, which were retrieved without the history's items; special tokens fill columns up."""
    score_BC = two_stage.candidate_scores(state_BD, table_ND, candidate_BC) / temperature
    score_BC = score_BC.masked_fill(candidate_BC < FIRST_ITEM, -torch.inf)
    interplay = None if interaction is None else interaction.among(state_BD, table_ND[candidate_BC])
    return SlateDistribution(score_BC, candidate_BC, constraints, interplay)


def slates_after(
    state_BD: Tensor,
    table_ND: Tensor,
    history_BT: Tensor,
    candidate_BC: Tensor | None,
    *,
    temperature: float,
    constraints: SlateConstraints | None = None,
    interaction: Interaction | None = None,
    is_barred_N: Tensor | None = None,
) -> SlateDistribution:
    """What slates are drawn from in these states, of candidates or of the catalogue; differentiable in states, item
    embeddings and the interaction's weights.

    Args:
        is_barred_N: True for token ids that are never shown; candidates are retrieved without them.
    """
    if candidate_BC is not None:
        return over_candidates(
            state_BD, table_ND, candidate_BC, temperature=temperature, constraints=constraints, interaction=interaction
        )
    score_BN = state_BD @ table_ND.T / temperature
    if is_barred_N is not None:
        score_BN = score_BN.masked_fill(is_barred_N, -torch.inf)
    interplay = None if interaction is None else interaction.among(state_BD, table_ND)
    return over_catalogue(score_BN, history_BT, constraints, interplay)
