"""`recolam bench pretrain`: the sequences all contestants get, how they are ranked, timed and set beside each other."""

import ast
import copy
import importlib.util
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from recolam.bench.peers import PEERS, RECSIM_NG, SCRIPTS, Peer, Result, measure, peer_python, uv_environment
from recolam.bench.pretrain import figures, race, ratios, write_task
from recolam.contracts.dataset import UNKNOWN, TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.sequence.config import TrainingConfig
from recolam.sequence.ranking import OUTSIDE, rank_targets
from recolam.sequence.training import train_sequence_model
from tests.planted import cyclic_dataset, dataset_from

HISTORIES = [[0, 1, 2, 3, 4, 5], [2, 3, 2], [4, 0, 3, 1], [1, 5, 4, 5, 1, 0, 5]]
SETTINGS: dict[str, Any] = {
    "max_len": 3, "dim": 8, "blocks": 1, "heads": 1, "dropout": 0.1, "learning_rate": 1e-2, "batch_size": 16,
    "epochs": 2, "seed": 0, "threads": 1, "device": "cpu", "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def contestant() -> ModuleType:
    """The module that the peers' scripts import; it lies beside them, in no package."""
    spec = importlib.util.spec_from_file_location("contestant", SCRIPTS / "contestant.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["contestant"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def small() -> TokenisedDataset:
    """Four users; the validation target of the third is outside the vocabulary, that of the last was had before."""
    dataset = dataset_from(HISTORIES, items=6)
    item_E = dataset.event_item_E.copy()
    item_E[dataset.validation_event_Q[2]] = UNKNOWN
    return replace(dataset, event_item_E=item_E)


@pytest.fixture
def task(contestant: ModuleType, small: TokenisedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    write_task(tmp_path / "task", small, {**SETTINGS, "threads": torch.get_num_threads()})
    monkeypatch.setattr(sys, "argv", ["run_any.py", str(tmp_path / "task"), str(tmp_path)])
    return contestant.start()


def test_contestants_read_the_train_events_and_the_validation_targets(task: Any) -> None:
    assert [task.history(user).tolist() for user in range(4)] == [history[:-2] for history in HISTORIES]
    assert task.user_Q.tolist() == [0, 1, 2, 3]
    assert task.target_Q.tolist() == [4, 3, -1, 0]
    assert task.settings["items"] == 6


def test_targets_of_a_peer_are_the_items_after_the_first_of_each_window(task: Any) -> None:
    assert task.shifted_targets() == (3, 3 + 1 + 3)  # [0, 1, 2, 3], [2], [4, 0], [5, 4, 5, 1]


def test_newest_items_are_padded_on_the_left(contestant: ModuleType) -> None:
    padded = contestant.left_padded([np.array([1, 2, 3, 4]), np.array([5]), np.array([], int)], length=3, padding=9)
    assert padded.tolist() == [[2, 3, 4], [9, 9, 5], [9, 9, 9]]


class Drawn:
    """Scores drawn from few values, so that they tie, the same for every history."""

    def __init__(self, tokens: int, seed: int) -> None:
        self.score_N = torch.randint(3, (tokens,), generator=torch.Generator().manual_seed(seed)).float()

    def scores(self, history_BT: torch.Tensor, length_B: torch.Tensor) -> torch.Tensor:
        return self.score_N.repeat(len(length_B), 1)


@pytest.mark.parametrize("seed", range(5))
def test_contestants_are_ranked_as_recolam_ranks(
    contestant: ModuleType, task: Any, small: TokenisedDataset, seed: int
) -> None:
    scorer = Drawn(small.tokens, seed)
    expected_Q = rank_targets(scorer, small, small.validation_event_Q, max_len=3).rank_Q
    found_Q = contestant.rank_targets(task, lambda history_B: np.tile(scorer.score_N[3:].numpy(), (len(history_B), 1)))
    assert found_Q.tolist() == expected_Q.tolist()
    assert found_Q[2] == OUTSIDE
    assert (found_Q[[0, 1, 3]] < 6).all()


def test_a_target_that_the_contestant_does_not_know_is_a_miss(contestant: ModuleType, task: Any) -> None:
    known_V = np.array([0, 0, 0, -np.inf, 0, 0], dtype=np.float32)
    found_Q = contestant.rank_targets(task, lambda history_B: np.tile(known_V, (len(history_B), 1)), block=3)
    # User 0 has had 0 to 3, so 4 ties with 5; user 3 has had 1, 4 and 5, so 0 ties with 2.
    assert found_Q.tolist() == [2, OUTSIDE, OUTSIDE, 2]


def test_a_copied_clock_is_the_same_clock(contestant: ModuleType) -> None:
    clock = contestant.Clock()
    copied = copy.deepcopy({"callback": clock.begin, "other": clock.end})
    copied["callback"]("trainer", "module")
    copied["other"]("trainer", "module")
    assert len(clock.epoch_s) == 1
    assert clock.epoch_s[0] > 0


def result(*epoch_s: float, rank_Q: list[int] | None = None, **more: Any) -> Result:
    ranks = None if rank_Q is None else np.array(rank_Q)
    cpu_s = [2 * second for second in epoch_s]
    return Result(list(epoch_s), cpu_s, users=8, tokens=40, versions={"torch": "2"}, more=more, rank_Q=ranks)


def test_figures_are_medians_over_rounds_of_means_over_epochs() -> None:
    found = figures([result(1, 3), result(10, 12), result(4, 4, rank_Q=[1, 3, 11, OUTSIDE], catalogue=6)])
    assert (found["epoch_s"], found["users_per_s"], found["tokens_per_s"]) == (4, 2, 10)
    assert found["epoch_cpu_s"] == 8
    assert found["epoch_s_rounds"] == [[1, 3], [10, 12], [4, 4]]
    assert found["ndcg10"] == pytest.approx((1 + 1 / math.log2(4)) / 4)
    assert (found["hr10"], found["queries"], found["catalogue"]) == (0.5, 4, 6)


def test_who_does_not_rank_has_no_accuracy() -> None:
    found = figures([result(1.0)])
    assert found["ndcg10"] is None
    assert found["hr10"] is None


def test_ratios_are_recolams_speed_over_the_others() -> None:
    speeds = {"recolam": 6.0, "bare": 8.0, "rectools": 1.5}
    found = ratios({name: {"users_per_s": speed} for name, speed in speeds.items()})
    assert found == {"recolam/bare": 0.75, "recolam/rectools": 4.0}


@pytest.mark.slow
def test_a_race_runs_its_contestants_in_turn_and_ranks_in_the_last_round(tmp_path: Path) -> None:
    dataset = cyclic_dataset(users=100, items=15, length=9)
    settings = {**SETTINGS, "max_len": 5, "epochs": 12}
    write_task(tmp_path / "task", dataset, settings)
    pythons = {name: Path(sys.executable) for name in ("recolam", "bare")}
    order, results = race(pythons, task=tmp_path / "task", out=tmp_path / "out", repeats=2)

    assert order == ["recolam", "bare", "recolam", "bare"]
    assert [len(found.epoch_s) for found in results["bare"]] == [12, 12]
    assert all(second > 0 for found in results["recolam"] + results["bare"] for second in found.epoch_s)
    for found in results["recolam"] + results["bare"]:
        assert (found.users, found.tokens) == (100, 500)  # 7 of the 9 events are train events, 5 fit into a window
    first, last = results["recolam"]
    assert first.rank_Q is None
    assert all(found.rank_Q is None for found in results["bare"])
    assert last.more["real_share"] == 1.0
    assert last.rank_Q is not None
    assert last.rank_Q.tolist() == ranks_of_a_model_trained_here(dataset, settings, tmp_path).tolist()
    assert (last.rank_Q <= 2).mean() > 0.8


def ranks_of_a_model_trained_here(dataset: TokenisedDataset, settings: dict[str, Any], scratch: Path) -> Any:
    training = TrainingConfig(
        epochs=settings["epochs"], batch_size=settings["batch_size"], max_len=settings["max_len"],
        learning_rate=settings["learning_rate"], last_window_only=True, validation_queries=0, device="cpu",
        patience=settings["epochs"] + 1, precision="float32",
    )  # fmt: skip
    config = PretrainConfig(width=8, blocks=1, heads=1, dropout=0.1, use_text=False, training=training)
    model = new_model(dataset, config, seed=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        train_sequence_model(model, dataset, training, seed=0, scratch=scratch / "here")
    finally:
        torch.set_num_threads(threads)
    return rank_targets(model, dataset, dataset.validation_event_Q, max_len=settings["max_len"]).rank_Q


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv answers from this machine or not at all."""
    monkeypatch.setenv("UV_OFFLINE", "1")


def peer(folder: Path, requirements: str) -> Peer:
    path = folder / "peer.txt"
    path.write_text(requirements)
    return Peer("peer", "1.0", path)


@pytest.mark.usefixtures("offline")
def test_an_environment_is_made_once(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    made = peer_python(peer(tmp_path, "# nothing\n"), home)
    assert made == tmp_path / "runs" / "peers" / "peer-1.0" / "bin" / "python"
    witness = made.with_name("witness")
    witness.touch()
    assert peer_python(peer(tmp_path, "# nothing\n"), home) == made
    assert witness.exists()


@pytest.mark.usefixtures("offline")
def test_a_half_made_environment_is_made_anew(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    made = peer_python(peer(tmp_path, "# nothing\n"), home)
    witness = made.with_name("witness")
    witness.touch()
    (made.parents[1] / "recolam-complete").unlink()
    peer_python(peer(tmp_path, "# nothing\n"), home)
    assert made.exists()
    assert not witness.exists()


@pytest.mark.usefixtures("offline")
def test_other_requirements_make_an_environment_anew(tmp_path: Path) -> None:
    home = Home.at(tmp_path)
    witness = peer_python(peer(tmp_path, "# nothing\n"), home).with_name("witness")
    witness.touch()
    peer_python(peer(tmp_path, "# nothing else\n"), home)
    assert not witness.exists()


@pytest.mark.usefixtures("offline")
def test_other_overrides_make_an_environment_anew(tmp_path: Path) -> None:
    home, overrides = Home.at(tmp_path), tmp_path / "overrides.txt"
    overrides.write_text("tensorflow ; python_version < '3'\n")
    known = replace(peer(tmp_path, "# nothing\n"), overrides=overrides)
    witness = peer_python(known, home).with_name("witness")
    witness.touch()
    peer_python(known, home)
    assert witness.exists()
    overrides.write_text("jax ; python_version < '3'\n")
    peer_python(known, home)
    assert not witness.exists()


def test_stock_recsim_ng_is_pinned_with_everything_it_needs() -> None:
    lines = [line for line in RECSIM_NG.requirements.read_text().splitlines() if not line.startswith("#")]
    assert f"recsim-ng=={RECSIM_NG.version}" in lines
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)


@pytest.mark.usefixtures("offline")
def test_an_environment_that_cannot_be_made_is_an_error_that_quotes_uv(tmp_path: Path) -> None:
    broken = peer(tmp_path, "recolam-no-such-package==1.0\n")
    for _ in range(2):  # the second time the folder is there, and still not taken for whole
        with pytest.raises(ConfigError, match=r"peer 1\.0 cannot be made: (.|\n)*recolam-no-such-package"):
            peer_python(broken, Home.at(tmp_path))


@pytest.mark.usefixtures("offline")
def test_a_contestant_that_fails_is_an_error_that_quotes_it(tmp_path: Path, small: TokenisedDataset) -> None:
    bare_python = peer_python(peer(tmp_path, "# nothing\n"), Home.at(tmp_path))
    write_task(tmp_path / "task", small, SETTINGS)
    with pytest.raises(ConfigError, match=r"replay ended with code 1: (.|\n)*No module named"):
        measure("replay", python=bare_python, task=tmp_path / "task", out=tmp_path / "out")


@pytest.mark.parametrize(
    ("environment", "links"),
    [
        ({"PIP_FIND_LINKS": "one two"}, "one,two"),
        ({"PIP_FIND_LINKS": "one", "UV_FIND_LINKS": "other"}, "other"),
        ({"PATH": "bin"}, None),
    ],
)
def test_uv_looks_where_pip_does(environment: dict[str, str], links: str | None) -> None:
    found = uv_environment(environment)
    assert found.get("UV_FIND_LINKS") == links
    assert environment.items() <= found.items()


@pytest.mark.parametrize("known", PEERS, ids=lambda known: known.name)
def test_peers_run_on_recolams_torch(known: Peer) -> None:
    text = known.requirements.read_text()
    own = ".".join(torch.__version__.split(".")[:2])
    assert re.search(rf"^torch=={re.escape(own)}\.\*$", text, re.MULTILINE)
    assert re.search(rf"=={re.escape(known.version)}\.\*$", text, re.MULTILINE)
    assert (SCRIPTS / f"run_{known.name}.py").is_file()


@pytest.mark.parametrize(
    "script", ["contestant.py", "recsim_story.py", "run_recsim_ng.py", *(f"run_{known.name}.py" for known in PEERS)]
)
def test_scripts_of_peers_do_without_recolam(script: str) -> None:
    tree = ast.parse((SCRIPTS / script).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules
    assert not [module for module in modules if module.split(".")[0] in ("recolam", "ours")]
