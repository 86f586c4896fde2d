import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recolam.errors import ArtifactError, ConfigError
from recolam.sequence.model import SequenceConfig, SequenceModel, load_sequence_model


def small(backbone: str = "native", **sizes: Any) -> SequenceModel:
    torch.manual_seed(0)
    config = SequenceConfig(
        **{"tokens": 43, "text_features": 5, "max_len": 12, "width": 16, "blocks": 2, "heads": 2, **sizes},
        backbone=backbone,
    )
    model = SequenceModel(config).eval()
    model.item_text.normal_()
    return model


@pytest.mark.parametrize("backbone", ["native", "gpt2", "llama"])
def test_no_state_sees_the_future(backbone: str) -> None:
    model = small(backbone)
    history_BT = torch.randint(3, 43, (4, 12))
    changed_BT = history_BT.clone()
    changed_BT[:, 7:] = torch.randint(3, 43, (4, 5))
    before, after = model(history_BT), model(changed_BT)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])


@pytest.mark.parametrize("backbone", ["native", "gpt2", "llama"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_padding_changes_nothing(backbone: str, is_causal: bool) -> None:
    model = small(backbone)
    history_1T = torch.randint(3, 43, (1, 6))
    padded_BT = torch.cat([torch.nn.functional.pad(history_1T, (0, 6)), torch.randint(3, 43, (1, 12))])
    length_B = torch.tensor([6, 12])
    alone = model(history_1T, torch.tensor([6]), is_causal=is_causal)[0]
    padded = model(padded_BT, length_B, is_causal=is_causal)[0, :7]
    torch.testing.assert_close(alone, padded, rtol=1e-5, atol=1e-5)


def test_bidirectional_states_see_both_sides() -> None:
    model = small()
    history_BT = torch.randint(3, 43, (1, 8))
    changed_BT = history_BT.clone()
    changed_BT[0, 7] = 3 + (changed_BT[0, 7] - 2) % 40
    before, after = (model(h, torch.tensor([8]), is_causal=False) for h in (history_BT, changed_BT))
    assert not torch.allclose(before[0, 1], after[0, 1])


def test_states_are_those_of_a_naive_transformer() -> None:
    """A borrowed backbone against the equations written out, one head and one position at a time."""
    model = small("gpt2", blocks=1)
    weights = {name.removeprefix("inner."): value for name, value in model.backbone.named_parameters()}
    history = torch.randint(3, 43, (5,))
    table = model.item_vectors.weight + model.item_text @ model.text_projection.weight.T
    x = torch.cat([model.start[None], table[history] * 4.0]) + weights["wpe.weight"][:6]

    def norm(value: Tensor, name: str) -> Tensor:
        centred = value - value.mean(dim=-1, keepdim=True)
        scaled = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(value: Tensor, name: str) -> Tensor:
        return value @ weights[f"h.0.{name}.weight"] + weights[f"h.0.{name}.bias"]

    queries, keys, values = linear(norm(x, "h.0.ln_1"), "attn.c_attn").split(16, dim=-1)
    mixed = torch.zeros(6, 16)
    for head in range(2):
        part = slice(8 * head, 8 * head + 8)
        for position in range(6):
            score = keys[: position + 1, part] @ queries[position, part] / math.sqrt(8)
            mixed[position, part] = torch.softmax(score, dim=0) @ values[: position + 1, part]
    x = x + linear(mixed, "attn.c_proj")
    hidden = linear(norm(x, "h.0.ln_2"), "mlp.c_fc")
    gelu = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
    x = x + linear(gelu, "mlp.c_proj")
    torch.testing.assert_close(model(history[None])[0], norm(x, "ln_f"), rtol=1e-4, atol=1e-5)


def test_scores_of_an_empty_history_come_from_the_start_token() -> None:
    model = small()
    score_BN = model.scores(torch.tensor([[0, 0], [5, 6]]), torch.tensor([0, 2]))
    torch.testing.assert_close(score_BN[0], model.scores(torch.tensor([[0]]), torch.tensor([0]))[0])
    assert torch.isneginf(score_BN[:, :3]).all()
    assert torch.isfinite(score_BN[:, 3:]).all()


def test_of_a_long_history_the_newest_items_count() -> None:
    model = small()
    long_BT = torch.randint(3, 43, (3, 20))
    length_B = torch.tensor([20, 15, 4])
    score_BN = model.scores(long_BT, length_B)
    for row, length in enumerate(length_B.tolist()):
        newest = long_BT[row : row + 1, max(0, length - 12) : length]
        torch.testing.assert_close(score_BN[row], model.scores(newest, torch.tensor([min(length, 12)]))[0])


def test_saved_and_loaded_models_are_equal(tmp_path: Path) -> None:
    model = small()
    model.save_pretrained(tmp_path)
    loaded = load_sequence_model(tmp_path).eval()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert loaded.config.backbone == "native"
    assert not list(tmp_path.glob("*.bin"))


def test_a_pickled_model_is_refused(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin.*pickle"):
        load_sequence_model(tmp_path)


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_sequence_model(tmp_path)


def test_unknown_backbones_and_long_histories_are_refused() -> None:
    with pytest.raises(ConfigError, match="'rnn' is not one of native, gpt2, llama"):
        SequenceModel(SequenceConfig(backbone="rnn"))
    with pytest.raises(ValueError, match="longer than the model's max_len 12"):
        small()(torch.full((1, 13), 3))
