"""The gradient of one batch: every objective, in as many micro-batches as fit into memory.

Shape legend: B windows of the batch, T items of the longest.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recolam.errors import ConfigError
from recolam.progress import say
from recolam.sequence.model import SequenceModel
from recolam.sequence.objectives import Objective
from recolam.sequence.precision import autocast
from recolam.sequence.windows import Batch


class BatchGradient:
    """Adds the gradient of sum over objectives of weight x mean loss to a model's parameters.

    Each objective's targets are drawn and counted for the whole batch, and a micro-batch contributes its sum divided by
    that count: however the batch is split, the gradient is the same (up to rounding, and to the draws of dropout).
    """

    def __init__(self, objectives: Sequence[Objective], *, device: torch.device, dtype: torch.dtype) -> None:
        self.objectives, self.device, self.dtype = objectives, device, dtype
        self.pieces = 1

    def __call__(self, model: nn.Module, inner: SequenceModel, batch: Batch, *, seed: int) -> float:
        """Leaves gradients in `model` and returns the loss. Out of memory, micro-batches are halved from then on.

        Raises:
            ConfigError: not even one window fits.
        """
        targets = self.targets(batch, seed=seed)
        while True:
            try:
                return self._accumulate(model, inner, batch, targets)
            except (torch.OutOfMemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.pieces >= len(batch.length_B):
                    raise ConfigError(f"one window does not fit into memory ({error})") from error
            self.pieces = min(2 * self.pieces, len(batch.length_B))
            model.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            rows = -(-len(batch.length_B) // self.pieces)
            say(f"out of memory: micro-batches of {rows} windows from now on")

    def targets(self, batch: Batch, *, seed: int) -> list[Tensor]:
        """Each objective's targets in the whole batch, bool [B, T]."""
        generator = torch.Generator().manual_seed(seed)
        return [objective.targets(batch, generator) for objective in self.objectives]

    def counts(self, targets: list[Tensor]) -> list[int]:
        """What each objective's sum is divided by."""
        return [max(int(is_target_BT.sum()), 1) for is_target_BT in targets]

    def loss(
        self, inner: SequenceModel, batch: Batch, targets: list[Tensor], counts: list[int], chosen: slice
    ) -> Tensor:
        """What the windows `chosen` contribute to the batch's loss, a scalar."""
        part = batch.rows(chosen).to(self.device)
        width = part.item_BT.shape[1]
        with autocast(self.device, self.dtype):
            loss = torch.zeros((), device=self.device)
            for objective, is_target_BT, total in zip(self.objectives, targets, counts, strict=True):
                is_target = is_target_BT[chosen, :width].to(self.device)
                loss = loss + objective.weight / total * objective.loss_sum(inner, part, is_target)
        return loss

    def _accumulate(self, model: nn.Module, inner: SequenceModel, batch: Batch, targets: list[Tensor]) -> float:
        model.zero_grad(set_to_none=True)
        counts = self.counts(targets)
        rows = -(-len(batch.length_B) // self.pieces)
        value = 0.0
        for begin in range(0, len(batch.length_B), rows):
            loss = self.loss(inner, batch, targets, counts, slice(begin, begin + rows))
            loss.backward()
            value += float(loss.detach())
        return value


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's errors of exhausted memory, of the GPU or of the CPU's allocator."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
