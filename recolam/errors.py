"""The errors a user can act on. Each says what is wrong and where; `exit_code` is what the command line returns."""


class RecolamError(Exception):
    """Base of all named errors."""

    exit_code = 1


class DataError(RecolamError, ValueError):
    """The user's data is wrong: names the file and, where known, the row, column and value."""

    exit_code = 2


class ConfigError(RecolamError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class ArtifactError(RecolamError):
    """An artifact is missing, incomplete, changed since it was written, or of an unsafe format."""

    exit_code = 3


class PolicyCollapse(RecolamError):
    """Training drove the policy to a few items or to no exploration; it is not kept."""
