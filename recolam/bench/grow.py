"""A catalogue that grows by a fifth while the model stays as it is: what the old items lose.

Shape legend: E events, N token ids, Q queries.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recolam.bench.data import dataset_of
from recolam.bench.settings import sequence_config
from recolam.contracts.config import to_mapping
from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.errors import DataError
from recolam.intervals import bootstrap_ratio
from recolam.pretrain.stage import PretrainConfig, new_model
from recolam.seeding import derive, numpy_generator
from recolam.sequence.model import SequenceModel
from recolam.sequence.ranking import rank_targets
from recolam.sequence.training import train_sequence_model
from recolam.sequence.vocabulary import with_vocabulary

_NEW_SHARE = 1 / 6  # of all items, so that the others grow by a fifth


@dataclass(frozen=True)
class GrowBench:
    """`data`, `preset` and `config` are those of `QualityBench`; each of `seeds` draws other new items."""

    data: str = "demo"
    seeds: int = 1
    preset: str = "two-cores"
    config: str | None = None


def grow(config: GrowBench) -> dict[str, Any]:
    """Test NDCG@10 on old items before and after a sixth of the catalogue, drawn by the seed, is added untrained.

    The model trains on a log without the new items' events. Leave-one-out, full ranking; queries whose target is old.

    Returns:
        configuration, and runs: per seed the number of old and new items and of queries, ndcg10 before, and what is
        kept of it (a ratio with its 95 % bootstrap interval over users): `in_competition`, where histories are the
        same and the new items compete, and `in_histories`, where users have had them, too.
    """
    model = sequence_config(config.preset, config.config)
    whole = dataset_of(config.data)
    runs = [_one(whole, model, seed=seed) for seed in range(config.seeds)]
    return {"runs": runs, "configuration": to_mapping(model)}


def _one(whole: TokenisedDataset, config: PretrainConfig, *, seed: int) -> dict[str, Any]:
    is_new_N = draw_new(whole, seed=seed)
    dropped = without_events(whole, is_new_N)
    small = over_items(dropped, ~is_new_N)
    if len(small.test_event_Q) == 0:
        raise DataError("no test query asks for an old item")
    model = new_model(small, config, seed=seed)
    with tempfile.TemporaryDirectory() as scratch:
        label = f"grow {whole.info['dataset']} seed {seed}"
        key = derive(seed, "pretrain")
        train_sequence_model(model, small, config.training, seed=key, scratch=Path(scratch), label=label)
    text_NF = torch.from_numpy(whole.item_text_VF)[:, : model.config.text_features]
    grown = with_vocabulary(model, items=small.items, new_items=whole.items, new_text_NF=text_NF, new="typical")
    asked_Q = whole.test_event_Q[~is_new_N[whole.event_item_E[whole.test_event_Q]]]
    before_Q = gains(model, small, small.test_event_Q, max_len=config.training.max_len)
    competing_Q = gains(grown, dropped, dropped.test_event_Q, max_len=config.training.max_len)
    mixed_Q = gains(grown, whole, asked_Q, max_len=config.training.max_len)
    return {
        "seed": seed,
        "old_items": len(small.items),
        "new_items": int(is_new_N.sum()),
        "queries": len(asked_Q),
        "ndcg10": float(before_Q.mean()),
        "in_competition": _kept(competing_Q, before_Q, seed),
        "in_histories": _kept(mixed_Q, before_Q, seed),
    }


def draw_new(dataset: TokenisedDataset, *, seed: int) -> NDArray[np.bool_]:
    """Which token ids are the new items, bool [N]."""
    count = round(_NEW_SHARE * len(dataset.items))
    is_new_N = np.zeros(dataset.tokens, dtype=np.bool_)
    chosen = numpy_generator(seed, "new items").choice(len(dataset.items), size=count, replace=False)
    is_new_N[FIRST_ITEM + chosen] = True
    return is_new_N


def without_events(dataset: TokenisedDataset, is_gone_N: NDArray[np.bool_]) -> TokenisedDataset:
    """The dataset without the events of some items, and so without queries for them; the vocabulary stays."""
    keep_E = ~is_gone_N[dataset.event_item_E]
    kept_before_E1 = np.concatenate([[0], np.cumsum(keep_E)])
    type_E = dataset.event_type_E
    return replace(
        dataset,
        event_item_E=dataset.event_item_E[keep_E],
        event_time_E=dataset.event_time_E[keep_E],
        event_value_E=dataset.event_value_E[keep_E],
        event_split_E=dataset.event_split_E[keep_E],
        event_type_E=None if type_E is None else type_E[keep_E],
        user_offset_U1=kept_before_E1[dataset.user_offset_U1],
        validation_event_Q=kept_before_E1[dataset.validation_event_Q[keep_E[dataset.validation_event_Q]]],
        test_event_Q=kept_before_E1[dataset.test_event_Q[keep_E[dataset.test_event_Q]]],
        item_count_V=np.where(is_gone_N, 0, dataset.item_count_V),
        slates=None,
    )


def over_items(dataset: TokenisedDataset, is_kept_N: NDArray[np.bool_]) -> TokenisedDataset:
    """The same events over a smaller vocabulary; none of them may be of an item outside it."""
    is_kept_N = is_kept_N.copy()
    is_kept_N[:FIRST_ITEM] = True
    token_N = (np.cumsum(is_kept_N) - 1).astype(np.int32)
    is_item_V = is_kept_N[FIRST_ITEM:]
    return replace(
        dataset,
        event_item_E=token_N[dataset.event_item_E],
        item_count_V=dataset.item_count_V[is_kept_N],
        item_text_VF=dataset.item_text_VF[is_kept_N],
        items=tuple(item for item, is_item in zip(dataset.items, is_item_V, strict=True) if is_item),
        titles=tuple(title for title, is_item in zip(dataset.titles, is_item_V, strict=True) if is_item),
    )


def gains(
    model: SequenceModel, dataset: TokenisedDataset, event_Q: NDArray[np.int64], *, max_len: int
) -> NDArray[np.float64]:
    """Each query's share of NDCG@10."""
    rank_Q = rank_targets(model, dataset, event_Q, max_len=max_len).rank_Q
    return np.where(rank_Q <= 10, 1.0 / np.log2(1.0 + np.minimum(rank_Q, 10)), 0.0)


def _kept(after_Q: NDArray[np.float64], before_Q: NDArray[np.float64], seed: int) -> dict[str, object]:
    return bootstrap_ratio(after_Q, before_Q, resamples=1000, seed=seed).as_json()
