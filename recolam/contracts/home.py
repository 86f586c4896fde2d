"""Where a run keeps its things: Delta tables, MLflow and artifacts."""

import re
from dataclasses import dataclass
from pathlib import Path

from recolam.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def safe_name(name: str) -> str:
    """`name` if it may become part of a path, a table or a model name.

    Raises:
        ConfigError: anything but lower-case letters, digits, `-` and `_`, 1 to 64 of them.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r} is not made of 1 to 64 lower-case letters, digits, '-' and '_'")
    return name


@dataclass(frozen=True)
class Home:
    """The three folders of a run, below one root."""

    root: Path

    @classmethod
    def at(cls, root: str | Path | None) -> "Home":
        """The home at `root`; without one, the checkout this package lies in, or else the working directory."""
        if root is not None:
            return cls(Path(root).absolute())
        checkout = Path(__file__).resolve().parents[2]
        return cls(checkout if (checkout / "pyproject.toml").is_file() else Path.cwd())

    @property
    def feature_store(self) -> Path:
        return self.root / "feature_store"

    @property
    def mlruns(self) -> Path:
        return self.root / "mlruns"

    @property
    def runs(self) -> Path:
        return self.root / "runs"
