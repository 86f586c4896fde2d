"""How torch's threads wait for each other."""

import os


def wait_passively() -> None:
    """Lets OpenMP threads sleep at barriers instead of spinning; call it before torch is imported.

    Where a core is shared with another process, two spinning threads take a hundredfold of the time of two sleeping
    ones; on a quiet machine there is no difference to see. A value that the environment sets already stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
