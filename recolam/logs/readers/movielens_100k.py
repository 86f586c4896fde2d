"""MovieLens 100k: `u.data` (tabs) and `u.item` (`|`, one 0/1 column per genre), Latin-1, no header."""

import polars as pl

from recolam.logs.config import ColumnMapping
from recolam.logs.parse import parse_lines
from recolam.logs.raw import RawLog, RawTable
from recolam.logs.readers.movielens import movie_table, ratings_member
from recolam.logs.readers.reader import Reader, present
from recolam.logs.source import Source

_RATINGS, _MOVIES = "u.data", "u.item"
_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip


def _read(source: Source, mapping: ColumnMapping | None) -> RawLog:
    ratings, movies = ratings_member(source, _RATINGS), source.find(_MOVIES)
    frame = parse_lines(
        source.read(ratings),
        separator="\t",
        columns=("user id", "item id", "rating", "timestamp"),
        encoding="latin-1",
        where=f"{source.path}: {source.label(ratings)}",
    )
    columns = {"user": "user id", "item": "item id", "value": "rating", "time": "timestamp"}
    interactions = RawTable(frame, columns, source.label(ratings), "line")
    items = None if movies is None else _movies(source, movies)
    return RawLog(interactions, items, None, clock="time", event="rating")


def _movies(source: Source, name: str) -> RawTable:
    frame = parse_lines(
        source.read(name),
        separator="|",
        columns=("movie id", "movie title", "release date", "video release date", "IMDb URL", *_GENRES),
        encoding="latin-1",
        where=f"{source.path}: {source.label(name)}",
    )
    flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES[1:]]
    frame = frame.with_columns(pl.concat_str(flags, separator="|", ignore_nulls=True).alias("genres"))
    return movie_table(
        frame, item="movie id", title="movie title", genres="genres", source=source.label(name), row_word="line"
    )


READER = Reader("movielens-100k", lambda source: present(source, _RATINGS, _MOVIES), _read)
