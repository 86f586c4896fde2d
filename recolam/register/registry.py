"""The model registry: versions by policy digest, the alias `champion`, promotion, rollback.

MLflow's aliases are last-writer-wins, so every change happens under a file lock, after a check that the champion is
still the one the decision was made against, and is read back.
"""

import getpass
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recolam.contracts.artifact import Artifact
from recolam.contracts.home import Home, safe_name
from recolam.errors import ArtifactError
from recolam.register.model import POLICY_DIGEST, log_policy, open_logged_policy
from recolam.tracking import client, default_store, safe_mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.pyfunc import PyFuncModel

CHAMPION, PREVIOUS = "champion", "previous_champion"
_LONGEST_DESCRIPTION = 5000  # the width of MLflow's column


class PromotionConflict(ArtifactError):
    """The champion changed since the decision to replace it was made."""


def register_version(
    home: Home, model_name: str, policy: Artifact, *, run_id: str, tags: Mapping[str, str], description: str
) -> str:
    """Registers a policy, once: a version with its digest that exists already is found, not made again.

    Returns:
        The version.

    Raises:
        ArtifactError: the policy's folder holds a pickle, or MLflow did not keep it.
    """
    with _lock(home, model_name):
        opened = client(home)
        found = find_version(home, model_name, policy.digest)
        if found is not None:
            return found
        if not _is_registered(opened, model_name):
            opened.create_registered_model(model_name, description="Slate policies made by recolam.")
        uri = log_policy(home, policy, run_id=run_id)
        with default_store(home):
            created = opened.create_model_version(
                model_name,
                source=uri,
                run_id=run_id,
                model_id=uri.removeprefix("models:/"),
                tags={**tags, POLICY_DIGEST: policy.digest},
                description=description[:_LONGEST_DESCRIPTION],
            )
        return str(created.version)


def find_version(home: Home, model_name: str, policy_digest: str) -> str | None:
    """The version that holds the policy with this digest, the first where there are several."""
    opened = _open(home, model_name)
    if opened is None:
        return None
    query = f"name = '{model_name}' and tags.`{POLICY_DIGEST}` = '{policy_digest}'"
    return min((str(found.version) for found in opened.search_model_versions(query)), key=int, default=None)


def is_whole(home: Home, model_name: str, version: str, policy_digest: str) -> bool:
    """Whether the version exists and its model's files still hold the policy with this digest."""
    opened = _open(home, model_name)
    mlflow = safe_mlflow()
    try:
        return opened is not None and _policy(opened, model_name, version).digest == policy_digest
    except (ArtifactError, mlflow.MlflowException):
        return False


def version_digest(home: Home, model_name: str, version: str) -> str:
    """The digest of the policy that a version was registered for."""
    return str(client(home).get_model_version(model_name, version).tags.get(POLICY_DIGEST, "unknown"))


def champion_version(home: Home, model_name: str) -> str | None:
    """The version under the alias champion, or None."""
    opened = _open(home, model_name)
    return None if opened is None else _aliased(opened, model_name, CHAMPION)


def champion_policy(home: Home, model_name: str) -> Artifact | None:
    """The champion's policy artifact, from inside its registered model, or None where there is no champion.

    It is a copy: its `parent(...)` paths lead nowhere.

    Raises:
        ArtifactError: the registered model's folder is gone, was changed, or holds a pickle.
    """
    opened = _open(home, model_name)
    version = None if opened is None else _aliased(opened, model_name, CHAMPION)
    return None if opened is None or version is None else _policy(opened, model_name, version)


