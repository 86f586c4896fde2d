import pytest

from recolam import bench


def test_both_worlds_are_timed_in_turn() -> None:
    options = {"users": "20", "their_users": "1", "steps": "5", "repeats": "2"}
    found = bench.run("boredom", options)
    assert {name: len(rounds) for name, rounds in found["rounds"].items()} == {"recolam": 2, "sardine-rec": 2}
    assert found["ratio"] == pytest.approx(found["user_steps_per_s"] / found["sardine_rec_user_steps_per_s"])
    assert found["user_steps_per_s"] > 0
