"""Reads the imports of every source file and keeps the house's rules: who may import whom, and what nobody may.

Rooms import downwards only. Lazy imports inside functions count; imports under `if TYPE_CHECKING:` count for rooms
but not for libraries, since they load nothing.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 350

# Each room may import the rooms of the rows above its own. Rooms of one row do not import each other but for LOADERS.
ROWS = [
    ["errors", "seeding", "progress", "threads", "memory"],
    ["intervals"],
    ["contracts", "presets"],
    ["tracking"],
    ["logs"],
    ["features"],
    ["sequence"],
    ["pretrain", "world", "policy", "transfer", "evaluate", "register"],
    ["pipeline"],
    ["tune", "show"],
    ["bench", "options"],
    ["cli", "dags"],
    ["__main__"],
]
LEVELS = {room: level for level, row in enumerate(ROWS) for room in row}
STAGE_ORDER = next(row for row in ROWS if "pretrain" in row)

# What a later stage may import of an earlier one: the modules that open its artifact, the maths of its users' choice,
# and no training code.
LOADERS = {
    "recolam.world.learnt_reward",
    "recolam.world.runtime",
    "recolam.world.assortment",
    "recolam.world.environment",
    "recolam.world.fitted",
    "recolam.world.saved",
    "recolam.policy.agent",
    "recolam.policy.constraints",
    "recolam.policy.distribution",
    "recolam.policy.exposure",
    "recolam.policy.recommend",
    "recolam.policy.plackett_luce",
    "recolam.policy.returns",
    "recolam.policy.rules",
}
TRACKING_USERS = {"register", "pipeline", "tune", "cli"}

# Library -> the only rooms that may import it.
ONLY_IN = {
    "recsim_ng": {"world"},
    "gymnasium": {"world"},
    "mlflow": {"tracking", "register"},
    "optuna": {"tune"},
    "airflow": {"dags"},
    "peft": {"transfer"},
}
# Room -> the libraries it does without.
TABLES = frozenset({"polars", "pandas", "deltalake", "dataframely", "mlflow"})
NETWORKS = frozenset({"torch", "transformers"})
NOT_IN = {
    **dict.fromkeys(["errors", "seeding", "progress", "contracts", "tracking", "logs", "features"], NETWORKS),
    **dict.fromkeys(["sequence", "pretrain", "world", "policy", "transfer"], TABLES),
}
# Files that depart from a rule, each for a reason.
EXCEPTIONS = {
    ("recolam/seeding.py", "torch"),  # inside the one function that makes a torch generator
    ("recolam/bench/peer_scripts/recsim_story.py", "recsim_ng"),  # runs in the stock package's own environment
    ("recolam/cli.py", "except Exception"),  # the outermost handler: what nobody foresaw ends with exit code 1
}
PICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# Unfinished work, and paths that exist on one machine only.
FORBIDDEN_TEXT = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|(?<![\w.])/(work|tmp|home|root|Users)/|\.\./shared")


@dataclass(frozen=True)
class Import:
    """One imported module and its line; `lazy` inside a function, `typing` under `if TYPE_CHECKING:`."""

    module: str
    line: int
    lazy: bool
    typing: bool


def imports(tree: ast.AST, *, lazy: bool = False, typing: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (Import(f"{base}.{alias.name}", node.lineno, lazy, typing) for alias in node.names)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from imports(ast.Module(node.body, []), lazy=lazy, typing=True)
            yield from imports(ast.Module(node.orelse, []), lazy=lazy, typing=typing)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, lazy=lazy or inside, typing=typing)


def room_of(module_or_path: str) -> str:
    """The room of `recolam.world.fitted`, `recolam/world/fitted.py` or `dags/run_chain.py`; "" for recolam itself."""
    parts = module_or_path.removesuffix(".py").replace("/", ".").split(".")
    if parts[0] == "dags":
        return "dags"
    return parts[1] if len(parts) > 1 and parts[1] in LEVELS else ""


def check(path: str, source: str) -> list[str]:
    """The rules that a file breaks. `path` is relative to the repository, with slashes."""
    problems = []
    if (lines := source.count("\n")) > MAX_LINES:
        problems.append(f"{path}: {lines} lines, more than {MAX_LINES}")
    problems += [
        f"{path}:{number}: forbidden text {match[0]!r}"
        for number, line in enumerate(source.splitlines(), start=1)
        if (match := FORBIDDEN_TEXT.search(line))
    ]
    tree = ast.parse(source, filename=path)
    problems += [f"{path}:{line}: {what}" for line, what in _bad_statements(tree) if (path, what) not in EXCEPTIONS]
    for item in imports(tree):
        reason = _bad_room(path, item) if item.module.startswith("recolam.") else _bad_library(path, item)
        if reason:
            problems.append(f"{path}:{item.line}: imports {item.module}: {reason}")
    return problems


def _bad_statements(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
            yield node.lineno, f"{ast.unparse(node)} reads or writes pickles"
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield node.value.lineno, "allow_pickle"
        if isinstance(node, ast.ExceptHandler):
            caught = "" if node.type is None else ast.unparse(node.type)
            if caught in ("", "Exception", "BaseException"):
                yield node.lineno, f"except {caught}".strip()


def _bad_room(path: str, item: Import) -> str:
    importer, imported = room_of(path), room_of(item.module)
    if importer == imported or not imported:
        return ""
    if not importer:
        return f"{path} belongs to no room of LEVELS"
    if importer == "dags" and not item.lazy and imported in ("logs", "features", "sequence", *STAGE_ORDER):
        return "a DAG file must be quick to parse"
    if imported == "tracking" and importer not in TRACKING_USERS:
        return f"only {', '.join(sorted(TRACKING_USERS))} track"
    if LEVELS[imported] < LEVELS[importer]:
        return ""
    is_loader = any(item.module == loader or item.module.startswith(loader + ".") for loader in LOADERS)
    if importer in STAGE_ORDER and imported in STAGE_ORDER[: STAGE_ORDER.index(importer)]:
        return "" if is_loader else f"{importer} may load {imported}'s artifact, with one of {sorted(LOADERS)}"
    return f"{importer} may not import {imported}"


def _bad_library(path: str, item: Import) -> str:
    room, library = room_of(path), item.module.split(".")[0]
    if not library:
        return "relative import"
    if library in PICKLERS:
        return "can run code when it loads"
    if item.typing or (path, library) in EXCEPTIONS:
        return ""
    if room not in ONLY_IN.get(library, {room}):
        return f"only in {', '.join(sorted(ONLY_IN[library]))}"
    if library in NOT_IN.get(room, frozenset()):
        return f"not in {room}"
    light = library in sys.stdlib_module_names or library in ("airflow", "recolam_tasks")
    if path.startswith("dags/recolam_") and not light:
        return "a DAG file imports airflow.sdk, recolam_tasks and the standard library"
    if path.startswith("dags/recolam_") and library == "airflow" and not item.module.startswith("airflow.sdk"):
        return "a DAG file imports Airflow's public interface, airflow.sdk"
    return ""


def source_files() -> list[str]:
    found = [path for room in ("recolam", "dags") for path in (ROOT / room).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


@pytest.mark.parametrize("path", source_files())
def test_file_keeps_the_rules(path: str) -> None:
    problems = check(path, (ROOT / path).read_text())
    assert not problems, "\n".join(problems)


def test_every_room_is_known() -> None:
    rooms = {
        path.stem for path in (ROOT / "recolam").iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert rooms - {"__init__"} <= set(LEVELS)


@pytest.mark.parametrize(
    ("path", "source", "message"),
    [
        ("recolam/contracts/x.py", "from recolam.sequence.model import A", "contracts may not import sequence"),
        ("recolam/contracts/x.py", "from recolam import pipeline", "contracts may not import pipeline"),
        ("recolam/world/x.py", "def f():\n    import recolam.policy.agent", "world may not import policy"),
        ("recolam/policy/x.py", "from recolam.world import fitting", "policy may load world's artifact"),
        ("recolam/policy/x.py", "import recolam.tracking", "only cli, pipeline, register, tune track"),
        ("recolam/logs/x.py", "from recolam.features.store import A", "logs may not import features"),
        ("recolam/sequence/x.py", "def f():\n    import polars as pl", "not in sequence"),
        ("recolam/logs/x.py", "class A:\n    def f(self):\n        from torch import nn", "not in logs"),
        ("recolam/policy/x.py", "import recsim_ng.core.network", "only in world"),
        (
            "recolam/evaluate/x.py",
            "try:\n    import mlflow\nexcept ImportError:\n    pass",
            "only in register, tracking",
        ),
        ("recolam/pipeline.py", "from airflow.sdk import dag", "only in dags"),
        ("recolam/world/x.py", "from . import y", "relative import"),
        ("recolam/world/x.py", "import pickle", "can run code"),
        ("recolam/world/x.py", "if TYPE_CHECKING:\n    import joblib", "can run code"),
        ("recolam/world/x.py", "import torch\ntorch.load('x')", "torch.load"),
        ("recolam/world/x.py", "f(x, allow_pickle=True)", "allow_pickle"),
        ("recolam/world/x.py", "try:\n    f()\nexcept Exception:\n    pass", "except Exception"),
        ("recolam/world/x.py", "try:\n    f()\nexcept:\n    pass", ":3: except"),
        ("recolam/world/x.py", "# TO" + "DO later", "forbidden text"),
        ("recolam/world/x.py", "A = '/wo" + "rk/data'", "forbidden text"),
        ("recolam/world/x.py", "A = 1\n" * (MAX_LINES + 1), "351 lines"),
        ("recolam/cellar.py", "import recolam.errors", "belongs to no room"),
        ("dags/recolam_x.py", "from recolam.policy.stage import run", "quick to parse"),
        ("dags/recolam_x.py", "import numpy", "the standard library"),
        ("dags/recolam_x.py", "from airflow.models import DagRun", "public interface"),
    ],
)
def test_checker_finds_planted_faults(path: str, source: str, message: str) -> None:
    assert any(message in problem for problem in check(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("recolam/policy/x.py", "from recolam.world.fitted import FittedUsers\nfrom recolam.world import saved"),
        ("recolam/register/x.py", "import recolam.tracking\nimport mlflow"),
        ("recolam/contracts/x.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch"),
        ("recolam/pipeline.py", "def f():\n    from recolam.policy import stage"),
        ("recolam/seeding.py", "def f():\n    import torch"),
        ("dags/recolam_x.py", "from airflow.sdk import dag\ndef f():\n    from recolam import pipeline"),
        ("recolam/world/x.py", "A = 'https://arxiv.org/abs/1/work/x'\nB = runs / 'tmp/x'"),
    ],
)
def test_checker_leaves_honest_code_alone(path: str, source: str) -> None:
    assert check(path, source) == []
