"""Progress of long tasks, on stderr: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Self


class Progress:
    """Counts towards a total and prints done/total, throughput, time left and the caller's own figures.

    Args:
        label: what is being counted, as the reader should see it.
        total: how many units there are, or None where nobody knows.
        unit: the name of one unit.
        every: seconds between two lines where stderr is not a terminal.
    """

    def __init__(self, label: str, *, total: int | None = None, unit: str = "step", every: float = 10.0) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done, self._begin, self._last = 0, time.monotonic(), time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._every = 0.2 if self._is_terminal else every
        self._figures: dict[str, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._print(end="\n")

    def advance(self, count: int = 1, **figures: float) -> None:
        self._done += count
        self._figures.update(figures)
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._print(end="\r" if self._is_terminal else "\n")

    def _print(self, *, end: str) -> None:
        elapsed = max(time.monotonic() - self._begin, 1e-9)
        speed = self._done / elapsed
        total = f"/{self._total}" if self._total else ""
        left = f", {(self._total - self._done) / speed:.0f} s left" if self._total and speed > 0 else ""
        figures = "".join(f", {name} {value:.4g}" for name, value in self._figures.items())
        clear = "\x1b[2K" if self._is_terminal else ""
        text = f"{self._label}: {self._done}{total} {self._unit}s, {speed:.3g}/s{left}{figures}"
        print(clear + text, end=end, file=sys.stderr, flush=True)


def say(message: str) -> None:
    """One line for the person who watches."""
    print(message, file=sys.stderr, flush=True)
