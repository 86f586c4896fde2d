"""MLflow: one database and one artifact folder per home, one run per artifact.

mlflow is imported inside the functions: it takes seconds to import, and its switches must be set before that.
"""

import json
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recolam.contracts.artifact import MANIFEST, Artifact
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric

EXPERIMENT = "recolam"
CURVES_FILE = "curves.json"
STEP_KEY, HOST = "recolam.step_key", "recolam.host"
_SWITCHES = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_DISABLE_AGENT_HINT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # a lock file in the working directory is no part of a model
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_LONGEST_VALUE, _LONGEST_LIST, _DOCUMENTS = 500, 16, (".html", ".md")
_SECRET = re.compile(r"passw(or)?d|secret|credential|(private|access|api)_?key", re.IGNORECASE)
_SECRET_TEXT = re.compile(r"(?<![a-z])(auth|bearer|tokens?)(?![a-z])")
_USER_IN_URL = re.compile(r"://[^/@\s]+@")


def safe_mlflow() -> Any:
    """The mlflow module, imported with pickles refused and its telemetry off, in this process and its children."""
    os.environ.update(_SWITCHES)
    import mlflow

    return mlflow


def tracking_uri(home: Home) -> str:
    """The SQLite URI of the home's MLflow database.

    Raises:
        ConfigError: the home's path has a character that a database URI cannot carry.
    """
    path = (home.mlruns / "mlflow.db").absolute()
    if set(str(path)) & set("?#%"):
        raise ConfigError(f"{path}: MLflow cannot use a home whose path contains ?, # or %")
    return f"sqlite:///{path}"


def client(home: Home) -> "MlflowClient":
    """A client of the home's MLflow; the database is made and migrated on first use (seconds).

    Raises:
        ArtifactError: the file is no SQLite database, or another MLflow version's.
    """
    mlflow = safe_mlflow()
    uri = tracking_uri(home)
    home.mlruns.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home.mlruns / ".database.lock"):
            _make_database(home.mlruns / "mlflow.db")
            with closing(sqlite3.connect(home.mlruns / "mlflow.db")) as database:
                database.execute("PRAGMA journal_mode=WAL")  # kept in the file: readers no longer wait for writers
            opened: MlflowClient = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            opened.search_registered_models(max_results=1)  # opens the registry's store too, under the lock
    except (sqlite3.DatabaseError, mlflow.MlflowException) as error:
        raise ArtifactError(f"{home.mlruns / 'mlflow.db'}: not a usable MLflow database ({error})") from error
    return opened


def _make_database(path: Path) -> None:
    """Makes and migrates the database under another name first: MLflow cannot go on with a half-migrated one."""
    if path.exists():
        return
    draft = path.with_name(".mlflow.db.partial")
    for ending in ("", "-journal"):
        Path(f"{draft}{ending}").unlink(missing_ok=True)
    uri = f"sqlite:///{draft.absolute()}"
    safe_mlflow().MlflowClient(tracking_uri=uri, registry_uri=uri).search_registered_models(max_results=1)
    draft.rename(path)


def experiment_id(home: Home, opened: "MlflowClient") -> str:
    """The id of the home's experiment, made on first use with its artifacts under the home."""
    with FileLock(home.mlruns / ".experiment.lock"):
        if (found := opened.get_experiment_by_name(EXPERIMENT)) is not None:
            return str(found.experiment_id)
        return str(opened.create_experiment(EXPERIMENT, artifact_location=(home.mlruns / "artifacts").as_uri()))


@contextmanager
def default_store(home: Home) -> Iterator[Any]:
    """Inside, mlflow's module-level functions (which read a global URI) use the home's store; yields mlflow."""
    mlflow, _ = safe_mlflow(), client(home)
    before, registry_before = os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("MLFLOW_REGISTRY_URI")
    mlflow.set_tracking_uri(tracking_uri(home))
    mlflow.set_registry_uri(tracking_uri(home))
    try:
        yield mlflow
    finally:
        mlflow.set_tracking_uri(before)
        mlflow.set_registry_uri(registry_before)
        if registry_before is None:
            del os.environ["MLFLOW_REGISTRY_URI"]  # MLflow sets it, but does not unset it


def track_stage(home: Home, artifact: Artifact) -> str:
    """Records a finished stage as one MLflow run: parameters, metrics, curves, dataset, documents, lineage.

    The same artifact never makes a second finished run. All tracking of a home happens under one lock, so a run that
    is RUNNING while the lock is held was left by a killed process, and is marked KILLED.

    Returns:
        The run's id.

    Raises:
        ArtifactError: `curves.json` is not {name: [[step, value], ...]}.
    """
    opened = client(home)
    experiment = experiment_id(home, opened)
    with FileLock(home.mlruns / ".tracking.lock"):
        reap(opened, experiment)
        query = f"tags.`{STEP_KEY}` = '{artifact.digest}' and attributes.status = 'FINISHED'"
        if found := opened.search_runs([experiment], filter_string=query, max_results=1):
            return str(found[0].info.run_id)
        end = int(datetime.fromisoformat(artifact.manifest["created"]).timestamp() * 1000)
        start = end - int(artifact.manifest["seconds"] * 1000)
        tags, name = _lineage(home, artifact), f"{artifact.stage}-{artifact.digest[:8]}"
        curves = _curves(artifact, time_ms=end)
        run = opened.create_run(experiment, start_time=start, tags=tags, run_name=name)
        _log(opened, run.info.run_id, artifact, curves, time_ms=end)
        opened.set_terminated(run.info.run_id, status="FINISHED", end_time=end)
    return str(run.info.run_id)


