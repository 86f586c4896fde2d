"""MLflow runs: one per artifact, complete, without secrets; killed ones are reaped."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from sqlite3 import connect
from typing import Any

import mlflow
import pytest

from recolam.contracts.artifact import Artifact
from recolam.contracts.home import Home
from recolam.errors import ArtifactError, ConfigError
from recolam.tracking import (
    EXPERIMENT,
    STEP_KEY,
    client,
    default_store,
    experiment_id,
    figures,
    parameters,
    redact,
    safe_mlflow,
    track_stage,
    tracking_uri,
)

Make = Callable[..., Artifact]


@pytest.fixture
def artifact(tmp_path: Path, make_artifact: Make) -> Artifact:
    features = make_artifact(
        tmp_path / "features", stage="features", files={"a.json": 1}, metrics={"dataset": "tiny", "users": 3}
    )
    curves = {"loss": [[step, 1 / (step + 1)] for step in range(1500)], "return": [[0, 1.0], [10, 2.0]]}
    return make_artifact(
        tmp_path / "policy",
        stage="policy",
        files={"curves.json": curves, "note.md": "# Note"},
        parents={"features": features},
        config={"training": {"rate": 0.1, "sizes": [8, 16]}, "name": "x", "limit": None, "api_token": "abc"},
        metrics={"returns": {"trained": {"mean": 2.0, "ci95": [1.5, 2.5]}}, "loss": 0.5, "is_best": True, "kind": "a"},
    )


def test_a_run_holds_what_the_artifact_holds(home: Home, artifact: Artifact) -> None:
    opened = client(home)
    run = opened.get_run(track_stage(home, artifact))
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "training.rate": "0.1",
        "training.sizes.0": "8",
        "training.sizes.1": "16",
        "name": "x",
        "api_token": "[redacted]",
    }
    numbers = {
        "returns.trained.mean": 2.0,
        "returns.trained.ci95.0": 1.5,
        "returns.trained.ci95.1": 2.5,
        "summary.loss": 0.5,
        "is_best": 1.0,
    }
    assert numbers.items() <= run.data.metrics.items()
    history = opened.get_metric_history(run.info.run_id, "loss")
    assert sorted((point.step, point.value) for point in history) == [(step, 1 / (step + 1)) for step in range(1500)]
    tags = run.data.tags
    assert tags[STEP_KEY] == artifact.digest
    assert tags["recolam.parent.features"] == artifact.manifest["parents"]["features"]["digest"]
    assert (tags["recolam.seed"], tags["recolam.stage"]) == ("7", "policy")
    assert tags["recolam.commit"] == artifact.manifest["commit"]
    assert tags["recolam.artifact"] == str(artifact.path)
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "tiny"
    assert tags["recolam.parent.features"].startswith(dataset.digest)
    assert [file.path for file in opened.list_artifacts(run.info.run_id)] == ["note.md"]
    assert run.info.artifact_uri.startswith((home.mlruns / "artifacts").as_uri())


def test_an_artifact_makes_one_run(home: Home, artifact: Artifact) -> None:
    first = track_stage(home, artifact)
    assert track_stage(home, artifact) == first
    assert len(client(home).search_runs([experiment_id(home, client(home))])) == 1


def test_a_killed_run_is_reaped_and_made_again(home: Home, artifact: Artifact) -> None:
    script = """
