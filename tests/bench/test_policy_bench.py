import re
from pathlib import Path

import numpy as np
import pytest

from recolam import bench
from recolam.errors import ConfigError

SMALL = {"world": "choc_kale", "steps": "900", "seeds": "2", "users": "10", "evaluation_users": "20"}

DEMANDED = {"random", "popularity", "pretrained greedy", "myopic, true state", "slateq", "bandit"}
"""Baselines of every world, beside its best privileged rule."""


@pytest.fixture(scope="module")
def found() -> dict[str, object]:
    return bench.run("policy", SMALL)


def test_every_contestant_plays_every_seed(found: dict[str, dict[str, dict[str, object]]]) -> None:
    assert {"ours", "ours, gamma 0"} | DEMANDED < set(found["returns"])
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


def test_a_later_first_seed_plays_what_a_longer_bench_plays_there(
    found: dict[str, dict[str, dict[str, object]]],
) -> None:
    later = bench.run("policy", SMALL | {"first_seed": "1", "rivals": "false"})["returns"]
    for name in ("ours", "random"):
        assert later[name]["per_seed"][0] == found["returns"][name]["per_seed"][1]  # type: ignore[index]


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


def test_any_number_of_jobs_finds_the_same(found: dict[str, dict[str, dict[str, object]]]) -> None:
    side_by_side = bench.run("policy", SMALL | {"jobs": "2"})
    assert list(side_by_side["returns"]) == list(found["returns"])
    for name, row in found["returns"].items():
        assert side_by_side["returns"][name]["per_seed"] == row["per_seed"], name
    assert side_by_side["curves"] == found["curves"]


def test_a_contestant_that_fails_in_a_process_fails_the_bench_with_its_message(tmp_path: Path) -> None:
    """Stock's environment is looked for where it plays; here a file stands in its way."""
    (tmp_path / "runs").write_text("")
    options = {"world": "recsim_ng_demo", "steps": "300", "users": "2", "rivals": "false", "peer_steps": "1"}
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "runs"))):
        bench.run("policy", SMALL | options | {"jobs": "2", "home": str(tmp_path)})


@pytest.mark.slow
@pytest.mark.parametrize(
    "world",
    [
        "recsim_ng_demo", "interest_evolution", "bored", "bored_influenced", "uncertain",
        "sardine_bored", "sardine_bored_influenced", "sardine_uncertain",
    ],
)  # fmt: skip
def test_every_baseline_is_in_the_table_of_every_world(world: str) -> None:
    found = bench.run("policy", {"world": world, "steps": "300", "seeds": "2", "users": "2", "evaluation_users": "2"})
    assert set(found["returns"]) > DEMANDED
    assert all(len(found["returns"][name]["per_seed"]) == 2 for name in DEMANDED)
    assert found["best_privileged"] in found["returns"]


def test_every_baseline_is_in_the_table_under_partial_sight() -> None:
    options = SMALL | {"observation": "partial", "steps": "600", "users": "5", "evaluation_users": "5"}
    assert set(bench.run("policy", options)["returns"]) > DEMANDED
