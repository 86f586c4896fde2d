"""Fixtures for all rooms."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from recolam import cli
from recolam.contracts.home import Home
from recolam.threads import wait_passively

RECOLAM = Path(sys.executable).with_name("recolam")


@dataclass(frozen=True)
class FinishedRun:
    """A `recolam run` that is over."""

    home: Home
    stdout: str
    stderr: str

    @property
    def summary_path(self) -> Path:
        return Path(self.stdout.splitlines()[-1])

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads(self.summary_path.read_text())

    @property
    def digests(self) -> dict[str, str]:
        """Each stage's digest."""
        return {name: stage["digest"] for name, stage in self.summary["stages"].items()}

    def artifact(self, stage: str) -> Path:
        return Path(self.summary["stages"][stage]["path"])


class Outcome(NamedTuple):
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def run_recolam(*arguments: str | Path) -> Outcome:
    """Runs the console script in a process of its own."""
    command = [str(RECOLAM), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    return Outcome(done.returncode, done.stdout, done.stderr)


wait_passively()  # before any test imports torch


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real logs, which not every environment has."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real logs (../shared/data) are not in this environment")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home of its own for every test."""
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; copied, it spares every test the migration."""
    from recolam.tracking import client

    home = Home(tmp_path_factory.mktemp("migrated"))
    client(home)
    return home.mlruns / "mlflow.db"


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`recolam run --preset tiny` on the demo world, by the console script, in a home with spaces in its path.

    All tests share it: leave its artifacts, tables and model versions as they are.
    """
    home = Home(tmp_path_factory.mktemp("tiny") / "a home, with spaces")
    done = run_recolam("run", "--preset", "tiny", "--home", home.root)
    assert done.code == 0, done.err
    return FinishedRun(home, done.out, done.err)


@pytest.fixture
def recolam(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs the command line in this process: much faster than the console script, which does the same."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["recolam", *map(str, arguments)])
        code: Any = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        return Outcome(code, *capsys.readouterr())

    return run
