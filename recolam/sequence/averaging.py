"""An exponential moving average of the weights, which validation and the final model use where it is switched on."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """w' = decay w' + (1 - decay) w after every step (Polyak & Juditsky 1992; as in Tarvainen & Valpola 2017).

    The decay grows with the steps, min(decay, (1 + n) / (10 + n)), so that the first weights are soon forgotten.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.averages = [parameter.detach().clone() for _, parameter in self._trained(model)]

    @torch.no_grad()
    def update(self, model: nn.Module, *, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.averages, [parameter for _, parameter in self._trained(model)], 1.0 - decay)

    @torch.no_grad()
    def swap(self, model: nn.Module) -> None:
        """Exchanges the model's weights and the averages; a second call undoes it."""
        for average, (_, parameter) in zip(self.averages, self._trained(model), strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(average)
            average.copy_(kept)

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(self.names, self.averages, strict=True))

    def restore(self, tensors: dict[str, Tensor]) -> None:
        for name, average in zip(self.names, self.averages, strict=True):
            average.copy_(tensors[name])

    def _trained(self, model: nn.Module) -> list[tuple[str, nn.Parameter]]:
        return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
