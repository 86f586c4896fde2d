"""The native backbone: a pre-norm transformer with rotary positions over ragged batches.

Shape legend: B sequences, S states of the longest, M states of all, D width, H heads, C = D / H channels of a head.
"""

import torch
from torch import Tensor, nn

from recolam.errors import ConfigError
from recolam.sequence.dropout import Dropout
from recolam.sequence.ragged import Ragged

_LONGEST_ON_CPU = 1024  # attention weights of longer sequences outgrow the cache; the fused kernel takes over


class Transformer(nn.Module):
    """Blocks of attention and a two-layer perceptron, each behind a layer norm (Xiong et al. 2020, arXiv:2002.04745).

    Positions enter as rotations of queries and keys, so that attention sees how far back an item is and not how long
    the window happens to be (RoPE, Su et al. 2021, arXiv:2104.09864).
    """

    def __init__(self, *, width: int, blocks: int, heads: int, dropout: float) -> None:
        super().__init__()
        if width // heads % 2:
            raise ConfigError(f"width {width} over {heads} heads leaves an odd number of channels to rotate")
        self.channels = width // heads
        self.blocks = nn.ModuleList(Block(width, heads=heads, dropout=dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)

    def forward(self, state_MD: Tensor, ragged: Ragged, *, is_causal: bool) -> Tensor:
        """States float [M, D] after all blocks; `is_causal` hides later states, otherwise all of a sequence is seen."""
        if torch.is_autocast_enabled(state_MD.device.type):
            state_MD = state_MD.to(torch.get_autocast_dtype(state_MD.device.type))
        turn_SC = rotations(ragged.width, self.channels, like=state_MD)
        for block in self.blocks:
            state_MD = block(state_MD, ragged, turn_SC, is_causal=is_causal)
        return self.norm(state_MD)


class Block(nn.Module):
    def __init__(self, width: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.attention_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.perceptron_in, self.perceptron_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, state_MD: Tensor, ragged: Ragged, turn_SC: Tensor, *, is_causal: bool) -> Tensor:
        return self.finish(state_MD, attend(self.project(state_MD), ragged, turn_SC, is_causal=is_causal))

    def project(self, state_MD: Tensor) -> Tensor:
        """Queries, keys and values before their rotation, float [M, 3, H, C]."""
        return self.query_key_value(self.attention_norm(state_MD)).unflatten(1, (3, self.heads, -1))

    def finish(self, state_MD: Tensor, mixed_MD: Tensor) -> Tensor:
        """The block's states, from its input and what attention mixed; float [M, D]."""
        state_MD = state_MD + self.dropout(self.attention_out(mixed_MD))
        hidden = torch.relu(self.perceptron_in(self.perceptron_norm(state_MD)))
        return state_MD + self.dropout(self.perceptron_out(hidden))


def attend(projected_M3HC: Tensor, ragged: Ragged, turn_SC: Tensor, *, is_causal: bool) -> Tensor:
    """Scaled dot-product attention within each sequence, [M, 3, H, C] -> [M, H * C]."""
    if projected_M3HC.is_cuda and projected_M3HC.dtype in (torch.bfloat16, torch.float16):
        return _attend_ragged(projected_M3HC, ragged, turn_SC, is_causal=is_causal)
    query_BHSC, key_BHSC, value_BHSC = ragged.pad(projected_M3HC).permute(2, 0, 3, 1, 4)
    query_BHSC, key_BHSC = rotate(query_BHSC, turn_SC), rotate(key_BHSC, turn_SC)
    bias = _bias(ragged, is_causal=is_causal, like=query_BHSC)
    if query_BHSC.device.type == "cpu" and ragged.width <= _LONGEST_ON_CPU:
        # Two matrix products: on short sequences four times as fast as the fused CPU kernel in bfloat16.
        weight_BHSS = torch.softmax(query_BHSC @ key_BHSC.mT * query_BHSC.shape[-1] ** -0.5 + bias, dim=-1)
        mixed_BHSC = weight_BHSS @ value_BHSC
    else:
        mixed_BHSC = nn.functional.scaled_dot_product_attention(query_BHSC, key_BHSC, value_BHSC, attn_mask=bias)
    return ragged.pack(mixed_BHSC.transpose(1, 2).flatten(2))


def _attend_ragged(projected_M3HC: Tensor, ragged: Ragged, turn_SC: Tensor, *, is_causal: bool) -> Tensor:
    """The same without a rectangle: variable-length flash attention."""
    from torch.nn.attention.varlen import varlen_attn  # CUDA only

    turn_M1C = turn_SC[ragged.position_M][:, None]
    query_MHC, key_MHC, value_MHC = projected_M3HC.unbind(1)
    mixed_MHC = varlen_attn(
        rotate(query_MHC, turn_M1C), rotate(key_MHC, turn_M1C), value_MHC.contiguous(), ragged.offset_B1,
        ragged.offset_B1, ragged.width, ragged.width, window_size=(-1, 0) if is_causal else (-1, -1),
    )  # fmt: skip
    return mixed_MHC.flatten(1)  # type: ignore[union-attr]  # one tensor: no auxiliary output was asked for


def rotations(length: int, channels: int, *, like: Tensor) -> Tensor:
    """Cosines and sines [S, 2 * (C / 2)] of positions 0, 1, ..., length - 1 (RoPE's theta_i = 10000^(-2 i / C))."""
    half = channels // 2
    speed_C = 10_000.0 ** -(torch.arange(half, device=like.device, dtype=torch.float32) / half)
    angle_SC = torch.arange(length, device=like.device, dtype=torch.float32)[:, None] * speed_C
    return torch.cat([angle_SC.cos(), angle_SC.sin()], dim=-1).to(like.dtype)


def rotate(value: Tensor, turn: Tensor) -> Tensor:
    """Rotates the pairs (i, i + C / 2) of the last dimension by the position's angles."""
    cosine, sine = turn.chunk(2, dim=-1)
    first, second = value.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, first * sine + second * cosine], dim=-1)


def _bias(ragged: Ragged, *, is_causal: bool, like: Tensor) -> Tensor:
    """0 where a key may be seen and -inf where not, broadcastable to [B, H, S, S]."""
    if is_causal:  # padding stands to the right of every real state
        return torch.full((ragged.width, ragged.width), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)
    hidden_BS = torch.zeros_like(ragged.is_real_BS, dtype=like.dtype)
    return hidden_BS.masked_fill_(~ragged.is_real_BS, -torch.inf)[:, None, None]
