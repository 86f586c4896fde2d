"""MovieLens latest, 20M, 25M and 32M: `ratings.csv` and `movies.csv` with headers, UTF-8."""

from recolam.errors import DataError
from recolam.logs.config import ColumnMapping
from recolam.logs.parse import parse_csv
from recolam.logs.raw import RawLog, RawTable
from recolam.logs.readers.movielens import movie_table, ratings_member
from recolam.logs.readers.reader import Reader, present
from recolam.logs.source import Source

_RATINGS, _MOVIES = "ratings.csv", "movies.csv"


def _read(source: Source, mapping: ColumnMapping | None) -> RawLog:
    ratings, movies = ratings_member(source, _RATINGS), source.find(_MOVIES)
    columns = {"user": "userId", "item": "movieId", "value": "rating", "time": "timestamp"}
    interactions = _table(source, ratings, columns)
    items = None
    if movies is not None:
        table = _table(source, movies, {"item": "movieId", "title": "title", "tags": "genres"})
        items = movie_table(
            table.frame, item="movieId", title="title", genres="genres", source=table.source, row_word="row"
        )
    return RawLog(interactions, items, None, clock="time", event="rating")


def _table(source: Source, name: str, columns: dict[str, str]) -> RawTable:
    where = f"{source.path}: {source.label(name)}"
    frame = parse_csv(source.read(name), where=where)
    for column in columns.values():
        if column not in frame.columns:
            raise DataError(f"{where}: no column {column!r}; it has: {', '.join(frame.columns[1:-1])}")
    return RawTable(frame, columns, source.label(name), "row")


READER = Reader("movielens-latest", lambda source: present(source, _RATINGS, _MOVIES), _read)
