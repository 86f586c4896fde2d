"""All formats by name, and the guess which one a source is."""

from recolam.errors import ConfigError, DataError
from recolam.logs.config import ColumnMapping
from recolam.logs.readers import movielens_1m, movielens_100k, movielens_latest, native, table
from recolam.logs.readers.reader import Reader
from recolam.logs.source import Source

_READERS = (
    movielens_1m.READER,
    movielens_100k.READER,
    movielens_latest.READER,
    native.READER,
    table.AMAZON,
    table.CSV,
    table.TSV,
    table.PARQUET,
    table.JSONL,
)
FORMATS = tuple(reader.name for reader in _READERS)


def check_format(name: str) -> None:
    """Raises ConfigError where `name` is neither "auto" nor a format."""
    if name != "auto" and name not in FORMATS:
        raise ConfigError(f"format {name!r} is unknown; formats: auto, {', '.join(FORMATS)}")


def choose_reader(source: Source, name: str, mapping: ColumnMapping | None) -> Reader:
    """The reader called `name`, or for "auto" the first one that finds its files in the source.

    Raises:
        ConfigError: an unknown name, or a mapping for a format whose columns are fixed.
        DataError: "auto" and no reader finds its files.
    """
    check_format(name)
    found = (reader for reader in _READERS if (reader.name == name if name != "auto" else reader.files(source)))
    reader = next(found, None)
    if reader is None:
        raise DataError(_unrecognised(source))
    if mapping is not None and not reader.is_mappable:
        raise ConfigError(f"mapping: the columns of format {reader.name!r} are fixed; leave the mapping out")
    return reader


def _unrecognised(source: Source) -> str:
    members = ", ".join(source.names[:10]) or "none"
    wanted = "ratings.dat, u.data, ratings.csv or interactions.*"
    if source.kind == "file":
        return f"{source.path}: its ending tells no format; name one of {', '.join(FORMATS)}"
    return f"{source.path}: holds no ratings or interactions ({wanted}); members: {members}"
