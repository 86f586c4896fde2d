"""Slates of distinct items: drawn at random, and checked.

Shape legend: B users, K slate positions.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM


def random_slates(users: int, *, documents: int, slate: int, generator: torch.Generator) -> Tensor:
    """Ordered slates of distinct documents, each as likely as any other; int64 [B, K] on the generator's device.

    One draw a position, uniform on the documents - k that are left: a Fisher-Yates shuffle that stops after K places
    (Knuth 1997, vol. 2, section 3.4.2), whose choices `decoded` reads. torch draws by the remainder of 32 random bits,
    so that of N documents none is favoured by more than N / 2**32 of its share.
    """
    choice_KB = torch.empty(slate, users, dtype=torch.int64, device=generator.device)
    for place in range(slate):
        choice_KB[place].random_(documents - place, generator=generator)
    return decoded(choice_KB).T.contiguous()


def decoded(choice_KB: Tensor) -> Tensor:
    """Slates from their choices c_k in 0, ..., documents - k - 1, the digits of a Lehmer code; in place, [K, B].

    Read from the end: if what stands after position k is a slate of documents - k - 1 documents, then stepping over c_k
    makes it one of the documents - k without c_k. That is one-to-one at every position, so the documents! /
    (documents - K)! codes are as many slates, and uniform codes uniform slates.
    """
    for place in reversed(range(len(choice_KB) - 1)):
        later_JB = choice_KB[place + 1 :]
        later_JB += later_JB >= choice_KB[place]
    return choice_KB


def are_items(slate_BK: Tensor, *, tokens: int) -> Tensor:
    """Whether all tokens shown are items; bool []."""
    low, high = slate_BK.aminmax()
    return (low >= FIRST_ITEM) & (high < tokens)


def are_distinct(slate_BK: Tensor) -> Tensor:
    """Whether no slate shows a token twice; bool []. On rows this short faster than sorting them."""
    slate_KB = slate_BK.T.contiguous()  # so that whole columns of users are compared at once
    return (slate_KB[:, None] == slate_KB).sum() == slate_KB.numel()
