"""Builds the tokenised dataset.

Shape legend: E events, U users, V items of the vocabulary, S slates, Q queries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from recolam.contracts.dataset import FIRST_ITEM, TEST, TRAIN, UNKNOWN, VALIDATION, LoggedSlates, TokenisedDataset
from recolam.errors import ConfigError, DataError
from recolam.features.config import FeaturesConfig
from recolam.features.select import DomainLog, LogTables, select_domain
from recolam.features.slates import EventTimes, tokenise_slates
from recolam.features.split import Split, cut_times, leave_one_out_split, temporal_split
from recolam.features.text import hashed_words
from recolam.features.vocabulary import tokens_of, train_vocabulary


@dataclass(frozen=True)
class Tokenised:
    """A dataset, and the times at which its slates were shown (for the leak check; None without slates)."""

    dataset: TokenisedDataset
    slate_second_S: NDArray[np.int64] | None


def tokenise(log: LogTables, config: FeaturesConfig, *, seed: int, cuts: tuple[int, int] | None = None) -> Tokenised:
    """One domain's dataset.

    With the same `cuts` (or with leave-one-out), events appended later change no earlier feature, as long as they
    move no user to another domain: histories, vocabulary, counts and train events depend on earlier events alone.

    Args:
        cuts: the two cut times in seconds; None for the quantiles of this domain's event times.

    Raises:
        ConfigError: no such domain, a temporal split of a log without a clock, or ties by file without row numbers.
        DataError: fewer than 2 users or 2 items in train, or nothing to train on, validate or test.
    """
    kind = _split_kind(config, clock=log.clock)
    domain = select_domain(
        log, domain=config.domain, target_share=config.target_user_share, seed=seed, ties=config.ties
    )
    user_E, second_E = domain.events["user"].to_numpy(), domain.events["second"].to_numpy()
    offset_U1 = np.searchsorted(user_E, np.arange(len(domain.users) + 1)).astype(np.int64)
    split, cuts = _split(second_E, offset_U1, config, kind=kind, cuts=cuts)
    vocabulary = train_vocabulary(domain.events["item_id"], split.split_E == TRAIN, seed=seed)
    _refuse_empty(log, domain, split, items=len(vocabulary))
    token_E = tokens_of(domain.events["item_id"], vocabulary)
    type_E, types = _event_types(domain.events["event"], split.split_E == TRAIN)
    about = _in_order(domain.items, vocabulary)
    text_VF = hashed_words(about["title"].to_list(), about["tags"].to_list(), features=config.text_features)
    group_V, groups = _item_groups(about["tags"].to_list())
    slates = None
    if domain.slates is not None:
        held = EventTimes(user_E=user_E, second_E=second_E, split_E=split.split_E, users=len(domain.users), cuts=cuts)
        slates = tokenise_slates(domain.slates, held, vocabulary=vocabulary)
    dataset = TokenisedDataset(
        event_item_E=token_E,
        event_time_E=second_E.astype(np.int64),
        event_value_E=domain.events["value"].cast(pl.Float32).fill_null(float("nan")).to_numpy(),
        event_split_E=split.split_E,
        user_offset_U1=offset_U1,
        validation_event_Q=split.validation_event_Q,
        test_event_Q=split.test_event_Q,
        item_count_V=np.bincount(token_E[split.split_E == TRAIN], minlength=FIRST_ITEM + len(vocabulary)),
        item_text_VF=np.vstack([np.zeros((FIRST_ITEM, config.text_features), dtype=np.float32), text_VF]),
        items=vocabulary,
        titles=tuple(about["title"]),
        users=domain.users,
        info={
            **_info(log, domain, split, token_E, slates, kind=kind, cuts=cuts, ties=config.ties, seed=seed),
            "event_types": types,
            "item_groups": groups,
        },
        slates=slates,
        event_type_E=type_E,
        item_group_V=group_V,
    )
    return Tokenised(dataset, None if domain.slates is None else domain.slates["second"].to_numpy())


def _split_kind(config: FeaturesConfig, *, clock: str) -> str:
    if config.split == "temporal" and clock == "position":
        raise ConfigError("split 'temporal' needs a log with a clock; this one has positions: use 'leave_one_out'")
    if config.split != "auto":
        return config.split
    return "temporal" if clock == "time" else "leave_one_out"


def _split(
    second_E: NDArray[np.int64],
    offset_U1: NDArray[np.int64],
    config: FeaturesConfig,
    *,
    kind: str,
    cuts: tuple[int, int] | None,
) -> tuple[Split, tuple[int, int] | None]:
    if kind == "leave_one_out":
        return leave_one_out_split(offset_U1, min_events=config.min_user_events), None
    if cuts is None:
        cuts = cut_times(second_E, validation=config.validation_fraction, test=config.test_fraction)
    return temporal_split(second_E, offset_U1, cuts=cuts, min_events=config.min_user_events), cuts


def _refuse_empty(log: LogTables, domain: DomainLog, split: Split, *, items: int) -> None:
    where = f"dataset {log.name!r}, domain {domain.domain!r}"
    for count, least, what in (
        (len(domain.users), 2, "users"),
        (items, 2, "items with events in train"),
        (len(split.validation_event_Q), 1, "users with an event to validate on and earlier ones"),
        (len(split.test_event_Q), 1, "users with an event to test on and earlier ones"),
    ):
        if count < least:
            raise DataError(f"{where}: {count} {what}; at least {least} needed ({domain.events.height} events)")


def _event_types(name_E: pl.Series, is_train_E: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[str]]:
    """The row of each event's name in the sorted names of the train events, -1 for names of later events alone."""
    names = sorted(name_E.filter(pl.Series(is_train_E)).unique().drop_nulls())
    rows = {name: row for row, name in enumerate(names)}
    type_E = name_E.replace_strict(rows, default=-1, return_dtype=pl.Int32)
    return type_E.to_numpy(), names


