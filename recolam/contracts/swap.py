"""Replaces a folder by another so that a process killed in between loses neither the old one nor the new one.

No portable call exchanges two folders in one step. The old one is moved aside before the new one takes its place; a
kill between these two renames leaves the old one aside, from where `restore_folder` brings it back.
"""

import shutil
from pathlib import Path


def swap_folder(draft: Path, folder: Path) -> None:
    """Moves `draft` to `folder`; what was there is deleted afterwards. One process at a time may call it."""
    restore_folder(folder)
    retired = _retired(folder)
    shutil.rmtree(retired, ignore_errors=True)
    if folder.exists():
        folder.rename(retired)
    draft.rename(folder)
    shutil.rmtree(retired, ignore_errors=True)


def restore_folder(folder: Path) -> None:
    """Brings back what a killed `swap_folder` had moved aside. No `swap_folder` may be under way."""
    if needs_restoring(folder):
        _retired(folder).rename(folder)


def needs_restoring(folder: Path) -> bool:
    """True where the folder is aside only: a `swap_folder` is between its two renames, or was killed there."""
    return not folder.exists() and _retired(folder).exists()


def _retired(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.retired"
