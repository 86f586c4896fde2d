"""The sequence transformer: items in, a state after every item out.

Shape legend: B sequences, T items of a history, S = T + 1 states, M states of all sequences without padding, D width,
N token ids, F text features.
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
from recolam.sequence.dropout import Dropout
from recolam.sequence.ragged import Ragged
from recolam.sequence.times import BUCKETS, TIME_MODES, TimeMode, gap_buckets
from recolam.sequence.transformer import Block, Transformer

NATIVE = "native"
_BORROWED = {
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
    """Sizes of a `SequenceModel`.

    backbone: "native" (`recolam.sequence.transformer`), or the transformers architecture fed with item embeddings.
    time: "none"; "gaps" adds how long ago each item's predecessor was; "query" also how long after the last item the
        next one is asked for, which is known when serving but makes published figures incomparable.
    classifiers: classes of each classifier head (`recolam.sequence.heads`), by name.
    """

    model_type = "recolam-sequence"

    def __init__(
        self,
        *,
        tokens: int = FIRST_ITEM + 1,
        text_features: int = 0,
        backbone: str = NATIVE,
        time: TimeMode = "none",
        max_len: int = 50,
        width: int = 64,
        blocks: int = 2,
        heads: int = 2,
        dropout: float = 0.2,
        classifiers: dict[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokens, self.text_features, self.backbone, self.time = tokens, text_features, backbone, time
        self.max_len, self.width, self.blocks, self.heads, self.dropout = max_len, width, blocks, heads, dropout
        self.classifiers = dict(classifiers or {})


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
        if config.time not in TIME_MODES:
            raise ConfigError(f"time {config.time!r} is not one of {', '.join(TIME_MODES)}")
        if config.width % config.heads:
            raise ConfigError(f"width {config.width} is not a multiple of heads {config.heads}")
        self.backbone = _backbone(config)
        self.item_vectors = nn.Embedding(config.tokens, config.width)
        self.start = nn.Parameter(torch.zeros(config.width))
        self.register_buffer("item_text", torch.zeros(config.tokens, config.text_features))
        if config.text_features:
            self.text_projection = nn.Linear(config.text_features, config.width, bias=False)
        if config.time != "none":
            self.gap_vectors = nn.Embedding(BUCKETS, config.width)
        if config.time == "query":
            self.query_gap_vectors = nn.Embedding(BUCKETS, config.width)
        self.embedding_dropout = Dropout(config.dropout)
        self.value_head = nn.Linear(config.width, 1)
        self.classifiers = nn.ModuleDict({name: nn.Linear(config.width, n) for name, n in config.classifiers.items()})
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **settings: Any) -> "SequenceModel":
        """As in transformers, but from safetensors alone: transformers would fall back to a pickled file."""
        return super().from_pretrained(*args, **{**settings, "use_safetensors": True})

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.value_head:
            nn.init.zeros_(module.weight)
        if isinstance(module, Block):  # residual branches start small (GPT-2, Radford et al. 2019, section 2.3)
            for out in (module.attention_out, module.perceptron_out):
                nn.init.normal_(out.weight, std=0.02 / (2 * self.config.blocks) ** 0.5)

    @property
    def reads_time(self) -> bool:
        """True if the times of the history must be given."""
        return bool(self.config.time != "none")

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
        time_BS: Tensor | None = None,
        is_causal: bool = True,
        table_ND: Tensor | None = None,
    ) -> Tensor:
        """States [B, T + 1, D] after 0, 1, ..., T items.

        Args:
            history_BT: token ids, oldest first, padded on the right; int64.
            length_B: number of real items; needed only by the bidirectional mode, since a causal state never sees
                the padding to its right.
            time_BS: seconds of each item and, after the last one, of the query; int64, read by time-aware models.
            is_causal: False lets every state see the whole history (masked-item objective).
            table_ND: `item_table()`, where the caller has it already.

        Raises:
            ValueError: a history longer than the model's `max_len`, or no times for a time-aware model.
        """
        batch, items = history_BT.shape
        if length_B is None or is_causal:
            ragged = Ragged.full(batch, items + 1, device=history_BT.device)
        else:
            ragged = Ragged.of(length_B + 1, width=items + 1)
        return ragged.pad(self.states(history_BT, ragged, time_BS=time_BS, is_causal=is_causal, table_ND=table_ND))

    def states(
        self,
        history_BT: Tensor,
        ragged: Ragged,
        *,
        time_BS: Tensor | None = None,
        is_causal: bool = True,
        table_ND: Tensor | None = None,
    ) -> Tensor:
        """The states of `ragged`'s cells alone, float [M, D]; otherwise as `forward`."""
        if history_BT.shape[1] > self.config.max_len:
            limit = self.config.max_len
            raise ValueError(f"history of {history_BT.shape[1]} items is longer than the model's max_len {limit}")
        table_ND = self.item_table() if table_ND is None else table_ND
        # Column 0 stands for the start; its token is not looked at.
        token_M = ragged.pack(nn.functional.pad(history_BT, (1, 0)))
        input_MD = self.inputs(token_M, ragged.position_M, table_ND)
        if self.reads_time:
            input_MD = input_MD + self._time_inputs(ragged, time_BS)
        return self.backbone(self.embedding_dropout(input_MD), ragged, is_causal=is_causal)

    def inputs(self, token_M: Tensor, position_M: Tensor, table_ND: Tensor) -> Tensor:
        """What the backbone reads for tokens at positions of the states, float [M, D]; position 0 is the start."""
        input_MD = nn.functional.embedding(token_M, table_ND) * self.config.width**0.5
        return torch.where((position_M == 0)[:, None], self.start.to(input_MD.dtype), input_MD)

    def _time_inputs(self, ragged: Ragged, time_BS: Tensor | None) -> Tensor:
        if time_BS is None:
            raise ValueError(f"a model with time {self.config.time!r} needs the times of the history")
        before_BS, after_BS = gap_buckets(time_BS)
        added_MD = self.gap_vectors(ragged.pack(before_BS))
        if self.config.time == "query":
            added_MD = added_MD + self.query_gap_vectors(ragged.pack(after_BS))
        return added_MD

    def last_state(self, history_BT: Tensor, length_B: Tensor, time_BS: Tensor | None = None) -> Tensor:
        """The state after each history, float [B, D]; of a history longer than `max_len` the newest items count."""
        if time_BS is not None:
            time_BS, _ = _newest(time_BS, length_B + 1, limit=self.config.max_len + 1)
        history_BT, length_B = _newest(history_BT, length_B, limit=self.config.max_len)
        longest = self._longest(length_B)
        time_BS = None if time_BS is None else time_BS[:, : longest + 1]
        ragged = Ragged.of(length_B + 1, width=longest + 1)
        state_MD = self.states(history_BT[:, :longest], ragged, time_BS=time_BS)
        return state_MD[ragged.offset_B1[1:].long() - 1]

    @torch.no_grad()
    def scores(self, history_BT: Tensor, length_B: Tensor, time_BS: Tensor | None = None) -> Tensor:
        """Score of every token id as the next item, float [B, N] (special tokens get -inf)."""
        score_BN = self.last_state(history_BT, length_B, time_BS) @ self.item_table().T
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


