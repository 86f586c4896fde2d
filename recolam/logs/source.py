"""The user's file, folder or zip, as a set of named byte strings. Zips are never unpacked to disk."""

import gzip
import hashlib
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from recolam.contracts.artifact import sha256_file
from recolam.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        path: what the user named.
        kind: how its members are reached.
        names: its members (for a plain file: its own name), sorted.
    """

    path: Path
    kind: Literal["file", "folder", "zip"]
    names: tuple[str, ...]

    def find(self, *base_names: str) -> str | None:
        """The member nearest to the root whose file name is one of `base_names`."""
        found = [name for name in self.names if PurePosixPath(name).name in base_names]
        return min(found, key=lambda name: (name.count("/"), name), default=None)

    def label(self, name: str) -> str:
        """How messages and the quarantine table call a member."""
        return name if self.kind == "file" else f"{self.path.name}/{name}"

    def read(self, name: str) -> bytes:
        """A member's content, decompressed where it is gzip.

        Raises:
            DataError: it cannot be read or decompressed.
        """
        try:
            data = self._bytes(name)
            return gzip.decompress(data) if data.startswith(_GZIP_MAGIC) else data
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{self.path}: {self.label(name)} cannot be read ({error})") from error

    def checksums(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of the files that hold these members, by member; a zip stands for all of its members.

        Raises:
            DataError: a file cannot be read.
        """
        try:
            if self.kind == "zip":
                return {self.path.name: sha256_file(self.path)}
            return {name: hashlib.sha256(self._bytes(name)).hexdigest() for name in sorted(names)}
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error})") from error

    def _bytes(self, name: str) -> bytes:
        if self.kind == "zip":
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(name)
        return (self.path if self.kind == "file" else self.path / name).read_bytes()


def open_source(path: str | Path) -> Source:
    """Lists what lies at `path`.

    Raises:
        DataError: nothing is there, it cannot be read, it is a broken zip, or a zip has members outside itself.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return Source(path, "folder", tuple(sorted(p.name for p in path.iterdir() if p.is_file())))
        if not path.is_file():
            raise DataError(f"{path}: no such file or folder")
        with path.open("rb") as stream:
            is_zip = path.suffix.lower() == ".zip" or stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        return Source(path, "zip", _zip_names(path)) if is_zip else Source(path, "file", (path.name,))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _zip_names(path: Path) -> tuple[str, ...]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: not a zip archive ({error})") from error
    for name in names:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or "\\" in name or ":" in name:
            raise DataError(f"{path}: member {name!r} lies outside the archive")
    return tuple(name for name in names if not name.startswith("__MACOSX/"))
