"""An artifact: a folder that is either whole and described by its `manifest.json`, or not there.

It is built in a hidden folder beside its final place and moved there whole, its manifest written last. Its digest
covers the stage, the config, the parents and every file's checksum, and no clock: equal work has an equal digest.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from recolam.contracts.files import canonical_digest, refuse_pickle, sha256_file, write_json
from recolam.contracts.swap import needs_restoring, restore_folder, swap_folder
from recolam.errors import ArtifactError

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_KEYS = ("stage", "config", "parents", "seed", "files", "metrics", "digest", "commit", "seconds", "created")


@dataclass(frozen=True)
class Artifact:
    """An opened, verified artifact folder."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def digest(self) -> str:
        return self.manifest["digest"]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.manifest["config"]

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.manifest["metrics"]

    @property
    def seed(self) -> int:
        return self.manifest["seed"]

    def file(self, name: str) -> Path:
        """The path of one of the files in the manifest.

        Raises:
            ArtifactError: the manifest does not name it.
        """
        if name not in self.manifest["files"]:
            raise ArtifactError(f"{self.path}: has no file {name!r}")
        return self.path / name

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text())

    def parent(self, name: str) -> "Artifact":
        """The artifact that this one was made from, as it was then.

        Raises:
            ArtifactError: there is no such parent, or it is not the one it was.
        """
        if name not in self.manifest["parents"]:
            raise ArtifactError(f"{self.path}: has no parent {name!r}; parents: {sorted(self.manifest['parents'])}")
        reference = self.manifest["parents"][name]
        parent = open_artifact((self.path / str(reference.get("path"))).resolve())
        if parent.digest != reference["digest"]:
            raise ArtifactError(
                f"{self.path}: its parent {name!r} at {parent.path} has digest {parent.digest}, "
                f"not {reference['digest']}"
            )
        return parent


def open_artifact(path: str | Path, *, stage: str | None = None) -> Artifact:
    """Opens and verifies an artifact.

    Raises:
        ArtifactError: no manifest (missing or half-written), one that was changed, another stage or schema, a file
            that is missing or changed (checksum), or a pickle, whether the manifest names it or not.
    """
    path = Path(path)
    if needs_restoring(path):  # killed while it was replaced, or just being replaced: then wait
        with _lock(path):
            restore_folder(path)
    manifest = _read_manifest(path / MANIFEST)
    if stage is not None and manifest["stage"] != stage:
        raise ArtifactError(f"{path}: an artifact of stage {manifest['stage']!r}, not {stage!r}")
    try:
        for file in path.rglob("*"):
            refuse_pickle(file)
        for name, entry in manifest["files"].items():
            _verify_file(path, name, entry["sha256"])
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error})") from error
    return Artifact(path=path.resolve(), manifest=manifest)


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArtifactError(f"{path.parent}: no {MANIFEST}: not an artifact, or half-written")
    try:
        manifest = json.loads(path.read_text())
        version = manifest["schema_version"]
        if version != SCHEMA_VERSION:
            raise ArtifactError(f"{path}: schema version {version}, this code reads {SCHEMA_VERSION}")
        missing = [key for key in _KEYS if key not in manifest]
        if missing:
            raise ArtifactError(f"{path}: unreadable manifest (no {missing[0]!r})")
        digest = _digest(manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{path}: unreadable manifest ({type(error).__name__}: {error})") from error
    if manifest["digest"] != digest:
        raise ArtifactError(f"{path}: changed since it was written (digest does not match its content)")
    return manifest


def _verify_file(folder: Path, name: str, sha256: str) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ArtifactError(f"{folder}: the manifest names {name!r}, outside the artifact")
    refuse_pickle(path)
    if not path.is_file():
        raise ArtifactError(f"{path}: missing, though the manifest names it")
    if sha256_file(path) != sha256:
        raise ArtifactError(f"{path}: changed since it was written (checksum does not match)")


@dataclass
class Draft:
    """An artifact under construction. Fill `folder`; keep what a resumed run needs in `scratch`."""

    folder: Path
    scratch: Path
    final: Path
    started: float = field(default_factory=time.monotonic)


def build_artifact(
    final: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    parents: Mapping[str, Artifact],
    seed: int,
    build: Callable[[Draft], Mapping[str, Any]],
) -> Artifact:
    """Runs `build` in a draft folder, then publishes it at `final` in one rename.

    `build` returns the artifact's metrics. A draft left by a killed process is thrown away, its scratch folder is
    kept for `build` to resume from. Where `build` fails, its draft goes, and its scratch folder if it is empty. An
    artifact already at `final` is replaced only once the new one is whole.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final):
        restore_folder(final)
        draft = Draft(
            folder=final.parent / f".{final.name}.partial", scratch=final.parent / f".{final.name}.scratch", final=final
        )
        shutil.rmtree(draft.folder, ignore_errors=True)
        draft.folder.mkdir()
        draft.scratch.mkdir(exist_ok=True)
        try:
            metrics = build(draft)
            _write_manifest(draft, stage=stage, config=config, parents=parents, seed=seed, metrics=metrics)
            _publish(draft)
        finally:
            shutil.rmtree(draft.folder, ignore_errors=True)
            with suppress(OSError):  # it holds a checkpoint
                draft.scratch.rmdir()
    return open_artifact(final, stage=stage)


def _write_manifest(
    draft: Draft,
    *,
    stage: str,
    config: Mapping[str, Any],
    parents: Mapping[str, Artifact],
    seed: int,
    metrics: Mapping[str, Any],
) -> None:
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "config": dict(config),
        "parents": {
            name: {"path": os.path.relpath(parent.path, draft.final), "digest": parent.digest}
            for name, parent in sorted(parents.items())
        },
        "seed": seed,
        "files": _describe_files(draft.folder),
        "metrics": dict(metrics),
        "commit": current_commit(),
        "seconds": round(time.monotonic() - draft.started, 3),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    manifest = json.loads(json.dumps(manifest, default=str))
    manifest["digest"] = _digest(manifest)
    write_json(draft.folder / MANIFEST, manifest)


def _describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        refuse_pickle(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return files


def _publish(draft: Draft) -> None:
    for path in draft.folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    swap_folder(draft.folder, draft.final)
    shutil.rmtree(draft.scratch, ignore_errors=True)


def _lock(final: Path) -> FileLock:
    return FileLock(final.parent / f".{final.name}.lock")


def _digest(manifest: Mapping[str, Any]) -> str:
    return canonical_digest(
        {
            "schema_version": manifest["schema_version"],
            "stage": manifest["stage"],
            "config": manifest["config"],
            "parents": {name: parent["digest"] for name, parent in manifest["parents"].items()},
            "seed": manifest["seed"],
            "files": {name: entry["sha256"] for name, entry in manifest["files"].items()},
            "metrics": manifest["metrics"],
        }
    )


def current_commit() -> str:
    """The commit of the code that runs, or "unknown"."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    folder = Path(__file__).resolve().parent
    answer = subprocess.run(  # noqa: S603 - fixed arguments
        [git, "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or "unknown"
