"""Other libraries beside recolam: an environment of its own for each, and one process for each measurement."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from recolam.contracts.files import sha256_file
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.progress import say

SCRIPTS = Path(__file__).with_name("peer_scripts")
_MARKER = "recolam-complete"
_TAIL = 2000  # characters of another program's output that an error quotes


@dataclass(frozen=True)
class Peer:
    """A library to compare with; `requirements` pins it, `overrides` replaces what its packages declare."""

    name: str
    version: str
    requirements: Path
    overrides: Path | None = None


PEERS = (
    Peer("rectools", "0.19", SCRIPTS / "rectools.txt"),
    Peer("replay", "0.22", SCRIPTS / "replay.txt"),
)
RECSIM_NG = Peer("recsim-ng", "0.1.2", SCRIPTS / "recsim-ng.txt", SCRIPTS / "recsim-ng-overrides.txt")


@dataclass(frozen=True)
class Result:
    """What one process measured: seconds of each epoch and processor seconds of all its threads in each epoch.

    A trainer that counts its epochs together gives one number, their mean.
    """

    epoch_s: list[float]
    cpu_s: list[float]
    users: int
    tokens: int  # targets trained on in an epoch
    versions: dict[str, str]
    more: dict[str, Any]
    rank_Q: NDArray[np.int64] | None


def peer_python(peer: Peer, home: Home) -> Path:
    """The Python of the peer's environment `runs/peers/<name>-<version>`, made by uv on first use.

    The environment counts as made when its marker, written last, holds the digest of the requirements; anything else
    is removed and made anew.

    Raises:
        ConfigError: uv is missing, or cannot make the environment (the end of its output is quoted).
    """
    folder = home.runs / "peers" / f"{peer.name}-{peer.version}"
    python, marker = folder / "bin" / "python", folder / _MARKER
    pins = ["-r", str(peer.requirements), *(["--overrides", str(peer.overrides)] if peer.overrides else [])]
    digest = " ".join(sha256_file(file) for file in (peer.requirements, peer.overrides) if file)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if marker.is_file() and marker.read_text() == digest and python.exists():
            return python
        say(f"making the environment of {peer.name} {peer.version}")
        shutil.rmtree(folder, ignore_errors=True)
        _uv("venv", "--quiet", "--python", sys.executable, str(folder), peer=peer)
        _uv("pip", "install", "--quiet", "--python", str(python), *pins, peer=peer)
        marker.write_text(digest)
    return python


def measure(name: str, *, python: Path, task: Path, out: Path) -> Result:
    """Runs `run_<name>.py` on the task in a process of its own and reads what it wrote to `out`.

    Raises:
        ConfigError: the process failed; the end of its output is quoted.
    """
    found = run_script(f"run_{name}.py", python=python, task=task, out=out, what=f"bench pretrain: {name}")
    named = {key: found.pop(key) for key in ("epoch_s", "cpu_s", "users", "tokens", "versions")}
    ranks = out / "rank_Q.npy"
    return Result(**named, more=found, rank_Q=np.load(ranks) if ranks.is_file() else None)


def run_script(script: str, *, python: Path, task: Path, out: Path, what: str) -> dict[str, Any]:
    """Runs a script of `peer_scripts` on the task in a process of its own; what it wrote to `out`/result.json.

    It gets as many OpenMP threads as the task's settings say. Under this process's own Python it imports this recolam.

    Raises:
        ConfigError: the process failed; `what` failed, and the end of its output is quoted.
    """
    out.mkdir(parents=True)
    settings = json.loads((task / "settings.json").read_text())
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"OMP_NUM_THREADS": str(settings["threads"])}
    if python == Path(sys.executable):
        environment |= {"PYTHONPATH": str(SCRIPTS.parents[2])}  # the recolam that asks, not another installed one
    done = _run([str(python), str(SCRIPTS / script), str(task), str(out)], environment)
    if done.returncode:
        raise ConfigError(f"{what} ended with code {done.returncode}: {_tail(done)}")
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def _uv(*arguments: str, peer: Peer) -> None:
    beside = Path(sys.executable).with_name("uv")
    if beside.is_file():
        command = [str(beside)]
    elif importlib.util.find_spec("uv") is not None:
        command = [sys.executable, "-m", "uv"]
    else:
        raise ConfigError(f"{peer.name}: uv, which makes the environments of peers, is not installed in {sys.prefix}")
    done = _run([*command, *arguments], uv_environment(os.environ))
    if done.returncode:
        raise ConfigError(f"the environment of {peer.name} {peer.version} cannot be made: {_tail(done)}")


def uv_environment(environment: os._Environ[str] | dict[str, str]) -> dict[str, str]:
    """The environment for uv: pip's find-links, which uv does not read, separated by commas instead of spaces."""
    links = ",".join(environment.get("PIP_FIND_LINKS", "").split())
    return {**({"UV_FIND_LINKS": links} if links else {}), **environment}


def _run(command: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


def _tail(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr + done.stdout).strip()[-_TAIL:]