def promote(
    home: Home, model_name: str, version: str, expected_champion: str | None, *, report_digest: str = ""
) -> None:
    """Makes a version the champion; the champion until now becomes `previous_champion`.

    Nothing changes where the version is the champion already.

    Args:
        home: whose registry.
        model_name: the registered model.
        version: the version to promote.
        expected_champion: the champion's version that the decision was made against, None for none.
        report_digest: of the evaluation that the decision rests on; kept in the version's audit tags.

    Raises:
        PromotionConflict: another version than expected is the champion now.
        ArtifactError: the version's files were changed, or the alias read back is not the one written.
    """
    with _lock(home, model_name):
        opened = client(home)
        current = _aliased(opened, model_name, CHAMPION)
        if current == version:
            return
        if current != expected_champion:
            raise PromotionConflict(
                f"{model_name}: the champion is version {current}, the decision was made against {expected_champion}: "
                "evaluate again"
            )
        promoted = _policy(opened, model_name, version)
        if promoted.digest != opened.get_model_version(model_name, version).tags.get(POLICY_DIGEST):
            raise ArtifactError(f"{model_name} version {version}: its files hold another policy than its tag says")
        # In this order, a process killed in between leaves the old champion in place and reachable.
        _audit(opened, model_name, version, "promoted", current=current, report_digest=report_digest)
        if current is not None:
            opened.set_registered_model_alias(model_name, PREVIOUS, current)
        _set_champion(opened, model_name, version)


def rollback(home: Home, model_name: str) -> str:
    """Makes the previous champion the champion again; the one replaced becomes the previous one.

    Returns:
        The version that is champion now.

    Raises:
        ArtifactError: there is nothing to go back to, or its files were changed.
    """
    with _lock(home, model_name):
        opened = _open(home, model_name)
        current = None if opened is None else _aliased(opened, model_name, CHAMPION)
        previous = None if opened is None else _aliased(opened, model_name, PREVIOUS)
        if opened is None or previous is None or previous == current:
            raise ArtifactError(f"{model_name}: no earlier champion to go back to")
        _policy(opened, model_name, previous)
        _audit(opened, model_name, previous, "rolled_back", current=current, report_digest="")
        _set_champion(opened, model_name, previous)
        if current is not None:
            opened.set_registered_model_alias(model_name, PREVIOUS, current)
        return previous


def load_model(home: Home, uri: str) -> "PyFuncModel":
    """Loads a registered model, for instance models:/recolam-slate-policy@champion, with pickles refused.

    Raises:
        ArtifactError: there is no such model, or its folder holds a pickle or was changed.
    """
    with default_store(home) as mlflow:
        try:
            folder = mlflow.artifacts.download_artifacts(artifact_uri=uri)
            open_logged_policy(folder)
            return mlflow.pyfunc.load_model(uri)
        except (mlflow.MlflowException, OSError) as error:
            raise ArtifactError(f"{uri}: cannot be loaded ({error})") from error


def _set_champion(opened: "MlflowClient", model_name: str, version: str) -> None:
    opened.set_registered_model_alias(model_name, CHAMPION, version)
    written = _aliased(opened, model_name, CHAMPION)
    if written != version:
        raise ArtifactError(f"{model_name}: wrote version {version} as champion, but read back {written}")


def _audit(
    opened: "MlflowClient", model_name: str, version: str, event: str, *, current: str | None, report_digest: str
) -> None:
    tags = {
        "by": f"{_user()}@{socket.gethostname()}",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "from": str(current),
        "to": version,
        "report_digest": report_digest,
    }
    for key, value in tags.items():
        opened.set_model_version_tag(model_name, version, f"recolam.{event}.{key}", value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return "unknown"


def _policy(opened: "MlflowClient", model_name: str, version: str) -> Artifact:
    return open_logged_policy(opened.get_model_version_download_uri(model_name, version))


def _aliased(opened: "MlflowClient", model_name: str, alias: str) -> str | None:
    if not _is_registered(opened, model_name):
        return None
    aliases: Mapping[str, Any] = opened.get_registered_model(model_name).aliases
    return str(aliases[alias]) if alias in aliases else None


def _is_registered(opened: "MlflowClient", model_name: str) -> bool:
    return bool(opened.search_registered_models(f"name = '{model_name}'", max_results=1))


def _open(home: Home, model_name: str) -> "MlflowClient | None":
    safe_name(model_name)
    return client(home) if (home.mlruns / "mlflow.db").is_file() else None


def _lock(home: Home, model_name: str) -> FileLock:
    home.mlruns.mkdir(parents=True, exist_ok=True)
    return FileLock(home.mlruns / f".{safe_name(model_name)}.lock")
