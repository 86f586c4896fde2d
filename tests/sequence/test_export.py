"""ONNX export, run in onnxruntime and compared with torch."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recolam import __version__
from recolam.cli import app
from recolam.contracts.files import canonical_digest
from recolam.errors import ArtifactError, ConfigError
from recolam.sequence.export import compare_scores, export_onnx
from recolam.sequence.model import SequenceConfig, SequenceModel, load_sequence_model
from tests.conftest import Outcome
from tests.sequence.pretrained import pretrain_artifact

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

ITEMS = tuple(f"item {index}" for index in range(40))


def small(backbone: str = "native", kind: type[SequenceModel] = SequenceModel) -> SequenceModel:
    torch.manual_seed(0)
    config = SequenceConfig(
        tokens=43, text_features=5, max_len=12, width=16, blocks=2, heads=2, backbone=backbone, dropout=0.5
    )
    model = kind(config)
    model.item_text.normal_()
    with torch.no_grad():
        for parameter in model.parameters():  # as far from the start values as training takes them
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.train()


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> tuple[SequenceModel, Path]:
    """A model and its ONNX file, written while the model was in training mode."""
    model, path = small(), tmp_path_factory.mktemp("onnx") / "new folder" / "model.onnx"
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, path, items=ITEMS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return model, path


def by_onnxruntime(path: Path, history_BT: Tensor, length_B: Tensor) -> Tensor:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"history": history_BT.numpy(), "length": length_B.numpy()})[0])


def assert_same_scores(model: SequenceModel, path: Path, history_BT: Tensor, length_B: Tensor) -> None:
    found_BN, wanted_BN = by_onnxruntime(path, history_BT, length_B), model.eval().scores(history_BT, length_B)
    assert found_BN.dtype == torch.float32
    assert wanted_BN[:, 3:].std() > 0.1
    torch.testing.assert_close(found_BN, wanted_BN, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 2, 9])
@pytest.mark.parametrize("items", [1, 2, 7, 12])
def test_scores_are_those_of_torch_at_every_batch_size_and_length(
    native: tuple[SequenceModel, Path], batch: int, items: int
) -> None:
    history_BT = torch.randint(3, 43, (batch, items))
    length_B = torch.arange(batch) % (items + 1)
    history_BT[torch.arange(items) >= length_B[:, None]] = 0
    assert_same_scores(*native, history_BT, length_B)


def test_an_empty_history_is_a_row_of_length_0_and_padding_is_not_looked_at(native: tuple[SequenceModel, Path]) -> None:
    _, path = native
    score_BN = by_onnxruntime(path, torch.tensor([[0, 0, 0], [7, 9, 11]]), torch.tensor([0, 0]))
    assert torch.isneginf(score_BN[:, :3]).all()
    assert torch.isfinite(score_BN[:, 3:]).all()
    torch.testing.assert_close(score_BN[0], score_BN[1])
    shorter_BN = by_onnxruntime(path, torch.tensor([[7, 9, 11], [7, 9, 40]]), torch.tensor([2, 2]))
    torch.testing.assert_close(shorter_BN[0], shorter_BN[1])
    assert not torch.allclose(score_BN[0, 3:], shorter_BN[0, 3:], atol=1e-2)


def test_metadata_name_the_vocabulary_and_nothing_tells_of_the_machine(native: tuple[SequenceModel, Path]) -> None:
    _, path = native
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    vocabulary = json.loads((path.parent / "vocabulary.json").read_text())
    assert metadata == {
        "vocabulary_digest": canonical_digest(list(ITEMS)), "max_len": "12", "first_item": "3",
        "recolam_version": __version__,
    }  # fmt: skip
    assert vocabulary == {"items": list(ITEMS), "vocabulary_digest": metadata["vocabulary_digest"], "model": path.name}
    assert b".py" not in path.read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "vocabulary.json"]


def test_the_table_of_items_is_stored_once(native: tuple[SequenceModel, Path]) -> None:
    _, path = native
    sizes = [list(tensor.dims) for tensor in onnx.load(path).graph.initializer]
    assert sizes.count([43, 16]) == 1
    assert [16, 43] not in sizes


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["gpt2", "llama"])
def test_borrowed_backbones_are_exported_too(backbone: str, tmp_path: Path) -> None:
    model = small(backbone)
    exported = export_onnx(model, tmp_path / "model.onnx", items=ITEMS, opset=20)
    assert exported.max_difference <= 1e-4 * exported.scale
    assert [entry.version for entry in onnx.load(exported.path).opset_import if entry.domain == ""] == [20]
    assert_same_scores(model, tmp_path / "model.onnx", torch.randint(3, 43, (4, 9)), torch.tensor([0, 1, 5, 9]))


def test_a_changed_weight_is_seen_by_the_comparison(native: tuple[SequenceModel, Path], tmp_path: Path) -> None:
    model, path = native
    proto = onnx.load(path)
    (table,) = (tensor for tensor in proto.graph.initializer if list(tensor.dims) == [43, 16])
    changed = onnx.numpy_helper.to_array(table).copy()
    changed[20, 3] += 0.5
    table.CopyFrom(onnx.numpy_helper.from_array(changed, table.name))
    onnx.save(proto, tmp_path / "changed.onnx")
    (tmp_path / "nonsense.onnx").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="onnxruntime cannot read it"):
        compare_scores(model, tmp_path / "nonsense.onnx")
    _, good, scale = compare_scores(model.eval(), path)
    _, bad, _ = compare_scores(model, tmp_path / "changed.onnx")
    assert good <= 1e-4 * scale < bad


def test_a_file_with_other_scores_than_the_model_is_not_left(tmp_path: Path) -> None:
    class Other(SequenceModel):
        """Its scores are not those of its states, as if the exported graph were wrong."""

        def scores(self, *args: Tensor) -> Tensor:
            return super().scores(*args) * 1.001

    (tmp_path / "model.onnx").write_bytes(b"the old one")
    with pytest.raises(ArtifactError, match="onnxruntime's scores lie up to"):
        export_onnx(small(kind=Other), tmp_path / "model.onnx", items=ITEMS)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"the old one"


def test_what_cannot_be_exported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ConfigError, match="39 item ids do not fit a model of 40 items"):
        export_onnx(small(), path, items=ITEMS[1:])
    aware = SequenceModel(SequenceConfig(tokens=43, max_len=4, width=8, blocks=1, time="gaps"))
    with pytest.raises(ConfigError, match="time 'gaps' cannot be exported"):
        export_onnx(aware, path, items=ITEMS)
    (tmp_path / "vocabulary.json").write_text('{"items": ["of", "another", "artifact"]}')
    with pytest.raises(ConfigError, match=r"vocabulary\.json: not of an earlier export of model\.onnx"):
        export_onnx(small(), path, items=ITEMS)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"export needs onnxruntime: pip install 'recolam\[onnx\]'"):
        export_onnx(small(), path, items=ITEMS)
    assert [file.name for file in tmp_path.iterdir()] == ["vocabulary.json"]


@pytest.mark.slow
def test_the_command_prints_the_path_and_the_parity(tmp_path: Path, recolam: Callable[..., Outcome]) -> None:
    assert "export" in {command.callback.__name__ for command in app.registered_commands if command.callback}
    artifact, path = pretrain_artifact(tmp_path), tmp_path / "out" / "model.onnx"
    for _ in range(2):  # the second replaces the first
        outcome = recolam("export", "--input", f"pretrain={artifact.path}", "--out", path)
        assert outcome.code == 0, outcome.err
        (line,) = outcome.out.splitlines()
    answer = json.loads(line)
    assert answer["path"] == str(path)
    assert answer["items"] == 30
    assert 0 <= answer["max_difference"] <= 1e-4 * answer["scale"]
    model = load_sequence_model(artifact.path / "model")
    assert_same_scores(model, path, torch.randint(3, 33, (4, 12)), torch.tensor([0, 4, 8, 12]))
    items = json.loads((path.parent / "vocabulary.json").read_text())["items"]
    assert items == artifact.json("vocabulary.json")["items"]
    assert recolam("export", "--input", f"policy={artifact.path}", "--out", path).code == 2
    assert recolam("export", "--input", f"pretrain={tmp_path}", "--out", path).code == 3
