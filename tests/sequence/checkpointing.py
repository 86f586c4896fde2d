"""What `test_checkpoint.py` kills: a checkpoint written over another one."""

from pathlib import Path

import torch

from recolam.sequence.checkpoint import save_checkpoint


def save(folder: Path, *, step: int) -> None:
    tensors = {"model.weight": torch.full((50, 20), float(step)), "optimizer.0.step": torch.tensor(step)}
    save_checkpoint(folder / "scratch", tensors=tensors, state={"step": step, "curves": {"loss": [[step, 0.5]]}})


def prepare(folder: Path) -> None:
    save(folder, step=1)


def work(folder: Path) -> None:
    save(folder, step=2)
