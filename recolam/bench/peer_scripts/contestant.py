"""What the contestants of `bench pretrain` share: the task they read, the clock, the ranks, the result they write.

Each contestant is a script run by a Python of its own, `python run_NAME.py TASK OUT`, so this file knows numpy and
torch only. Shape legend: U users, E train events, Q queries, B queries of a block, L items of a window, V items of the
catalogue.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

MISS = np.iinfo(np.int64).max
"""Rank of a target that the contestant cannot name."""


@dataclass(frozen=True)
class Task:
    """The integer sequences and the settings, the same for everybody.

    Items are 0 to V - 1. The train events of user u are `item_E[user_offset_U1[u]:user_offset_U1[u + 1]]`, oldest
    first. A query is a user and the item that follows his train events, -1 where that item is not in the catalogue.
    """

    folder: Path
    out: Path
    settings: dict[str, Any]
    item_E: NDArray[np.int64]
    user_offset_U1: NDArray[np.int64]
    user_Q: NDArray[np.int64]
    target_Q: NDArray[np.int64]

    def history(self, user: int) -> NDArray[np.int64]:
        """All train events of a user, oldest first."""
        return self.item_E[self.user_offset_U1[user] : self.user_offset_U1[user + 1]]

    def shifted_targets(self) -> tuple[int, int]:
        """Users with a window, and targets an epoch, where each item of a window foretells the one after it."""
        length_U = np.minimum(np.diff(self.user_offset_U1), self.settings["max_len"] + 1)
        return int((length_U >= 2).sum()), int((length_U[length_U >= 2] - 1).sum())


def start() -> Task:
    """The task named on the command line, with torch's threads and seed set as it says."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    settings = json.loads((folder / "settings.json").read_text())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(settings["seed"])
    with np.load(folder / "sequences.npz") as arrays:
        return Task(folder, out, settings, **arrays)


class Clock:
    """Seconds of each epoch, and seconds that its threads were on a processor.

    `begin` and `end` take what a Lightning callback passes, and ignore it.
    """

    def __init__(self) -> None:
        self.epoch_s: list[float] = []
        self.cpu_s: list[float] = []
        self._begun, self._cpu_begun = 0.0, 0.0

    def begin(self, *_: Any) -> None:
        _synchronise()
        self._begun, self._cpu_begun = time.perf_counter(), time.process_time()

    def end(self, *_: Any) -> None:
        _synchronise()
        self.epoch_s.append(time.perf_counter() - self._begun)
        self.cpu_s.append(time.process_time() - self._cpu_begun)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Clock":
        return self  # a trainer that copies its callbacks still writes into this clock


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def left_padded(history_B: Sequence[NDArray[np.int64]], *, length: int, padding: int) -> NDArray[np.int64]:
    """The newest `length` items of each history, int64 [B, L], padded on the left."""
    item_BL = np.full((len(history_B), length), padding, dtype=np.int64)
    for row, history in enumerate(history_B):
        newest = history[-length:]
        item_BL[row, length - len(newest) :] = newest
    return item_BL


def rank_targets(
    task: Task, scores: Callable[[list[NDArray[np.int64]]], NDArray[np.float32]], *, block: int = 256
) -> NDArray[np.int64]:
    """Rank of each query's target among all items its user has not had, 1 for the best; ties count half against it.

    Args:
        scores: histories -> float [B, V]; -inf for an item the contestant does not know.
    """
    rank_Q = np.full(len(task.user_Q), MISS, dtype=np.int64)
    for begin in range(0, len(task.user_Q), block):
        history_B = [task.history(user) for user in task.user_Q[begin : begin + block]]
        score_BV = scores(history_B)
        for row, (history, score_V) in enumerate(zip(history_B, score_BV, strict=True)):
            target = task.target_Q[begin + row]
            if target < 0 or not np.isfinite(score_V[target]):
                continue
            own = score_V[target]
            score_V[history] = -np.inf
            score_V[target] = own
            ties = int((score_V == own).sum()) - 1
            rank_Q[begin + row] = 1 + int((score_V > own).sum()) + (ties + 1) // 2
    return rank_Q


def finish(
    task: Task,
    clock: Clock,
    *,
    users: int,
    tokens: int,
    packages: Sequence[str],
    scores: Callable[[list[NDArray[np.int64]]], NDArray[np.float32]] | None = None,
    **more: Any,
) -> None:
    """Writes result.json and, where `scores` is given and the task wants ranks, rank_Q.npy."""
    if scores is not None and task.settings["wants_ranks"]:
        np.save(task.out / "rank_Q.npy", rank_targets(task, scores))
    result = {
        "epoch_s": clock.epoch_s,
        "cpu_s": clock.cpu_s,
        "users": users,
        "tokens": tokens,
        "versions": {name: version(name) for name in (*packages, "torch", "numpy")},
        **more,
    }
    (task.out / "result.json").write_text(json.dumps(result))
