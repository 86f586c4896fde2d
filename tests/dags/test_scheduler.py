"""A real scheduler with LocalExecutor: one trigger of the first DAG, and the assets carry the rest."""

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.dags.conftest import AIRFLOW, environment

pytestmark = pytest.mark.slow

DOWNSTREAM = ["recolam_pretrain", "recolam_policy", "recolam_transfer", "recolam_evaluate_register"]
COMPONENTS = (["api-server"], ["scheduler", "--skip-serve-logs"], ["dag-processor"])


def wait_for(what: str, ask: Callable[[], Any], *, seconds: float) -> Any:
    """Asks every second until the answer is true, and returns it."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds} s for {what}")
        time.sleep(1)
    return answer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def component(command: list[str], variables: dict[str, str], log: Path) -> Iterator[None]:
    """One Airflow process in a group of its own, ended with its children whatever happens."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [AIRFLOW, *command], env=variables, stdout=stream, stderr=stream, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=30)


@pytest.fixture
def api(new_airflow_home: Callable[[], Path], tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of a running Airflow whose defaults point at data that does not exist."""
    airflow_home, port = new_airflow_home(), free_port()
    variables = environment(
        airflow_home,
        AIRFLOW__API__HOST="127.0.0.1",
        AIRFLOW__API__PORT=str(port),
        AIRFLOW__API__WORKERS="1",
        AIRFLOW__API_AUTH__JWT_SECRET=secrets.token_hex(64),
        AIRFLOW__CORE__EXECUTION_API_SERVER_URL=f"http://127.0.0.1:{port}/execution/",
        AIRFLOW__CORE__EXECUTOR="LocalExecutor",
        AIRFLOW__CORE__PARALLELISM="2",
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
        RECOLAM_DATA=str(tmp_path / "absent.csv"),
        RECOLAM_HOME=str(tmp_path / "scheduled"),
        RECOLAM_PRESET="tiny",
    )
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
        for command in COMPONENTS:
            stack.enter_context(component(command, variables, tmp_path / f"{command[0]}.log"))
        wait_for("Airflow", lambda: is_healthy(client), seconds=180)
        client.headers["Authorization"] = f"Bearer {client.get('/auth/token').json()['access_token']}"
        wait_for("five DAGs", lambda: get(client, "/api/v2/dags")["total_entries"] == 5, seconds=120)
        yield client


def is_healthy(client: httpx.Client) -> bool:
    try:
        health = client.get("/api/v2/monitor/health").json()
    except httpx.TransportError:
        return False
    return all(health[part]["status"] == "healthy" for part in ("metadatabase", "scheduler", "dag_processor"))


def get(client: httpx.Client, path: str) -> Any:
    return client.get(path).raise_for_status().json()


def runs(client: httpx.Client, dag_id: str) -> dict[str, str]:
    """The state of the latest run of each type, by run type."""
    found = get(client, f"/api/v2/dags/{dag_id}/dagRuns?order_by=run_after")["dag_runs"]
    return {run["run_type"]: run["state"] for run in found}


def unpause(client: httpx.Client, dag_id: str) -> None:
    client.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": False}).raise_for_status()


def test_one_trigger_carries_through_to_a_registered_model(api: httpx.Client, tmp_path: Path) -> None:
    home = tmp_path / "home"
    trigger = "/api/v2/dags/recolam_ingest/dagRuns"
    refused = api.post(trigger, json={"logical_date": None, "conf": {"preset": "enormous"}})
    assert refused.status_code == 400
    assert "enormous" in refused.text
    for dag_id in [*DOWNSTREAM, "recolam_ingest"]:
        unpause(api, dag_id)
    # Unpausing starts the daily run, with the deployment's defaults: their missing file must fail without a retry,
    # since the next run waits for it.
    conf = {"data": "demo", "preset": "tiny", "home": str(home), "seed": 5}
    api.post(trigger, json={"logical_date": None, "conf": conf}).raise_for_status()
    wait_for("the daily run's failure", lambda: runs(api, "recolam_ingest").get("scheduled") == "failed", seconds=240)
    wait_for("ingest", lambda: finished(api, "recolam_ingest", "manual"), seconds=240)
    for dag_id in DOWNSTREAM:
        wait_for(dag_id, lambda dag_id=dag_id: finished(api, dag_id, "asset_triggered"), seconds=360)
    assert list((home / "runs").rglob("summary.json"))
    tries = get(api, "/api/v2/dags/recolam_ingest/dagRuns/~/taskInstances?state=failed")["task_instances"]
    assert [(task["task_id"], task["try_number"], task["max_tries"]) for task in tries] == [("ingest", 1, 3)]


def finished(client: httpx.Client, dag_id: str, run_type: str) -> bool:
    state = runs(client, dag_id).get(run_type)
    assert state != "failed", f"{dag_id} failed"
    return state == "success"
