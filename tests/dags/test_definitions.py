"""What the DAG files define, read in a fresh process: nothing runs here."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recolam import presets
from tests.dags.conftest import ROOT, environment

CHAIN = ["recolam_ingest", "recolam_pretrain", "recolam_policy", "recolam_transfer", "recolam_evaluate_register"]
TASKS = {
    "recolam_ingest": {"demo", "ingest", "features"},
    "recolam_pretrain": {"pretrain"},
    "recolam_policy": {"world", "policy"},
    "recolam_transfer": {"domains", "transfer", "transferred"},
    "recolam_evaluate_register": {"evaluate", "register", "summary"},
}


def describe(tmp_path: Path, **settings: str) -> dict[str, Any]:
    out = tmp_path / "dags.json"
    command = [sys.executable, Path(__file__).with_name("describe_dags.py"), ROOT / "dags", out]
    subprocess.run(command, env=environment(tmp_path, **settings), check=True, capture_output=True, timeout=120)
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return describe(tmp_path_factory.mktemp("describe"))


@pytest.fixture(scope="module")
def dags(found: dict[str, Any]) -> dict[str, Any]:
    return found["dags"]


def test_every_dag_imports_quickly_and_loads_nothing_heavy(found: dict[str, Any]) -> None:
    assert found["import_errors"] == {}
    assert set(found["dags"]) == set(CHAIN)
    assert found["cpu_seconds"] < 5, "the issue's limit; processor time, so that a busy machine does not fail it"
    heavy = {"torch", "transformers", "polars", "pandas", "mlflow", "recsim_ng", "numpy"}
    assert not heavy & set(found["modules"])


def test_assets_join_the_five_in_order(dags: dict[str, Any]) -> None:
    outlets = {
        dag_id: {name for task in dag["tasks"].values() for name in task["outlets"]} for dag_id, dag in dags.items()
    }
    assert dags[CHAIN[0]]["schedule"] == "@daily"
    for before, after in itertools.pairwise(CHAIN):
        assert set(dags[after]["schedule"]) == outlets[before], f"{before} -> {after}"
        assert len(outlets[before]) == 1
    assert outlets[CHAIN[-1]] == {"recolam_model"}


@pytest.mark.parametrize("dag_id", CHAIN)
def test_outlets_belong_to_the_last_task(dags: dict[str, Any], dag_id: str) -> None:
    tasks = dags[dag_id]["tasks"]
    followed = {name for task in tasks.values() for name in task["upstream"]}
    assert {name for name, task in tasks.items() if task["outlets"]} == set(tasks) - followed


@pytest.mark.parametrize("dag_id", CHAIN)
def test_dag_settings(dags: dict[str, Any], dag_id: str) -> None:
    dag = dags[dag_id]
    assert dag["catchup"] is False
    assert dag["max_active_runs"] == 1
    assert "recolam" in dag["tags"]
    assert len(dag["tags"]) > 1
    assert "###" in dag["doc"]
    assert set(dag["tasks"]) == TASKS[dag_id]


@pytest.mark.parametrize("dag_id", CHAIN)
def test_every_task_retries_with_backoff_but_not_wrong_input(dags: dict[str, Any], dag_id: str) -> None:
    for name, task in dags[dag_id]["tasks"].items():
        assert task["retries"] >= 3, name
        assert task["retry_delay_s"] >= 60, name
        assert task["backoff"] > 1, name
        assert task["timeout_s"] > 0, name
        assert task["on_error"] == {
            "DataError": "fail",
            "ConfigError": "fail",
            "ArtifactError": "default",
            "OSError": "default",
        }, name


@pytest.mark.parametrize("dag_id", CHAIN)
def test_params_have_schemas_that_refuse(dags: dict[str, Any], dag_id: str) -> None:
    dag = dags[dag_id]
    assert dag["defaults"] == {"data": "demo", "format": "auto", "preset": "quick", "seed": 0, "home": None}
    assert all(schema for schema in dag["params"].values())
    assert set(dag["params"]["preset"]["enum"]) == set(presets.NAMES)
    assert dag["refused"] == dict.fromkeys(dag["defaults"], True)


def test_transfer_is_mapped_over_domains(dags: dict[str, Any]) -> None:
    assert dags["recolam_transfer"]["tasks"]["transfer"]["mapped"]
    assert dags["recolam_transfer"]["tasks"]["transfer"]["upstream"] == ["domains"]


def test_environment_gives_the_defaults(tmp_path: Path) -> None:
    found = describe(
        tmp_path, RECOLAM_DATA="/data/log.csv", RECOLAM_PRESET="full", RECOLAM_HOME="/srv/recolam", RECOLAM_SEED="7"
    )
    expected = {"data": "/data/log.csv", "format": "auto", "preset": "full", "seed": 7, "home": "/srv/recolam"}
    assert {dag_id: dag["defaults"] for dag_id, dag in found["dags"].items()} == dict.fromkeys(CHAIN, expected)
