"""What `test_distributed.py` runs, alone or in every process of a torchrun: `JOBS OUT`.

JOBS is a JSON list of {"name", "training", "model", "kill", "fail"}; each trains on the same planted log and leaves its
weights and curves in OUT. Every process writes, so that the test can compare them.
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from recolam.threads import wait_passively

wait_passively()  # before torch

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor  # noqa: E402

from recolam.pretrain.stage import PretrainConfig, new_model  # noqa: E402
from recolam.sequence import training  # noqa: E402
from recolam.sequence.config import TrainingConfig  # noqa: E402
from recolam.sequence.distributed import process_group  # noqa: E402
from recolam.sequence.objectives import NextItem  # noqa: E402
from recolam.sequence.windows import Batch  # noqa: E402
from tests.planted import dataset_from  # noqa: E402

RANK = int(os.environ.get("RANK", "0"))
# 61 windows in batches of 12: the last batch of an epoch holds one, and one of two processes then holds none.
TRAINING = TrainingConfig(
    epochs=3, batch_size=12, max_len=10, learning_rate=5e-3, warmup_steps=3, patience=9, checkpoint_every=4,
    masked_weight=0.5, validation_queries=40, precision="float32", device="cpu",
)  # fmt: skip
MODEL: dict[str, Any] = {"width": 16, "blocks": 2, "heads": 2, "dropout": 0.0}


def planted() -> Any:
    """61 users of 4 to 12 events: item i, rated i mod 3, is followed by item i + 1."""
    generator = np.random.default_rng(0)
    starts, lengths = generator.integers(30, size=61), generator.integers(4, 13, size=61)
    histories = [
        [int(start + step) % 30 for step in range(length)] for start, length in zip(starts, lengths, strict=True)
    ]
    dataset = dataset_from(histories, items=30)
    value_E = (dataset.event_item_E % 3).astype(np.float32)
    return dataclasses.replace(dataset, event_value_E=value_E)


def train(job: dict[str, Any], out: Path) -> None:
    dataset = planted()
    config = dataclasses.replace(TRAINING, **job.get("training", {}))
    model = new_model(dataset, PretrainConfig(**{**MODEL, **job.get("model", {})}, training=config), seed=0)
    state = training.train_sequence_model(model, dataset, config, seed=3, scratch=out / f"{job['name']}.scratch")
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, out / f"{job['name']}.{RANK}")
    (out / f"{job['name']}.{RANK}.json").write_text(
        json.dumps({"curves": state.curves, "epochs": state.epoch, "best": [state.best_epoch, state.best_ndcg]})
    )


def plant_faults(job: dict[str, Any]) -> None:
    """`kill`: the last process ends without a word before that step. `fail`: it alone runs out of memory there."""
    step, loss_sum = training._Trainer._step, NextItem.loss_sum

    def killed(trainer: training._Trainer, batch: Batch) -> float:
        if trainer.state.step == job.get("kill") and RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, batch)

    def starved(objective: NextItem, *inputs: Any) -> Tensor:
        if RANK == 1:
            raise torch.OutOfMemoryError("CUDA out of memory (planted)")
        return loss_sum(objective, *inputs)

    training._Trainer._step = killed  # type: ignore[method-assign]
    if job.get("fail"):
        NextItem.loss_sum = starved  # type: ignore[assignment, method-assign]


def record_every_loss() -> None:
    """The curve of a training holds every 20th loss; these tests compare all."""
    step = training._Trainer._step

    def recorded(trainer: training._Trainer, batch: Batch) -> float:
        loss = step(trainer, batch)
        trainer.state.record("every_loss", trainer.state.step, loss)
        return loss

    training._Trainer._step = recorded  # type: ignore[method-assign]


if __name__ == "__main__":
    torch.set_num_threads(1)
    record_every_loss()
    with process_group("cpu"):
        for job in json.loads(sys.argv[1]):
            plant_faults(job)
            train(job, Path(sys.argv[2]))
