"""Time gaps as model inputs.

Shape legend: B histories, S = T + 1: T items and then the query.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

TimeMode = Literal["none", "gaps", "query"]
TIME_MODES = get_args(TimeMode)
BUCKETS = 64


def gap_buckets(time_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Buckets of the gap before each state's item and of the gap after it, int64 [B, S] both.

    State t has read item t - 1 (counting from 0): `before` is the time from item t - 2 to it, `after` the time from it
    to item t, the one to be foretold. Bucket 0 means that there is no such pair; others are 1 + floor(2 log2(1 + gap
    in seconds)), half an octave each, cut at the last bucket (above ten years).

    Args:
        time_BS: seconds of the items and, in each row's first column behind its items, of the query; int64.
    """
    octave_BS = torch.log2(1.0 + (time_BS[:, 1:] - time_BS[:, :-1]).clamp(min=0).double())
    gap_BT = 1 + (2 * octave_BS).long().clamp(max=BUCKETS - 2)
    none_B1 = gap_BT.new_zeros(len(gap_BT), 1)
    before_BS = torch.cat([none_B1, none_B1, gap_BT[:, :-1]], dim=1)[:, : time_BS.shape[1]]
    after_BS = torch.cat([none_B1, gap_BT], dim=1)
    return before_BS, after_BS
