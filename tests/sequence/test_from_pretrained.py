"""A saved model in one line, from a process that knows nothing but the folder."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recolam.errors import ArtifactError
from recolam.sequence.model import SequenceConfig, SequenceModel
from tests.sequence.pretrained import pretrain_artifact

ONE_LINE = {
    "SequenceModel": "from recolam.sequence.model import SequenceModel; m = SequenceModel.from_pretrained(P)",
    "AutoModel": "import recolam.sequence.model, transformers; m = transformers.AutoModel.from_pretrained(P)",
}
SCORE = "import torch, sys; P = sys.argv[1]; {load}; s = m.scores(torch.tensor({histories}), torch.tensor({lengths}))"
PRINT = "print(type(m).__name__); sys.stdout.write(s.numpy().tobytes().hex())"
HISTORIES, LENGTHS = [[3, 9, 4, 12], [31, 32, 0, 0], [0, 0, 0, 0]], [4, 2, 0]


def small(seed: int) -> SequenceModel:
    torch.manual_seed(seed)
    return SequenceModel(SequenceConfig(tokens=33, text_features=5, max_len=12, width=16, blocks=2, heads=2)).eval()


def scores_in_a_new_process(folder: Path, how: str) -> torch.Tensor:
    program = SCORE.format(load=ONE_LINE[how], histories=json.dumps(HISTORIES), lengths=json.dumps(LENGTHS))
    done = subprocess.run(
        [sys.executable, "-c", f"{program}; {PRINT}", str(folder)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    name, text = done.stdout.splitlines()
    assert name == "SequenceModel"
    return torch.from_numpy(np.frombuffer(bytearray.fromhex(text), dtype=np.float32)).view(3, -1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ONE_LINE)
def test_one_line_loads_the_pretrain_artifact_s_model_with_the_same_scores(how: str, tmp_path: Path) -> None:
    artifact = pretrain_artifact(tmp_path)
    found_BN = scores_in_a_new_process(artifact.path / "model", how)
    model = SequenceModel.from_pretrained(artifact.path / "model").eval()
    wanted_BN = model.scores(torch.tensor(HISTORIES), torch.tensor(LENGTHS))
    assert found_BN.shape == (3, 33)
    assert torch.isfinite(found_BN[:, 3:]).all()
    assert torch.equal(found_BN, wanted_BN)


def test_loaded_scores_are_those_of_the_model_that_was_saved(tmp_path: Path) -> None:
    model = small(seed=0)
    model.item_text.normal_()
    model.save_pretrained(tmp_path)
    loaded = SequenceModel.from_pretrained(tmp_path)
    assert not loaded.training
    history_BT, length_B = torch.tensor(HISTORIES), torch.tensor(LENGTHS)
    assert torch.equal(loaded.scores(history_BT, length_B), model.scores(history_BT, length_B))


def test_pickled_weights_beside_the_safe_ones_are_not_read(tmp_path: Path) -> None:
    small(seed=0).save_pretrained(tmp_path)
    torch.save(small(seed=1).state_dict(), tmp_path / "pytorch_model.bin")
    try:
        loaded = SequenceModel.from_pretrained(tmp_path)
    except ArtifactError as error:
        assert "pytorch_model.bin" in str(error)  # noqa: PT017 - refusing the folder is as good
    else:
        assert torch.equal(loaded.item_vectors.weight, small(seed=0).item_vectors.weight)


@pytest.mark.parametrize("auto", [False, True])
def test_pickled_weights_alone_are_refused(auto: bool, tmp_path: Path) -> None:
    from transformers import AutoModel

    small(seed=0).save_pretrained(tmp_path)
    torch.save(small(seed=1).state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises((ArtifactError, OSError), match="safetensors"):
        (AutoModel if auto else SequenceModel).from_pretrained(tmp_path)
