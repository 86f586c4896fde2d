"""The tokenised dataset: saved and loaded unchanged, histories as a slow reader would take them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recolam.contracts.dataset import (
    DATASET_FILE,
    FIRST_ITEM,
    PADDING,
    TENSORS_FILE,
    LoggedSlates,
    TokenisedDataset,
)
from recolam.errors import ArtifactError
from tests.planted import dataset_from

ITEMS = 9
HISTORIES = st.lists(st.lists(st.integers(0, ITEMS - 1), max_size=7), min_size=1, max_size=6).filter(any)


def some_slates(dataset: TokenisedDataset) -> LoggedSlates:
    """Three slates of two items, at the first user's first events."""
    count = 3
    return LoggedSlates(
        slate_SK=np.asarray([[3, 4], [5, 3], [4, 11]], dtype=np.int32),
        log_propensity_S=np.asarray([-0.5, -1.25, -3.0], dtype=np.float32),
        choice_S=np.asarray([0, -1, 1], dtype=np.int32),
        reward_S=np.asarray([1.0, 0.0, np.nan], dtype=np.float32),
        user_S=np.zeros(count, dtype=np.int64),
        history_end_S=dataset.user_offset_U1[:1].repeat(count),
        session_S=np.asarray([0, 0, 2**40], dtype=np.int64),
        step_S=np.asarray([0, 1, 0], dtype=np.int32),
        left_S=np.asarray([0, 1, 0], dtype=np.int32),
        split_S=np.asarray([0, 1, 2], dtype=np.int32),
    )


def a_dataset(*, with_slates: bool = True) -> TokenisedDataset:
    dataset = dataset_from([[0, 1, 2], [3], [], [8, 7, 6, 5]], items=ITEMS)
    text = {
        "titles": ("Ünïcode \n 书", *dataset.titles[1:]),
        "info": {"domain": "main", "cuts": [1, 2.5], "none": None},
    }
    dataset = dataclasses.replace(dataset, **text)
    return dataclasses.replace(dataset, slates=some_slates(dataset)) if with_slates else dataset


def assert_same(one: object, other: object) -> None:
    assert type(one) is type(other)
    for part in dataclasses.fields(one):  # type: ignore[arg-type]
        left, right = getattr(one, part.name), getattr(other, part.name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, part.name
            np.testing.assert_array_equal(left, right, err_msg=part.name)
        elif isinstance(left, LoggedSlates):
            assert_same(left, right)
        else:
            assert left == right, part.name


@pytest.mark.parametrize("with_slates", [True, False])
def test_what_was_saved_is_loaded(tmp_path: Path, with_slates: bool) -> None:
    dataset = a_dataset(with_slates=with_slates)
    dataset.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {TENSORS_FILE, DATASET_FILE}
    loaded = TokenisedDataset.load(tmp_path)
    assert_same(loaded, dataset)
    assert loaded.tokens == FIRST_ITEM + ITEMS


def test_slices_and_transposed_arrays_are_saved_as_what_they_show(tmp_path: Path) -> None:
    dataset = a_dataset(with_slates=False)
    wide = np.arange(4 * dataset.tokens, dtype=np.float32).reshape(4, dataset.tokens)
    dataset = dataclasses.replace(dataset, item_text_VF=wide.T, event_time_E=np.arange(16, dtype=np.int64)[::2])
    dataset.save(tmp_path)
    assert_same(TokenisedDataset.load(tmp_path), dataset)


def test_saving_twice_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        a_dataset().save(tmp_path / name)
    for file in (TENSORS_FILE, DATASET_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@given(histories=HISTORIES, limit=st.integers(1, 9))
def test_histories_before_every_event(histories: list[list[int]], limit: int) -> None:
    dataset = dataset_from(histories, items=ITEMS)
    expected, users = [], []
    for user, items in enumerate(histories):
        for place in range(len(items)):
            expected.append([FIRST_ITEM + item for item in items[:place]][-limit:])
            users.append(user)
    end_Q = np.arange(len(expected))
    np.testing.assert_array_equal(dataset.user_of_event(end_Q), users)
    assert_histories(dataset.histories(end_Q, limit=limit), expected, limit=limit)


@given(histories=HISTORIES, limit=st.integers(1, 9), data=st.data())
def test_histories_of_named_users_up_to_any_moment(histories: list[list[int]], limit: int, data: st.DataObject) -> None:
    """As slates ask: also after a user's last event, and for users without any."""
    dataset = dataset_from(histories, items=ITEMS)
    users = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=8))
    ends = [data.draw(st.integers(0, len(histories[user]))) for user in users]
    expected = [
        [FIRST_ITEM + item for item in histories[user][:end]][-limit:] for user, end in zip(users, ends, strict=True)
    ]
    user_Q = np.asarray(users, dtype=np.int64)
    end_Q = dataset.user_offset_U1[user_Q] + np.asarray(ends, dtype=np.int64)
    assert_histories(dataset.histories(end_Q, limit=limit, user_Q=user_Q), expected, limit=limit)


