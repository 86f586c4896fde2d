import numpy as np
import pytest

from recolam import bench
from recolam.errors import ConfigError

SMALL = {"world": "choc_kale", "steps": "900", "seeds": "2", "users": "10", "evaluation_users": "20"}


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return bench.run("policy", SMALL)


def test_every_contestant_plays_every_seed(found: dict[str, dict[str, dict[str, object]]]) -> None:
    learnt = {"ours", "ours, gamma 0", "slateq", "bandit", "popularity"}
    assert learnt | {"random", "myopic, true state"} < set(found["returns"])
    for row in found["returns"].values():
        assert len(row["per_seed"]) == 2  # type: ignore[arg-type]
        assert row["mean"] == pytest.approx(np.mean(row["per_seed"]))  # type: ignore[arg-type]
    kale, choc = found["returns"]["privileged choc share 0.0"], found["returns"]["myopic, true state"]
    assert kale["mean"] > 2 * choc["mean"]  # type: ignore[operator]
    assert found["best_privileged"] == "privileged choc share 0.0"


def test_the_budget_holds_and_curves_are_shown(found: dict[str, dict[str, dict[str, list[int]]]]) -> None:
    ours = found["returns"]["ours"]
    for learning, validation in zip(ours["learning_steps"], ours["validation_steps"], strict=True):
        assert 0 < learning + validation <= 900
    assert all(curve["validation_return"] for curve in found["curves"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"world": "nowhere"}, "nowhere"),
        ({"observation": "half"}, "half"),
        ({"seeds": "1"}, "takes 2"),
        ({"steps": "10"}, "10 steps"),
        ({"gamma": "much"}, "'much' is not a number"),
        ({"peer_steps": "1", "rivals": "false"}, "no world 'choc_kale'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.run("policy", SMALL | {"steps": "20000", "users": "10"} | options)
