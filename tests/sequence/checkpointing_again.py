"""What `test_checkpoint.py` kills: a save after one that was killed between its two renames."""

from pathlib import Path

from tests.sequence.checkpointing import save, work

__all__ = ["prepare", "work"]


def prepare(folder: Path) -> None:
    save(folder, step=1)
    (folder / "scratch" / "checkpoint").rename(folder / "scratch" / ".checkpoint.retired")
