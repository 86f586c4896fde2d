"""A training loop's state on disk: tensors in safetensors, the rest in JSON, replaced as a whole.

A checkpoint is read only if its checksum holds. Only the newest is kept.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recolam.contracts.files import canonical_digest, sha256_file
from recolam.contracts.swap import restore_folder, swap_folder
from recolam.errors import ArtifactError

_FOLDER, _TENSORS, _STATE = "checkpoint", "tensors.safetensors", "state.json"


def save_checkpoint(scratch: Path, *, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint below `scratch`; killed at any moment, there is the old one or the new one."""
    draft, folder = scratch / f".{_FOLDER}.partial", scratch / _FOLDER
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(contiguous, draft / _TENSORS)
    content = {"sha256": sha256_file(draft / _TENSORS), "state": json.loads(json.dumps(state))}
    text = json.dumps(content | {"digest": canonical_digest(content)})  # keys stay in their order
    (draft / _STATE).write_text(text)
    swap_folder(draft, folder)


def load_checkpoint(scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint below `scratch`, or None if there is none.

    Raises:
        ArtifactError: its files changed since they were written.
    """
    folder = scratch / _FOLDER
    restore_folder(folder)
    if not folder.exists():
        return None
    advice = f"delete {folder} to train from the start"
    try:
        content = json.loads((folder / _STATE).read_text())
        digest = content.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ArtifactError(f"{folder / _STATE}: unreadable checkpoint ({error}); {advice}") from error
    if digest != canonical_digest(content):
        raise ArtifactError(f"{folder / _STATE}: changed since it was written; {advice}")
    if not (folder / _TENSORS).is_file() or sha256_file(folder / _TENSORS) != content["sha256"]:
        raise ArtifactError(f"{folder / _TENSORS}: changed since it was written (checksum does not match); {advice}")
    return load_file(folder / _TENSORS), content["state"]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's per-parameter state as named tensors."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            entries.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
