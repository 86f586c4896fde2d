"""The stage: registers once, promotes by the gate, survives kills, registers tuned policies by domain."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recolam.contracts.artifact import Artifact, Draft, build_artifact
from recolam.contracts.config import from_mapping, to_mapping
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.errors import ArtifactError, ConfigError
from recolam.register.model import log_policy
from recolam.register.registry import PromotionConflict, champion_policy, champion_version, promote, rollback
from recolam.register.stage import RegisterConfig, is_intact, run
from recolam.tracking import client, track_stage

NAME = "recolam-slate-policy"
Context = Callable[..., StageContext]
Evaluation = Callable[..., Artifact]


def test_the_first_policy_becomes_champion(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact]
) -> None:
    report = evaluation(policies[0])
    prepared = context(policy=policies[0], evaluate=report)
    metrics = run(RegisterConfig(), prepared)
    assert metrics == {"name": NAME, "version": "1", "alias": "champion", "promoted": True}
    registration = json.loads((prepared.out / "registration.json").read_text())
    assert registration["source"] == f"models:/{NAME}/1"
    assert registration["domains"] == {}
    opened = client(home)
    version = opened.get_model_version_by_alias(NAME, "champion")
    assert version.tags["recolam.policy_digest"] == policies[0].digest
    assert version.tags["recolam.evaluate"] == report.digest
    assert len(version.tags["recolam.report_digest"]) == 64
    assert version.tags["recolam.commit"] == policies[0].manifest["commit"]
    assert version.run_id == track_stage(home, policies[0])
    assert version.description.startswith("Passed the gate.")
    assert "# A tiny policy" in version.description
    found = champion_policy(home, NAME)
    assert found is not None
    assert found.digest == policies[0].digest


def test_running_again_registers_nothing_new(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact]
) -> None:
    inputs = {"policy": policies[0], "evaluate": evaluation(policies[0])}
    assert run(RegisterConfig(), context(**inputs)) == run(RegisterConfig(), context(**inputs))
    same = run(RegisterConfig(), context(policy=policies[0], evaluate=evaluation(policies[0], policies[0])))
    assert same == {"name": NAME, "version": "1", "alias": "champion", "promoted": False}
    assert len(client(home).search_model_versions(f"name = '{NAME}'")) == 1


def test_a_better_policy_replaces_the_champion_and_a_worse_one_does_not(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact]
) -> None:
    first, second, third = policies
    run(RegisterConfig(), context(policy=first, evaluate=evaluation(first)))
    report = evaluation(second, first, gain=0.4)  # from -0.1 to 0.9
    refused = run(RegisterConfig(), context(policy=second, evaluate=report))
    assert refused == {"name": NAME, "version": "2", "alias": None, "promoted": False}
    assert client(home).get_model_version(NAME, "2").description.startswith("Did not pass the gate.")
    report = evaluation(third, first, gain=1.0)
    with pytest.raises(ConfigError, match="min_gain"):
        RegisterConfig(min_gain=-1.0)
    with pytest.raises(ConfigError, match=r"min_coverage: 1\.5 is not a share"):
        RegisterConfig(min_coverage=1.5)
    too_little = run(RegisterConfig(min_gain=0.6), context(policy=third, evaluate=report))
    assert too_little["promoted"] is False
    promoted = run(RegisterConfig(), context(policy=third, evaluate=report))
    assert promoted == {"name": NAME, "version": "3", "alias": "champion", "promoted": True}
    assert rollback(home, NAME) == "1"


def test_an_evaluation_against_another_champion_is_a_conflict(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact]
) -> None:
    first, second, third = policies
    run(RegisterConfig(), context(policy=first, evaluate=evaluation(first)))
    for report in (evaluation(second), evaluation(second, third)):
        with pytest.raises(PromotionConflict, match="evaluate again"):
            run(RegisterConfig(), context(policy=second, evaluate=report))
    assert champion_version(home, NAME) == "1"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["log_policy", "promote", "write_json"])
def test_killed_and_started_again_it_ends_with_the_same_version(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact], where: str, tmp_path: Path
) -> None:
    script = """
import os, signal, sys
from pathlib import Path
import recolam.register.registry as registry
import recolam.register.stage as stage
from recolam.contracts.artifact import open_artifact
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
root, policy, evaluate, out, where = sys.argv[1:]
def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)
if where == "log_policy":  # the model is logged, but no version made of it
    log = registry.log_policy
    registry.log_policy = lambda *args, **kwargs: die(log(*args, **kwargs))
else:  # registered, but not promoted; or promoted, but not written down
    setattr(stage, where, die)
