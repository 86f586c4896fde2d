"""How torch's threads wait for each other."""

import os

_SPINS = 2000  # some microseconds: longer than the wait at most barriers, shorter than a scheduler's slice


def wait_passively() -> None:
    """Lets OpenMP threads spin at barriers but briefly, then sleep; call it before torch is imported.

    Where a core is shared with another process, threads that spin without end take up to a hundredfold of the time of
    those that sleep; on a quiet machine, those that sleep at once take 1.4 times that of those that spin briefly.
    Values that the environment sets already stay.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
