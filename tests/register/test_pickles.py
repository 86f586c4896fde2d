"""Pickles are refused by name and by content."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from recolam.errors import ArtifactError
from recolam.register.pickles import refuse_pickles


def test_safetensors_json_and_text_pass(tmp_path: Path) -> None:
    for length in range(1, 300):  # some header lengths look like the start of a pickle
        save_file({"x" * length: np.zeros(1)}, tmp_path / f"{length}.safetensors")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "empty").touch()
    refuse_pickles(tmp_path)


@pytest.mark.parametrize("name", ["model.pkl", "pytorch_model.bin", "deep/down/model.pt", "a.joblib", "b.ckpt"])
def test_an_ending_is_enough(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(b"harmless")
    with pytest.raises(ArtifactError, match=Path(name).name):
        refuse_pickles(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "weights", "vocabulary.json"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_under_an_innocent_name(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"weights": [1, 2]}, protocol=protocol))
    with pytest.raises(ArtifactError, match=name):
        refuse_pickles(tmp_path)


def test_torchs_zip_of_pickles(tmp_path: Path) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", b"N.")
    for name in ("model.safetensors", "weights"):
        (tmp_path / name).write_bytes(content.getvalue())
        with pytest.raises(ArtifactError, match=name):
            refuse_pickles(tmp_path)
        (tmp_path / name).unlink()
