"""From which items of a large catalogue a policy chooses: the best by the frozen pretrained model.

Shape legend: B users, R users of a block, T history, N token ids, D width, C candidates, K slate, Q free positions.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, PADDING
from recolam.errors import ConfigError
from recolam.policy.constraints import SlateConstraints
from recolam.policy.distribution import over_catalogue
from recolam.policy.two_stage import by_vectors, top_candidates

LARGEST_WHOLE = 100_000  # items of a catalogue that a policy scores whole
_AUTOMATIC = 1000
_ROWS = 16  # users whose scores of the whole catalogue are in memory together


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
    slate_size: int,
    constraints: SlateConstraints | None = None,
    is_barred_N: Tensor | None = None,
) -> Tensor:
    """The fixed items of the constraints, then `count` others with the best scores, int64 [B, fixed + count].

    None is of the history, blocked or barred; where too few are left, padding stands in. The best slate of the
    catalogue under the constraints is always among them, so that candidates can keep whatever the catalogue can.
    """
    is_out_N = torch.zeros(len(table_ND), dtype=torch.bool, device=table_ND.device)
    is_out_N[:FIRST_ITEM] = True
    if is_barred_N is not None:
        is_out_N = is_out_N | is_barred_N
    if constraints is not None and constraints.is_blocked is not None:
        is_out_N = is_out_N | constraints.is_blocked
    fixed = () if constraints is None else tuple(constraints.fixed.values())
    needed_BQ = history_BT[:, :0]
    if constraints is not None and not constraints.is_only_blocking:
        parts = zip(state_BD.split(_ROWS), history_BT.split(_ROWS), strict=True)
        needed = [
            _best_slate((state_RD @ table_ND.T).masked_fill_(is_out_N, -torch.inf), history_RT, constraints, slate_size)
            for state_RD, history_RT in parts
        ]
        needed_BQ = torch.cat(needed)
    score_block = by_vectors(state_BD, table_ND)

    def score(first: int, last: int) -> Tensor:
        return score_block(first, last).masked_fill_(is_out_N[first:last], -torch.inf)

    others_BC = top_candidates(
        score, len(table_ND), count=count - needed_BQ.shape[1], barred_BT=torch.cat([history_BT, needed_BQ], dim=1),
        always=fixed, filler=PADDING,
    )  # fmt: skip
    return torch.cat([others_BC, needed_BQ], dim=1)


def _best_slate(score_RN: Tensor, history_RT: Tensor, constraints: SlateConstraints, k: int) -> Tensor:
    """The items at the free positions of the best slate, int64 [R, Q]; padding where there is none."""
    distribution = over_catalogue(score_RN, history_RT, constraints)
    is_possible_R = distribution.is_possible(k)
    slate_RK = torch.full((len(score_RN), k), PADDING, device=score_RN.device)
    slate_RK[is_possible_R] = distribution.rows(is_possible_R).sample(k, None)
    return slate_RK[:, [place for place in range(k) if place not in constraints.fixed]]
