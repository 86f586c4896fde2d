"""The tokenised dataset: what training reads, with numpy and safetensors alone.

Shape legend: E events, U users, V items of the vocabulary, S logged slates, K slate positions, F text features,
Q queries. Token ids: 0 padding, 1 mask, 2 unknown item, then the vocabulary from `FIRST_ITEM`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from recolam.errors import ArtifactError

PADDING, MASK, UNKNOWN, FIRST_ITEM = 0, 1, 2, 3
TRAIN, VALIDATION, TEST = 0, 1, 2
TENSORS_FILE, DATASET_FILE = "tokens.safetensors", "dataset.json"
_OPTIONAL = ("event_type_E", "item_group_V")


@dataclass(frozen=True)
class LoggedSlates:
    """Slates shown by a logging policy, with the probability of showing just that ordered slate.

    `history_end_S` is the event index (into `TokenisedDataset.event_item_E`) one past the last event that the user
    had when the slate was shown: the history is `event_item_E[user_offset_U1[user]:history_end]`.
    """

    slate_SK: NDArray[np.int32]
    log_propensity_S: NDArray[np.float32]
    choice_S: NDArray[np.int32]  # position in the slate, -1 for no click
    reward_S: NDArray[np.float32]
    user_S: NDArray[np.int64]
    history_end_S: NDArray[np.int64]
    session_S: NDArray[np.int64]
    step_S: NDArray[np.int32]  # 0-based step within the session
    left_S: NDArray[np.int32]  # 1 where the user left after this slate
    split_S: NDArray[np.int32]


@dataclass(frozen=True)
class TokenisedDataset:
    """All events by user and time, the split, the queries to answer, and the items' text features.

    The events of user u are `event_item_E[user_offset_U1[u]:user_offset_U1[u + 1]]`, oldest first. Those with
    `event_split_E == TRAIN` come first. A query is the index of the event to predict; its history is what that user
    had before it.
    """

    event_item_E: NDArray[np.int32]
    event_time_E: NDArray[np.int64]  # seconds since 1970, or the position where the log has no clock
    event_value_E: NDArray[np.float32]  # rating or reward, NaN where the log has none
    event_split_E: NDArray[np.int32]
    user_offset_U1: NDArray[np.int64]
    validation_event_Q: NDArray[np.int64]
    test_event_Q: NDArray[np.int64]
    item_count_V: NDArray[np.int64]  # events in train, one per token id (FIRST_ITEM + V entries)
    item_text_VF: NDArray[np.float32]  # hashed title and tags, one row per token id (FIRST_ITEM + V rows)
    items: tuple[str, ...]  # the vocabulary: items[i] has token id FIRST_ITEM + i
    titles: tuple[str, ...]
    users: tuple[str, ...]
    info: Mapping[str, Any]
    slates: LoggedSlates | None = None
    event_type_E: NDArray[np.int32] | None = None  # rows of info["event_types"], -1 for one that train has not
    item_group_V: NDArray[np.int32] | None = None  # rows of info["item_groups"] per token id, -1 for none

    @property
    def tokens(self) -> int:
        """Number of token ids, the special ones included."""
        return FIRST_ITEM + len(self.items)

    def user_of_event(self, event_Q: NDArray[np.int64]) -> NDArray[np.int64]:
        """The row of the user to whom each event belongs."""
        return np.searchsorted(self.user_offset_U1, event_Q, side="right") - 1

    def history(self, *, user: int, end: int, limit: int) -> NDArray[np.int32]:
        """The user's last `limit` tokens before event `end`, oldest first."""
        start = max(int(self.user_offset_U1[user]), end - limit)
        return self.event_item_E[start:end]

    def histories(
        self, end_Q: NDArray[np.int64], *, limit: int, user_Q: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The histories that end before each event index, padded on the right.

        Returns:
            tokens [Q, limit] and lengths [Q].
        """
        users = self.user_of_event(end_Q) if user_Q is None else user_Q
        history_QT = np.full((len(end_Q), limit), PADDING, dtype=np.int32)
        length_Q = np.zeros(len(end_Q), dtype=np.int64)
        for row, (user, end) in enumerate(zip(users, end_Q, strict=True)):
            history = self.history(user=int(user), end=int(end), limit=limit)
            history_QT[row, : len(history)] = history
            length_Q[row] = len(history)
        return history_QT, length_Q

    def history_times(self, end_Q: NDArray[np.int64], *, limit: int) -> NDArray[np.int64]:
        """Times of the events of `histories` and, behind them, of the event asked for, int64 [Q, limit + 1]."""
        begin_Q = np.maximum(self.user_offset_U1[self.user_of_event(end_Q)], end_Q - limit)
        return self.event_time_E[np.minimum(begin_Q[:, None] + np.arange(limit + 1), end_Q[:, None])]

    def save(self, folder: Path) -> None:
        tensors = {name: getattr(self, name) for name in _tensor_names(TokenisedDataset)}
        tensors = {name: value for name, value in tensors.items() if value is not None}
        if self.slates is not None:
            tensors |= {f"slates.{name}": getattr(self.slates, name) for name in _tensor_names(LoggedSlates)}
        save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / TENSORS_FILE)
        text = {"items": self.items, "titles": self.titles, "users": self.users, "info": dict(self.info)}
        (folder / DATASET_FILE).write_text(json.dumps(text))

    @classmethod
    def load(cls, folder: Path) -> "TokenisedDataset":
        """Reads a dataset written by `save`.

        Raises:
            ArtifactError: files are missing, or do not hold what a dataset holds.
        """
        try:
            tensors = load_file(folder / TENSORS_FILE)
            text = json.loads((folder / DATASET_FILE).read_text())
            slates = None
            if "slates.slate_SK" in tensors:
                slates = LoggedSlates(**{name: tensors[f"slates.{name}"] for name in _tensor_names(LoggedSlates)})
            loaded = cls(
                **{name: tensors[name] for name in _tensor_names(cls) if name in tensors or name not in _OPTIONAL},
                items=tuple(text["items"]),
                titles=tuple(text["titles"]),
                users=tuple(text["users"]),
                info=text["info"],
                slates=slates,
            )
            loaded._check()
        except (OSError, KeyError, ValueError, TypeError, SafetensorError) as error:
            raise ArtifactError(f"{folder}: not a tokenised dataset ({error})") from error
        return loaded

    def _check(self) -> None:
        """Raises ValueError where parts that belong together differ in length."""
        events, tokens = len(self.event_item_E), self.tokens
        lengths = {
            "event_time_E": (len(self.event_time_E), events),
            "event_value_E": (len(self.event_value_E), events),
            "event_split_E": (len(self.event_split_E), events),
            "event_type_E": (events if self.event_type_E is None else len(self.event_type_E), events),
            "user_offset_U1": (self.user_offset_U1[-1:].sum(), events),
            "users": (len(self.users), len(self.user_offset_U1) - 1),
            "item_count_V": (len(self.item_count_V), tokens),
            "item_text_VF": (len(self.item_text_VF), tokens),
            "item_group_V": (tokens if self.item_group_V is None else len(self.item_group_V), tokens),
            "titles": (len(self.titles), len(self.items)),
            "info": (isinstance(self.info, Mapping), True),
        }
        for name, (length, expected) in lengths.items():
            if length != expected:
                raise ValueError(f"{name}: {length}, expected {expected}")


def _tensor_names(cls: type) -> list[str]:
    return [
        field.name
        for field in fields(cls)
        if ("_" in field.name and field.name.rsplit("_", 1)[1].isupper()) or field.name == "user_offset_U1"
    ]
