"""Exact softmax cross entropy over the whole catalogue without the whole logits tensor.

Shape legend: M positions, R positions of one block, N items, D width.
"""

from typing import Any

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**20  # logits of one block stay in the cache of a small CPU


def blockwise_cross_entropy(
    state_MD: Tensor, table_ND: Tensor, target_M: Tensor, *, block: int | None = None
) -> Tensor:
    """Mean of -log softmax(state . table)[target], exact, with at most `block` rows of logits alive.

    The gradient of a block, (softmax - onehot) with respect to its logits, is formed while the block is at hand, so
    the backward pass needs no logits and no second product (the idea of fused linear cross entropy, Hsu et al. 2024,
    https://arxiv.org/abs/2410.10989).

    Args:
        state_MD: float [M, D].
        table_ND: float [N, D].
        target_M: int64 [M], rows of `table_ND`.
        block: rows per block; by default as many as keep the logits at 2**20 elements.

    Raises:
        ValueError: no positions at all, or a target that is not a row of the table.
    """
    if target_M.numel() == 0:
        raise ValueError("cross entropy of no positions")
    if int(target_M.min()) < 0 or int(target_M.max()) >= len(table_ND):
        raise ValueError(f"target {int(target_M.max())} is not a row of a table of {len(table_ND)} items")
    rows = block or max(1, min(4096, _BLOCK_ELEMENTS // len(table_ND)))
    needs_gradient = torch.is_grad_enabled() and (state_MD.requires_grad or table_ND.requires_grad)
    return _BlockwiseCrossEntropy.apply(state_MD, table_ND, target_M, rows, needs_gradient)


class _BlockwiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, state_MD: Tensor, table_ND: Tensor, target_M: Tensor, rows: int, needs_gradient: bool
    ) -> Tensor:
        positions = len(target_M)
        total = torch.zeros((), dtype=torch.float32, device=state_MD.device)
        if needs_gradient:
            d_state_MD = torch.empty_like(state_MD)
            d_table_ND = torch.zeros_like(table_ND, dtype=torch.float32)
        for begin in range(0, positions, rows):
            state_RD, target_R = state_MD[begin : begin + rows], target_M[begin : begin + rows]
            logit_RN = (state_RD @ table_ND.to(state_RD.dtype).T).float()
            log_normaliser_R = torch.logsumexp(logit_RN, dim=1)
            total += (log_normaliser_R - logit_RN.gather(1, target_R[:, None])[:, 0]).sum()
            if needs_gradient:
                d_logit_RN = logit_RN.sub_(log_normaliser_R[:, None]).exp_()
                d_logit_RN[torch.arange(len(target_R), device=target_R.device), target_R] -= 1.0
                d_logit_RN = d_logit_RN.to(state_RD.dtype)
                d_state_MD[begin : begin + rows] = d_logit_RN @ table_ND.to(state_RD.dtype)
                d_table_ND += d_logit_RN.T @ state_RD
        if needs_gradient:
            ctx.save_for_backward(d_state_MD / positions, (d_table_ND / positions).to(table_ND.dtype))
        return total / positions

    @staticmethod
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        d_state_MD, d_table_ND = ctx.saved_tensors
        return d_state_MD * d_loss[0], d_table_ND * d_loss[0], None, None, None
