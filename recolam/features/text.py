"""A hashed bag of words of title and tags.

Feature hashing with signs: Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009,
https://arxiv.org/abs/0902.2206.

Shape legend: V items, F buckets.
"""

import hashlib
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")


def hashed_words(titles: Sequence[str], tags: Sequence[Sequence[str]], *, features: int) -> NDArray[np.float32]:
    """Row i: every word of item i adds +1 or -1 to one of `features` buckets; rows have L2 norm 1, or 0 without words.

    Words are runs of letters and digits in lower case. Equal on every machine and in every process.
    """
    rows: list[int] = []
    words: list[str] = []
    for row, (title, item_tags) in enumerate(zip(titles, tags, strict=True)):
        found = _WORD.findall(" ".join((title, *item_tags)).lower())
        rows.extend([row] * len(found))
        words.extend(found)
    place = {word: _bucket_and_sign(word, features) for word in set(words)}
    counts_VF = np.zeros((len(titles), features), dtype=np.float32)
    if words:
        buckets, signs = zip(*(place[word] for word in words), strict=True)
        np.add.at(counts_VF, (np.array(rows), np.array(buckets)), np.array(signs, dtype=np.float32))
    norm_V1 = np.sqrt((counts_VF**2).sum(axis=1, keepdims=True))
    return (counts_VF / np.where(norm_V1 > 0, norm_V1, 1.0)).astype(np.float32)


def _bucket_and_sign(word: str, features: int) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")
    return (number >> 1) % features, 1.0 if number & 1 else -1.0
