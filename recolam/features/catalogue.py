"""One row per item, out of an append-only table that may hold several."""

import polars as pl


def newest_items(items: pl.DataFrame) -> pl.DataFrame:
    """item_id, title, tags, domain: of several rows the newest that says something (title or tags)."""
    says_something = (pl.col("title") != "") | (pl.col("tags").list.len() > 0)
    return (
        items.with_columns(says_something.alias("says_something"))
        .sort("item_id", "says_something", "ingested_at", "row_id")
        .group_by("item_id", maintain_order=True)
        .last()
        .select("item_id", "title", "tags", "domain")
    )
