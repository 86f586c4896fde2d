"""Two real processes train as one does: the same losses, validations and weights, with DDP and with FSDP2."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recolam import pipeline
from recolam.contracts.artifact import Artifact, open_artifact
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.sequence.distributed import Processes, process_group

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RICH = {"tasks": {"rating": 0.3}, "average": 0.9, "schedule": "cosine", "patience": 1, "epochs": 8}
JOBS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"training": {"distributed": "fsdp"}},
    "ddp-rich": {"training": RICH, "model": {"time": "gaps"}},
    "fsdp-rich": {"training": {**RICH, "distributed": "fsdp"}, "model": {"time": "gaps"}},
    "fsdp-llama": {"training": {"distributed": "fsdp", "freeze": "all-but-top-1"}, "model": {"backbone": "llama"}},
}
# Dropout draws other numbers in each process: these are compared with themselves, and bit by bit.
BROKEN: dict[str, dict[str, Any]] = {
    "ddp-broken": {"training": {"average": 0.9}, "model": {"dropout": 0.2}},
    "fsdp-broken": {"training": {"average": 0.9, "distributed": "fsdp"}, "model": {"dropout": 0.2}},
}


@dataclass(frozen=True)
class Trained:
    """What one process left of a job."""

    weights: dict[str, torch.Tensor]
    curves: dict[str, list[list[float]]]
    epochs: int
    best: list[float]

    def curve(self, name: str) -> np.ndarray:
        return np.array(self.curves[name])


def read(folder: Path, name: str, *, rank: int = 0) -> Trained:
    told = json.loads((folder / f"{name}.{rank}.json").read_text())
    return Trained(load_file(folder / f"{name}.{rank}"), **told)


def python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def train(out: Path, jobs: dict[str, dict[str, Any]], *, processes: int) -> subprocess.CompletedProcess[str]:
    out.mkdir(exist_ok=True)
    launcher = TORCHRUN if processes == 2 else []
    named = json.dumps([{"name": name, **job} for name, job in jobs.items()])
    return python(*launcher, "-m", "tests.sequence.distributed_training", named, out)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs in one process."""
    out = tmp_path_factory.mktemp("alone")
    done = train(out, JOBS, processes=1)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All jobs, and those of which others are killed, in two processes without a break."""
    out = tmp_path_factory.mktemp("together")
    done = train(out, JOBS | BROKEN, processes=2)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_two_processes_learn_what_one_learns(alone: Path, together: Path, name: str) -> None:
    one = read(alone, name)
    for rank in (0, 1):
        two = read(together, name, rank=rank)
        assert two.curves.keys() == one.curves.keys()
        for curve in one.curves:
            np.testing.assert_allclose(two.curve(curve), one.curve(curve), rtol=1e-4, err_msg=curve)
        assert (two.epochs, two.best[0]) == (one.epochs, one.best[0])
        for part, value in one.weights.items():
            torch.testing.assert_close(two.weights[part], value, rtol=1e-4, atol=2e-5, msg=part)


@pytest.mark.slow
def test_the_jobs_exercise_what_they_are_there_for(alone: Path) -> None:
    """Equal curves of a model that learns nothing, or of an early stop that never came, would show little."""
    plain, rich, frozen = (read(alone, name) for name in ("ddp", "ddp-rich", "fsdp-llama"))
    losses = plain.curve("every_loss")[:, 1]
    assert losses[-6:].mean() < 0.95 * losses[:6].mean()
    assert rich.epochs < RICH["epochs"]  # type: ignore[operator]
    assert "rating.accuracy" in rich.curves
    assert any(name.startswith("classifiers.rating") for name in rich.weights)
    start = read(alone, "fsdp-llama").weights["start"]
    assert torch.equal(start, torch.zeros_like(start))  # frozen, unlike in the plain job
    assert not torch.equal(plain.weights["start"], torch.zeros_like(plain.weights["start"]))
    assert frozen.curve("every_loss")[-1, 1] < frozen.curve("every_loss")[0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_killed_processes_resume_to_the_same_weights(together: Path, tmp_path: Path, name: str) -> None:
    killed = train(tmp_path, {name: {**BROKEN[name], "kill": 10}}, processes=2)
    assert killed.returncode != 0
    checkpoint = tmp_path / f"{name}.scratch" / "checkpoint"
    assert json.loads((checkpoint / "state.json").read_text())["state"]["step"] == 8
    shutil.copytree(tmp_path, tmp_path / "one")
    resumed = train(tmp_path, {name: BROKEN[name]}, processes=2)
    assert resumed.returncode == 0, resumed.stderr
    for rank in (0, 1):
        whole, again = (read(folder, name, rank=rank) for folder in (together, tmp_path))
        assert again.curves == whole.curves
        assert all(torch.equal(value, again.weights[part]) for part, value in whole.weights.items())
    # A checkpoint is that of one process: with another number of them, only the later draws of dropout differ.
    other = train(tmp_path / "one", {name: BROKEN[name]}, processes=1)
    assert other.returncode == 0, other.stderr
    losses, before = (read(folder, name).curve("every_loss") for folder in (tmp_path / "one", together))
    np.testing.assert_array_equal(losses[:8], before[:8])
    assert len(losses) == len(before)
    assert abs(losses[8, 1] / before[8, 1] - 1.0) < 0.1


@pytest.mark.slow
def test_out_of_memory_in_one_process_ends_all_with_advice(tmp_path: Path) -> None:
    done = train(tmp_path, {"ddp": {"fail": True}}, processes=2)
    assert done.returncode != 0
    assert "ConfigError: out of memory in process 1 of 2 at 6 windows" in done.stderr
    assert "smaller batch_size" in done.stderr


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The demo log's dataset in a home of its own."""
    home = Home(tmp_path_factory.mktemp("distributed") / "home")
    plan = pipeline.make_plan(preset="tiny", home=str(home.root))
    for stage in ("demo", "ingest", "features"):
        pipeline.run_stage(plan, stage, is_tracked=False)
    return open_artifact(json_path(plan, "features"))


