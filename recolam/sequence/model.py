"""The sequence transformer: items in, a state after every item out.

Shape legend: B sequences, T items of a history, S = T + 1 states, D width, N token ids, F text features.
State t has read the first t items (state 0 has read nothing but the start token), so a causal model's state t
predicts item t + 1, and a bidirectional model's state t sits on item t itself.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from recolam.contracts.artifact import refuse_pickle
from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ArtifactError, ConfigError

_BACKBONES = {
    "gpt2": lambda c: {
        "vocab_size": 1, "n_positions": c.max_len + 1, "n_embd": c.width, "n_layer": c.blocks, "n_head": c.heads,
        "resid_pdrop": c.dropout, "embd_pdrop": c.dropout, "attn_pdrop": c.dropout,
        "bos_token_id": None, "eos_token_id": None,
    },
    "llama": lambda c: {
        "vocab_size": 1, "max_position_embeddings": c.max_len + 1, "hidden_size": c.width,
        "num_hidden_layers": c.blocks, "num_attention_heads": c.heads, "num_key_value_heads": c.heads,
        "intermediate_size": 4 * c.width,
        "attention_dropout": c.dropout, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    },
}  # fmt: skip


class SequenceConfig(PretrainedConfig):
    """Sizes of a `SequenceModel`. `backbone` names the transformers architecture fed with item embeddings."""

    model_type = "recolam-sequence"

    def __init__(
        self,
        *,
        tokens: int = FIRST_ITEM + 1,
        text_features: int = 0,
        backbone: str = "gpt2",
        max_len: int = 50,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokens, self.text_features, self.backbone = tokens, text_features, backbone
        self.max_len, self.width, self.blocks, self.heads, self.dropout = max_len, width, blocks, heads, dropout


class SequenceModel(PreTrainedModel):
    """A transformers architecture over item embeddings, with tied item scores and a value head.

    An item's embedding is its own vector plus a projection of its text features, so that an item never seen in
    training still has one. Item scores are dot products of the state with all item embeddings (SASRec, Kang &
    McAuley 2018, https://arxiv.org/abs/1808.09781, section III-D).
    """

    config_class = SequenceConfig
    config: SequenceConfig
    item_text: Tensor
    base_model_prefix = "backbone"
    _supports_sdpa = True

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__(config)
        logging.disable_progress_bar()  # a bar for every small model that is read or written tells nobody anything
        if config.backbone not in _BACKBONES:
            raise ConfigError(f"backbone {config.backbone!r} is not one of {', '.join(_BACKBONES)}")
        if config.width % config.heads:
            raise ConfigError(f"width {config.width} is not a multiple of heads {config.heads}")
        inner = AutoConfig.for_model(config.backbone, **_BACKBONES[config.backbone](config))
        self.backbone = AutoModel.from_config(inner, attn_implementation="sdpa")
        self.item_vectors = nn.Embedding(config.tokens, config.width)
        self.start = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("item_text", torch.zeros(config.tokens, config.text_features))
        if config.text_features:
            self.text_projection = nn.Linear(config.text_features, config.width, bias=False)
        self.embedding_dropout = nn.Dropout(config.dropout)
        self.value_head = nn.Linear(config.width, 1)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.value_head:
            nn.init.zeros_(module.weight)

    def item_table(self) -> Tensor:
        """Embeddings of all token ids, float [N, D]."""
        table_ND = self.item_vectors.weight
        if self.config.text_features:
            table_ND = table_ND + self.text_projection(self.item_text)
        return table_ND

    def forward(
        self,
        history_BT: Tensor,
        length_B: Tensor | None = None,
        *,
        is_causal: bool = True,
        table_ND: Tensor | None = None,
    ) -> Tensor:
        """States [B, T + 1, D] after 0, 1, ..., T items.

        Args:
            history_BT: token ids, oldest first, padded on the right; int64.
            length_B: number of real items; needed only by the bidirectional mode, since a causal state never sees
                the padding to its right.
            is_causal: False lets every state see the whole history (masked-item objective).
            table_ND: `item_table()`, where the caller has it already.

        Raises:
            ValueError: a history longer than the model's `max_len`.
        """
        batch, length = history_BT.shape
        if length > self.config.max_len:
            raise ValueError(f"history of {length} items is longer than the model's max_len {self.config.max_len}")
        table_ND = self.item_table() if table_ND is None else table_ND
        items_BTD = nn.functional.embedding(history_BT, table_ND) * self.config.width**0.5
        start_B1D = self.start.expand(batch, 1, -1)
        inputs_BSD = self.embedding_dropout(torch.cat([start_B1D, items_BTD], dim=1))
        mask = None if is_causal else _visible(length_B, states=length + 1, like=history_BT)
        return self.backbone(inputs_embeds=inputs_BSD, attention_mask=mask, use_cache=False).last_hidden_state

    def last_state(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        """The state after each history, float [B, D]; of a history longer than `max_len` the newest items count."""
        history_BT, length_B = _newest(history_BT, length_B, limit=self.config.max_len)
        states_BSD = self(history_BT[:, : self._longest(length_B)])
        return states_BSD[torch.arange(len(length_B), device=length_B.device), length_B]

    @torch.no_grad()
    def scores(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        """Score of every token id as the next item, float [B, N] (special tokens get -inf)."""
        score_BN = self.last_state(history_BT, length_B) @ self.item_table().T
        score_BN[:, :FIRST_ITEM] = -torch.inf
        return score_BN

    @staticmethod
    def _longest(length_B: Tensor) -> int:
        return max(int(length_B.max()), 1) if len(length_B) else 1


def _newest(history_BT: Tensor, length_B: Tensor, *, limit: int) -> tuple[Tensor, Tensor]:
    """The newest `limit` items of each history, padded on the right, and how many they are."""
    if history_BT.shape[1] <= limit:
        return history_BT, length_B
    skip_B1 = (length_B - limit).clamp(min=0)[:, None]
    place_BT = (torch.arange(limit, device=history_BT.device) + skip_B1).clamp(max=history_BT.shape[1] - 1)
    return history_BT.gather(1, place_BT), length_B.clamp(max=limit)


def _visible(length_B: Tensor | None, *, states: int, like: Tensor) -> Tensor:
    """Attention mask of the bidirectional mode, bool [B, 1, S, S]: True where the key is real."""
    if length_B is None:
        length_B = torch.full((len(like),), states - 1, device=like.device)
    is_real_BS = torch.arange(states, device=like.device)[None] <= length_B[:, None]
    return is_real_BS[:, None, None, :].expand(-1, 1, states, -1)


def load_sequence_model(folder: Path) -> SequenceModel:
    """Reads a model saved by `save_pretrained`; safetensors only.

    Raises:
        ArtifactError: no model there, or one that is pickled, damaged or of other sizes.
    """
    if not (folder / "config.json").is_file():
        raise ArtifactError(f"{folder}: no config.json, not a saved model")
    for path in folder.iterdir():
        refuse_pickle(path)
    logging.disable_progress_bar()
    try:
        return SequenceModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ArtifactError(f"{folder}: the model cannot be read ({error})") from error
