"""Slates of distinct items: drawn at random, and checked.

Shape legend: B users, K slate positions.
"""

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM


def random_slates(users: int, *, documents: int, slate: int, generator: torch.Generator) -> Tensor:
    """Ordered slates of distinct documents, each as likely as any other; int64 [B, K] on the generator's device.

    One draw a position: c_k uniform on the documents - k numbers from 0, which makes c a factorial-base (Lehmer) code,
    the choices of a Fisher-Yates shuffle that stops after K places (Knuth 1997, vol. 2, sections 3.3.2 and 3.4.2). It
    is read from its end: if what stands after position k is a slate of documents - k - 1 documents, then stepping over
    c_k makes it one of the documents - k without c_k. Reading is one-to-one onto the documents! / (documents - K)!
    slates, so they are as uniform as the draws: each is a remainder of 32 random bits, which favours none of N numbers
    by more than N / 2**32 of its share.
    """
    pick_KB = torch.empty(slate, users, dtype=torch.int64, device=generator.device)
    for place in range(slate):
        pick_KB[place].random_(documents - place, generator=generator)
    for place in reversed(range(slate - 1)):
        later_JB = pick_KB[place + 1 :]
        later_JB += later_JB >= pick_KB[place]
    return pick_KB.T.contiguous()


def are_items(slate_BK: Tensor, *, tokens: int) -> Tensor:
    """Whether all tokens shown are items; bool []."""
    low, high = slate_BK.aminmax()
    return (low >= FIRST_ITEM) & (high < tokens)


def are_distinct(slate_BK: Tensor) -> Tensor:
    """Whether no slate shows a token twice; bool []. On rows this short faster than sorting them."""
    slate_KB = slate_BK.T.contiguous()  # so that whole columns of users are compared at once
    return (slate_KB[:, None] == slate_KB).sum() == slate_KB.numel()
