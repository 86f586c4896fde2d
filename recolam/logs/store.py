"""Delta tables under `feature_store/<dataset>/`: append only, idempotent, with two clocks.

`event_time` says when something happened, `ingested_at` when the store learnt of it: a reader that asks "as of" a
moment gets what was known then. A row is its `row_id` (a hash of its content): appending it again does nothing.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

import polars as pl
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from filelock import FileLock

from recolam.contracts.home import Home, safe_name
from recolam.errors import ArtifactError, DataError

TABLES = ("interactions", "items", "slates", "quarantine")


def table_path(home: Home, dataset: str, table: str) -> Path:
    """Where a table lies.

    Raises:
        ConfigError: `dataset` is not a safe name.
    """
    if table not in TABLES:
        raise ValueError(f"table {table!r} is not one of {TABLES}")
    return home.feature_store / safe_name(dataset) / table


def version(home: Home, dataset: str, table: str) -> int | None:
    """The newest version of a table, or None where there is no such table."""
    path = table_path(home, dataset, table)
    return DeltaTable(path).version() if DeltaTable.is_deltatable(str(path)) else None


def append(home: Home, dataset: str, tables: dict[str, pl.DataFrame], *, clock: Literal["time", "position"]) -> None:
    """Appends the rows that the store does not hold yet. Without new rows no version is made.

    Writers of one dataset take turns (a lock file), so that two that bring the same row do not both add it. Items go
    first and interactions last: a killed run leaves no event without its item, and the next run adds what is missing.

    Raises:
        DataError: the dataset exists with the other clock.
    """
    folder = home.feature_store / safe_name(dataset)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for table in ("interactions", "slates"):
            _check_clock(folder / table, clock)
        now = datetime.now(UTC)
        for table in ("items", "quarantine", "slates", "interactions"):
            if table in tables:
                _append_new(folder / table, tables[table].with_columns(ingested_at=_moment(now)), clock=clock)


def read(
    home: Home, dataset: str, table: str, *, version: int | None = None, as_of: datetime | None = None
) -> pl.DataFrame:
    """A table at a version (default: the newest), restricted to rows ingested at or before `as_of`.

    Raises:
        ArtifactError: no such table or version, or files of it are gone.
    """
    path = table_path(home, dataset, table)
    frame = scan(path, version=version)
    if as_of is not None:
        frame = frame.filter(pl.col("ingested_at") <= _moment(as_of))
    return _collect(frame, path)


def scan(path: Path, *, version: int | None) -> pl.LazyFrame:
    """Raises ArtifactError where the table or the version does not exist."""
    try:
        files = DeltaTable(path, version=version).file_uris()
    except (DeltaError, OSError) as error:
        at = "" if version is None else f" at version {version}"
        raise ArtifactError(f"{path}: no Delta table{at} ({str(error).splitlines()[0]})") from error
    # pl.scan_delta takes the percent-encoded URI for a path: it finds no folder with a space or an umlaut in its name.
    return pl.scan_parquet([url2pathname(urlsplit(file).path) for file in files], glob=False)


def count(path: Path, *, version: int) -> int:
    """The number of rows of a table at a version; reads the data files' footers.

    Raises:
        ArtifactError: no such table or version, or files of it are gone.
    """
    return _collect(scan(path, version=version).select(pl.len()), path).item()


def _collect(frame: pl.LazyFrame, path: Path) -> pl.DataFrame:
    try:
        return frame.collect()
    except (pl.exceptions.PolarsError, DeltaError, OSError) as error:
        raise ArtifactError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error


def _append_new(path: Path, frame: pl.DataFrame, *, clock: str) -> None:
    if DeltaTable.is_deltatable(str(path)):
        known = scan(path, version=None).select("row_id").collect()
        frame = frame.join(known, on="row_id", how="anti", maintain_order="left")
    if not frame.is_empty():
        write_deltalake(path, frame, mode="append", description=f"clock={clock}")


def _check_clock(path: Path, clock: str) -> None:
    if DeltaTable.is_deltatable(str(path)):
        description = DeltaTable(path).metadata().description
        if description != f"clock={clock}":
            raise DataError(
                f"{path}: holds events with {description}, these have clock={clock}; ingest them under another name"
            )


def _moment(moment: datetime) -> pl.Expr:
    return pl.lit(moment.astimezone(UTC)).dt.cast_time_unit("us").dt.replace_time_zone("UTC")
