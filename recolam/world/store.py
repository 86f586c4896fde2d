"""A world on disk: an artifact with its settings in manifest.json and its tensors in safetensors.

What is saved: the kind of users with their settings, the tensors they were made of, the horizon, the drift, and the
sessions that are under way with the state of their random numbers. So after `load_world` equal seeds give equal
sessions, bit for bit, and sessions that were under way go on as they would have.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recolam.contracts.artifact import MANIFEST, Artifact, Draft, build_artifact, open_artifact
from recolam.contracts.config import from_mapping, to_mapping
from recolam.errors import ArtifactError, ConfigError
from recolam.world.drift import DriftConfig, Drifting
from recolam.world.environment import SimulatedUsers, World
from recolam.world.kinds import KINDS, check_tensors, kind_of
from recolam.world.named import SARDINE, SardineWorld, make_sardine
from recolam.world.runtime import Value
from recolam.world.saved import SavedWorld
from recolam.world.story import UserModel

STAGE = "simulated users"
_FORMAT = 1
_USERS, _SESSIONS, _GENERATOR = "users.safetensors", "sessions.safetensors", "generator"


@dataclass(frozen=True)
class _Stored:
    """What the manifest says of a world. `settings` are of the kind."""

    format: int
    kind: str
    settings: dict[str, Any]
    horizon: int | None = None
    drift: DriftConfig | None = None


def save_world(world: World, folder: Path) -> Artifact:
    """Writes a world to `folder`, as a whole or not at all; a world that is there is replaced.

    Users fitted to logs are no world of their own: the world stage writes them, with the model that they read with.

    Raises:
        ConfigError: users of a kind that cannot be written; sessions under way on another device than the CPU; a
            folder that holds something else.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: holds something that is not a world; it stays as it is")
    stored, tensors = _taken_apart(world)
    if isinstance(world, SimulatedUsers) and world.is_under_way and world.generator.device.type != "cpu":
        raise ConfigError(f"sessions under way on {world.generator.device} cannot be saved")

    def build(draft: Draft) -> Mapping[str, Any]:
        if tensors:
            save_file(_plain(tensors), draft.folder / _USERS)
        if isinstance(world, SimulatedUsers) and world.is_under_way:
            sessions = {f"state.{name}": field for name, field in world.state.as_dict.items()}
            save_file(_plain(sessions | {_GENERATOR: world.generator.get_state()}), draft.folder / _SESSIONS)
        return {}

    return build_artifact(folder, stage=STAGE, config=to_mapping(stored), parents={}, seed=0, build=build)


def load_world(folder: Path, *, population: str = "held_out", drift: DriftConfig | None = None) -> World:
    """The world that `save_world` or the world stage wrote, on the CPU.

    Args:
        population: whose start states a world of the stage uses, "train" or "held_out".
        drift: changes of a world that was saved without.

    Raises:
        ArtifactError: missing, half-written, changed, of an unknown kind, or with tensors that do not fit.
        ConfigError: the package sardine-rec is not installed; a drift for a world that has one, or cannot have any.
    """
    world = _loaded(folder, population)
    if drift is None:
        return world
    if not isinstance(world, SimulatedUsers) or isinstance(world.users, Drifting):
        raise ConfigError(f"{folder}: this world has a drift of its own, or cannot have any")
    return SimulatedUsers(Drifting(world.users, drift), horizon=world.horizon)


def _loaded(folder: Path, population: str) -> World:
    artifact = open_artifact(folder)
    if artifact.stage == "world":
        return SavedWorld(artifact).environment(population=population)
    if artifact.stage != STAGE:
        raise ArtifactError(f"{folder}: an artifact of stage {artifact.stage!r}, not 'world' or {STAGE!r}")
    stored = _read(artifact)
    if stored.kind == SARDINE:
        return make_sardine(_fitting(artifact, MANIFEST, lambda: _config(SardineWorld, stored.settings)))
    users = _fitting(artifact, _USERS, lambda: _put_together(artifact, stored))
    environment = _fitting(artifact, MANIFEST, lambda: SimulatedUsers(users, horizon=stored.horizon or 0))
    if _SESSIONS in artifact.manifest["files"]:
        _fitting(artifact, _SESSIONS, lambda: _resume(environment, load_file(artifact.file(_SESSIONS))))
    return environment


def _taken_apart(world: World) -> tuple[_Stored, dict[str, Tensor]]:
    if not isinstance(world, SimulatedUsers):
        from recolam.world.sardine import SardineEnvironment  # needs gymnasium, which not everybody has installed

        if not isinstance(world, SardineEnvironment):
            raise ConfigError(f"{type(world).__name__} is no environment that can be written")
        return _Stored(_FORMAT, SARDINE, {"name": world.name, "capacity": world.capacity}), {}
    drift = world.users.config if isinstance(world.users, Drifting) else None
    users = world.users.users if isinstance(world.users, Drifting) else world.users
    kind = kind_of(users)
    if kind is None:
        raise ConfigError(f"{type(users).__name__} cannot be written; kinds that can: {', '.join(KINDS)}")
    settings, tensors = KINDS[kind].parts(users)
    return _Stored(_FORMAT, kind, to_mapping(settings), world.horizon, drift), tensors


def _read(artifact: Artifact) -> _Stored:
    version = artifact.config.get("format")
    if version != _FORMAT:
        raise ArtifactError(f"{artifact.path / MANIFEST}: world format {version!r}, this code reads {_FORMAT}")
    stored: _Stored = _fitting(artifact, MANIFEST, lambda: _config(_Stored, artifact.config))
    if stored.kind not in (*KINDS, SARDINE):
        raise ArtifactError(
            f"{artifact.path / MANIFEST}: world kind {stored.kind!r} is not one of {', '.join((*KINDS, SARDINE))}"
        )
    return stored


def _put_together(artifact: Artifact, stored: _Stored) -> UserModel:
    kind = KINDS[stored.kind]
    tensors = load_file(artifact.file(_USERS))
    check_tensors(kind, tensors)
    users = kind.build(_config(kind.settings, stored.settings), tensors)
    return users if stored.drift is None else Drifting(users, stored.drift)


def _resume(environment: SimulatedUsers, tensors: dict[str, Tensor]) -> None:
    generator = torch.Generator()
    generator.set_state(tensors.pop(_GENERATOR))
    fields, spec = (
        {name.removeprefix("state."): tensor for name, tensor in tensors.items()},
        environment.users.state_spec(),
    )
    if set(fields) != set(spec):
        raise ValueError(f"fields {', '.join(sorted(fields))}; expected {', '.join(sorted(spec))}")
    for name, field in fields.items():
        fits, message = spec[name].check_value(field)
        if not fits or len(field) != len(fields["length"]):
            raise ValueError(f"state.{name}: {message or f'{len(field)} rows'}")
    environment.resume(Value(**fields), generator)


def _config(cls: type, values: Mapping[str, Any]) -> Any:
    return from_mapping(cls, values, where="config")


def _fitting(artifact: Artifact, file: str, make: Any) -> Any:
    """What `make` makes; where it fails, `file` is to blame."""
    try:
        return make()
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{artifact.path / file}: not a world's ({error})") from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
