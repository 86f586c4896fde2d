"""recolam's training loop as it ships. Its own count of seconds is taken: it leaves out checkpoints and validation.

Processor seconds are those of the whole call, its checkpoint after each epoch included.
"""

import numpy as np
import torch
from contestant import Clock, finish, left_padded, start  # type: ignore[import-not-found]
from numpy.typing import NDArray
from ours import build  # type: ignore[import-not-found]

from recolam.contracts.dataset import FIRST_ITEM, PADDING
from recolam.sequence.precision import resolve_precision
from recolam.sequence.training import resolve_device, train_sequence_model
from recolam.sequence.windows import real_share, training_windows

task, clock = start(), Clock()
settings = task.settings
dataset, training, model = build(task)
clock.begin()
state = train_sequence_model(
    model, dataset, training, seed=settings["seed"], scratch=task.out / "scratch", label="bench pretrain"
)
clock.end()
clock.epoch_s = [state.train_seconds / state.epoch]
clock.cpu_s = [clock.cpu_s[0] / state.epoch]
model = model.cpu()


def scores(history_B: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    newest_B = [history[-settings["max_len"] :] + FIRST_ITEM for history in history_B]
    length_B = np.array([len(history) for history in newest_B])
    mirrored_BT = left_padded([history[::-1] for history in newest_B], length=settings["max_len"], padding=PADDING)
    history_BT = np.ascontiguousarray(mirrored_BT[:, ::-1])  # padded on the right
    return model.scores(torch.from_numpy(history_BT), torch.from_numpy(length_B))[:, FIRST_ITEM:].float().numpy()


windows = training_windows(dataset, max_len=training.max_len, last_only=True)
finish(
    task, clock, users=len(windows), tokens=windows.items, packages=("recolam", "transformers"), scores=scores,
    catalogue=settings["items"], parameters=sum(parameter.numel() for parameter in model.parameters()),
    precision=str(resolve_precision(training.precision, resolve_device(training.device))),
    real_share=real_share(windows, batch_size=training.batch_size, seed=settings["seed"]),
)  # fmt: skip
