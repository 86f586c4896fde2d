"""A search over a known function, and a program that kills it before chosen writes to its databases."""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recolam.contracts.home import Home
from recolam.tracking import safe_mlflow
from recolam.tune.space import parse_space
from recolam.tune.study import Report, SearchConfig, SearchResult, search
from tests.databases import home_with_database

SPACE = parse_space(
    {"x": {"low": -5, "high": 5}, "n": {"low": 0, "high": 9, "int": True}, "c": ["a", "b"]}, where="test"
)
STEPS = 4


def height(values: Mapping[str, Any], report: Report) -> float:
    """Highest, 0, at x = 2, n = 7, c = b; the curve climbs towards the value."""
    value = -((values["x"] - 2) ** 2) - (values["n"] - 7) ** 2 / 5 - (values["c"] != "b")
    for step in range(1, STEPS + 1):
        report(step, value - 1 / step)
    return value


def climb(home: Home, *, trials: int, objective: Any = height, **settings: Any) -> SearchResult:
    config = SearchConfig(**{"trials": trials, "pruning_trials": 2, "pruning_steps": 2, **settings})
    return search(objective, SPACE, config, study="toy", home=home, identity={"of": "toy"}, metric="height")


def _killed_at(home: Home, moment: int, *, trials: int) -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    writes = 0

    def before(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        nonlocal writes
        writes += statement.lstrip()[:6].upper() in ("INSERT", "UPDATE", "DELETE")
        if writes == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", before)
    climb(home, trials=trials)


def main(root: str, migrated: str, trials: str, moments: str) -> None:
    """Runs the search once for each moment, in a fork that dies before its moment-th write; prints the exit codes."""
    safe_mlflow()
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - imported once, for all forks

    codes = []
    for moment in json.loads(moments):
        home = home_with_database(Path(root) / str(moment), Path(migrated))
        pid = os.fork()
        if pid == 0:
            try:
                _killed_at(home, moment, trials=int(trials))
                os._exit(0)
            finally:
                sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
                os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    print(json.dumps(codes))


if __name__ == "__main__":
    main(*sys.argv[1:])
