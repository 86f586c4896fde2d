"""The native backbone against torch's own encoder layer, and what its positions and ragged batches promise."""

import pytest
import torch
from torch import Tensor, nn

from recolam.errors import ConfigError
from recolam.sequence.dropout import Dropout
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.ragged import Ragged
from recolam.sequence.transformer import Transformer, attend, rotate, rotations


def backbone(heads: int = 2) -> Transformer:
    torch.manual_seed(0)
    return Transformer(width=16, blocks=2, heads=heads, dropout=0.0).eval()


@pytest.mark.parametrize("is_causal", [True, False])
def test_blocks_are_torchs_encoder_layers_where_nothing_is_rotated(
    monkeypatch: pytest.MonkeyPatch, is_causal: bool
) -> None:
    def unturned(length: int, channels: int, *, like: Tensor) -> Tensor:
        return torch.cat([torch.ones(length, channels // 2), torch.zeros(length, channels // 2)], dim=-1)

    monkeypatch.setattr("recolam.sequence.transformer.rotations", unturned)
    ours = backbone()
    value_BSD = torch.randn(3, 7, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(7) if is_causal else None
    expected = value_BSD
    for block in ours.blocks:
        layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.0, batch_first=True, norm_first=True).eval()
        layer.self_attn.in_proj_weight.data, layer.self_attn.in_proj_bias.data = (
            block.query_key_value.weight.data, block.query_key_value.bias.data,
        )  # fmt: skip
        pairs = [
            (layer.self_attn.out_proj, block.attention_out), (layer.linear1, block.perceptron_in),
            (layer.linear2, block.perceptron_out), (layer.norm1, block.attention_norm),
            (layer.norm2, block.perceptron_norm),
        ]  # fmt: skip
        for theirs, mine in pairs:
            theirs.load_state_dict(mine.state_dict())
        expected = layer(expected, src_mask=mask)
    ragged = Ragged.full(3, 7, device=torch.device("cpu"))
    found = ours(ragged.pack(value_BSD), ragged, is_causal=is_causal)
    torch.testing.assert_close(ragged.pad(found), ours.norm(expected), rtol=1e-4, atol=1e-5)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    turn_SC = rotations(30, 8, like=torch.zeros(1))
    query, key = torch.randn(8), torch.randn(8)
    products = [rotate(query, turn_SC[s + 5]) @ rotate(key, turn_SC[s]) for s in (0, 3, 20)]
    torch.testing.assert_close(products[0], products[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(products[0], products[2], rtol=1e-4, atol=1e-5)
    assert abs(products[0] - rotate(query, turn_SC[9]) @ rotate(key, turn_SC[0])) > 1e-3
    # A rotation by theta in each plane, written out for the second pair.
    theta = 3 * 10_000.0 ** (-1 / 4)
    turned = rotate(query, turn_SC[3])
    expected = query[1] * torch.cos(torch.tensor(theta)) - query[5] * torch.sin(torch.tensor(theta))
    torch.testing.assert_close(turned[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_causal", [True, False])
def test_ragged_states_and_gradients_are_those_of_each_sequence_alone(is_causal: bool) -> None:
    torch.manual_seed(1)
    model = SequenceModel(SequenceConfig(tokens=30, max_len=9, width=16, blocks=2, heads=2, dropout=0.0))
    length_B = torch.tensor([9, 1, 4, 0])
    history_BT = torch.randint(3, 30, (4, 9)) * (torch.arange(9)[None] < length_B[:, None])
    ragged = Ragged.of(length_B + 1, width=10)
    together = model.states(history_BT, ragged, is_causal=is_causal)
    assert len(together) == int(length_B.sum()) + 4
    together.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone = [model(history_BT[b : b + 1, :length], is_causal=is_causal)[0] for b, length in enumerate(length_B)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    torch.cat(alone).square().sum().backward()
    for ours, theirs in zip(gradients, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_two_products_equal_the_fused_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    ragged = Ragged.of(torch.tensor([5, 2, 7]), width=7)
    projected = torch.randn(14, 3, 2, 8)
    turn_SC = rotations(7, 8, like=projected)
    plain = {causal: attend(projected, ragged, turn_SC, is_causal=causal) for causal in (True, False)}
    monkeypatch.setattr("recolam.sequence.transformer._LONGEST_ON_CPU", 0)
    for causal, expected in plain.items():
        fused = attend(projected, ragged, turn_SC, is_causal=causal)
        torch.testing.assert_close(fused, expected, rtol=1e-4, atol=1e-5)


def test_packing_and_padding_are_inverse() -> None:
    ragged = Ragged.of(torch.tensor([2, 0, 3]), width=4)
    value = torch.arange(1, 6)
    assert ragged.pad(value).tolist() == [[1, 2, 0, 0], [0, 0, 0, 0], [3, 4, 5, 0]]
    assert torch.equal(ragged.pack(ragged.pad(value)), value)
    assert ragged.position_M.tolist() == [0, 1, 0, 1, 2]
    assert ragged.offset_B1.tolist() == [0, 2, 2, 5]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_passes_gradients_where_it_passed_values(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    value = torch.ones(400, 501, dtype=dtype, requires_grad=True)
    dropped = Dropout(rate).train()(value)
    share = (dropped == 0).float().mean().item()
    assert abs(share - round(rate * 256) / 256) < 0.005  # five standard errors
    assert abs(dropped.float().mean().item() - 1) < 0.03
    dropped.sum().backward()
    assert torch.equal(value.grad == 0, dropped == 0)
    assert torch.equal(Dropout(rate).eval()(value), value)
    assert not torch.equal(Dropout(rate).train()(value), dropped)


def test_an_odd_number_of_channels_is_refused() -> None:
    with pytest.raises(ConfigError, match="odd number of channels"):
        SequenceModel(SequenceConfig(width=15, heads=3))