inputs = {"policy": open_artifact(policy), "evaluate": open_artifact(evaluate)}
stage.run(stage.RegisterConfig(), StageContext(Home(Path(root)), inputs, Path(out), Path(out), 7))
"""
    report = evaluation(policies[0])
    arguments = [str(home.root), str(policies[0].path), str(report.path), str(tmp_path), where]
    assert subprocess.run([sys.executable, "-c", script, *arguments]).returncode == -9
    alias = champion_version(home, NAME)
    assert alias == ("1" if where == "write_json" else None)
    metrics = run(RegisterConfig(), context(policy=policies[0], evaluate=report))
    assert metrics == {"name": NAME, "version": "1", "alias": "champion", "promoted": True}
    assert len(client(home).search_model_versions(f"name = '{NAME}'")) == 1


def test_an_unfinished_model_of_a_killed_run_is_deleted(home: Home, policies: list[Artifact]) -> None:
    run_id = track_stage(home, policies[0])
    opened = client(home)
    experiment = opened.get_run(run_id).info.experiment_id
    tags = {"recolam.policy_digest": policies[0].digest}
    left = opened.create_logged_model(experiment, name="left", source_run_id=run_id, tags=tags)
    uri = log_policy(home, policies[0], run_id=run_id)
    assert [f"models:/{model.model_id}" for model in opened.search_logged_models([experiment])] == [uri]
    assert left.model_id not in uri


def test_tuned_policies_are_registered_by_domain(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact], make_policy: Any, tmp_path: Path
) -> None:
    tuned = make_policy(tmp_path / "t1", seed=11, stage="transfer", metrics={"domain": "toys", "kept": "tuned-lora"})
    scratch = make_policy(tmp_path / "t2", seed=12, stage="transfer", metrics={"domain": "films", "kept": "scratch"})
    inputs = {"policy": policies[0], "evaluate": evaluation(policies[0])}
    prepared = context(**inputs, transfer_toys=tuned, transfer_films=scratch)
    for _ in range(2):
        run(RegisterConfig(), prepared)
    domains = json.loads((prepared.out / "registration.json").read_text())["domains"]
    assert {name: (entry["version"], entry["alias"]) for name, entry in domains.items()} == {
        "toys": ("1", "champion"),
        "films": ("1", None),
    }
    champion = champion_policy(home, f"{NAME}-toys")
    assert champion is not None
    assert champion.digest == tuned.digest
    tags = client(home).get_model_version(f"{NAME}-films", "1").tags
    assert (tags["recolam.domain"], tags["recolam.kept"]) == ("films", "scratch")


def test_a_transfer_that_does_not_say_what_was_kept_is_named(
    context: Context, evaluation: Evaluation, policies: list[Artifact], make_policy: Any, tmp_path: Path
) -> None:
    silent = make_policy(tmp_path / "t", seed=13, stage="transfer", metrics={"domain": "toys"})
    with pytest.raises(ArtifactError, match="kept"):
        run(RegisterConfig(), context(policy=policies[0], evaluate=evaluation(policies[0]), transfer_toys=silent))


def test_a_registration_is_intact_while_its_versions_are(
    home: Home, context: Context, evaluation: Evaluation, policies: list[Artifact], tmp_path: Path
) -> None:
    inputs = {"policy": policies[0], "evaluate": evaluation(policies[0])}
    prepared = context(**inputs)

    def build(draft: Draft) -> dict[str, Any]:
        metrics = run(RegisterConfig(), StageContext(home, inputs, draft.folder, draft.scratch, 7))
        return metrics

    config = to_mapping(RegisterConfig())
    artifact = build_artifact(
        tmp_path / "register", stage="register", config=config, parents=inputs, seed=7, build=build
    )
    assert is_intact(artifact, home)
    assert not is_intact(artifact, Home(tmp_path / "elsewhere"))
    folder = champion_policy(home, NAME)
    assert folder is not None
    promote(home, NAME, "1", "1")
    shutil.move(folder.path, tmp_path / "moved")
    assert not is_intact(artifact, home)
    shutil.move(tmp_path / "moved", folder.path)
    assert is_intact(artifact, home)
    client(home).delete_model_version(NAME, "1")
    assert not is_intact(artifact, home)
    assert prepared.out.is_dir()


def test_a_pickle_in_the_policys_folder_is_refused_and_nothing_is_registered(
    home: Home, context: Context, evaluation: Evaluation, make_policy: Any, tmp_path: Path
) -> None:
    policy = make_policy(tmp_path / "policy", seed=14)
    report = evaluation(policy)
    (policy.path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin"):
        run(RegisterConfig(), context(policy=policy, evaluate=report))
    assert client(home).search_model_versions() == []


def test_the_config_goes_to_json_and_back() -> None:
    config = RegisterConfig(model_name="other", min_gain=0.5)
    assert from_mapping(RegisterConfig, to_mapping(config), where="test") == config
    with pytest.raises(ConfigError, match="name"):
        RegisterConfig(model_name="Not A Name/")
