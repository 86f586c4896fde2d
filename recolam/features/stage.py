"""The features stage: Delta tables -> one domain's tokenised dataset."""

from pathlib import PurePosixPath
from typing import Any

import polars as pl

from recolam.contracts.artifact import Artifact
from recolam.contracts.home import Home
from recolam.contracts.stage import StageContext
from recolam.features import leak
from recolam.features.config import FeaturesConfig
from recolam.features.select import LogTables
from recolam.features.tokenise import tokenise
from recolam.logs import store
from recolam.progress import say

__all__ = ["FeaturesConfig", "run"]


def run(config: FeaturesConfig, context: StageContext) -> dict[str, Any]:
    """Reads the tables at the versions in the `ingest` input, tokenises, checks for leaks and saves the dataset.

    Files: those of `TokenisedDataset.save`.

    Returns:
        dataset, domain, split, clock, cut_times, items, users, has_slates, counts, dropped.

    Raises:
        ConfigError, DataError: see `tokenise`; DataError also where the leak check finds one.
        ArtifactError: the tables are no longer there at these versions.
    """
    log = _read(context.inputs["ingest"], context.home)
    tokenised = tokenise(log, config, seed=context.seed)
    dataset = tokenised.dataset
    leak.check(dataset, slate_second_S=tokenised.slate_second_S)
    dataset.save(context.out)
    info = dataset.info
    say(f"features: domain {info['domain']}, {info['counts']['events']} events of {len(dataset.users)} users, "
        f"{len(dataset.items)} items, {info['split']} split")  # fmt: skip
    return {
        **{name: info[name] for name in ("dataset", "domain", "split", "clock", "cut_times", "counts", "dropped")},
        "items": len(dataset.items),
        "users": len(dataset.users),
        "has_slates": dataset.slates is not None,
    }


def _read(ingest: Artifact, home: Home) -> LogTables:
    tables, quality = ingest.json("tables.json"), ingest.json("quality.json")

    def table(name: str) -> pl.DataFrame:
        dataset = PurePosixPath(tables[name]["path"]).parent.name
        return store.read(home, dataset, name, version=tables[name]["version"])

    return LogTables(
        interactions=table("interactions"),
        items=table("items"),
        slates=table("slates") if "slates" in tables else None,
        name=quality["name"],
        clock=quality["clock"],
    )
