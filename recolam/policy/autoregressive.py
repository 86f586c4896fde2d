"""Autoregressive slates: what stands before a position changes the scores there (`recolam.policy.interaction`).

P(a_1, ..., a_K) = prod_k exp(s_{a_k} + q_k . e_{a_k}) / sum_{j open at k} exp(s_j + q_k . e_j),   q_k from a_1..a_{k-1}

The open items are those of `recolam.policy.constraints`, which depend on the scores only by which are finite; so every
hard constraint is part of this distribution as of Plackett-Luce, which it is where all q_k are 0.

Shape legend: B slates, K positions, M columns of scores, R numbers of a key.
"""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from recolam.policy import plackett_luce
from recolam.policy.constraints import OpenItems, SlateConstraints
from recolam.policy.interaction import Interplay

_NOTHING = -1e30  # as -inf, with a gradient where nothing is open


@torch.no_grad()
def sample(
    score_BM: Tensor,
    k: int,
    interplay: Interplay,
    constraints: SlateConstraints | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Columns of a slate for each row, int64 [B, k]; without a generator the best open item at every position, which
    need not make the most probable slate.

    Every item has a clock that rings at a rate of exp(score), and a position takes the open item that rings first. What
    is left of another's clock then is exponential again, at its rate, and where the rate changes, that time changes by
    the inverse factor: one random number an item serves all positions, and where no rate changes the slate is that of
    `plackett_luce.sample`. Times are kept as logarithms, since rates span many powers of ten.

    Raises:
        ValueError: a row has no slate of k items that keeps the constraints.
    """
    fixed = {} if constraints is None else constraints.fixed
    open_items = _open_items(score_BM, k, constraints)
    log_left_BM = -(score_BM if generator is None else plackett_luce.perturbed(score_BM, generator))
    shift_BM = torch.zeros_like(score_BM)
    columns: list[Tensor] = []
    for position in range(k):
        is_open_BM = open_items.next()
        if position in fixed:
            columns.append(is_open_BM.long().argmax(dim=1))
        else:
            if position > 0:
                now_BM = interplay.shift(interplay.push_after(torch.stack(columns, dim=1)))
                log_left_BM, shift_BM = log_left_BM - (now_BM - shift_BM), now_BM
            columns.append(log_left_BM.masked_fill(~is_open_BM, torch.inf).argmin(dim=1))
            if generator is not None:
                log_left_BM = _left_after(log_left_BM, columns[-1])
        open_items.take(columns[-1])
    return torch.stack(columns, dim=1)


def position_log_probs(
    score_BM: Tensor, column_BK: Tensor, interplay: Interplay, constraints: SlateConstraints | None
) -> Tensor:
    """log P(a_k | a_1..a_{k-1}), float [B, K], differentiable in scores, states, keys and the interaction's weights;
    -inf for an item that was not open.

    Raises:
        ValueError: a row has no slate of K items that keeps the constraints.
    """
    log_probs = []
    for column_B, own_BM, is_open_BM in _positions(score_BM, column_BK, interplay, constraints):
        column_B1 = column_B[:, None]
        log_prob_B1 = own_BM.gather(1, column_B1) - own_BM.logsumexp(dim=1, keepdim=True)
        log_probs.append(torch.where(is_open_BM.gather(1, column_B1), log_prob_B1, -torch.inf))
    return torch.cat(log_probs, dim=1)


def conditional_log_probs(
    score_BM: Tensor, column_BK: Tensor, interplay: Interplay, constraints: SlateConstraints | None
) -> Tensor:
    """log P(column | a_1..a_{k-1}) of every column at every position, float [B, K, M], differentiable like
    `position_log_probs`; -inf for what is not open."""
    positions = _positions(score_BM, column_BK, interplay, constraints)
    return torch.stack(
        [own_BM.log_softmax(dim=1).masked_fill(~is_open_BM, -torch.inf) for _, own_BM, is_open_BM in positions], dim=1
    )


def _positions(
    score_BM: Tensor, column_BK: Tensor, interplay: Interplay, constraints: SlateConstraints | None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For every position of these slates the column shown there, all scores there, and which columns are open."""
    open_items = _open_items(score_BM, column_BK.shape[1], constraints)
    push_BKR = interplay.pushes(column_BK)
    for position, column_B in enumerate(column_BK.T):
        is_open_BM = open_items.next()
        # closed items go first: a shift by what is not a number would follow them into the gradient
        own_BM = score_BM.masked_fill(~is_open_BM, _NOTHING)
        if position > 0:
            own_BM = own_BM + interplay.shift(push_BKR[:, position])
        yield column_B, own_BM, is_open_BM
        open_items.take(column_B)


def scores_along(score_BM: Tensor, column_BK: Tensor, interplay: Interplay) -> Tensor:
    """The score that each item of a slate had at its position, float [B, K]."""
    shift_BK = (interplay.pushes(column_BK) * interplay.keys_of(column_BK)).sum(dim=2)
    return score_BM.gather(1, column_BK) + shift_BK


def first_scores(score_BM: Tensor, interplay: Interplay, constraints: SlateConstraints | None) -> Tensor:
    """The scores at the first position that is not fixed, float [B, M]: the items fixed before it count."""
    lead: list[int] = []
    while constraints is not None and len(lead) in constraints.fixed:
        lead.append(constraints.fixed[len(lead)])
    if not lead:
        return score_BM
    column_BJ = torch.tensor(lead, device=score_BM.device).expand(len(score_BM), -1)
    return score_BM + interplay.shift(interplay.push_after(column_BJ))


def _left_after(log_left_BM: Tensor, rung_B: Tensor) -> Tensor:
    """The logarithm of what is left of all clocks when one has rung; that of closed ones means nothing."""
    log_now_B1 = log_left_BM.gather(1, rung_B[:, None])
    log_rest_BM = log_left_BM + (-torch.expm1(log_now_B1 - log_left_BM)).log()
    return log_rest_BM.masked_fill(log_left_BM <= log_now_B1, -torch.inf)  # at once


class _Open(Protocol):
    def next(self) -> Tensor: ...

    def take(self, item_B: Tensor) -> None: ...


class _Unshown:
    """`OpenItems` where nothing constrains: all but what is shown."""

    def __init__(self, score_BM: Tensor) -> None:
        self._is_open_BM = torch.isfinite(score_BM)

    def next(self) -> Tensor:
        return self._is_open_BM

    def take(self, item_B: Tensor) -> None:
        self._is_open_BM = self._is_open_BM.scatter(1, item_B[:, None], False)


def _open_items(score_BM: Tensor, k: int, constraints: SlateConstraints | None) -> _Open:
    if constraints is not None and not constraints.is_only_blocking:
        return OpenItems(constraints, score_BM, k)
    barred_BM = score_BM if constraints is None else constraints.barred(score_BM)
    plackett_luce.check_room(barred_BM, k)
    return _Unshown(barred_BM.detach())