def assert_histories(found: tuple[np.ndarray, np.ndarray], expected: list[list[int]], *, limit: int) -> None:
    history_QT, length_Q = found
    assert history_QT.shape == (len(expected), limit)
    assert history_QT.dtype == np.int32
    assert length_Q.tolist() == [len(tokens) for tokens in expected]
    assert history_QT.tolist() == [tokens + [PADDING] * (limit - len(tokens)) for tokens in expected]


@pytest.mark.parametrize("file", [TENSORS_FILE, DATASET_FILE])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"\xff" * 100, b"{}"])
def test_a_damaged_file_is_refused(tmp_path: Path, file: str, content: bytes | None) -> None:
    a_dataset().save(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{tmp_path}: not a tokenised dataset"):
        TokenisedDataset.load(tmp_path)


@pytest.mark.parametrize("key", ["items", "titles", "users", "info"])
def test_a_missing_part_is_refused(tmp_path: Path, key: str) -> None:
    a_dataset().save(tmp_path)
    text = json.loads((tmp_path / DATASET_FILE).read_text())
    for damaged in ({k: v for k, v in text.items() if k != key}, text | {key: 3}):
        (tmp_path / DATASET_FILE).write_text(json.dumps(damaged))
        with pytest.raises(ArtifactError, match="not a tokenised dataset"):
            TokenisedDataset.load(tmp_path)


def test_a_cut_file_of_tensors_is_refused(tmp_path: Path) -> None:
    a_dataset().save(tmp_path)
    content = (tmp_path / TENSORS_FILE).read_bytes()
    for end in (4, 8, 100, len(content) - 1):
        (tmp_path / TENSORS_FILE).write_bytes(content[:end])
        with pytest.raises(ArtifactError, match="not a tokenised dataset"):
            TokenisedDataset.load(tmp_path)


@pytest.mark.parametrize("key", ["items", "titles", "users"])
def test_names_that_do_not_match_the_tensors_are_refused(tmp_path: Path, key: str) -> None:
    a_dataset().save(tmp_path)
    text = json.loads((tmp_path / DATASET_FILE).read_text())
    for names in (text[key][:-1], [*text[key], "more"]):
        (tmp_path / DATASET_FILE).write_text(json.dumps(text | {key: names}))
        with pytest.raises(ArtifactError, match="expected"):
            TokenisedDataset.load(tmp_path)


@pytest.mark.parametrize(
    "name", ["event_item_E", "event_time_E", "event_value_E", "event_split_E", "user_offset_U1", "item_count_V"]
)
def test_tensors_that_do_not_match_each_other_are_refused(tmp_path: Path, name: str) -> None:
    dataset = a_dataset()
    dataclasses.replace(dataset, **{name: getattr(dataset, name)[:-1]}).save(tmp_path)
    with pytest.raises(ArtifactError, match="expected"):
        TokenisedDataset.load(tmp_path)
