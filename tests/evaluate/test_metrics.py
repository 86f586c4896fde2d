"""Ranking metrics against numbers worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import DataError
from recolam.evaluate.metrics import coverage_at, hit_at, ndcg_at, novelty_at, reciprocal_rank

RANKS = np.array([1, 2, 3, 10, 11, np.iinfo(np.int64).max])


def test_ndcg_by_hand() -> None:
    expected = [1.0, 1 / math.log2(3), 0.5, 1 / math.log2(11), 0.0, 0.0]
    assert ndcg_at(RANKS, k=10) == pytest.approx(expected, abs=1e-12)
    assert ndcg_at(RANKS, k=2).tolist() == pytest.approx([1.0, 1 / math.log2(3), 0, 0, 0, 0])


def test_hits_and_reciprocal_ranks_by_hand() -> None:
    assert hit_at(RANKS, k=10).tolist() == [1, 1, 1, 1, 0, 0]
    assert hit_at(RANKS, k=1).tolist() == [1, 0, 0, 0, 0, 0]
    expected = [1.0, 0.5, 1 / 3, 0.1, 1 / 11, 0.0]
    assert reciprocal_rank(RANKS, items=500) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(1, 200), min_size=1, max_size=30), st.integers(1, 50))
def test_ndcg_lies_between_zero_and_the_hit_and_grows_with_k(ranks: list[int], k: int) -> None:
    rank_Q = np.array(ranks)
    ndcg_Q, hit_Q = ndcg_at(rank_Q, k=k), hit_at(rank_Q, k=k)
    assert (ndcg_Q >= 0).all()
    assert (ndcg_Q <= hit_Q).all()
    assert ((ndcg_Q > 0) == (hit_Q > 0)).all()
    assert (ndcg_at(rank_Q, k=k + 1) >= ndcg_Q).all()


def test_coverage_counts_items_once_and_no_special_tokens() -> None:
    top_QK = np.array([[3, 4, 9], [4, 3, 9], [3, 0, 1]])
    assert coverage_at(top_QK, items=4, k=2) == pytest.approx(2 / 4)
    assert coverage_at(top_QK, items=8, k=3) == pytest.approx(3 / 8)


def test_novelty_is_bits_of_surprise() -> None:
    count_N = np.array([99, 0, 99, 8, 4, 4, 0])  # special tokens do not count; 16 events of items
    assert novelty_at(np.array([[3]]), count_N, k=1) == pytest.approx(1.0)  # p = 1/2
    assert novelty_at(np.array([[4, 5], [3, 4]]), count_N, k=2) == pytest.approx((2 + 2 + 1 + 2) / 4)
    assert novelty_at(np.array([[4, 3]]), count_N, k=1) == pytest.approx(2.0)
    assert novelty_at(np.array([[6, 0]]), count_N, k=2) == pytest.approx(4.0)  # as if seen once; padding left out


def test_uniform_popularity_gives_the_catalogue_size_in_bits() -> None:
    count_N = np.full(FIRST_ITEM + 64, 7)
    top_QK = np.arange(FIRST_ITEM, FIRST_ITEM + 20).reshape(4, 5)
    assert novelty_at(top_QK, count_N, k=5) == pytest.approx(6.0)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="rank 0"):
        ndcg_at(np.array([0, 1]), k=10)
    with pytest.raises(DataError, match="length 0"):
        hit_at(RANKS, k=0)
    with pytest.raises(DataError, match="0 items"):
        coverage_at(np.array([[3]]), items=0, k=1)
    with pytest.raises(DataError, match="train events"):
        novelty_at(np.array([[3]]), np.zeros(5, dtype=np.int64), k=1)
