"""What `test_kills.py` kills: the second attempt, after a first one was killed between its two renames."""

from pathlib import Path

from tests.contracts.replacing import build, work

__all__ = ["prepare", "work"]


def prepare(folder: Path) -> None:
    build(folder, seed=1)
    (folder / "a").rename(folder / ".a.retired")
