"""Homes with an MLflow database that was migrated beforehand: a copy takes no time, the migration seconds."""

import sqlite3
from contextlib import closing
from pathlib import Path

from recolam.contracts.home import Home


def home_with_database(root: Path, migrated: Path) -> Home:
    """A home with a copy of the database `migrated`."""
    home = Home(root)
    home.mlruns.mkdir(parents=True)
    with closing(sqlite3.connect(migrated)) as source, closing(sqlite3.connect(home.mlruns / "mlflow.db")) as target:
        source.backup(target)
    return home
