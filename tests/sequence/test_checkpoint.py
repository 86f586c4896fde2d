"""A checkpoint comes back bit by bit, is refused when damaged, and is never lost to a kill."""

import json
from pathlib import Path

import pytest
import torch

from recolam.errors import ArtifactError
from recolam.sequence.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint
from tests.killing import kill_before_every_change
from tests.sequence.checkpointing import save

STATE = {
    "step": 3,
    "best": -1.5,
    "curves": {"loss": [[1, 0.1]], "accuracy": [[1, 0.5]]},
    "run": {"seed": 2**62, "name": "x"},
}


def test_tensors_and_state_come_back(tmp_path: Path) -> None:
    tensors = {
        "whole": torch.randn(4, 6),
        "transposed": torch.randn(4, 6).T,
        "part": torch.arange(10)[::2],
        "half": torch.randn(3, dtype=torch.bfloat16),
        "number": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
    }
    tensors["same storage"] = tensors["whole"][1:]
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, tensors=tensors, state=STATE)
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert json.dumps(found[1]) == json.dumps(STATE)  # the order of keys too: it goes on into files with checksums
    assert found[0].keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[0][name].dtype == tensor.dtype
        assert torch.equal(found[0][name], tensor), name


def test_an_optimizer_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def start() -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model: torch.nn.Linear, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = start()
    step(model, optimizer)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path, tensors=tensors | optimizer_tensors(optimizer), state={})
    step(model, optimizer)
    resumed, other = start()
    found = load_checkpoint(tmp_path)
    assert found is not None
    resumed.load_state_dict({k.removeprefix("model."): v for k, v in found[0].items() if k.startswith("model.")})
    restore_optimizer(other, found[0])
    step(resumed, other)
    assert torch.equal(resumed.weight, model.weight)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "gone"])
def test_a_damaged_checkpoint_is_refused_and_its_file_named(tmp_path: Path, name: str, damage: str) -> None:
    save_checkpoint(tmp_path, tensors={"a": torch.ones(3)}, state=STATE)
    path = tmp_path / "checkpoint" / name
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"flipped": flipped, "short": content[:middle], "empty": b""}[damage])
    with pytest.raises(ArtifactError, match=rf"{name}: (changed|unreadable).*delete .* to train from the start"):
        load_checkpoint(tmp_path)


def test_a_changed_step_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, tensors={"a": torch.ones(3)}, state=STATE)
    path = tmp_path / "checkpoint" / "state.json"
    content = json.loads(path.read_text())
    content["state"]["step"] = 4
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"state\.json: changed"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("scenario", ["checkpointing", "checkpointing_again"])
def test_killed_while_saving_there_is_the_old_state_or_the_new_one(tmp_path: Path, scenario: str) -> None:
    steps = []
    for folder in kill_before_every_change(f"tests.sequence.{scenario}", tmp_path / "killed"):
        found = load_checkpoint(folder / "scratch")
        assert found is not None
        tensors, state = found
        assert state["curves"] == {"loss": [[state["step"], 0.5]]}
        assert torch.equal(tensors["model.weight"], torch.full((50, 20), float(state["step"])))
        steps.append(state["step"])
        save(folder, step=3)
        assert {path.name for path in (folder / "scratch").iterdir()} == {"checkpoint"}
    assert steps == sorted(steps)
    assert {steps[0], steps[-1]} == {1, 2}
