"""An Airflow home for each test: SQLite, the repository's DAG files, no examples."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
AIRFLOW = Path(sys.executable).with_name("airflow")


def environment(airflow_home: Path, **settings: str) -> dict[str, str]:
    """This process's environment without its own Airflow and recolam settings, pointed at `airflow_home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "RECOLAM"))}
    return {
        **kept,
        "AIRFLOW_HOME": str(airflow_home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        **settings,
    }


@pytest.fixture(scope="session")
def migrated_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, for `new_airflow_home` to copy; nothing runs in it."""
    home = tmp_path_factory.mktemp("airflow")
    command = [AIRFLOW, "db", "migrate"]
    subprocess.run(command, env=environment(home), check=True, capture_output=True, timeout=300)
    return home


@pytest.fixture(scope="session")
def new_airflow_home(migrated_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes Airflow homes with a migrated, empty database."""

    def make() -> Path:
        home = tmp_path_factory.mktemp("airflow")
        shutil.copy(migrated_home / "airflow.db", home / "airflow.db")
        return home

    return make
