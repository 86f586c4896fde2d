"""Training windows: every user's train history cut into pieces of at most `max_len` items, batched by length.

Shape legend: W windows, B windows of a batch, T items of the longest, E events.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM, PADDING, TRAIN, TokenisedDataset
from recolam.seeding import numpy_generator


@dataclass(frozen=True)
class Windows:
    """Windows as ranges of event indices, into one array of tokens."""

    event_item_E: NDArray[np.int32]
    event_time_E: NDArray[np.int64]
    start_W: NDArray[np.int64]
    end_W: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start_W)

    @property
    def items(self) -> int:
        return int((self.end_W - self.start_W).sum())


@dataclass(frozen=True)
class Batch:
    """Windows of train events, padded on the right.

    Attributes:
        item_BT: token ids, int64; 0 behind a window's end.
        length_B: items of each window, int64.
        time_BT: seconds of each event, int64; the last one's repeated behind a window's end.
        event_BT: index of each event in the dataset, int64; the last one's repeated behind a window's end.
    """

    item_BT: Tensor
    length_B: Tensor
    time_BT: Tensor
    event_BT: Tensor

    @cached_property
    def is_item_BT(self) -> Tensor:
        """True where an item of the vocabulary stands."""
        places_T = torch.arange(self.item_BT.shape[1], device=self.item_BT.device)
        return (places_T[None] < self.length_B[:, None]) & (self.item_BT >= FIRST_ITEM)

    def rows(self, chosen: slice) -> "Batch":
        """Some of the windows, as narrow as they allow."""
        length_B = self.length_B[chosen]
        width = int(length_B.max())
        narrow = (chosen, slice(width))
        return Batch(self.item_BT[narrow], length_B, self.time_BT[narrow], self.event_BT[narrow])

    def to(self, device: torch.device) -> "Batch":
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


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
    start_W, end_W = np.asarray(starts, dtype=np.int64), np.asarray(ends, dtype=np.int64)
    return Windows(dataset.event_item_E, dataset.event_time_E, start_W, end_W)


def batches(
    windows: Windows, *, batch_size: int, seed: int, epoch: int, skip: int = 0, shuffle_ties: bool = False
) -> Iterator[Batch]:
    """One epoch of batches, in an order drawn from (seed, epoch).

    Windows of like length share a batch, so that attention, which needs a rectangle on a CPU, wastes little on
    padding; `skip` batches are passed over, which is how a resumed run finds its place. `shuffle_ties` draws a new
    order of events with one and the same time in every epoch: which came first is not known, so every order is data.
    """
    for number, rows_B in enumerate(batch_rows(windows, batch_size=batch_size, seed=seed, epoch=epoch)):
        if number >= skip:
            batch = collate(windows, rows_B)
            generator = numpy_generator(seed, "ties", epoch, number)
            yield with_shuffled_ties(batch, generator) if shuffle_ties else batch


def batch_rows(windows: Windows, *, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The windows of each batch of an epoch."""
    generator = numpy_generator(seed, "epoch", epoch)
    length_W = windows.end_W - windows.start_W
    by_length_W = np.argsort(length_W + generator.random(len(length_W)) * 4, kind="stable")
    groups = [by_length_W[begin : begin + batch_size] for begin in range(0, len(by_length_W), batch_size)]
    return [groups[position] for position in generator.permutation(len(groups))]


def batch_count(windows: Windows, *, batch_size: int) -> int:
    return -(-len(windows) // batch_size)


def real_share(windows: Windows, *, batch_size: int, seed: int, epoch: int = 0) -> float:
    """The share of an epoch's padded rectangles that is real items."""
    cells = 0
    for rows_B in batch_rows(windows, batch_size=batch_size, seed=seed, epoch=epoch):
        length_B = windows.end_W[rows_B] - windows.start_W[rows_B]
        cells += len(rows_B) * int(length_B.max())
    return windows.items / max(cells, 1)


def collate(windows: Windows, rows_B: NDArray[np.int64]) -> Batch:
    """The windows `rows_B` as a batch."""
    start_B, end_B = windows.start_W[rows_B], windows.end_W[rows_B]
    length_B = end_B - start_B
    position_BT = np.arange(length_B.max())[None] + start_B[:, None]
    event_BT = np.minimum(position_BT, end_B[:, None] - 1)
    item_BT = np.where(position_BT < end_B[:, None], windows.event_item_E[event_BT], PADDING).astype(np.int64)
    return Batch(*(torch.from_numpy(a) for a in (item_BT, length_B, windows.event_time_E[event_BT], event_BT)))


def with_shuffled_ties(batch: Batch, generator: np.random.Generator) -> Batch:
    """The same events, those of equal time in a drawn order; padding stays behind."""
    time_BT = batch.time_BT.numpy()
    is_later_BT = np.zeros(time_BT.shape)
    is_later_BT[:, 1:] = time_BT[:, 1:] != time_BT[:, :-1]
    place_BT = is_later_BT.cumsum(axis=1) + generator.random(time_BT.shape)
    place_BT[np.arange(time_BT.shape[1])[None] >= batch.length_B.numpy()[:, None]] = np.inf
    order_BT = torch.from_numpy(place_BT.argsort(axis=1, kind="stable"))
    item_BT, event_BT = (value.gather(1, order_BT) for value in (batch.item_BT, batch.event_BT))
    return replace(batch, item_BT=item_BT, event_BT=event_BT)
