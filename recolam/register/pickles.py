"""Keeps pickles out: no model folder that holds one is logged, loaded or promoted."""

from pathlib import Path

from recolam.contracts.artifact import refuse_pickle
from recolam.errors import ArtifactError

_PICKLE_STARTS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))
_ZIP_START = b"PK\x03\x04"


def refuse_pickles(folder: Path) -> None:
    """Checks every file below `folder`, whether a manifest names it or not, by ending and by first bytes.

    Raises:
        ArtifactError: a file has a pickle's ending, begins like a pickle or a zip (the shell of torch's pickles), or
            is called safetensors and is not. Names the file.
    """
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        refuse_pickle(path)
        with path.open("rb") as stream:
            start = stream.read(9)
        if path.suffix == ".safetensors":
            # A header length in 8 bytes, which may happen to look like a pickle's start, then the JSON header.
            if start[8:] != b"{":
                raise ArtifactError(f"{path}: called safetensors, but does not begin like it")
        elif start.startswith((*_PICKLE_STARTS, _ZIP_START)):
            raise ArtifactError(f"{path}: begins like a pickle, which can run code; use safetensors")