def reap(opened: "MlflowClient", experiment: str) -> None:
    """Marks as KILLED the runs of this machine that nobody tracks any more. Call it under the tracking lock."""
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{socket.gethostname()}'"
    for run in opened.search_runs([experiment], filter_string=query):
        if STEP_KEY in run.data.tags:
            opened.set_terminated(run.info.run_id, status="KILLED")


def _lineage(home: Home, artifact: Artifact) -> dict[str, str]:
    path, root = artifact.path, home.root.resolve()
    parents = {f"recolam.parent.{name}": entry["digest"] for name, entry in artifact.manifest["parents"].items()}
    return {
        STEP_KEY: artifact.digest,
        HOST: socket.gethostname(),
        "mlflow.source.name": f"recolam {artifact.stage}",
        "recolam.stage": artifact.stage,
        "recolam.artifact": str(path.relative_to(root) if path.is_relative_to(root) else path),
        "recolam.commit": artifact.manifest["commit"],
        "recolam.seed": str(artifact.seed),
        **parents,
    }


def _log(opened: "MlflowClient", run_id: str, artifact: Artifact, curves: "list[Metric]", *, time_ms: int) -> None:
    from mlflow.entities import Metric, Param

    params = [Param(key, value) for key, value in parameters(artifact.config).items()]
    for first in range(0, len(params), 100):  # the most that MLflow takes at once
        opened.log_batch(run_id, params=params[first : first + 100])
    drawn = {metric.key for metric in curves}
    numbers = {f"summary.{key}" if key in drawn else key: value for key, value in figures(artifact.metrics).items()}
    metrics = curves + [Metric(key, value, time_ms, 0) for key, value in numbers.items()]
    for first in range(0, len(metrics), 1000):
        opened.log_batch(run_id, metrics=metrics[first : first + 1000])
    if (dataset := _dataset(artifact)) is not None:
        opened.log_inputs(run_id, datasets=[dataset])
    for file in artifact.manifest["files"]:
        if Path(file).suffix in _DOCUMENTS:
            opened.log_artifact(run_id, str(artifact.file(file)))


def _curves(artifact: Artifact, *, time_ms: int) -> "list[Metric]":
    from mlflow.entities import Metric

    curves = artifact.json(CURVES_FILE) if CURVES_FILE in artifact.manifest["files"] else {}
    try:
        return [
            Metric(_key(name), float(value), time_ms, int(step))
            for name, points in curves.items()
            for step, value in points
            if value is not None
        ]
    except (TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{artifact.path / CURVES_FILE}: not {{name: [[step, value], ...]}} ({error})") from error


def _dataset(artifact: Artifact) -> "DatasetInput | None":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path, manifest = _nearest_dataset(artifact.path, artifact.manifest) or (None, {})
    if path is None:
        return None
    name = manifest["metrics"].get("dataset") or manifest["config"].get("dataset") or manifest["stage"]
    source = json.dumps({"uri": path.as_uri()})
    dataset = Dataset(str(name), manifest["digest"][:32], "local", source)  # MLflow holds 36 characters of a digest
    return DatasetInput(dataset, [InputTag("mlflow.data.context", artifact.stage)])


def _nearest_dataset(path: Path, manifest: Mapping[str, Any]) -> tuple[Path, Mapping[str, Any]] | None:
    """The closest artifact of stage features, or else ingest, among this one and its ancestors still in place.

    Reads manifests only: verifying every ancestor's files again would take longer than the run is worth.
    """
    if manifest["stage"] in ("features", "ingest"):
        return path, manifest
    for _, entry in sorted(manifest["parents"].items(), key=lambda item: (item[0] != "features", item[0])):
        parent = (path / entry["path"]).resolve()
        known = json.loads((parent / MANIFEST).read_text()) if (parent / MANIFEST).is_file() else None
        if known is not None and (found := _nearest_dataset(parent, known)) is not None:
            return found
    return None


def parameters(config: Mapping[str, Any]) -> dict[str, str]:
    """A config as MLflow parameters: nested keys joined by dots, long values cut, secrets replaced."""
    return {key: redact(key, value)[:_LONGEST_VALUE] for key, value in _flatten(config) if value is not None}


def figures(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among (nested) metrics: keys joined by dots, True and False as 1 and 0."""
    return {key: float(value) for key, value in _flatten(metrics) if isinstance(value, (bool, int, float))}


def redact(key: str, value: Any) -> str:
    """`value` as text, or "[redacted]" where `key` names a secret; a user and password in a URL are always replaced.

    Numbers under a key such as `tokens` are counts, and stay.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()
    is_secret = _SECRET.search(words) or (not isinstance(value, (int, float)) and _SECRET_TEXT.search(words))
    return "[redacted]" if is_secret else _USER_IN_URL.sub("://[redacted]@", str(value))


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value[:_LONGEST_LIST]))
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{prefix}.{_key(key)}" if prefix else _key(key))
    else:
        yield prefix[:250], value


def _key(name: Any) -> str:
    return re.sub(r"[^\w.\- ]", "_", str(name), flags=re.ASCII).lstrip(".")[:100] or "_"
