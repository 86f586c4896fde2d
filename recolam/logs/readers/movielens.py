"""What the MovieLens layouts have in common: movies with genres, and two domains made from these."""

import polars as pl

from recolam.errors import DataError
from recolam.logs.raw import RawTable
from recolam.logs.source import Source

_CHILDREN = ("Children's", "Children")
_NO_GENRES = "(no genres listed)"
_DOMAIN = "domain (derived)"


def ratings_member(source: Source, name: str) -> str:
    """The ratings file.

    Raises:
        DataError: the source has none.
    """
    member = source.find(name)
    if member is None:
        members = ", ".join(source.names[:10]) or "none"
        raise DataError(f"{source.path}: holds no ratings: no {name} among its members ({members})")
    return member


def movie_table(frame: pl.DataFrame, *, item: str, title: str, genres: str, source: str, row_word: str) -> RawTable:
    """Movies as a catalogue: genres (`A|B`) as tags; domain "children" for children's films, else "main".

    MovieLens has no domains: this rule makes a second one, for transfer, out of real data.
    """
    listed = pl.when(pl.col(genres) != _NO_GENRES).then(pl.col(genres))
    is_children = listed.fill_null("").str.split("|").list.eval(pl.element().is_in(_CHILDREN)).list.any()
    domain = pl.when(is_children).then(pl.lit("children")).otherwise(pl.lit("main")).alias(_DOMAIN)
    columns = {"item": item, "title": title, "tags": genres, "domain": _DOMAIN}
    frame = frame.with_columns(domain, listed.alias(genres))
    return RawTable(frame, columns, source, "line" if row_word == "line" else "row")
