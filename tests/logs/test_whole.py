"""A log taken as one domain."""

from pathlib import Path

from recolam.contracts.home import Home
from recolam.logs.config import IngestConfig
from recolam.logs.stage import dataset_name
from tests.logs.support import ingest


def test_a_whole_log_has_one_domain_and_tables_of_its_own(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"u{i % 5},i{i % 7},{1000 + i},{'a' if i % 7 < 4 else 'b'}" for i in range(35)]
    path.write_text("user,item,time,domain\n" + "\n".join(rows) + "\n")
    config = IngestConfig(data=str(path))
    whole = IngestConfig(data=str(path), is_whole=True)
    assert set(ingest(home, path).metrics["domains"]) == {"a", "b"}
    assert set(ingest(home, path, is_whole=True).metrics["domains"]) == {"main"}
    assert (dataset_name(config), dataset_name(whole)) == ("log", "log-whole")
