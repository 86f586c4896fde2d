"""Promotion: compare-and-set under a lock, read back, audited; rollback; the champion's policy."""

import subprocess
import sys
from pathlib import Path

import pytest

import recolam.register.registry as registry
from recolam.contracts.artifact import Artifact
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError
from recolam.register.model import POLICY_DIGEST
from recolam.register.registry import (
    PromotionConflict,
    champion_policy,
    champion_version,
    find_version,
    is_whole,
    load_model,
    promote,
    rollback,
)
from recolam.tracking import client

NAME = "tiny"


@pytest.fixture
def versions(home: Home, logged_folders: dict[str, Path]) -> list[str]:
    """Three registered versions, one per policy."""
    opened = client(home)
    opened.create_registered_model(NAME)
    created = [
        opened.create_model_version(NAME, source=folder.as_uri(), tags={POLICY_DIGEST: digest})
        for digest, folder in logged_folders.items()
    ]
    return [str(version.version) for version in created]


def _aliases(home: Home) -> dict[str, str]:
    aliases = client(home).get_registered_model(NAME).aliases
    return {alias: str(version) for alias, version in aliases.items()}


def test_promotion_moves_the_aliases_and_leaves_an_audit_trail(home: Home, versions: list[str]) -> None:
    first, second, _ = versions
    assert champion_version(home, NAME) is None
    promote(home, NAME, first, None)
    assert champion_version(home, NAME) == first
    promote(home, NAME, second, first, report_digest="abc")
    assert _aliases(home) == {"champion": second, "previous_champion": first}
    tags = client(home).get_model_version(NAME, second).tags
    assert (tags["recolam.promoted.from"], tags["recolam.promoted.to"]) == (first, second)
    assert tags["recolam.promoted.report_digest"] == "abc"
    assert "@" in tags["recolam.promoted.by"]
    assert tags["recolam.promoted.at"].endswith("+00:00")


def test_promoting_the_champion_again_changes_nothing(home: Home, versions: list[str]) -> None:
    promote(home, NAME, versions[0], None)
    promote(home, NAME, versions[1], versions[0])
    promote(home, NAME, versions[1], versions[0])
    assert _aliases(home)["previous_champion"] == versions[0]


def test_another_champion_than_expected_is_a_conflict(home: Home, versions: list[str]) -> None:
    promote(home, NAME, versions[0], None)
    for expected in (None, versions[2]):
        with pytest.raises(PromotionConflict, match="champion is version 1"):
            promote(home, NAME, versions[1], expected)
    assert champion_version(home, NAME) == versions[0]
    assert PromotionConflict.exit_code == 3


@pytest.mark.slow
def test_of_two_processes_one_wins_and_the_other_is_told(home: Home, versions: list[str], tmp_path: Path) -> None:
    script = """
import pathlib, sys, time
import recolam.register.registry as registry
from recolam.contracts.home import Home
from recolam.register.registry import PromotionConflict, promote
from recolam.tracking import client
root, version, mine, other = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), pathlib.Path(sys.argv[4])
client(Home(pathlib.Path(root)))
verify = registry._policy
def slowly(*args):  # between the check and the change, so that without a lock both would get through
    time.sleep(0.5)
    return verify(*args)
registry._policy = slowly
mine.touch()
while not other.exists():
    time.sleep(0.001)
try:
    promote(Home(pathlib.Path(root)), "tiny", version, "1")
except PromotionConflict as conflict:
    print(conflict, file=sys.stderr)
    sys.exit(conflict.exit_code)
"""
    promote(home, NAME, versions[0], None)
    flags = [str(tmp_path / "ready-1"), str(tmp_path / "ready-2")]
    running = [
        subprocess.Popen([sys.executable, "-c", script, str(home.root), version, *order])
        for version, order in ((versions[1], flags), (versions[2], flags[::-1]))
    ]
    codes = [process.wait() for process in running]
    assert sorted(codes) == [0, 3]
    assert champion_version(home, NAME) == versions[1 + codes.index(0)]
    assert _aliases(home)["previous_champion"] == versions[0]


def test_an_alias_that_reads_back_as_another_is_an_error(
    home: Home, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(MlflowClient, "set_registered_model_alias", lambda *args: None)
    with pytest.raises(ArtifactError, match="read back None"):
        promote(home, NAME, versions[0], None)


def test_rollback_and_its_undoing(home: Home, versions: list[str]) -> None:
    first, second, _ = versions
    promote(home, NAME, first, None)
    with pytest.raises(ArtifactError, match="no earlier champion"):
        rollback(home, NAME)
    promote(home, NAME, second, first)
    assert rollback(home, NAME) == first
    assert champion_version(home, NAME) == first
    assert client(home).get_model_version(NAME, first).tags["recolam.rolled_back.from"] == second
    assert rollback(home, NAME) == second
    assert champion_version(home, NAME) == second


def test_a_process_killed_while_promoting_leaves_the_old_champion(
    home: Home, versions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = versions
    promote(home, NAME, first, None)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(registry, "_set_champion", killed)
        with pytest.raises(KeyboardInterrupt):
            promote(home, NAME, second, first)
    assert champion_version(home, NAME) == first
    with pytest.raises(ArtifactError, match="no earlier champion"):
        rollback(home, NAME)
    promote(home, NAME, second, first)
    assert rollback(home, NAME) == first


def test_the_champions_policy(home: Home, versions: list[str], policies: list[Artifact]) -> None:
    assert champion_policy(home, NAME) is None
    promote(home, NAME, versions[1], None)
    found = champion_policy(home, NAME)
    assert found is not None
    assert found.digest == policies[1].digest
    assert found.path != policies[1].path


def test_a_registered_model_is_loaded_by_its_alias(home: Home, versions: list[str]) -> None:
    promote(home, NAME, versions[0], None)
    slates = load_model(home, f"models:/{NAME}@champion").predict({"history": ["item-1"], "k": 2})["slate"]
    assert len(slates[0]) == 2
    for uri in (f"models:/{NAME}@nobody", f"models:/{NAME}/99", "models:/unheard-of@champion", "models:/"):
        with pytest.raises(ArtifactError, match="cannot be loaded"):
            load_model(home, uri)


def test_a_registry_that_is_not_there_has_no_champion_and_is_not_made(tmp_path: Path) -> None:
    home = Home(tmp_path / "empty")
    assert champion_policy(home, NAME) is None
    assert champion_version(home, NAME) is None
    assert find_version(home, NAME, "abc") is None
    assert not home.mlruns.exists()


def test_a_version_whose_files_are_gone_is_not_promoted(home: Home, versions: list[str], tmp_path: Path) -> None:
    lost = client(home).create_model_version(NAME, source=(tmp_path / "lost").as_uri(), tags={POLICY_DIGEST: "lost"})
    assert not is_whole(home, NAME, str(lost.version), "lost")
    with pytest.raises(ArtifactError, match="no MLflow model there"):
        promote(home, NAME, str(lost.version), None)
    assert champion_version(home, NAME) is None


def test_a_version_that_holds_another_policy_is_not_promoted(
    home: Home, versions: list[str], policies: list[Artifact]
) -> None:
    client(home).set_model_version_tag(NAME, versions[0], POLICY_DIGEST, "another")
    with pytest.raises(ArtifactError, match="another policy than its tag says"):
        promote(home, NAME, versions[0], None)
    assert not is_whole(home, NAME, versions[1], policies[0].digest)


def test_a_name_that_could_leave_the_registry_is_refused(home: Home) -> None:
    with pytest.raises(ConfigError, match="name"):
        champion_version(home, "x' or '1'='1")
