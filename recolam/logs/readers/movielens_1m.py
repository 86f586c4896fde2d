"""MovieLens 1M and 10M: `ratings.dat` and `movies.dat`, fields between `::`, Latin-1, no header."""

from recolam.logs.config import ColumnMapping
from recolam.logs.parse import parse_lines
from recolam.logs.raw import RawLog, RawTable
from recolam.logs.readers.movielens import movie_table, ratings_member
from recolam.logs.readers.reader import Reader, present
from recolam.logs.source import Source

_RATINGS, _MOVIES = "ratings.dat", "movies.dat"


def _read(source: Source, mapping: ColumnMapping | None) -> RawLog:
    ratings, movies = ratings_member(source, _RATINGS), source.find(_MOVIES)
    frame = parse_lines(
        source.read(ratings),
        separator="::",
        columns=("UserID", "MovieID", "Rating", "Timestamp"),
        encoding="latin-1",
        where=f"{source.path}: {source.label(ratings)}",
    )
    columns = {"user": "UserID", "item": "MovieID", "value": "Rating", "time": "Timestamp"}
    interactions = RawTable(frame, columns, source.label(ratings), "line")
    items = None if movies is None else _movies(source, movies)
    return RawLog(interactions, items, None, clock="time", event="rating")


def _movies(source: Source, name: str) -> RawTable:
    frame = parse_lines(
        source.read(name),
        separator="::",
        columns=("MovieID", "Title", "Genres"),
        encoding="latin-1",
        where=f"{source.path}: {source.label(name)}",
    )
    return movie_table(
        frame, item="MovieID", title="Title", genres="Genres", source=source.label(name), row_word="line"
    )


READER = Reader("movielens-1m", lambda source: present(source, _RATINGS, _MOVIES), _read)
