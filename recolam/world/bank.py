"""Who comes to the environment: users with their train history, some for learning, the others for judging.

Shape legend: P users of a bank, T history, Z topics, N token ids.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recolam.contracts.artifact import Artifact
from recolam.contracts.dataset import FIRST_ITEM, TRAIN, TokenisedDataset
from recolam.errors import DataError
from recolam.seeding import numpy_generator


def split_users(dataset: TokenisedDataset, *, held_out_share: float, seed: int) -> dict[str, NDArray[np.int64]]:
    """Rows of the users who have a train event, as {"train": ..., "held_out": ...}.

    Raises:
        DataError: too few users for both.
    """
    is_train_E = dataset.event_split_E == TRAIN
    users = np.unique(dataset.user_of_event(np.flatnonzero(is_train_E)))
    if len(users) < 2:
        raise DataError(f"{len(users)} users with train events; a world needs at least 2")
    shuffled = numpy_generator(seed, "held-out users").permutation(users)
    cut = min(max(1, round(held_out_share * len(users))), len(users) - 1)
    return {"held_out": np.sort(shuffled[:cut]), "train": np.sort(shuffled[cut:])}


def histories_at_train_end(
    dataset: TokenisedDataset, users: NDArray[np.int64], *, limit: int, capacity: int
) -> tuple[Tensor, Tensor]:
    """What each user had when the train period ended: tokens int64 [P, capacity] and lengths [P]."""
    is_train_E = np.concatenate([[0], np.cumsum(dataset.event_split_E == TRAIN)])
    begin_P, stop_P = dataset.user_offset_U1[users], dataset.user_offset_U1[users + 1]
    end_P = begin_P + is_train_E[stop_P] - is_train_E[begin_P]
    history_PT, length_P = dataset.histories(end_P, limit=limit, user_Q=users)
    padded_PT = np.zeros((len(users), capacity), dtype=np.int64)
    padded_PT[:, :limit] = history_PT
    return torch.from_numpy(padded_PT), torch.from_numpy(length_P)


def true_corpus(
    demo: Artifact, truth: Mapping[str, Tensor], dataset: TokenisedDataset, domain: str
) -> dict[str, Tensor]:
    """The demo world's documents, reordered to the dataset's token ids."""
    row_of = {item: row for row, item in enumerate(demo.json("truth.json")["domains"][domain]["items"])}
    rows = torch.tensor([row_of[item] for item in dataset.items])

    def with_special(values: Tensor) -> Tensor:
        return torch.cat([torch.zeros(FIRST_ITEM, *values.shape[1:]), values[rows]])

    return {name: with_special(truth[f"{domain}.{name}"]) for name in ("feature_NZ", "quality_N", "length_N")}


def true_interests(
    demo: Artifact, truth: Mapping[str, Tensor], dataset: TokenisedDataset, domain: str, users: NDArray[np.int64]
) -> Tensor:
    """Each user's true interest after his last session that began in the train period, float [P, Z]."""
    row_of = {user: row for row, user in enumerate(demo.json("truth.json")["domains"][domain]["users"])}
    rows = torch.tensor([row_of[dataset.users[user]] for user in users])
    train_end = int(dataset.event_time_E[dataset.event_split_E == TRAIN].max())
    sessions_P = (truth[f"{domain}.session_start_US"][rows] <= train_end).sum(dim=1)
    return truth[f"{domain}.interest_SUZ"][sessions_P, rows]
