"""Softmax cross entropy over sampled items, for catalogues where the exact sum is too slow.

Shape legend: M positions, R positions of one block, N items, K negatives, D width.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class Negatives:
    """How many negatives a batch shares, and the probabilities float [N] with which items are drawn."""

    count: int
    proposal_N: Tensor


def popularity_proposal(item_count_N: Tensor, *, power: float = 0.75) -> Tensor:
    """Probabilities proportional to (count + 1) ** power, float [N]; 0 is uniform.

    The power 3/4 is that of word2vec (Mikolov et al. 2013, arXiv:1310.4546, section 2.2); the 1 lets every item be
    drawn, without which no correction could make up for its absence.
    """
    weight_N = (item_count_N.double() + 1.0) ** power
    return (weight_N / weight_N.sum()).float()


def log_expected_count(proposal_N: Tensor, *, negatives: int) -> Tensor:
    """log of how often each item is expected among `negatives` draws with replacement, float [N]."""
    return torch.log(proposal_N * negatives)


def sampled_cross_entropy(
    state_MD: Tensor,
    table_ND: Tensor,
    target_M: Tensor,
    *,
    negatives: Negatives,
    generator: torch.Generator | None = None,
    block: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Mean or sum of -log softmax(state . table)[target] with the normaliser estimated from shared negatives.

    K items are drawn with replacement, once for all positions, and each logit loses the log of its item's expected
    count K q (importance sampling, Bengio & Senecal 2008, section III; the log-Q correction of Yi et al. 2019,
    "Sampling-bias-corrected neural modeling", equation 3, with the counts of this sampler). The target, there once
    for certain, loses nothing, and where it is drawn by accident it is left out. So exp(target) plus the sum over
    negatives is an unbiased estimate of the normaliser; the loss, its logarithm, and the gradient have a bias that
    falls like 1 / K.

    Args:
        state_MD: float [M, D]; its format is that of the matrix products, sums are float32.
        table_ND: float [N, D].
        target_M: int64 [M], rows of `table_ND`.
        generator: of the proposal's device; None for torch's own.
        block: rows of logits alive at a time; by default as many as keep them at 2**20 elements.

    Raises:
        ValueError: no positions, a target that is not a row of the table, or a proposal over another number of items.
    """
    if target_M.numel() == 0:
        raise ValueError("cross entropy of no positions")
    if int(target_M.min()) < 0 or int(target_M.max()) >= len(table_ND):
        raise ValueError(f"target {int(target_M.max())} is not a row of a table of {len(table_ND)} items")
    if negatives.proposal_N.shape != (len(table_ND),):
        raise ValueError(f"a proposal over {len(negatives.proposal_N)} items for a table of {len(table_ND)}")
    drawn_K = torch.multinomial(negatives.proposal_N, negatives.count, replacement=True, generator=generator)
    log_count_K = log_expected_count(negatives.proposal_N[drawn_K], negatives=negatives.count).to(state_MD.device)
    drawn_K = drawn_K.to(state_MD.device)
    negative_KD = torch.nn.functional.embedding(drawn_K, table_ND)
    target_MD = torch.nn.functional.embedding(target_M, table_ND)
    rows = block or max(1, min(4096, _BLOCK_ELEMENTS // negatives.count))
    needs_gradient = torch.is_grad_enabled() and (state_MD.requires_grad or table_ND.requires_grad)
    device = state_MD.device.type
    if torch.is_autocast_enabled(device):
        state_MD = state_MD.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        total = _Sampled.apply(
            state_MD, target_MD, negative_KD, target_M, drawn_K, log_count_K, rows, needs_gradient
        )  # fmt: skip
    return total / len(target_M) if reduction == "mean" else total


class _Sampled(torch.autograd.Function):
    """As in `recolam.sequence.loss`, a block's gradient is formed while its logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        state_MD: Tensor,
        target_MD: Tensor,
        negative_KD: Tensor,
        target_M: Tensor,
        drawn_K: Tensor,
        log_count_K: Tensor,
        rows: int,
        needs_gradient: bool,
    ) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=state_MD.device)
        factor_KD = negative_KD.to(state_MD.dtype)
        if needs_gradient:
            d_state_MD, d_target_MD = torch.empty_like(state_MD), torch.empty_like(target_MD)
            d_negative_KD = torch.zeros_like(negative_KD, dtype=torch.float32)
        for begin in range(0, len(target_M), rows):
            part = slice(begin, begin + rows)
            state_RD, target_RD = state_MD[part], target_MD[part].to(state_MD.dtype)
            logit_RK = (state_RD @ factor_KD.T).float().sub_(log_count_K)
            logit_RK.masked_fill_(drawn_K == target_M[part, None], -torch.inf)
            logit_R = (state_RD.float() * target_RD.float()).sum(dim=1)
            normaliser_R = torch.logaddexp(logit_R, logit_RK.logsumexp(dim=1))
            total += (normaliser_R - logit_R).sum()
            if needs_gradient:
                share_RK = logit_RK.sub_(normaliser_R[:, None]).exp_().to(state_MD.dtype)
                lack_R1 = (logit_R - normaliser_R).exp().sub(1.0)[:, None]
                d_state_MD[part] = share_RK @ factor_KD + lack_R1.to(state_MD.dtype) * target_RD
                d_target_MD[part] = (lack_R1 * state_RD.float()).to(target_MD.dtype)
                d_negative_KD += share_RK.T @ state_RD
        if needs_gradient:
            ctx.save_for_backward(d_state_MD, d_target_MD, d_negative_KD.to(negative_KD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *d_loss: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient * d_loss[0] for gradient in ctx.saved_tensors), None, None, None, None, None)
