"""What `test_kills.py` kills: an artifact built where there is none."""

from pathlib import Path

from tests.contracts.replacing import work

__all__ = ["prepare", "work"]


def prepare(folder: Path) -> None:
    """There is nothing yet."""
