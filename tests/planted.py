"""Small datasets with a known truth, made without the tables."""

import numpy as np

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, VALIDATION, LoggedSlates, TokenisedDataset


def dataset_from(histories: list[list[int]], *, items: int, slates: LoggedSlates | None = None) -> TokenisedDataset:
    """Histories of item indices (0-based), split leave-one-out."""
    offsets = np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64)
    tokens = np.concatenate([np.asarray(history, dtype=np.int32) for history in histories]) + FIRST_ITEM
    split = np.full(len(tokens), TRAIN, dtype=np.int32)
    long_enough = offsets[1:] - offsets[:-1] >= 3
    split[offsets[1:][long_enough] - 1] = TEST
    split[offsets[1:][long_enough] - 2] = VALIDATION
    counts = np.bincount(tokens[split == TRAIN], minlength=FIRST_ITEM + items)
    text = np.zeros((FIRST_ITEM + items, 8), dtype=np.float32)
    text[FIRST_ITEM:] = np.random.default_rng(0).normal(size=(items, 8)) / 8**0.5
    return TokenisedDataset(
        event_item_E=tokens.astype(np.int32),
        event_time_E=np.arange(len(tokens), dtype=np.int64),
        event_value_E=np.full(len(tokens), np.nan, dtype=np.float32),
        event_split_E=split,
        user_offset_U1=offsets,
        validation_event_Q=offsets[1:][long_enough] - 2,
        test_event_Q=offsets[1:][long_enough] - 1,
        item_count_V=counts.astype(np.int64),
        item_text_VF=text,
        items=tuple(f"item-{index}" for index in range(items)),
        titles=tuple(f"Title {index}" for index in range(items)),
        users=tuple(f"user-{index}" for index in range(len(histories))),
        info={"domain": "main", "clock": "time"},
        slates=slates,
    )


def cyclic_dataset(*, users: int = 200, items: int = 30, length: int = 12, seed: int = 0) -> TokenisedDataset:
    """Item i is always followed by item i + 1 (mod items): a perfect model ranks every target first."""
    starts = np.random.default_rng(seed).integers(items, size=users)
    return dataset_from([[(int(start) + step) % items for step in range(length)] for start in starts], items=items)


def noise_dataset(*, users: int = 200, items: int = 30, length: int = 12, seed: int = 0) -> TokenisedDataset:
    """Items drawn at random without repeats: nobody can do better than chance."""
    generator = np.random.default_rng(seed)
    return dataset_from([generator.permutation(items)[:length].tolist() for _ in range(users)], items=items)
