"""`recolam world --show`: a picture of a session in a world by name, or in one on disk; clear errors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from recolam.contracts.artifact import open_artifact
from recolam.contracts.dataset import TokenisedDataset
from recolam.policy.agent import SlateAgent
from recolam.world.environment import SimulatedUsers
from recolam.world.named import NAMES, make_environment
from recolam.world.store import load_world, save_world
from tests.conftest import FinishedRun, Outcome

Recolam = Callable[..., Outcome]
SVG = "{http://www.w3.org/2000/svg}"


def told(path: Path) -> tuple[str, str]:
    """The picture's title and description."""
    root = ElementTree.parse(path).getroot()  # noqa: S314
    title, description = (root.find(f"{SVG}{name}") for name in ("title", "desc"))
    assert title is not None
    assert description is not None
    return str(title.text), str(description.text)


@pytest.mark.parametrize("name", NAMES)
def test_every_named_world_is_drawn(name: str, tmp_path: Path, recolam: Recolam) -> None:
    out = tmp_path / "session.svg"
    outcome = recolam("world", "--show", name, "--steps", "3", "--seed", "4", "--out", out)
    assert (outcome.code, outcome.out) == (0, f"{out}\n"), outcome.err
    title, description = told(out)
    assert title == f"One user of {name}, shown random slates, seed 4"
    assert description.startswith("Step 1: shown item ")
    assert description.endswith("The session goes on after step 3.")
    first = out.read_bytes()
    recolam("world", "--show", name, "--steps", "3", "--seed", "4", "--out", out)
    assert out.read_bytes() == first
    recolam("world", "--show", name, "--steps", "3", "--seed", "5", "--out", out)
    assert out.read_bytes() != first


def test_the_picture_is_of_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recolam: Recolam) -> None:
    """Greedy slates in a drifting world, twenty steps, written where one is."""
    monkeypatch.chdir(tmp_path)
    overrides = {"horizon": 15, "drift": {"shift_at": 2}}
    Path("drift.json").write_text(json.dumps(overrides))
    outcome = recolam("world", "--show", "choc_kale", "--policy", "greedy", "--config", "drift.json")
    assert (outcome.code, outcome.out) == (0, "session.svg\n"), outcome.err
    world = make_environment("choc_kale", overrides, seed=0)
    assert isinstance(world, SimulatedUsers)
    world.reset(users=1, seed=0)
    expected = []
    for step in range(1, 16):
        slate_BK = world.users.greedy_slate(world.state)
        item, reward = int(slate_BK) - 3, float(world.step(slate_BK).reward_B)
        expected.append(f"Step {step}: shown item {item}; clicked item {item}; reward {reward:.3g}.")
    expected.append("The session was cut at its horizon after step 15.")
    assert told(tmp_path / "session.svg")[1] == " ".join(expected)


def test_a_saved_world_is_drawn(tmp_path: Path, recolam: Recolam) -> None:
    digest = save_world(make_environment("bored", {"horizon": 4}, seed=0), tmp_path / "world").digest
    drawn = []
    for world in ("bored", tmp_path / "world"):
        assert recolam("world", "--show", world, "--steps", "4", "--out", tmp_path / "a.svg").code == 0
        drawn.append(told(tmp_path / "a.svg"))
    (_, named), (title, saved) = drawn
    assert title == f"One user of the boredom world {digest[:8]}, shown random slates, seed 0"
    assert saved == named.replace("goes on", "was cut at its horizon")
    (tmp_path / "c.json").write_text('{"drift": {"shift_at": 0}}')
    options = ("--show", tmp_path / "world", "--config", tmp_path / "c.json", "--out", tmp_path / "a.svg")
    recolam("world", *options)
    assert told(tmp_path / "a.svg")[1] != saved
    (tmp_path / "c.json").write_text('{"drift": {"period": 1}}')
    outcome = recolam("world", *options)
    assert outcome.code == 2
    assert "world.drift: period is 1, below 2" in outcome.err


@pytest.mark.slow
def test_the_pipeline_s_world_is_drawn_with_titles_and_its_policy(
    tiny_run: FinishedRun, tmp_path: Path, recolam: Recolam
) -> None:
    world, policy, out = tiny_run.artifact("world"), tiny_run.artifact("policy"), tmp_path / "a.svg"
    outcome = recolam("world", "--show", world, "--policy", policy, "--steps", "5", "--seed", "2", "--out", out)
    assert outcome.code == 0, outcome.err
    title, description = told(out)
    kind = json.loads((world / "world.json").read_text())["kind"]
    names = [open_artifact(path).digest[:8] for path in (world, policy)]
    assert title == f"One user of the {kind} world {names[0]}, shown slates of policy {names[1]}, seed 2"
    dataset = TokenisedDataset.load(open_artifact(world).parent("features").path)
    environment, agent = load_world(world), SlateAgent.load(policy)
    with torch.no_grad():
        first_K = agent.slates(environment.reset(users=1, seed=2), k=environment.slate_size, generator=None)[0]
    assert description.startswith(
        f"Step 1: shown {', '.join(dataset.titles[token - 3] for token in first_K.tolist())};"
    )
    for case, message in {
        "--policy": (["--show", "bored", "--policy", policy], "its items are not this world's"),
        "transfer": (["--show", world, "--policy", tiny_run.artifact("transfer:music")], "its items are not"),
        "a world": (["--show", world, "--policy", world], "stage 'world', not 'policy' or 'transfer'"),
        "a policy": (["--show", policy], "stage 'policy', not 'world' or"),
        "--config": (["--show", world, "--config", tmp_path / "c.json"], "unknown key 'horizon'; known keys: drift"),
    }.values():
        (tmp_path / "c.json").write_text('{"horizon": 3}')
        outcome = recolam("world", *case, "--out", out)
        assert outcome.code in (2, 3)
        assert message in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--show", "boredom"], "'boredom' is no artifact's path and not one of interest_evolution, choc_kale"),
        (["--show", "bored", "--policy", "best"], "'best' is no artifact's path and not one of random, greedy"),
        (["--show", "bored", "--steps", "0"], "a session of 0 steps"),
        (["--show", "bored", "--out", "no/such/folder.svg"], "no/such/folder.svg: its folder does not exist"),
        (["--show", "bored", "--out", "."], "is a folder"),
        (["--show", "bored", "--config", "c.json"], "world bored: unknown key 'drfit'"),
        (["--show", "sardine", "--policy", "greedy"], "has no greedy slates"),
        (["--steps", "3"], "--steps goes with --show"),
        (["--out", "a.svg"], "--out goes with --show"),
    ],
)
def test_what_cannot_be_drawn_is_named(
    options: list[Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recolam: Recolam
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.json").write_text('{"drfit": {}}')
    outcome = recolam("world", *options)
    assert (outcome.code, outcome.out) == (2, ""), outcome.err
    assert message in outcome.err
    assert not list(tmp_path.glob("*.svg"))


def test_a_folder_that_is_no_artifact_is_refused(tmp_path: Path, recolam: Recolam) -> None:
    outcome = recolam("world", "--show", tmp_path)
    assert outcome.code == 3
    assert "not an artifact, or half-written" in outcome.err
