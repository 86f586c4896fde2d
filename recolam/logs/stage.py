"""The ingest stage: raw logs -> Delta tables, their versions and a quality report."""

import re
from pathlib import Path
from typing import Any

import polars as pl

from recolam.contracts.artifact import Artifact, write_json
from recolam.contracts.home import Home, safe_name
from recolam.contracts.stage import StageContext
from recolam.errors import ArtifactError
from recolam.logs import store
from recolam.logs.clean import CleanLog, clean
from recolam.logs.config import ColumnMapping, IngestConfig
from recolam.logs.readers.native import READER as NATIVE
from recolam.logs.readers.registry import FORMATS, check_format, choose_reader
from recolam.logs.source import Source, open_source
from recolam.progress import say

__all__ = ["FORMATS", "ColumnMapping", "IngestConfig", "dataset_name", "fingerprint", "is_intact", "run"]

DEMO = "demo"


def run(config: IngestConfig, context: StageContext) -> dict[str, Any]:
    """Reads, validates and appends one source.

    Writes `tables.json` ({table: {path below the home, version, rows at that version}}) and `quality.json` (name,
    format, clock, rows_read, rows, users, items, quarantined, rules, domains, has_slates, tables). The numbers of
    `quality.json` describe this source after validation, not what was new in it, so that a second run gives an equal
    artifact. A table may hold more: rows of other files that were ingested under the same dataset name. The features
    stage reads the whole table at the recorded version.

    Returns:
        name, format, clock, rows, users, items, quarantined, domains, has_slates.

    Raises:
        DataError, ConfigError: the source or the settings are wrong; nothing is written to the store then.
    """
    source, folder = _source(config, context)
    reader = NATIVE if config.data == DEMO else choose_reader(source, config.format, config.mapping)
    say(f"ingest: reading {source.path.name} as {reader.name}")
    raw = reader.read(source, config.mapping)
    raw = raw.without_domains() if config.is_whole else raw
    log = clean(raw, budget=config.quarantine_budget, where=str(source.path))
    store.append(context.home, folder, dict(log.tables), clock=log.clock)
    write_json(context.out / "tables.json", _versions(context.home, folder))
    quality = {"name": dataset_name(config), "format": reader.name, **_quality(log)}
    write_json(context.out / "quality.json", quality)
    say(f"ingest: {quality['rows']} rows, {quality['users']} users, {quality['items']} items, "
        f"{quality['quarantined']} rows in quarantine")  # fmt: skip
    names = ("name", "format", "clock", "rows", "users", "items", "quarantined", "domains", "has_slates")
    return {name: quality[name] for name in names}


def fingerprint(config: IngestConfig) -> dict[str, Any]:
    """What tells one source from another: dataset name, format and the SHA-256 of each file that would be read.

    The demo's logs are an artifact of their own, with a digest: its fingerprint names no files.

    Raises:
        DataError, ConfigError: nothing is there, or of no known format.
    """
    check_format(config.format)
    name = dataset_name(config)
    if config.data == DEMO:
        return {"name": name, "format": NATIVE.name, "sources": {}}
    source = open_source(config.data)
    reader = choose_reader(source, config.format, config.mapping)
    sources = source.checksums(reader.files(source) or source.names)
    return {"name": name, "format": reader.name, "sources": sources}


def dataset_name(config: IngestConfig) -> str:
    """The dataset's name: the configured one, or the file's name without endings, in lower case, made safe.

    Raises:
        ConfigError: the configured name is not safe, or nothing of the file's name is.
    """
    ending = "-whole" if config.is_whole else ""
    if config.name is not None:
        return safe_name(config.name + ending)
    stem = re.sub(
        r"(\.(zip|csv|tsv|parquet|jsonl|ndjson|gz|dat|data))+$", "", Path(config.data).absolute().name.lower()
    )
    return safe_name(re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[: 64 - len(ending)] + ending)


def is_intact(artifact: Artifact, home: Home) -> bool:
    """True where the store still holds every table at the version and with the rows that the artifact names."""
    try:
        tables = artifact.json("tables.json")
        return all(store.count(home.root / t["path"], version=t["version"]) == t["rows"] for t in tables.values())
    except (ArtifactError, KeyError):
        return False


def _source(config: IngestConfig, context: StageContext) -> tuple[Source, str]:
    """The opened source, and the folder of its tables below the feature store.

    Each demo world has a folder of its own, so that worlds with different seeds never mix.
    """
    check_format(config.format)
    name = dataset_name(config)
    if config.data != DEMO:
        return open_source(config.data), name
    if "demo" not in context.inputs:
        raise ArtifactError("ingest of the demo's logs needs the demo artifact among its inputs")
    demo = context.inputs["demo"]
    nested = demo.path / "logs"
    return open_source(nested if nested.is_dir() else demo.path), f"{name}-{demo.digest[:8]}"


def _versions(home: Home, folder: str) -> dict[str, dict[str, Any]]:
    tables = {}
    for table in store.TABLES:
        version = store.version(home, folder, table)
        if version is not None:
            path = store.table_path(home, folder, table)
            rows = store.count(path, version=version)
            tables[table] = {"path": path.relative_to(home.root).as_posix(), "version": version, "rows": rows}
    return tables


def _quality(log: CleanLog) -> dict[str, Any]:
    events = log.tables["interactions"]
    domains = (
        events.join(log.tables["items"].select("item_id", pl.col("domain").alias("of_item")), on="item_id", how="left")
        .group_by("of_item")
        .agg(pl.len(), pl.col("user_id").n_unique(), pl.col("item_id").n_unique())
        .sort("of_item")
    )
    return {
        "clock": log.clock,
        "rows_read": log.counts["interactions"]["read"],
        "rows": events.height,
        "users": events["user_id"].n_unique(),
        "items": events["item_id"].n_unique(),
        "quarantined": log.tables["quarantine"].height,
        "rules": dict(log.rules),
        "domains": {name: {"rows": n, "users": users, "items": items} for name, n, users, items in domains.rows()},
        "has_slates": "slates" in log.tables,
        "tables": {name: dict(counts) for name, counts in log.counts.items()},
    }
