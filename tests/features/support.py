"""Small tables in the shape of the feature store's, and a way to run the features stage."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from recolam.contracts.artifact import Artifact, build_artifact
from recolam.contracts.config import to_mapping
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.features.select import LogTables
from recolam.features.stage import FeaturesConfig, run
from recolam.logs.clean import row_ids
from recolam.logs.stage import IngestConfig
from recolam.logs.stage import run as run_ingest

Event = tuple[str, str, int]  # user, item, second
_NOW = pl.lit(datetime(2030, 1, 1, tzinfo=UTC)).dt.cast_time_unit("us")
_SLATE_SCHEMA = {
    "slate_id": pl.String, "session_id": pl.Int64, "step": pl.Int32, "user_id": pl.String, "second": pl.Int64,
    "items": pl.List(pl.String), "log_propensity": pl.Float64, "choice": pl.Int32, "reward": pl.Float64,
    "left": pl.Boolean,
}  # fmt: skip


def tables(
    events: Sequence[Event],
    *,
    domains: Mapping[str, str] | None = None,
    slates: Sequence[tuple[Any, ...]] | None = None,
    clock: str = "time",
) -> LogTables:
    """A log. `domains` names the items that are not in "main"; a slate is (user, second, items, choice)."""
    frame = pl.DataFrame(
        events, schema={"user_id": pl.String, "item_id": pl.String, "second": pl.Int64}, orient="row"
    ).unique(maintain_order=True)
    frame = _dated(frame).with_columns(pl.lit("click").alias("event"), pl.lit(1.0).alias("value"))
    ids = sorted({item for _, item, _ in events} | {item for slate in slates or () for item in slate[2]})
    items = pl.DataFrame(
        {"item_id": ids, "title": [f"title of {item}" for item in ids], "tags": [["tag"]] * len(ids),
         "domain": [(domains or {}).get(item, "main") for item in ids]},
    )  # fmt: skip
    rows = [
        (f"s{n}", n // 2, n % 2, user, second, shown, -0.5, choice, float(choice >= 0), False)
        for n, (user, second, shown, choice) in enumerate(slates or ())
    ]
    shown = None if slates is None else _stored(_dated(pl.DataFrame(rows, schema=_SLATE_SCHEMA, orient="row")))
    return LogTables(_stored(frame), _stored(items), shown, name="small", clock=clock)


def _dated(frame: pl.DataFrame) -> pl.DataFrame:
    time = pl.from_epoch(pl.col("second") * 1_000_000, time_unit="us").dt.replace_time_zone("UTC")
    return frame.with_columns(time.alias("event_time")).drop("second")


def _stored(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(row_ids(frame)).with_columns(_NOW.alias("ingested_at"))


def ingest(home: Home, data: Path, **config: Any) -> Artifact:
    settings = IngestConfig(data=str(data), **config)
    return build_artifact(
        home.runs / "ingest" / data.name,
        stage="ingest",
        config=to_mapping(settings),
        parents={},
        seed=0,
        build=lambda draft: run_ingest(settings, StageContext(home, {}, draft.folder, draft.scratch, 0)),
    )


def features(home: Home, ingested: Artifact, *, seed: int = 0, key: str = "one", **config: Any) -> Artifact:
    settings = FeaturesConfig(**config)
    parents = {"ingest": ingested}
    return build_artifact(
        home.runs / "features" / key,
        stage="features",
        config=to_mapping(settings),
        parents=parents,
        seed=seed,
        build=lambda draft: run(settings, StageContext(home, parents, draft.folder, draft.scratch, seed)),
    )