def json_path(plan: pipeline.Plan, slot: str) -> Path:
    return plan.pointers.parent / json.loads(plan.pointers.read_text())[slot]


@pytest.mark.slow
def test_the_command_makes_one_artifact(features: Artifact, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"dropout": 0.0, "training": {"epochs": 2, "precision": "float32"}}')

    def command(home: str) -> list[str]:
        options = ["--input", f"features={features.path}", "--config", str(tmp_path / "settings.json")]
        return ["-m", "recolam", "pretrain", "--preset", "tiny", *options, "--home", str(tmp_path / home)]

    one, two = python(*command("one")), python(*TORCHRUN, *command("two"))
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    made = [open_artifact(done.stdout.removesuffix("\n"), stage="pretrain") for done in (one, two)]  # one line each
    assert {path.name for path in made[1].path.parent.iterdir() if path.is_dir()} == {made[1].path.name}
    assert made[0].path.name == made[1].path.name
    assert made[1].metrics.items() >= {"processes": 2, "steps": made[0].metrics["steps"]}.items()
    assert "processes" not in made[0].metrics
    curves = [artifact.json("curves.json") for artifact in made]
    for name in curves[0]:
        np.testing.assert_allclose(curves[1][name], curves[0][name], rtol=1e-4)
    assert two.stderr.count("== pretrain\n") == 1
    with closing(sqlite3.connect(tmp_path / "two" / "mlruns" / "mlflow.db")) as database:
        assert database.execute("select count(*) from runs").fetchone() == (1,)

    again = python(*TORCHRUN, *command("two"))
    assert (again.returncode, again.stdout) == (0, two.stdout), again.stderr
    assert "== pretrain: unchanged" in again.stderr

    weights = made[1].path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    damaged = python(*TORCHRUN, *command("two"))  # the first process alone reads it, and the other one must not wait
    assert damaged.returncode != 0
    assert "changed since it was written" in damaged.stderr
    assert damaged.stdout == ""


def test_other_stages_refuse_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    plan = pipeline.make_plan(preset="tiny", home=str(tmp_path))
    with pytest.raises(ConfigError, match="demo runs in one process; torchrun started 2"):
        pipeline.run_stage(plan, "demo")
    with pytest.raises(ConfigError, match="there is no RANK: start by torchrun"), process_group("cpu"):
        pass
    assert not any(tmp_path.rglob("manifest.json"))


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_shares_hold_every_query_and_are_equally_long(size: int, count: int) -> None:
    shares = [Processes(rank, size).share(count) for rank in range(size)]
    assert {len(share) for share in shares} == {-(-count // size)}
    assert {int(query) for share in shares for query in share} == set(range(count))
    for rank, share in enumerate(shares):
        own = range(rank, count, size)
        assert share[: len(own)].tolist() == list(own)
