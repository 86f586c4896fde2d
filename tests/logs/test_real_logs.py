"""The official archives give exactly the numbers that their authors publish."""

from pathlib import Path

import pytest

from recolam.contracts.home import Home
from tests.logs.support import ingest


@pytest.mark.parametrize(
    ("name", "rows", "users", "items", "domains"),
    [
        ("ml-100k.zip", 100_000, 943, 1_682, {"main", "children"}),
        pytest.param("ml-1m.zip", 1_000_209, 6_040, 3_706, {"main", "children"}, marks=pytest.mark.slow),
        ("ml-latest-small.zip", 100_004, 671, 9_066, {"main", "children"}),
        ("amazon-beauty", 198_502, 22_363, 12_101, {"main"}),
    ],
)
def test_counts(shared_data: Path, home: Home, name: str, rows: int, users: int, items: int, domains: set[str]) -> None:
    metrics = ingest(home, shared_data / name).metrics
    assert (metrics["rows"], metrics["users"], metrics["items"]) == (rows, users, items)
    assert metrics["quarantined"] == 0
    assert metrics["domains"].keys() == domains
    assert sum(domain["rows"] for domain in metrics["domains"].values()) == rows
    assert metrics["clock"] == ("position" if name.startswith("amazon") else "time")
