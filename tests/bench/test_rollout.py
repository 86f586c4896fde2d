import pytest

from recolam import bench
from recolam.errors import ConfigError

SMALL = {"users": "16", "items": "60", "slate": "3", "steps": "30", "width": "16", "blocks": "1", "repeats": "1",
         "iterations": "2"}  # fmt: skip


def test_both_ways_are_timed_at_every_mark() -> None:
    found = bench.run("rollout", SMALL)
    assert found["ratio_at_step"] == 20
    for milliseconds in found["milliseconds"].values():
        assert set(milliseconds) == {"5", "20"}
        assert min(milliseconds.values()) > 0
    assert sum(found["shares_of_rollout"].values()) == pytest.approx(1.0)
    training = found["training"]
    assert set(training["shares"]) == {"world", "policy", "learning", "validation"}
    assert min(training["shares"].values()) > 0
    assert sum(training["shares"].values()) == pytest.approx(1.0)
    seconds = training["iteration_s"] + training["validation_s"] / 10  # the trainer validates after 10 iterations
    assert training["user_steps_per_s"] == pytest.approx(16 * 30 / seconds)
    assert training["user_steps_per_s_but_for_validation"] == pytest.approx(16 * 30 / training["iteration_s"])
    assert found["ratio"] == pytest.approx(
        found["milliseconds"]["re-encoding"]["20"] / found["milliseconds"]["incremental"]["20"]
    )


def test_sessions_that_use_up_the_catalogue_are_refused() -> None:
    with pytest.raises(ConfigError, match="30 steps with slates of 3 out of 32 items"):
        bench.run("rollout", {**SMALL, "items": "32"})


def test_fewer_users_than_the_trainer_deals_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 users cannot be dealt to 4 shards"):
        bench.run("rollout", {**SMALL, "users": "8"})
