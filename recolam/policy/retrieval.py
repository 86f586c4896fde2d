"""From which items of a large catalogue a policy chooses: the best by the frozen pretrained model.

Shape legend: B users, T history, N token ids, D width, C candidates, Q best new ones.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, PADDING
from recolam.errors import ConfigError
from recolam.policy.constraints import SlateConstraints
from recolam.policy.two_stage import by_vectors, top_candidates

LARGEST_WHOLE = 100_000  # items of a catalogue that a policy scores whole
_AUTOMATIC = 1000


def candidates_for(asked: int, *, items: int, slate_size: int) -> int:
    """How many candidates a policy chooses from, 0 for the whole catalogue: as asked, or so that they are tractable.

    Raises:
        ConfigError: fewer than two slates of candidates, or below 0.
    """
    if asked == 0 and items <= LARGEST_WHOLE:
        return 0
    count = asked or max(_AUTOMATIC, 20 * slate_size)
    if count < 2 * slate_size:
        raise ConfigError(f"{asked} candidates are too few to choose slates of {slate_size} from: {2 * slate_size}")
    return 0 if count >= items else count


@torch.no_grad()
def retrieve(
    state_BD: Tensor,
    table_ND: Tensor,
    history_BT: Tensor,
    *,
    count: int,
    constraints: SlateConstraints | None = None,
    is_barred_N: Tensor | None = None,
) -> Tensor:
    """The fixed items of the constraints, then the best `count` others, int64 [B, fixed + count].

    None is of the history, blocked or barred; where too few are left, padding stands in. Where slates owe new items,
    the best new ones come first, up to a quarter of the candidates: the best of all may hold too few of them.
    """
    fixed = () if constraints is None else tuple(constraints.fixed.values())
    score_block = by_vectors(state_BD, table_ND)
    special_BT = torch.arange(FIRST_ITEM, device=history_BT.device).expand(len(history_BT), -1)
    barred_BT = torch.cat([special_BT, history_BT], dim=1)
    is_out_N = torch.zeros(len(table_ND), dtype=torch.bool, device=table_ND.device)
    if is_barred_N is not None:
        is_out_N = is_out_N | is_barred_N
    if constraints is not None and constraints.is_blocked is not None:
        is_out_N = is_out_N | constraints.is_blocked

    def best(count: int, is_out_N: Tensor, barred_BT: Tensor, always: tuple[int, ...]) -> Tensor:
        def score(first: int, last: int) -> Tensor:
            return score_block(first, last).masked_fill_(is_out_N[first:last], -torch.inf)

        return top_candidates(score, len(table_ND), count=count, barred_BT=barred_BT, always=always, filler=PADDING)

    if constraints is None or constraints.at_least_new == 0 or constraints.is_new is None:
        return best(count, is_out_N, barred_BT, fixed)
    fixed_BT = torch.tensor(fixed, dtype=torch.int64, device=history_BT.device).expand(len(history_BT), -1)
    new_BQ = best(count // 4, is_out_N | ~constraints.is_new, torch.cat([barred_BT, fixed_BT], dim=1), ())
    others_BC = best(count - count // 4, is_out_N, torch.cat([barred_BT, new_BQ], dim=1), fixed)
    return torch.cat([others_BC, new_BQ], dim=1)
