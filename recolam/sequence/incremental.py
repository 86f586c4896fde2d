"""The state after a growing history, from its new items alone: the keys and values of earlier ones are kept.

Shape legend: B sequences, T items of a history, S = T + 1 states, M new states of all sequences, R sequences that have
new ones, J new states of such a sequence at most, D width, H heads, C = D / H channels of a head.
"""

from typing import cast

import torch
from torch import Tensor

from recolam.sequence.model import SequenceModel
from recolam.sequence.transformer import Block, Transformer, rotate, rotations


class IncrementalEncoder:
    """`SequenceModel.last_state` for sessions that go on: one call a step, each with the whole histories.

    A history that begins with what was read before costs its new items only; any other (a session that began anew,
    other users, one whose oldest items fell out) is read again, whole. The answer is that of `last_state`, up to
    rounding. Attention still looks back over all states; nothing else grows with the session.

    Not for training: no gradient flows, and changed weights make it wrong. Backbones other than the native one, and
    those that read time, keep nothing and read every history again.
    """

    def __init__(self, model: SequenceModel) -> None:
        self.model = model
        is_native = isinstance(model.backbone, Transformer)
        self._backbone = cast(Transformer, model.backbone) if is_native and not model.reads_time else None
        with torch.no_grad():
            self.table_ND = model.item_table()
        self._known_BS: Tensor | None = None  # tokens read, behind a column for the start

    @torch.no_grad()
    def last_state(self, history_BT: Tensor, length_B: Tensor) -> Tensor:
        """The state after each history, float [B, D].

        Args:
            history_BT: token ids, oldest first, padded on the right; int64. Of more than the model's `max_len` items
                the newest count.
            length_B: number of real items.
        """
        limit = self.model.config.max_len
        if self._backbone is None or int(length_B.max()) > limit:
            self._known_BS = None
            return self.model.last_state(history_BT, length_B)
        wanted_BS = torch.nn.functional.pad(history_BT[:, :limit], (1, 0))
        if self._known_BS is None or self._known_BS.shape != wanted_BS.shape:
            self._begin(self._backbone, wanted_BS)
        self._read(self._backbone, wanted_BS, length_B + 1)
        return self._last_BD

    def _begin(self, backbone: Transformer, wanted_BS: Tensor) -> None:
        """Room for the keys and values of `wanted_BS`, of which nothing has been read."""
        (batch, width), config, like = wanted_BS.shape, self.model.config, self.table_ND
        shape = (len(backbone.blocks), 2, batch, config.heads, width, backbone.channels)
        self._kept_L2BHSC = torch.zeros(shape, dtype=like.dtype, device=like.device)
        self._turn_SC = rotations(width, backbone.channels, like=like)
        self._known_BS = torch.zeros_like(wanted_BS)
        self._states_B = wanted_BS.new_zeros(batch)
        self._last_BD = like.new_zeros(batch, config.width)

    def _read(self, backbone: Transformer, wanted_BS: Tensor, states_B: Tensor) -> None:
        """Reads what is new in each history and keeps its keys, values and last state."""
        known_BS, place_S = cast(Tensor, self._known_BS), torch.arange(wanted_BS.shape[1], device=wanted_BS.device)
        is_read_BS = place_S < self._states_B[:, None]
        is_going_on_B = ((known_BS == wanted_BS) | ~is_read_BS).all(dim=1) & (self._states_B <= states_B)
        begin_B = self._states_B.where(is_going_on_B, 0)
        row_R = (begin_B < states_B).nonzero()[:, 0]
        if len(row_R) == 0:
            return
        self._known_BS, self._states_B = wanted_BS.clone(), states_B.clone()
        begin_R, states_R = begin_B[row_R], states_B[row_R]
        place_RJ = begin_R[:, None] + place_S[: int((states_R - begin_R).max())]
        is_new_RJ = place_RJ < states_R[:, None]
        place_RJ = place_RJ.clamp(max=wanted_BS.shape[1] - 1)
        row_M, place_M = row_R[:, None].expand_as(place_RJ)[is_new_RJ], place_RJ[is_new_RJ]
        state_MD = self.model.inputs(wanted_BS[row_M, place_M], place_M, self.table_ND)
        turn_M1C = self._turn_SC[place_M][:, None]
        hidden_RJS = self._hidden(place_RJ, place_S[: int(states_R.max())])
        for layer, kept_2BHSC in zip(backbone.blocks, self._kept_L2BHSC, strict=True):
            block = cast(Block, layer)
            query_MHC, key_MHC, value_MHC = block.project(state_MD).unbind(1)
            kept_2BHSC[0, row_M, :, place_M] = rotate(key_MHC, turn_M1C)
            kept_2BHSC[1, row_M, :, place_M] = value_MHC
            query_RJHC = query_MHC.new_zeros(*is_new_RJ.shape, *query_MHC.shape[1:])
            query_RJHC[is_new_RJ] = rotate(query_MHC, turn_M1C)
            mixed_RJD = _attend(query_RJHC, self._rows(kept_2BHSC, row_R, hidden_RJS.shape[-1]), hidden_RJS)
            state_MD = block.finish(state_MD, mixed_RJD[is_new_RJ])
        newest_R = is_new_RJ.sum(dim=1).cumsum(0) - 1
        self._last_BD = self._last_BD.index_copy(0, row_R, backbone.norm(state_MD[newest_R]))

    @staticmethod
    def _hidden(place_RJ: Tensor, place_S: Tensor) -> Tensor:
        """0 where a new state sees an earlier one, -inf where it does not; float [R, 1, J, S]."""
        is_hidden_RJS = place_S > place_RJ[..., None]
        return torch.zeros(is_hidden_RJS.shape, device=place_S.device).masked_fill_(is_hidden_RJS, -torch.inf)[:, None]

    @staticmethod
    def _rows(kept_2BHSC: Tensor, row_R: Tensor, width: int) -> Tensor:
        """Keys and values of some sequences, [2, R, H, S, C]; a view where all are meant."""
        seen = kept_2BHSC[:, :, :, :width]
        return seen if len(row_R) == kept_2BHSC.shape[1] else seen[:, row_R]


def _attend(query_RJHC: Tensor, kept_2RHSC: Tensor, hidden_R1JS: Tensor) -> Tensor:
    """Scaled dot-product attention of new states over all states of their sequences, float [R, J, D]."""
    query_RHJC = query_RJHC.transpose(1, 2)
    logit_RHJS = query_RHJC @ kept_2RHSC[0].mT * query_RHJC.shape[-1] ** -0.5 + hidden_R1JS
    return (torch.softmax(logit_RHJS, dim=-1) @ kept_2RHSC[1]).transpose(1, 2).flatten(2)
