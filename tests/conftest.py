"""Fixtures for all rooms."""

from pathlib import Path

import pytest

from recolam.contracts.home import Home


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real logs, which not every environment has."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real logs (../shared/data) are not in this environment")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An empty home of its own for every test."""
    return Home(tmp_path / "home")
