"""`recolam bench simulate`: what is timed, medians and ratios, and stock RecSim NG in turn with recolam."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recolam.bench.peers import RECSIM_NG, peer_python
from recolam.bench.simulate import SIZES, SLATES, SimulateBench, compare, name_of, race, simulate, write_task
from recolam.bench.timed_worlds import STORIES, timed_runs, torch_threads
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.world.parity.dynamics import draw_documents

TINY = [(60, 12), (30, 20)]
CONFIG = SimulateBench(topics=3, steps=4, runs=2)


def test_the_sizes_beside_stock_are_the_agreed_ones() -> None:
    assert SIZES == ((1_000, 100), (10_000, 100), (1_000, 1_000))


def test_speeds_are_medians_over_all_runs_of_all_rounds() -> None:
    def timed(*seconds: float) -> list[dict[str, object]]:
        return [{"size": "6x3", "slates": slates, "first_s": 9.0, "seconds": list(seconds)} for slates in SLATES]

    rounds = {"recolam": [timed(1.0, 2.0), timed(0.5)], "stock": [timed(4.0, 4.0), timed(40.0)]}
    row = compare(rounds, steps=10, users={"6x3": 6})["6x3"]["random"]
    assert row == {"recolam": 60.0, "stock": 15.0, "recolam/stock": 4.0}
    alone = compare({"recolam": rounds["recolam"]}, steps=10, users={"6x3": 6})
    assert alone["6x3"]["fed"] == {"recolam": 60.0}


def test_a_task_holds_the_same_corpus_and_slates_for_everybody(tmp_path: Path) -> None:
    write_task(tmp_path / "task", CONFIG, TINY)
    settings = json.loads((tmp_path / "task" / "settings.json").read_text())
    assert [(size["users"], size["documents"]) for size in settings["sizes"]] == TINY
    with np.load(tmp_path / "task" / "corpus-12.npz") as arrays:
        assert (arrays["feature_DZ"] == draw_documents(documents=12, topics=3, seed=0).feature_DZ).all()
    with np.load(tmp_path / "task" / "slates-60x12.npz") as arrays:
        slate_TUK = arrays["slate_TUK"]
    assert slate_TUK.shape == (4, 60, 2)
    assert (slate_TUK[:, :, 0] != slate_TUK[:, :, 1]).all()
    assert slate_TUK.max() < 12


@pytest.mark.parametrize("story", STORIES)
def test_every_story_is_timed_at_every_size_without_its_first_run(tmp_path: Path, story: str) -> None:
    write_task(tmp_path / "task", SimulateBench(topics=3, steps=4, runs=2, story=story), TINY)
    timed = timed_runs(tmp_path / "task")
    assert [(row["size"], row["slates"]) for row in timed] == [
        (name_of(*size), slates) for size in TINY for slates in SLATES
    ]
    assert all(len(row["seconds"]) == 2 and min(row["seconds"]) > 0 for row in timed)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (SimulateBench(story="saga"), "story 'saga' is not one of world, functions"),
        (SimulateBench(items=2, slate=3), "slates of 3 out of 2 items"),
        (SimulateBench(device="cuda", peers=True), "stock RecSim NG is timed on the CPU"),
    ],
)
def test_wrong_settings_are_refused(config: SimulateBench, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(config)


def test_threads_are_set_for_a_while_only() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_recolam_and_stock_run_in_turn_in_processes_of_their_own(tmp_path: Path) -> None:
    write_task(tmp_path / "task", CONFIG, TINY)
    pythons = {"recolam": Path(sys.executable), "stock": peer_python(RECSIM_NG, Home.at(None))}
    found = race(pythons, tmp_path, repeats=1)
    table = compare(found, steps=CONFIG.steps, users={name_of(*size): size[0] for size in TINY})
    assert list(table) == ["60x12", "30x20"]
    for row in (row for by_slates in table.values() for row in by_slates.values()):
        assert row["recolam/stock"] == pytest.approx(row["recolam"] / row["stock"])
        assert row["stock"] > 0
    assert torch.get_num_threads() == json.loads((tmp_path / "task" / "settings.json").read_text())["threads"]
