"""The catalogue of a log: the given rows, completed by the items that only the interactions know."""

import hashlib
import re

import polars as pl

from recolam.logs.candidates import tag_list
from recolam.logs.raw import ROW, RawTable

DEFAULT_DOMAIN = "main"
_NAME_LENGTH = 40  # a domain becomes part of table, folder and model names


def complete_catalogue(raw: RawTable, events: pl.DataFrame, given: pl.DataFrame | None) -> pl.DataFrame:
    """One row per item: item_id, title ("" if none), tags, domain ("main" if none), sorted by item_id.

    Args:
        raw: the interactions' file, whose own title, tags and domain columns serve where the catalogue has no such
            item: the first cell that is not empty counts.
        events: its good rows, with `source_row` and `item_id`.
        given: the catalogue's good rows.
    """
    attributes = raw.frame.select(
        ROW, raw.text("title").alias("title"), tag_list(raw).alias("tags"), raw.text("domain").alias("domain")
    )
    seen = (
        events.select(ROW, "item_id")
        .join(attributes, on=ROW, how="left", maintain_order="left")
        .group_by("item_id")
        .agg(pl.col("title", "tags", "domain").drop_nulls().first())
    )
    if given is not None:
        known = given.select("item_id", "title", "tags", "domain")
        seen = pl.concat([known, seen.join(known, on="item_id", how="anti")])
    return seen.select(
        "item_id",
        pl.col("title").fill_null(""),
        pl.col("tags").fill_null(pl.lit([], dtype=pl.List(pl.String))),
        _domain_names(seen["domain"]),
    ).sort("item_id")


def _domain_names(domain: pl.Series) -> pl.Series:
    names = {text: domain_name(text) for text in domain.drop_nulls().unique()}
    return domain.replace_strict(names, default=DEFAULT_DOMAIN, return_dtype=pl.String).fill_null(DEFAULT_DOMAIN)


def domain_name(text: str) -> str:
    """`text` as a domain's name: lower case, everything but a-z, 0-9, `-` and `_` as a dash; a hash if none is left."""
    name = re.sub(r"[^a-z0-9_-]+", "-", text.lower()).strip("-_")[:_NAME_LENGTH]
    return name or f"domain-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
