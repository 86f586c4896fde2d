"""Two real processes learn the policy that one learns, bit for bit, and go on from each other's checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recolam.contracts.artifact import open_artifact
from recolam.errors import ConfigError
from recolam.sequence.distributed import Processes
from tests.conftest import FinishedRun

ROOT = Path(__file__).resolve().parents[2]
JOBS: dict[str, dict[str, Any]] = {
    "reinforce": {},
    "ppo": {"training": {"estimator": "ppo", "patience": 9}},
    "pl_rank": {"training": {"estimator": "pl_rank"}},
    "autoregressive": {"is_autoregressive": True},
}


def python(*arguments: str | Path, processes: int) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def train(out: Path, jobs: dict[str, dict[str, Any]], *, processes: int) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    named = json.dumps([{"name": name, **job} for name, job in jobs.items()])
    return python("-m", "tests.policy.distributed_policy", named, out, processes=processes)


def assert_same(first: Path, second: Path, name: str, *, ranks: int) -> None:
    one = load_file(first / f"{name}.0")
    for rank in range(ranks):
        assert (second / f"{name}.{rank}.json").read_text() == (first / f"{name}.0.json").read_text()
        other = load_file(second / f"{name}.{rank}")
        assert all(torch.equal(value, other[part]) for part, value in one.items())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs in one process."""
    out = tmp_path_factory.mktemp("alone")
    done = train(out, JOBS, processes=1)
    assert done.returncode == 0, done.stderr
    curves = json.loads((out / "reinforce.0.json").read_text())
    assert curves["validation_return"][-1][1] > curves["validation_return"][0][1]  # something was learnt
    return out


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(alone: Path, tmp_path: Path) -> None:
    done = train(tmp_path, JOBS, processes=2)
    assert done.returncode == 0, done.stderr
    for name in JOBS:
        assert_same(alone, tmp_path, name, ranks=2)
    assert done.stderr.count("6/6 iterations") == len(JOBS)  # the first process alone reports


@pytest.mark.slow
def test_killed_processes_resume_in_any_number(alone: Path, tmp_path: Path) -> None:
    killed = train(tmp_path, {"reinforce": {"kill": 5}}, processes=2)
    assert killed.returncode != 0
    state = json.loads((tmp_path / "reinforce.scratch" / "checkpoint" / "state.json").read_text())["state"]
    assert state["iteration"] == 4
    shutil.copytree(tmp_path, tmp_path / "one")
    for folder, processes in ((tmp_path, 2), (tmp_path / "one", 1)):
        done = train(folder, {"reinforce": {}}, processes=processes)
        assert done.returncode == 0, done.stderr
        assert_same(alone, folder, "reinforce", ranks=processes)


@pytest.mark.slow
def test_the_command_makes_the_artifact_of_one_process(tiny_run: FinishedRun, tmp_path: Path) -> None:
    inputs = [f"--input={name}={tiny_run.artifact(name)}" for name in ("pretrain", "world", "features")]
    home = ["--preset", "tiny", "--home", str(tmp_path / "home")]
    done = python("-m", "recolam", "policy", *inputs, *home, processes=2)
    assert done.returncode == 0, done.stderr
    one, two = open_artifact(tiny_run.artifact("policy")), open_artifact(done.stdout.strip(), stage="policy")
    assert one.path.name == two.path.name
    curves = [artifact.json("curves.json") for artifact in (one, two)]
    assert curves[0].keys() == curves[1].keys()
    for name in curves[0]:
        np.testing.assert_allclose(curves[1][name], curves[0][name], rtol=1e-3, atol=1e-6, err_msg=name)
    assert two.metrics["returns"]["random"] == one.metrics["returns"]["random"]


def test_shards_that_cannot_be_dealt_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 shards cannot be dealt to 3 processes"):
        Processes(rank=1, size=3).own_blocks(4)
    assert [list(Processes(rank, 2).own_blocks(4)) for rank in (0, 1)] == [[0, 1], [2, 3]]
