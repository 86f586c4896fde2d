"""The whole chain on the demo world: DAG by DAG with `airflow dags test`, then as `make run` does it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dags.conftest import AIRFLOW, ROOT, environment

CHAIN = ["recolam_ingest", "recolam_pretrain", "recolam_policy", "recolam_transfer", "recolam_evaluate_register"]
STAGES = {"demo", "ingest", "features", "pretrain", "world", "policy", "evaluate", "register"}
SEED = 5

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished_home(tmp_path_factory: pytest.TempPathFactory, new_airflow_home: Callable[[], Path]) -> Path:
    """A recolam home in which every DAG of the chain has run once by `airflow dags test`."""
    home, variables = tmp_path_factory.mktemp("home"), environment(new_airflow_home(), RECOLAM_RETRIES="0")
    conf = json.dumps({"data": "demo", "preset": "tiny", "home": str(home), "seed": SEED})
    for dag_id in CHAIN:
        done = subprocess.run(
            [AIRFLOW, "dags", "test", dag_id, "--conf", conf],
            env=variables,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{dag_id}\n{(done.stdout + done.stderr)[-4000:]}"
    return home


def summary_path(home: Path) -> Path:
    (path,) = (home / "runs").rglob("summary.json")
    return path


def read_summary(home: Path) -> dict[str, Any]:
    return json.loads(summary_path(home).read_text())


def test_dags_test_runs_the_chain_to_a_registered_model(finished_home: Path) -> None:
    summary = read_summary(finished_home)
    assert set(summary["stages"]) >= STAGES
    assert all((Path(stage["path"]) / "manifest.json").is_file() for stage in summary["stages"].values())
    assert summary["transfer"], "the demo world has a second domain"
    assert summary["model"]["name"] == "recolam-slate-policy"
    assert Path(summary["report"]).is_file()


def test_run_chain_reuses_what_is_there_and_prints_the_outcome(finished_home: Path) -> None:
    before = read_summary(finished_home)
    command = [
        sys.executable,
        ROOT / "dags" / "run_chain.py",
        "--home",
        finished_home,
        "--preset",
        "tiny",
        "--seed",
        str(SEED),
    ]
    variables = environment(finished_home / ".airflow")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    assert lines[-1] == str(summary_path(finished_home))
    assert lines[-4] == f"report: {before['report']}"
    assert re.match(r"champion: (recolam-slate-policy version \d+|none yet)[,;] this run's", lines[-3])
    assert re.match(r"results: NDCG@10 0\.\d+", lines[-2])
    after = read_summary(finished_home)
    trained = ("pretrain", "world", "policy")
    assert {name: after["stages"][name]["digest"] for name in trained} == {
        name: before["stages"][name]["digest"] for name in trained
    }
