"""Settings of the ingest stage."""

from dataclasses import dataclass

from recolam.errors import ConfigError


@dataclass(frozen=True)
class ColumnMapping:
    """Which column of a table holds what. Give either `time` (seconds since 1970 or ISO dates) or `position`.

    Attributes:
        user, item: who and what.
        time: when, by the clock.
        position: the order within the user's log, where there is no clock.
        event: the kind of event (click, rating, ...).
        value: a number that belongs to the event (rating, dwell, ...).
        title, tags, domain: attributes of the item; several tags in one cell are separated by `|`.
    """

    user: str
    item: str
    time: str | None = None
    position: str | None = None
    event: str | None = None
    value: str | None = None
    title: str | None = None
    tags: str | None = None
    domain: str | None = None

    def __post_init__(self) -> None:
        if (self.time is None) == (self.position is None):
            raise ConfigError("mapping: give one of 'time' and 'position', not both and not neither")


@dataclass(frozen=True)
class IngestConfig:
    """What to ingest.

    Attributes:
        data: a file, a zip or a folder; or "demo" for the demo world's logs.
        format: a reader's name, or "auto".
        name: the dataset's name in the feature store; without one, made from the file's name.
        mapping: columns of a table whose names are not the obvious ones.
        is_whole: take the log as one domain, whatever its items say; it gets tables of its own.
        quarantine_budget: the share of a table's rows that may be bad before the run fails.
    """

    data: str
    format: str = "auto"
    name: str | None = None
    mapping: ColumnMapping | None = None
    is_whole: bool = False
    quarantine_budget: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 <= self.quarantine_budget <= 1.0:
            raise ConfigError(f"quarantine_budget {self.quarantine_budget} is not a share between 0 and 1")
