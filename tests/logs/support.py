"""Small raw logs, and a way to run the ingest stage on them."""

from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import polars as pl

from recolam.contracts.artifact import Artifact, build_artifact, canonical_digest
from recolam.contracts.config import to_mapping
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.logs import store
from recolam.logs.clean import clean
from recolam.logs.readers.registry import choose_reader
from recolam.logs.source import open_source
from recolam.logs.stage import IngestConfig, run

EVENTS = "user_id,item_id,timestamp,rating\n"


def ingest(home: Home, data: str | Path, *, inputs: dict[str, Artifact] | None = None, **config: Any) -> Artifact:
    """Runs the stage as the pipeline does."""
    settings = IngestConfig(data=str(data), **config)
    parents = inputs or {}
    key = canonical_digest([to_mapping(settings), [parent.digest for parent in parents.values()]])[:16]
    return build_artifact(
        home.runs / "ingest" / key,
        stage="ingest",
        config=to_mapping(settings),
        parents=parents,
        seed=0,
        build=lambda draft: run(settings, StageContext(home, parents, draft.folder, draft.scratch, 0)),
    )


def write_csv(path: Path, rows: list[str], *, header: str = EVENTS) -> Path:
    path.write_text(header + "".join(row + "\n" for row in rows))
    return path


def good_rows(count: int = 20) -> list[str]:
    """Events of four users with five items, all different."""
    return [f"u{n % 4},i{n % 5},{1000 + n},{n % 5 + 1}" for n in range(count)]


def native_folder(folder: Path, *, slates: dict[str, list[Any]] | None = None) -> Path:
    """A log in the project's own format: two users, three items, two slates; `slates` replaces columns."""
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(
        {"user_id": ["a", "b", "a"], "item_id": ["x", "y", "y"], "event_time": [100, 100, 200], "event": ["click"] * 3,
         "value": [1.0, 0.5, None]},
    ).write_parquet(folder / "interactions.parquet")  # fmt: skip
    pl.DataFrame(
        {"item_id": ["x", "y", "z"], "title": ["X one", "Y two", ""], "tags": [["t"], ["t", "u"], []],
         "domain": ["video", "video", "music"]},
    ).write_parquet(folder / "items.parquet")  # fmt: skip
    columns: dict[str, list[Any]] = {
        "slate_id": ["s1", "s2"], "session_id": [7, 7], "step": [0, 1], "user_id": ["a", "a"],
        "event_time": [100, 200], "items": [["x", "y"], ["y", "x"]], "log_propensity": [-0.25, -1.5],
        "choice": [0, -1], "reward": [1.0, 0.0], "left": [False, True],
    }  # fmt: skip
    pl.DataFrame(columns | (slates or {}), strict=False).write_parquet(folder / "slates.parquet")
    return folder


def append_in_pieces(root: Path, path: Path, folder: Path, barrier: Barrier) -> None:
    """Appends a CSV to the dataset `log` ten rows at a time, each piece at the same moment as the other writer."""
    folder.mkdir()
    lines = path.read_text().splitlines()[1:]
    for start in range(0, len(lines), 10):
        part = write_csv(folder / "part.csv", lines[start : start + 10])
        source = open_source(part)
        log = clean(choose_reader(source, "auto", None).read(source, None), budget=0.0, where=str(part))
        barrier.wait(timeout=60)
        store.append(Home(root), "log", dict(log.tables), clock=log.clock)
