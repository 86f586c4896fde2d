"""Every scorer on the same queries: metrics with bootstrap intervals over users.

Shape legend: Q queries, N token ids.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.protocols import ItemScorer
from recolam.errors import DataError
from recolam.evaluate.metrics import coverage_at, hit_at, ndcg_at, novelty_at, reciprocal_rank
from recolam.intervals import Interval, bootstrap_ratio, cluster_sums
from recolam.progress import Progress
from recolam.seeding import derive, numpy_generator
from recolam.sequence.ranking import rank_targets

CUT = 10
"""The cut-off that the names `ndcg10` and `hr10` promise."""
_QUERIES_AT_A_TIME = 1024


@dataclass(frozen=True)
class RankingTable:
    """Metrics by scorer, and the NDCG@10 of every query behind them.

    Attributes:
        rows: by scorer: ndcg10, hr10, mrr (each with `mean` and `ci95`), coverage and novelty (numbers).
        ndcg_Q: by scorer, one value per query.
        user_Q: the user of each query, for further resampling.
    """

    rows: Mapping[str, Mapping[str, Any]]
    ndcg_Q: Mapping[str, NDArray[np.float64]]
    user_Q: NDArray[np.int64]


def choose_queries(dataset: TokenisedDataset, *, limit: int, seed: int) -> NDArray[np.int64]:
    """The test queries, or a seeded draw of `limit` of them where there are more.

    Raises:
        DataError: the dataset has no test query.
    """
    event_Q = dataset.test_event_Q
    if len(event_Q) == 0:
        raise DataError("the dataset has no test queries: nothing to rank")
    if len(event_Q) <= limit:
        return event_Q
    return np.sort(numpy_generator(seed, "test queries").choice(event_Q, size=limit, replace=False))


def ranking_table(
    scorers: Mapping[str, tuple[ItemScorer, int]],
    dataset: TokenisedDataset,
    event_Q: NDArray[np.int64],
    *,
    k: int,
    resamples: int,
    seed: int,
) -> RankingTable:
    """Ranks the full catalogue for every query with every scorer, seen items filtered.

    Args:
        scorers: by name, the scorer and how many of the newest items of a history it is shown.
        event_Q: events to predict.
        k: length of the list that coverage and novelty are computed on.
        resamples: bootstrap resamples of users.
        seed: seed of the bootstrap; all scorers see the same resamples.
    """
    user_Q = dataset.user_of_event(event_Q)
    rows: dict[str, dict[str, Any]] = {}
    ndcg_Q: dict[str, NDArray[np.float64]] = {}
    with Progress("ranking", total=len(scorers) * len(event_Q), unit="list") as progress:
        for name, (scorer, max_len) in scorers.items():
            parts = []
            for start in range(0, len(event_Q), _QUERIES_AT_A_TIME):
                part_Q = event_Q[start : start + _QUERIES_AT_A_TIME]
                parts.append(rank_targets(scorer, dataset, part_Q, max_len=max_len, k=max(k, CUT)))
                progress.advance(len(part_Q))
            rank_Q = np.concatenate([part.rank_Q for part in parts])
            top_QK = np.concatenate([part.top_QK for part in parts])
            ndcg_Q[name] = ndcg_at(rank_Q, k=CUT)
            values = {
                "ndcg10": ndcg_Q[name],
                "hr10": hit_at(rank_Q, k=CUT),
                "mrr": reciprocal_rank(rank_Q, items=len(dataset.items)),
            }
            rows[name] = {
                metric: user_bootstrap(value_Q, user_Q, resamples=resamples, seed=seed).as_json()
                for metric, value_Q in values.items()
            }
            rows[name]["coverage"] = coverage_at(top_QK, items=len(dataset.items), k=k)
            rows[name]["novelty"] = novelty_at(top_QK, dataset.item_count_V, k=k)
    return RankingTable(rows=rows, ndcg_Q=ndcg_Q, user_Q=user_Q)


def user_bootstrap(value_Q: NDArray[np.float64], user_Q: NDArray[np.int64], *, resamples: int, seed: int) -> Interval:
    """The mean over queries with its 95 % bootstrap interval; users are resampled with all their queries."""
    return bootstrap_ratio(
        cluster_sums(value_Q, user_Q), cluster_sums(np.ones(len(value_Q)), user_Q),
        resamples=resamples, seed=derive(seed, "bootstrap"),
    )  # fmt: skip


def flat_ranking(table: RankingTable, *, resamples: int, seed: int) -> dict[str, Any]:
    """The table as flat metrics: the pretrained model's without prefix, the others' with their name before them.

    `policy_ndcg10_difference_ci95` is the interval of policy minus pretrained, query by query.
    """
    flat: dict[str, Any] = {"queries": len(table.user_Q), "users": len(np.unique(table.user_Q))}
    for name, row in table.rows.items():
        prefix = "" if name == "pretrained" else f"{name}_"
        for metric in ("ndcg10", "hr10", "mrr"):
            flat[f"{prefix}{metric}"] = row[metric]["mean"]
        flat[f"{prefix}ndcg10_ci95"] = row["ndcg10"]["ci95"]
        flat |= {f"{prefix}coverage": row["coverage"], f"{prefix}novelty": row["novelty"]}
    change_Q = table.ndcg_Q["policy"] - table.ndcg_Q["pretrained"]
    change = user_bootstrap(change_Q, table.user_Q, resamples=resamples, seed=seed)
    return flat | {"policy_ndcg10_difference_ci95": [change.low, change.high]}


def ranking_block(table: RankingTable, ranking: Mapping[str, Any], *, available: int, k: int) -> dict[str, Any]:
    """The `ranking` block of report.json; `available` is the number of test queries there are."""
    return {
        "rows": {name: dict(row) for name, row in table.rows.items()},
        "k": k,
        "queries": ranking["queries"],
        "queries_available": available,
        "users": ranking["users"],
        "policy_ndcg10_difference_ci95": ranking["policy_ndcg10_difference_ci95"],
    }
