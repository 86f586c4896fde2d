"""Files that can be trusted: checksums, JSON written as a whole, no pickles."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from recolam.errors import ArtifactError

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".joblib", ".ckpt", ".bin")


def refuse_pickle(path: Path) -> None:
    """Raises ArtifactError where `path` has a pickle's ending: nothing here ever unpickles."""
    if path.suffix in _PICKLES:
        raise ArtifactError(f"{path}: a {path.suffix} file can hold a pickle, which can run code; use safetensors")


def sha256_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_digest(value: Any) -> str:
    """The SHA-256 of a JSON value, the same for equal values whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=True).encode()).hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that readers see the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w") as stream:
        json.dump(value, stream, indent=1, sort_keys=True, default=str)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
