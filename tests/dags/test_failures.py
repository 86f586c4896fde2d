"""Which failures are tried again, and what the person sees: by `airflow dags test` and by `run_chain.py`."""

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.dags.conftest import AIRFLOW, ROOT, environment


def task_rows(airflow_home: Path) -> dict[str, tuple[str, int, int]]:
    """Each task's (state, try_number, max_tries) in an Airflow home's database."""
    with closing(sqlite3.connect(f"file:{airflow_home}/airflow.db?mode=ro", uri=True)) as connection:
        rows = connection.execute("select task_id, state, try_number, max_tries from task_instance").fetchall()
    return {task_id: (state, tries, most) for task_id, state, tries, most in rows}


def dags_test_command(dag_id: str, **params: str | int) -> list[str]:
    return [str(AIRFLOW), "dags", "test", dag_id, "--conf", json.dumps(params)]


def test_missing_data_fails_at_the_first_try(new_airflow_home: Callable[[], Path], tmp_path: Path) -> None:
    airflow_home = new_airflow_home()
    command = dags_test_command("recolam_ingest", data=str(tmp_path / "absent.csv"), home=str(tmp_path), preset="tiny")
    done = subprocess.run(command, env=environment(airflow_home), capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "absent.csv" in done.stdout + done.stderr
    assert task_rows(airflow_home)["ingest"] == ("failed", 1, 3)


def test_other_failures_wait_for_a_retry(new_airflow_home: Callable[[], Path], tmp_path: Path) -> None:
    airflow_home = new_airflow_home()
    command = dags_test_command("recolam_pretrain", home=str(tmp_path / "empty"), preset="tiny")
    process = subprocess.Popen(
        command, env=environment(airflow_home), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(240):
            state = task_rows(airflow_home).get("pretrain", ("absent", 0, 0))[0]
            if state in ("up_for_retry", "failed", "success"):
                break
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait(timeout=30)
    assert state == "up_for_retry"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["--data", "absent.csv"], 2, "absent.csv"),
        (["--preset", "enormous"], 2, "enormous"),
        (["--no-such-option"], 2, "--no-such-option"),
    ],
)
def test_run_chain_reports_wrong_input(tmp_path: Path, arguments: list[str], exit_code: int, message: str) -> None:
    command = [sys.executable, ROOT / "dags" / "run_chain.py", "--home", tmp_path / "home", *arguments]
    kept = {name: value for name, value in environment(tmp_path).items() if not name.startswith("AIRFLOW")}
    done = subprocess.run(command, env=kept, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == exit_code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("summary.json"))
