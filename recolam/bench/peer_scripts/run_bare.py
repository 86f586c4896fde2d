"""The bare loop: recolam's model, loss, precision and optimiser on random batches of the same shapes, made beforehand.

Forward, backward, optimiser step, nothing else: no windows, no clipping, no check of the loss, no checkpoint. What
recolam's own loop takes longer is what its pipeline costs.
"""

from dataclasses import replace

import torch
from contestant import Clock, finish, start  # type: ignore[import-not-found]
from ours import build  # type: ignore[import-not-found]

from recolam.contracts.dataset import FIRST_ITEM
from recolam.sequence.objectives import NextItem
from recolam.sequence.precision import autocast, resolve_precision
from recolam.sequence.training import adamw, resolve_device
from recolam.sequence.windows import Batch, batches, training_windows

task, clock = start(), Clock()
settings = task.settings
dataset, training, model = build(task)
device = resolve_device(training.device)
dtype = resolve_precision(training.precision, device)
model.to(device).train()
optimizer = adamw(model, training)
objective = NextItem()


def random_items(batch: Batch) -> Batch:
    drawn_BT = torch.randint_like(batch.item_BT, FIRST_ITEM, dataset.tokens)
    return replace(batch, item_BT=torch.where(batch.is_item_BT, drawn_BT, batch.item_BT))


windows = training_windows(dataset, max_len=training.max_len, last_only=True)
ready = [
    [
        random_items(batch).to(device)
        for batch in batches(windows, batch_size=training.batch_size, seed=settings["seed"], epoch=epoch)
    ]
    for epoch in range(training.epochs)
]
for epoch in ready:
    clock.begin()
    for batch in epoch:
        is_target_BT = batch.is_item_BT
        with autocast(device, dtype):
            loss = objective.loss_sum(model, batch, is_target_BT) / is_target_BT.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    clock.end()
finish(
    task, clock, users=len(windows), tokens=windows.items, packages=("recolam", "transformers"), precision=str(dtype)
)
