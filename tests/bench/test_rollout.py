import pytest

from recolam import bench
from recolam.errors import ConfigError

SMALL = {"users": "8", "items": "60", "slate": "3", "steps": "30", "width": "16", "blocks": "1", "repeats": "1"}


def test_both_ways_are_timed_at_every_mark() -> None:
    found = bench.run("rollout", SMALL)
    assert found["ratio_at_step"] == 20
    for milliseconds in found["milliseconds"].values():
        assert set(milliseconds) == {"5", "20"}
        assert min(milliseconds.values()) > 0
    assert sum(found["shares_of_rollout"].values()) == pytest.approx(1.0)
    assert found["ratio"] == pytest.approx(
        found["milliseconds"]["re-encoding"]["20"] / found["milliseconds"]["incremental"]["20"]
    )


def test_sessions_that_use_up_the_catalogue_are_refused() -> None:
    with pytest.raises(ConfigError, match="30 steps with slates of 3 out of 32 items"):
        bench.run("rollout", {**SMALL, "items": "32"})
