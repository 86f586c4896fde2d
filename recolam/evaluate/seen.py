"""What a recommender saw before an event, and how many items that leaves it.

Shape legend: B histories, T history length, Q queries.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.contracts.protocols import Observation


def observe(
    dataset: TokenisedDataset, end_B: NDArray[np.int64], *, max_len: int, user_B: NDArray[np.int64] | None = None
) -> Observation:
    """The newest `max_len` items before each event index; `user_B` where the index may be one past a user's events."""
    history, length = dataset.histories(end_B, limit=max_len, user_Q=user_B)
    return Observation(torch.from_numpy(history.astype(np.int64)), torch.from_numpy(length))


def items_left(seen: Observation, *, tokens: int) -> Tensor:
    """How many items of the catalogue are not in each history, int64 [B]."""
    ordered_BT = seen.history_BT.sort(dim=1).values
    is_new_BT = torch.ones_like(ordered_BT, dtype=torch.bool)
    is_new_BT[:, 1:] = ordered_BT[:, 1:] != ordered_BT[:, :-1]
    return tokens - FIRST_ITEM - (is_new_BT & (ordered_BT >= FIRST_ITEM)).sum(dim=1)


def select(seen: Observation, is_kept_B: Tensor) -> Observation:
    """The observations where the mask is True."""
    return Observation(seen.history_BT[is_kept_B], seen.length_B[is_kept_B])
