"""A network whose value stays where it is: every step writes over the last one, and on a GPU is one CUDA graph.

The graph is recorded once and replayed: a step is then a single launch, whatever the number of its operations, and the
host neither waits nor copies. That holds for networks whose functions never ask for a tensor's content, which
`torch.compile(fullgraph=True)` can check without a GPU.
"""

from collections.abc import Callable

import torch
from recsim_ng.core.network import Network

from recolam.world.runtime import NetworkValue, TorchRuntime, Value

_WARM_UP = 3  # steps before the recording: torch's libraries allocate their work space in the first ones


class ResidentNetwork:
    """A network at its initial value, on the device of its generator.

    Args:
        generator: the one that the network's functions draw with; given a GPU's, steps are replayed from a graph, with
            the numbers that they would draw without it.

    Attributes:
        value: the network's value now; its tensors are the same ones for ever, written over by every step.
    """

    def __init__(self, network: Network, *, generator: torch.Generator) -> None:
        self._runtime, self._generator = TorchRuntime(network), generator
        start = self._runtime.execute(0, generator=generator)
        self.value: NetworkValue = {name: content.map(torch.clone) for name, content in start.items()}
        self._advance: Callable[[], None] = self._overwrite
        if generator.device.type == "cuda":
            self._advance = self._recorded()

    def step(self) -> None:
        """Puts the next value in the place of this one."""
        self._advance()

    def _overwrite(self) -> None:
        self._write(self._runtime.execute(1, self.value, generator=self._generator))

    def _write(self, value: NetworkValue) -> None:
        for name, content in value.items():
            for field, tensor in content.as_dict.items():
                self.value[name].get(field).copy_(tensor)

    def _recorded(self) -> Callable[[], None]:
        """The step as a graph; trying and recording it leave the value and the generator as they were."""
        start: dict[str, Value] = {name: content.map(torch.clone) for name, content in self.value.items()}
        state, graph = self._generator.get_state(), torch.cuda.CUDAGraph()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._overwrite()
        torch.cuda.current_stream().wait_stream(aside)
        graph.register_generator_state(self._generator)
        with torch.cuda.graph(graph):
            self._overwrite()
        self._write(start)
        self._generator.set_state(state)
        return graph.replay
