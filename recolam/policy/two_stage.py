"""Two stages for catalogues of more than 100,000 items: retrieve C candidates, then draw the slate from them.

P(a_1, ..., a_K | state) = Plackett-Luce over the candidates of the state, 0 for every other item.

The candidates are a function of the state (the best by a retrieval score) or drawn without regard to the policy, so
this is the exact distribution of what is shown, given them, and score-function gradients through it are those of the
policy among candidates. Two things to know. A retrieval score that is trained by the same loss gets no gradient from
which items it let through: that is a step function. And near-ties at the border may fall differently when scores are
formed in batches of another shape, so a rollout stores its candidates beside the slate; nobody forms them again.

Shape legend: B slates, C candidates, K positions, N items, D width, T barred items, P block.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recolam.errors import ConfigError
from recolam.policy.constraints import SlateConstraints

_BLOCK = 65_536


def top_candidates(
    score_block: Callable[[int, int], Tensor],
    items: int,
    *,
    count: int,
    barred_BT: Tensor,
    always: Sequence[int] = (),
    block: int = _BLOCK,
    filler: int | None = None,
) -> Tensor:
    """The `always` items, then the `count` best others of each row, best first: int64 [B, len(always) + count].

    Never more than a block of the scores is in memory.

    Args:
        score_block: (first, last) -> float [B, last - first], retrieval scores of these items: `by_vectors`, or
            random numbers for uniform candidates.
        items: N.
        barred_BT: item ids that a row must not be given (its history, special tokens), repeated as may be.
        always: items that every row is given first, such as those of fixed positions.
        filler: what fills up rows that have fewer than `count` items to choose from; such a row is refused without.

    Raises:
        ValueError: a row has fewer than `count` items to choose from, and there is no filler.
    """
    always_A = torch.tensor(list(always), dtype=torch.int64, device=barred_BT.device)
    barred_BT = torch.cat([barred_BT, always_A.expand(len(barred_BT), -1)], dim=1)
    best_BC = torch.empty(len(barred_BT), 0, device=barred_BT.device)
    item_BC = torch.empty(len(barred_BT), 0, dtype=torch.int64, device=barred_BT.device)
    for first in range(0, items, block):
        last = min(first + block, items)
        score_BP = torch.nn.functional.pad(score_block(first, last), (0, 1))  # one more column for ids elsewhere
        is_here_BT = (barred_BT >= first) & (barred_BT < last)
        place_BT = torch.where(is_here_BT, barred_BT - first, last - first)
        score_BP = score_BP.scatter(1, place_BT, -torch.inf)[:, : last - first]
        pool_BP = torch.cat([best_BC.to(score_BP.dtype), score_BP], dim=1)
        id_BP = torch.cat([item_BC, torch.arange(first, last, device=item_BC.device).expand_as(score_BP)], dim=1)
        best_BC, place_BC = pool_BP.topk(min(count, pool_BP.shape[1]), dim=1)
        item_BC = id_BP.gather(1, place_BC)
    if filler is not None:
        item_BC = item_BC.masked_fill(best_BC == -torch.inf, filler)
        item_BC = torch.nn.functional.pad(item_BC, (0, count - item_BC.shape[1]), value=filler)
    elif best_BC.shape[1] < count or bool((best_BC == -torch.inf).any()):
        raise ValueError(f"{count} candidates cannot be found among {items} items: too many are barred")
    return torch.cat([always_A.expand(len(item_BC), -1), item_BC], dim=1)


def by_vectors(query_BD: Tensor, table_ND: Tensor) -> Callable[[int, int], Tensor]:
    """Inner products as retrieval scores, for `top_candidates`; without gradient."""
    return lambda first, last: query_BD.detach() @ table_ND[first:last].detach().T


def candidate_scores(state_BD: Tensor, table_ND: Tensor, candidate_BC: Tensor) -> Tensor:
    """Inner products with the candidates alone, float [B, C]; differentiable."""
    return (table_ND[candidate_BC] @ state_BD[..., None])[..., 0]


def in_columns(candidate_BC: Tensor, slate_BK: Tensor, log_probs: Callable[[Tensor], Tensor]) -> Tensor:
    """`log_probs` of the columns that hold these items, float [B, K]; -inf for an item that is no candidate.

    Args:
        log_probs: columns int64 [B, K] -> float [B, K], position by position.
    """
    is_same_BKC = slate_BK[..., None] == candidate_BC[:, None]
    is_candidate_BK = is_same_BKC.any(dim=2)
    is_whole_B1 = is_candidate_BK.all(dim=1, keepdim=True)
    filler_K = torch.arange(slate_BK.shape[1], device=slate_BK.device)  # any slate: its row is -inf in the end
    log_prob_BK = log_probs(torch.where(is_whole_B1, is_same_BKC.long().argmax(dim=2), filler_K))
    return torch.where(is_whole_B1, log_prob_BK, torch.where(is_candidate_BK, 0.0, -torch.inf).to(log_prob_BK.dtype))


def narrowed(constraints: SlateConstraints | None, candidate_BC: Tensor) -> SlateConstraints:
    """Constraints on items as constraints on columns of candidates.

    Raises:
        ConfigError: a fixed item that is not in the same column of every row (`top_candidates(always=...)`).
    """
    if constraints is None:
        return SlateConstraints()
    fixed = {position: _column(item, candidate_BC) for position, item in constraints.fixed.items()}
    return replace(
        constraints,
        is_blocked=_gathered(constraints.is_blocked, candidate_BC),
        group=_gathered(constraints.group, candidate_BC),
        is_new=_gathered(constraints.is_new, candidate_BC),
        fixed=fixed,
    )


def _gathered(value: Tensor | None, candidate_BC: Tensor) -> Tensor | None:
    return None if value is None else value.expand(len(candidate_BC), -1).gather(1, candidate_BC)


def _column(item: int, candidate_BC: Tensor) -> int:
    is_there_C = (candidate_BC == item).all(dim=0)
    if not bool(is_there_C.any()):
        raise ConfigError(f"fixed item {item} is not in one column of all rows' candidates")
    return int(is_there_C.long().argmax())
