import itertools

import pytest

from recolam.policy.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """One that is a second further at every look, so that every second has its place."""
    seconds = itertools.count()
    monkeypatch.setattr(Clock, "_now", lambda self: float(next(seconds)))
    return Clock()


def test_a_part_within_another_is_taken_out_of_it(clock: Clock) -> None:
    with clock.part("policy"):  # looks at 0
        for _ in range(2):
            with clock.part("world"):  # 1 to 2, 3 to 4
                pass
    with clock.part("learning"):  # 6 to 7
        pass
    assert clock.seconds == {"world": [1.0, 1.0], "policy": [5.0 - 2.0], "learning": [1.0]}
    assert clock.total("world") == 2.0
    assert clock.total("validation") == 0.0


def test_a_whole_part_keeps_what_is_within(clock: Clock) -> None:
    with clock.part("validation", is_whole=True), clock.part("world"):  # 0 to 1: within, nobody looks
        pass
    with clock.part("world"):
        pass
    assert clock.seconds == {"validation": [1.0], "world": [1.0]}


def test_an_error_ends_a_part(clock: Clock) -> None:
    with pytest.raises(ZeroDivisionError), clock.part("validation", is_whole=True):
        assert 1 / 0
    with clock.part("world"):
        pass
    assert clock.seconds == {"validation": [1.0], "world": [1.0]}
