"""Moving a model to another vocabulary: known items keep their vectors, new ones start from their text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import DataError
from recolam.sequence.model import SequenceConfig, SequenceModel


@torch.no_grad()
def with_vocabulary(
    model: SequenceModel, *, items: Sequence[str], new_items: Sequence[str], new_text_NF: Tensor
) -> SequenceModel:
    """A copy of `model` over `new_items`.

    Args:
        items: the vocabulary of `model`, in token order.
        new_items: the vocabulary wanted.
        new_text_NF: its text features, one row per token id (special tokens included).

    Items in both keep their own vectors; the others get a zero vector, so that only their text speaks for them.

    Raises:
        DataError: text features of another width than the model's.
    """
    if new_text_NF.shape != (FIRST_ITEM + len(new_items), model.config.text_features):
        raise DataError(
            f"text features of shape {tuple(new_text_NF.shape)} do not fit {len(new_items)} items and the model's "
            f"{model.config.text_features} features"
        )
    config = SequenceConfig(**{**model.config.to_dict(), "tokens": FIRST_ITEM + len(new_items)})
    moved = SequenceModel(config)
    state = {
        name: value for name, value in model.state_dict().items() if name not in ("item_vectors.weight", "item_text")
    }
    moved.load_state_dict(state, strict=False)
    moved.item_text.copy_(new_text_NF)
    moved.item_vectors.weight.zero_()
    moved.item_vectors.weight[:FIRST_ITEM] = model.item_vectors.weight[:FIRST_ITEM]
    row_of = {item: FIRST_ITEM + row for row, item in enumerate(items)}
    pairs = [(FIRST_ITEM + row, row_of[item]) for row, item in enumerate(new_items) if item in row_of]
    if pairs:
        new_rows, old_rows = (torch.tensor(rows) for rows in zip(*pairs, strict=True))
        moved.item_vectors.weight[new_rows] = model.item_vectors.weight[old_rows]
    return moved.train(model.training)
