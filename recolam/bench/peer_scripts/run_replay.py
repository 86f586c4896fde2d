"""RePlay's SasRec (`replay.nn`) with its full cross entropy `CE`, fed by its Parquet module and default transforms."""

import lightning  # type: ignore[import-not-found]
import numpy as np
import pandas as pd  # type: ignore[import-untyped,unused-ignore]
import torch
from contestant import Clock, finish, left_padded, start  # type: ignore[import-not-found]
from lightning.pytorch.callbacks import LambdaCallback  # type: ignore[import-not-found]
from numpy.typing import NDArray
from replay.data import FeatureHint, FeatureSource, FeatureType  # type: ignore[import-not-found]
from replay.data.nn import (  # type: ignore[import-not-found]
    ParquetModule,
    TensorFeatureInfo,
    TensorFeatureSource,
    TensorSchema,
)
from replay.nn.lightning import LightningModule  # type: ignore[import-not-found]
from replay.nn.lightning.optimizer import OptimizerFactory  # type: ignore[import-not-found]
from replay.nn.sequential import SasRec  # type: ignore[import-not-found]
from replay.nn.transform.template.sasrec import make_default_sasrec_transforms  # type: ignore[import-not-found]

task, clock = start(), Clock()
settings = task.settings
padding = settings["items"]

histories = [task.history(user) for user in range(len(task.user_offset_U1) - 1)]
parquet = task.out / "train.parquet"
pd.DataFrame({"item_id": [history for history in histories if len(history) >= 2]}).to_parquet(parquet)
schema = TensorSchema(
    TensorFeatureInfo(
        "item_id", is_seq=True, feature_type=FeatureType.CATEGORICAL, embedding_dim=settings["dim"],
        padding_value=padding, cardinality=settings["items"], feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")],
    )
)  # fmt: skip
data = ParquetModule(
    batch_size=settings["batch_size"],
    metadata={"train": {"item_id": {"shape": settings["max_len"] + 1, "padding": padding}}},
    transforms=make_default_sasrec_transforms(schema),
    train_path=str(parquet),
)
net = SasRec.from_params(
    schema=schema, embedding_dim=settings["dim"], num_heads=settings["heads"], num_blocks=settings["blocks"],
    max_sequence_length=settings["max_len"], dropout=settings["dropout"],
)  # fmt: skip
trainer = lightning.Trainer(
    max_epochs=settings["epochs"], min_epochs=settings["epochs"], deterministic=False, logger=False,
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, devices=1,
    accelerator="gpu" if settings["device"] == "cuda" else "cpu", limit_val_batches=0,
    callbacks=[LambdaCallback(on_train_epoch_start=clock.begin, on_train_epoch_end=clock.end)],
)  # fmt: skip
trainer.fit(LightningModule(net, OptimizerFactory("adam", learning_rate=settings["learning_rate"])), datamodule=data)
net = net.cpu().eval()


@torch.no_grad()
def scores(history_B: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    item_BL = torch.from_numpy(left_padded(history_B, length=settings["max_len"], padding=padding))
    return net(feature_tensors={"item_id": item_BL}, padding_mask=item_BL != padding)["logits"].numpy()


users, tokens = task.shifted_targets()
finish(
    task, clock, users=users, tokens=tokens, packages=("replay-rec", "lightning"), scores=scores,
    precision=str(torch.float32), catalogue=settings["items"],
    parameters=sum(parameter.numel() for parameter in net.parameters()),
)  # fmt: skip
