"""Killed before any change to files, a build leaves the old artifact or the new one, whole."""

from pathlib import Path

import pytest

from recolam.contracts.artifact import build_artifact, open_artifact
from recolam.contracts.swap import needs_restoring
from recolam.errors import ArtifactError
from tests.contracts.replacing import build
from tests.killing import kill_before_every_change


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("scenario", ["replacing", "recovering"])
def test_an_artifact_being_replaced_is_the_old_one_or_the_new_one(tmp_path: Path, scenario: str) -> None:
    folders = kill_before_every_change(f"tests.contracts.{scenario}", tmp_path / "killed")
    aside = sum(needs_restoring(folder / "a") for folder in folders)
    seeds = [open_artifact(folder / "a", stage="test").seed for folder in folders]
    assert seeds == sorted(seeds)  # first the old one, from a certain moment on the new one
    assert seeds[0] == 1
    assert seeds[-1] == 2
    assert aside >= 1, "no kill fell between the two renames"
    for folder in folders:
        assert build(folder, seed=2).seed == 2
        assert left(folder) == {"a"}


def test_a_first_artifact_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    folders = kill_before_every_change("tests.contracts.publishing", tmp_path / "killed")
    there = []
    for folder in folders:
        try:
            there.append(open_artifact(folder / "a").seed == 2)
        except ArtifactError:
            there.append(False)
        assert there[-1] == (folder / "a").exists()
        assert build(folder, seed=3).seed == 3
        assert left(folder) == {"a"}
    assert there == sorted(there)
    assert there[-1]


def test_the_old_artifact_stays_until_the_next_build_is_whole(tmp_path: Path) -> None:
    build(tmp_path, seed=1)
    (tmp_path / "a").rename(tmp_path / ".a.retired")  # as a kill between the two renames leaves it

    def fail(draft: object) -> dict[str, int]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_artifact(tmp_path / "a", stage="test", config={}, parents={}, seed=2, build=fail)
    assert open_artifact(tmp_path / "a").seed == 1
    assert left(tmp_path) == {"a"}
