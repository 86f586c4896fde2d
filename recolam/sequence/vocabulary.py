"""Moving a model to another vocabulary: known items keep their vectors, new ones start from what is known of them.

Shape legend: N token ids, F text features, D width, V known items, W new items, K nearest known items.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError, DataError
from recolam.sequence.model import SequenceConfig, SequenceModel

NewItems = Literal["zero", "typical"]
_NEIGHBOURS, _SHARPNESS, _TRUST = 20, 10.0, 0.75
_BLOCK = 1024  # new items compared with all known ones at once


@torch.no_grad()
def with_vocabulary(
    model: SequenceModel,
    *,
    items: Sequence[str],
    new_items: Sequence[str],
    new_text_NF: Tensor,
    new: NewItems = "zero",
) -> SequenceModel:
    """A copy of `model` over `new_items`. Items in both keep their own vectors; `new` says what the others get.

    zero: no vector, so that only their text speaks for them. For another domain, where the model is tuned at once and
        the known items have no say.
    typical: a vector that the model takes for one of an ordinary item. For a catalogue that grows while the model
        serves; see `typical_vectors`.

    Args:
        items: the vocabulary of `model`, in token order.
        new_items: the vocabulary wanted.
        new_text_NF: its text features, one row per token id (special tokens included).

    Raises:
        DataError: text features of another width than the model's.
        ConfigError: no such `new`.
    """
    if new not in get_args(NewItems):
        raise ConfigError(f"new {new!r} is not one of {', '.join(get_args(NewItems))}")
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
        moved.item_vectors.weight[new_rows] = model.item_vectors.weight[old_rows].to(moved.device)
    unknown = torch.tensor([FIRST_ITEM + row for row, item in enumerate(new_items) if item not in row_of])
    if new == "typical" and len(unknown):
        vectors_WD = typical_vectors(model, new_text_WF=new_text_NF[unknown])
        moved.item_vectors.weight[unknown] = vectors_WD.to(moved.device)
    return moved.train(model.training)


@torch.no_grad()
def typical_vectors(model: SequenceModel, *, new_text_WF: Tensor) -> Tensor:
    """Vectors for items that `model` has not seen, float [W, D], such that they disturb the known ones little.

    A zero vector is no neutral start. The softmax that trains the vectors does not mind what all of them have in
    common, so a score of 0 may lie far above or below those of the known items: it may push them down, or hide the new
    item. And in a history a vector unlike all others misleads the model about what comes next.

    The mean of all known vectors is neutral. Its score is the mean of theirs in every state, so it outranks no item
    that is worth showing, and in a history it looks like an ordinary item. It needs no counts. Text says more: an
    item's nearest known ones by the cosine of their text, weighted by a softmax, tell where it belongs, and a quarter
    of the mean keeps it just behind those that it resembles. The item's own text is added by the model as for every
    item.

    Items without words get the mean, and so do all in a model without text: these cannot be told apart before
    training, and are better left out of its histories.
    """
    known_VD = model.item_vectors.weight[FIRST_ITEM:]
    mean_D = known_VD.mean(dim=0)
    vectors_WD = mean_D.repeat(len(new_text_WF), 1)
    if model.config.text_features == 0:
        return vectors_WD
    normal = torch.nn.functional.normalize
    known_text_VF, new_text_WF = normal(model.item_text[FIRST_ITEM:], dim=1), normal(new_text_WF.to(mean_D), dim=1)
    for begin in range(0, len(new_text_WF), _BLOCK):
        cosine_WV = new_text_WF[begin : begin + _BLOCK] @ known_text_VF.T
        cosine_WK, near_WK = cosine_WV.topk(min(_NEIGHBOURS, len(known_VD)), dim=1)
        weight_WK = torch.softmax(cosine_WK * _SHARPNESS, dim=1)
        near_WD = torch.einsum("wk,wkd->wd", weight_WK, known_VD[near_WK])
        trust_W1 = _TRUST * (cosine_WK[:, :1] > 0)
        vectors_WD[begin : begin + _BLOCK] += trust_W1 * (near_WD - mean_D)
    return vectors_WD
