"""Token ids: items that occur in train, in an order that tells nothing about them."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recolam.contracts.dataset import FIRST_ITEM, UNKNOWN
from recolam.features.hashing import text_hash


def train_vocabulary(item_E: pl.Series, is_train_E: NDArray[np.bool_], *, seed: int) -> tuple[str, ...]:
    """The items of the train events, ordered by a seeded hash of their ids."""
    items = sorted(item_E.filter(pl.Series(is_train_E)).unique().to_list())
    order = np.argsort(text_hash(items, seed=seed, stream="vocabulary"), kind="stable")
    return tuple(items[row] for row in order)


def tokens_of(item: pl.Series, vocabulary: Sequence[str]) -> NDArray[np.int32]:
    """The token id of each item; UNKNOWN for items outside the vocabulary."""
    table = pl.DataFrame(
        {
            "item": pl.Series(vocabulary, dtype=pl.String),
            "token": np.arange(FIRST_ITEM, FIRST_ITEM + len(vocabulary), dtype=np.int32),
        }
    )
    joined = item.rename("item").to_frame().join(table, on="item", how="left", maintain_order="left")
    return joined["token"].fill_null(UNKNOWN).to_numpy()
