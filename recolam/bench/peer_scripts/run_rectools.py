"""RecTools' SASRec with its full softmax loss. Of the catalogue it knows what some user's newest L + 1 events hold."""

import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import torch
from contestant import Clock, finish, left_padded, start  # type: ignore[import-not-found]
from numpy.typing import NDArray
from pytorch_lightning import Trainer  # type: ignore[import-not-found]
from pytorch_lightning.callbacks import LambdaCallback  # type: ignore[import-not-found]
from rectools import Columns  # type: ignore[import-not-found]
from rectools.dataset import Dataset  # type: ignore[import-not-found]
from rectools.models import SASRecModel  # type: ignore[import-not-found]

task, clock = start(), Clock()
settings = task.settings


def trainer() -> Trainer:
    """RecTools' own default trainer, with the clock and the device added."""
    return Trainer(
        max_epochs=settings["epochs"], min_epochs=settings["epochs"], deterministic=False, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, devices=1,
        accelerator="gpu" if settings["device"] == "cuda" else "cpu",
        callbacks=[LambdaCallback(on_train_epoch_start=clock.begin, on_train_epoch_end=clock.end)],
    )  # fmt: skip


user_E = np.repeat(np.arange(len(task.user_offset_U1) - 1), np.diff(task.user_offset_U1))
interactions = pd.DataFrame(
    {
        Columns.User: user_E,
        Columns.Item: task.item_E,
        Columns.Weight: 1.0,
        Columns.Datetime: pd.to_datetime(np.arange(len(task.item_E)), unit="s"),
    }
)
model = SASRecModel(
    loss="softmax", session_max_len=settings["max_len"], n_factors=settings["dim"], n_blocks=settings["blocks"],
    n_heads=settings["heads"], dropout_rate=settings["dropout"], lr=settings["learning_rate"],
    batch_size=settings["batch_size"], epochs=settings["epochs"], deterministic=False, get_trainer_func=trainer,
)  # fmt: skip
model.fit(Dataset.construct(interactions))

net = model.torch_model.cpu().eval()
known_K = np.asarray(model.data_preparator.get_known_item_ids(), dtype=np.int64)
own_id_V = np.zeros(settings["items"], dtype=np.int64)
own_id_V[known_K] = np.asarray(model.data_preparator.get_known_items_sorted_internal_ids())


@torch.no_grad()
def scores(history_B: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    session_BL = left_padded([own_id_V[history] for history in history_B], length=settings["max_len"], padding=0)
    table = net.item_model.get_all_embeddings()
    state_BD = net.encode_sessions({"x": torch.from_numpy(session_BL)}, table)[:, -1]
    score_BV = np.full((len(history_B), settings["items"]), -np.inf, dtype=np.float32)
    score_BV[:, known_K] = (state_BD @ table[own_id_V[known_K]].T).numpy()
    return score_BV


users, tokens = task.shifted_targets()
finish(
    task, clock, users=users, tokens=tokens, packages=("rectools", "pytorch-lightning"), scores=scores,
    precision=str(torch.float32), catalogue=len(known_K),
    parameters=sum(parameter.numel() for parameter in net.parameters()),
)  # fmt: skip
