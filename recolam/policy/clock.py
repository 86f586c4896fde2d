"""Where a training's time goes: seconds by part."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds of every pass through a named part. A part within another is taken out of the outer one's seconds.

    A GPU is waited for at both ends of a part, so that each pays for its own work; that costs some of the overlap of
    host and device which an unmeasured run has.

    Attributes:
        seconds: by part, one number a pass, in order.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds: dict[str, list[float]] = {}
        self._device = torch.device(device)
        self._within: list[float] = []  # seconds of the parts within each part under way
        self._is_whole = False

    @contextmanager
    def part(self, name: str, *, is_whole: bool = False) -> Iterator[None]:
        """What runs in this context belongs to `name`; where `is_whole`, so do the parts within."""
        if self._is_whole:
            yield
            return
        begin = self._now()
        self._within.append(0.0)
        self._is_whole = is_whole
        try:
            yield
        finally:
            self._is_whole = False
            seconds = self._now() - begin
            self.seconds.setdefault(name, []).append(seconds - self._within.pop())
            if self._within:
                self._within[-1] += seconds

    def total(self, name: str) -> float:
        return sum(self.seconds.get(name, ()))

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()
