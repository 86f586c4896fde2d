"""The MLflow database is there with all its tables or not at all."""

import signal
import subprocess
import sys

import pytest

from recolam.contracts.home import Home
from recolam.tracking import client, experiment_id

# Kills itself once MLflow's migrations have made a certain table.
KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from sqlalchemy.engine import Engine
from recolam.contracts.home import Home
from recolam.tracking import client

def kill(connection, cursor, statement, *rest):
    if f"CREATE TABLE {sys.argv[2]} " in statement:
        os.kill(os.getpid(), signal.SIGKILL)

event.listen(Engine, "after_cursor_execute", kill)
client(Home(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("table", ["registered_models", "webhooks"])
def test_killed_while_it_is_made_the_next_process_makes_it(home: Home, table: str) -> None:
    (home.mlruns / "mlflow.db").unlink()
    done = subprocess.run([sys.executable, "-c", KILLED, home.root, table], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    opened = client(home)
    assert opened.search_runs([experiment_id(home, opened)]) == []
    assert [path.name for path in home.mlruns.glob("*.partial*")] == []