import os, signal, sys
from pathlib import Path
import recolam.tracking as tracking
from recolam.contracts.artifact import open_artifact
from recolam.contracts.home import Home
tracking._log = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
tracking.track_stage(Home(Path(sys.argv[1])), open_artifact(sys.argv[2]))
"""
    killed = subprocess.run([sys.executable, "-c", script, str(home.root), str(artifact.path)])
    assert killed.returncode == -9
    opened = client(home)
    experiment = experiment_id(home, opened)
    assert [run.info.status for run in opened.search_runs([experiment])] == ["RUNNING"]
    finished = track_stage(home, artifact)
    status = {run.info.run_id: run.info.status for run in opened.search_runs([experiment])}
    assert status.pop(finished) == "FINISHED"
    assert list(status.values()) == ["KILLED"]


def test_somebody_elses_running_run_is_left_alone(home: Home, artifact: Artifact) -> None:
    opened = client(home)
    experiment = experiment_id(home, opened)
    by_hand = opened.create_run(experiment)
    elsewhere = opened.create_run(experiment, tags={STEP_KEY: "other", "recolam.host": "another-machine"})
    track_stage(home, artifact)
    assert {opened.get_run(run.info.run_id).info.status for run in (by_hand, elsewhere)} == {"RUNNING"}


@pytest.mark.parametrize("curves", [[1, 2], {"loss": 3}, {"loss": [[1]]}, {"loss": [["a", "b"]]}])
def test_malformed_curves_are_named(home: Home, tmp_path: Path, make_artifact: Make, curves: Any) -> None:
    broken = make_artifact(tmp_path / "broken", stage="pretrain", files={"curves.json": curves})
    with pytest.raises(ArtifactError, match=r"curves\.json"):
        track_stage(home, broken)
    assert client(home).search_runs([experiment_id(home, client(home))]) == []


def test_many_parameters_and_odd_names(home: Home, tmp_path: Path, make_artifact: Make) -> None:
    config = {f"p{number}": number for number in range(250)} | {"a/b@c": "x" * 9000, "../up": 1, "": 2}
    metrics = {"ndcg@10": 0.5, "gap": float("nan"), "curve": list(range(1000))}
    run_id = track_stage(home, make_artifact(tmp_path / "a", stage="ingest", files={}, config=config, metrics=metrics))
    run = client(home).get_run(run_id)
    assert len(run.data.params) == 253
    assert len(run.data.params["a_b_c"]) == 500
    assert run.data.metrics["ndcg_10"] == 0.5
    assert len(run.data.metrics) == 2 + 16


@pytest.mark.parametrize(
    ("key", "value", "is_kept"),
    [
        ("password", "abc", False),
        ("db.passwd", 1234, False),
        ("dbPassword", "abc", False),
        ("client_secret", "abc", False),
        ("aws_access_key_id", "abc", False),
        ("apiKey", "abc", False),
        ("hf_token", "abc", False),
        ("accessToken", "abc", False),
        ("token", "abc", False),
        ("AUTH", "abc", False),
        ("credentials.user", "abc", False),
        ("tokens", 120, True),
        ("max_tokens", 5, True),
        ("tokens_per_s", 1.5, True),
        ("tokeniser", "words", True),
        ("author", "me", True),
        ("key", "user_id", True),
    ],
)
def test_secrets_are_not_logged(key: str, value: Any, is_kept: bool) -> None:
    assert redact(key, value) == (str(value) if is_kept else "[redacted]")


def test_a_password_in_a_url_is_not_logged() -> None:
    logged = parameters({"source": {"uri": "https://me:hunter2@data.example/logs.csv"}})
    assert logged == {"source.uri": "https://[redacted]@data.example/logs.csv"}


def test_figures_are_the_numbers_alone() -> None:
    assert figures({"a": {"b": 1}, "c": "text", "d": None, "e": [1.5, "x"], "f": False}) == {
        "a.b": 1.0,
        "e.0": 1.5,
        "f": 0.0,
    }


def test_the_database_writes_ahead_and_its_experiment_has_its_own_folder(home: Home) -> None:
    opened = client(home)
    experiment = opened.get_experiment(experiment_id(home, opened))
    assert (experiment.name, experiment.artifact_location) == (EXPERIMENT, (home.mlruns / "artifacts").as_uri())
    with closing(connect(home.mlruns / "mlflow.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_home_with_a_space_works_and_one_with_a_question_mark_is_refused(tmp_path: Path) -> None:
    assert experiment_id(Home(tmp_path / "my home"), client(Home(tmp_path / "my home")))
    with pytest.raises(ConfigError, match="path contains"):
        tracking_uri(Home(tmp_path / "what?"))


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.mlruns.mkdir()
    (home.mlruns / "mlflow.db").write_text("not a database, but long enough to be mistaken for one" * 20)
    with pytest.raises(ArtifactError, match=r"mlflow\.db: not a usable MLflow database"):
        client(home)


def test_the_default_store_is_put_back(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    before = (mlflow.get_tracking_uri(), mlflow.get_registry_uri())
    with default_store(home):
        assert mlflow.get_tracking_uri() == mlflow.get_registry_uri() == tracking_uri(home)
    assert (mlflow.get_tracking_uri(), mlflow.get_registry_uri()) == before
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "MLFLOW_REGISTRY_URI" not in os.environ


def test_pickles_are_refused_and_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "true")
    safe_mlflow()
    from mlflow.environment_variables import MLFLOW_ALLOW_PICKLE_DESERIALIZATION, MLFLOW_DISABLE_TELEMETRY

    assert MLFLOW_ALLOW_PICKLE_DESERIALIZATION.get() is False
    assert MLFLOW_DISABLE_TELEMETRY.get() is True


def test_importing_tracking_does_not_import_mlflow() -> None:
    script = "import sys, recolam.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
