"""Kills processes: before every single change they make to files, or when they have said a certain thing.

The work runs in forks of a fresh process that has only imported what the work needs, so that a fork costs
milliseconds and shares no thread or lock with the tests.
"""

import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "open"}  # names of audit events


def kill_before_every_change(module: str, root: Path) -> list[Path]:
    """Runs `module.prepare(folder)`, then `module.work(folder)` killed before its first change to files; then, in
    another folder, before its second; and so on until it survives.

    Returns:
        The folders as the kills left them, in order; the work survived in the last one.
    """
    names = [name for name, _ in _drive("changes", [module, str(root)])]
    assert len(names) > 5, "the work changes hardly anything"
    return [root / name for name in names]


def kill_recolam_when_it_says(patterns: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """Runs `recolam ARGUMENTS` once for each pattern, and kills it when a line on its stderr matches the pattern.

    Returns:
        All that the runs wrote on stderr, by run.
    """
    return [log for log, _ in _drive("lines", [json.dumps(list(patterns)), json.dumps(list(arguments))])]


def _drive(what: str, arguments: list[str]) -> list[tuple[str, int]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.killing", what, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _kill_at_changes(module: str, root: str) -> list[tuple[str, int]]:
    scenario, outcomes = importlib.import_module(module), []
    for moment in itertools.count(1):
        folder = Path(root) / f"{moment:03d}"
        folder.mkdir(parents=True)
        scenario.prepare(folder)
        pid = _fork(lambda folder=folder, moment=moment: _work(scenario.work, folder, moment))
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        outcomes.append((folder.name, status))
        if status == 0:
            return outcomes
        assert status == -signal.SIGKILL, f"the work failed with exit code {status} at change {moment}"
    raise AssertionError


def _work(work: Callable[[Path], object], folder: Path, moment: int) -> None:
    changes = itertools.count(1)

    def count() -> None:
        if next(changes) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, details: tuple[Any, ...]) -> None:
        if event in CHANGES and (event != "open" or details[2] & (os.O_WRONLY | os.O_RDWR)):
            count()

    fsync = os.fsync
    os.fsync = lambda stream: (count(), fsync(stream))[1]  # type: ignore[assignment]  # it raises no audit event
    sys.addaudithook(hook)
    work(folder)


def _kill_at_lines(patterns: str, arguments: str) -> list[tuple[str, int]]:
    from recolam.tracking import safe_mlflow

    safe_mlflow()
    for stage in ("logs", "features", "pretrain", "world", "policy", "transfer", "evaluate", "register"):
        importlib.import_module(f"recolam.{stage}.stage")
    return [_kill_when(re.compile(pattern), json.loads(arguments)) for pattern in json.loads(patterns)]


def _kill_when(pattern: re.Pattern[str], arguments: list[str]) -> tuple[str, int]:
    from recolam import cli

    reading, writing = os.pipe()

    def run() -> None:
        os.dup2(writing, 2)
        sys.argv = ["recolam", *arguments]
        cli.main()

    pid = _fork(run)
    os.close(writing)
    said = []
    with open(reading, errors="replace") as stream:
        for line in stream:
            said.append(line)
            if pattern.search(line):
                os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == -signal.SIGKILL, f"not killed at {pattern.pattern!r}, exit code {status}: {''.join(said)}"
    return "".join(said), status


def _fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:  # an exception: print it, and do not go on as a second driver
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(1)
    return pid


if __name__ == "__main__":
    outcomes = {"changes": _kill_at_changes, "lines": _kill_at_lines}[sys.argv[1]](*sys.argv[2:])
    print(json.dumps(outcomes))
