"""Training windows: every user's train history cut into pieces of at most `max_len` items, batched by length.

Shape legend: W windows, B windows of a batch, T positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import PADDING, TRAIN, TokenisedDataset
from recolam.seeding import numpy_generator


@dataclass(frozen=True)
class Windows:
    """Windows as ranges of event indices, into one array of tokens."""

    event_item_E: NDArray[np.int32]
    start_W: NDArray[np.int64]
    end_W: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start_W)

    @property
    def items(self) -> int:
        return int((self.end_W - self.start_W).sum())


def training_windows(dataset: TokenisedDataset, *, max_len: int, last_only: bool = False) -> Windows:
    """Cuts every user's train events, from the newest back, so that only the oldest window is short.

    `last_only` keeps each user's newest window, the protocol of the published SASRec figures.
    """
    is_train_E = dataset.event_split_E == TRAIN
    train_before_E1 = np.concatenate([[0], np.cumsum(is_train_E)])
    starts, ends = [], []
    for begin, stop in zip(dataset.user_offset_U1[:-1], dataset.user_offset_U1[1:], strict=True):
        end = int(begin + train_before_E1[stop] - train_before_E1[begin])  # a user's train events come first
        while end > begin:
            start = max(int(begin), end - max_len)
            starts.append(start)
            ends.append(end)
            end = start
            if last_only:
                break
    return Windows(dataset.event_item_E, np.asarray(starts, dtype=np.int64), np.asarray(ends, dtype=np.int64))


def batches(
    windows: Windows, *, batch_size: int, seed: int, epoch: int, skip: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of (items int64 [B, T], lengths int64 [B]), in an order drawn from (seed, epoch).

    Windows of like length share a batch, so that little of it is padding; `skip` batches are passed over, which is
    how a resumed run finds its place.
    """
    generator = numpy_generator(seed, "epoch", epoch)
    length_W = windows.end_W - windows.start_W
    by_length_W = np.argsort(length_W + generator.random(len(length_W)) * 4, kind="stable")
    groups = [by_length_W[begin : begin + batch_size] for begin in range(0, len(by_length_W), batch_size)]
    for position in generator.permutation(len(groups))[skip:]:
        yield _collate(windows, groups[position])


def batch_count(windows: Windows, *, batch_size: int) -> int:
    return -(-len(windows) // batch_size)


def _collate(windows: Windows, rows_B: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    start_B, end_B = windows.start_W[rows_B], windows.end_W[rows_B]
    length_B = end_B - start_B
    position_BT = np.arange(length_B.max())[None] + start_B[:, None]
    is_real_BT = position_BT < end_B[:, None]
    last = len(windows.event_item_E) - 1
    item_BT = np.where(is_real_BT, windows.event_item_E[np.minimum(position_BT, last)], PADDING)
    return torch.from_numpy(item_BT.astype(np.int64)), torch.from_numpy(length_B)
