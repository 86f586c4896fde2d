"""What every reader offers."""

from collections.abc import Callable
from dataclasses import dataclass

from recolam.logs.config import ColumnMapping
from recolam.logs.raw import RawLog
from recolam.logs.source import Source


@dataclass(frozen=True)
class Reader:
    """One format.

    Attributes:
        name: what `--format` calls it.
        files: the members of a source that it reads; empty where the source is not of this format.
        read: reads them; raises DataError.
        is_mappable: True where the user may say which column is which.
    """

    name: str
    files: Callable[[Source], list[str]]
    read: Callable[[Source, ColumnMapping | None], RawLog]
    is_mappable: bool = False


def present(source: Source, needed: str, *optional: str) -> list[str]:
    """The members of a folder or zip with these file names; none where the needed one is missing."""
    if source.kind == "file" or source.find(needed) is None:
        return []
    return [name for base in (needed, *optional) if (name := source.find(base)) is not None]