def _item_groups(tags_V: list[list[str]]) -> tuple[NDArray[np.int32] | None, list[str]]:
    """Each token id's row in the sorted first tags of the items, -1 for none; None where no item has a tag."""
    first_V = [tags[0] if tags else None for tags in tags_V]
    names = sorted({name for name in first_V if name is not None})
    rows = {name: row for row, name in enumerate(names)}
    group_V = [-1] * FIRST_ITEM + [-1 if name is None else rows[name] for name in first_V]
    return (np.array(group_V, dtype=np.int32) if names else None), names


def _in_order(items: pl.DataFrame, vocabulary: tuple[str, ...]) -> pl.DataFrame:
    wanted = pl.DataFrame({"item_id": pl.Series(vocabulary, dtype=pl.String)})
    return wanted.join(items, on="item_id", how="left", maintain_order="left")


def _info(
    log: LogTables,
    domain: DomainLog,
    split: Split,
    token_E: NDArray[np.int32],
    slates: LoggedSlates | None,
    *,
    kind: str,
    cuts: tuple[int, int] | None,
    ties: str,
    seed: int,
) -> dict[str, Any]:
    parts = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    queries = {"validation": split.validation_event_Q, "test": split.test_event_Q}
    counts = {"rows": log.interactions.height, "events": len(token_E), "users": len(domain.users)}
    counts |= {f"{name}_events": int((split.split_E == part).sum()) for name, part in parts.items()}
    counts |= {f"{name}_queries": len(event_Q) for name, event_Q in queries.items()}
    counts |= {f"{name}_unknown_targets": int((token_E[q] == UNKNOWN).sum()) for name, q in queries.items()}
    if slates is not None:
        counts["slates"] = len(slates.user_S)
        counts["slates_with_unknown_items"] = int((slates.slate_SK == UNKNOWN).any(axis=1).sum())
    return {
        "dataset": log.name,
        "domain": domain.domain,
        "domains": dict(domain.rows),
        "split": kind,
        "cut_times": None if cuts is None else list(cuts),
        "ties": ties,
        "clock": log.clock,
        "seed": seed,
        "counts": counts,
        "dropped": dict(domain.dropped),
    }