def _backbone(config: SequenceConfig) -> nn.Module:
    """A module (state_MD, ragged, is_causal) -> state_MD.

    Raises:
        ConfigError: no such architecture.
    """
    if config.backbone == NATIVE:
        return Transformer(width=config.width, blocks=config.blocks, heads=config.heads, dropout=config.dropout)
    if config.backbone not in _BORROWED:
        raise ConfigError(f"backbone {config.backbone!r} is not one of {', '.join((NATIVE, *_BORROWED))}")
    inner = AutoConfig.for_model(config.backbone, **_BORROWED[config.backbone](config))
    return Borrowed(AutoModel.from_config(inner, attn_implementation="sdpa"))


class Borrowed(nn.Module):
    """A transformers model behind the native backbone's interface; it works on the padded rectangle."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, state_MD: Tensor, ragged: Ragged, *, is_causal: bool) -> Tensor:
        visible = None if is_causal else ragged.is_real_BS[:, None, None].expand(-1, 1, ragged.width, -1)
        answer = self.inner(inputs_embeds=ragged.pad(state_MD), attention_mask=visible, use_cache=False)
        return ragged.pack(answer.last_hidden_state)


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


AutoConfig.register(SequenceConfig.model_type, SequenceConfig)
AutoModel.register(SequenceConfig, SequenceModel)
