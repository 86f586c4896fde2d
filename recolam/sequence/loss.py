"""Exact softmax cross entropy over the whole catalogue without the whole logits tensor.

Shape legend: M positions, R positions of one block, N items, D width, B windows, T places of the longest.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

_BLOCK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}  # logits of one block: what a small CPU's cache holds; enough for a GPU
_FAINT = -60.0  # below, a probability nears the end of its format
_FEWEST_ROWS = 128  # below, reading the table anew for every block costs more than the products


@dataclass(frozen=True)
class Seen:
    """Which items do not compete for a position: those that stand in its window before it.

    Attributes:
        item_BT: rows of the table, int64; negative where there is none.
        window_M: the window of each position.
        before_M: how many places of the window, from its first, come before the position.
    """

    item_BT: Tensor
    window_M: Tensor
    before_M: Tensor

    def rows(self, part: slice, target_R: Tensor) -> Tensor:
        """Items to leave out for some positions, int64 [R, T]; the target's own row where there is nothing."""
        item_RT = self.item_BT[self.window_M[part]]
        place_T = torch.arange(item_RT.shape[1], device=item_RT.device)
        is_seen_RT = (place_T < self.before_M[part, None]) & (item_RT >= 0)
        return torch.where(is_seen_RT, item_RT, target_R[:, None])


def blockwise_cross_entropy(
    state_MD: Tensor,
    table_ND: Tensor,
    target_M: Tensor,
    *,
    seen: Seen | None = None,
    block: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Mean or sum of -log softmax(state . table)[target], exact, with at most `block` rows of logits alive.

    The gradient of a block, (softmax - onehot) with respect to its logits, is formed while the block is at hand, so
    the backward pass needs no logits and no second product (the idea of fused linear cross entropy, Hsu et al. 2024,
    https://arxiv.org/abs/2410.10989).

    Args:
        state_MD: float [M, D]; its format is that of the matrix products, sums are float32.
        table_ND: float [N, D].
        target_M: int64 [M], rows of `table_ND`.
        seen: leaves items out of each position's softmax, as recommending does; a target that was seen stays.
        block: rows per block; by default 128, or as many as keep the logits below 2**20 elements (2**26 on a GPU).

    Raises:
        ValueError: no positions at all, or a target that is not a row of the table.
    """
    if target_M.numel() == 0:
        raise ValueError("cross entropy of no positions")
    if int(target_M.min()) < 0 or int(target_M.max()) >= len(table_ND):
        raise ValueError(f"target {int(target_M.max())} is not a row of a table of {len(table_ND)} items")
    needs_gradient = torch.is_grad_enabled() and (state_MD.requires_grad or table_ND.requires_grad)
    device = state_MD.device.type
    elements = _BLOCK_ELEMENTS.get(device, _BLOCK_ELEMENTS["cpu"])
    rows = block or max(_FEWEST_ROWS, min(4096, elements // len(table_ND)))
    if torch.is_autocast_enabled(device):
        state_MD = state_MD.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        total = _BlockwiseCrossEntropy.apply(state_MD, table_ND, target_M, seen, rows, needs_gradient)
    return total / len(target_M) if reduction == "mean" else total


class _BlockwiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        state_MD: Tensor,
        table_ND: Tensor,
        target_M: Tensor,
        seen: Seen | None,
        rows: int,
        needs_gradient: bool,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=state_MD.device)
        factor_ND = table_ND.to(state_MD.dtype)
        if needs_gradient:
            d_state_MD = torch.empty_like(state_MD)
            d_table_ND = torch.zeros_like(table_ND, dtype=torch.float32)
        for begin in range(0, len(target_M), rows):
            part = slice(begin, begin + rows)
            state_RD, target_R = state_MD[part], target_M[part]
            logit_RN = state_RD @ factor_ND.T
            if seen is not None:
                logit_R1 = logit_RN.gather(1, target_R[:, None])
                logit_RN.scatter_(1, seen.rows(part, target_R), -torch.inf).scatter_(1, target_R[:, None], logit_R1)
            share_RN = torch.softmax(logit_RN, dim=1)  # sums in float32 whatever the format
            total -= _log_share(share_RN, logit_RN, target_R).sum()
            del logit_RN  # as large as the shares: one block less at the peak
            if needs_gradient:
                d_logit_RN = share_RN
                d_logit_RN[torch.arange(len(target_R), device=target_R.device), target_R] -= 1.0
                torch.mm(d_logit_RN, factor_ND, out=d_state_MD[part])
                d_table_ND += d_logit_RN.T @ state_RD
        if needs_gradient:
            ctx.save_for_backward(d_state_MD, d_table_ND.to(table_ND.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_state_MD, d_table_ND = ctx.saved_tensors
        return d_state_MD * d_loss[0], d_table_ND * d_loss[0], None, None, None, None


def _log_share(share_RN: Tensor, logit_RN: Tensor, target_R: Tensor) -> Tensor:
    """Log-probability of each row's target, float32 [R]; a second softmax only where a share is too small."""
    log_share_R = share_RN.gather(1, target_R[:, None])[:, 0].float().log()
    faint_R = log_share_R < _FAINT
    if bool(faint_R.any()):
        log_share_FN = torch.log_softmax(logit_RN[faint_R], dim=1, dtype=torch.float32)
        log_share_R[faint_R] = log_share_FN.gather(1, target_R[faint_R, None])[:, 0]
    return log_share_R
