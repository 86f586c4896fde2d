"""A whole report of made-up numbers, for tests of how reports are written."""

from typing import Any

import numpy as np


def a_return(mean: float, *, spread: float = 1.0, seed: int = 0) -> dict[str, Any]:
    values = mean + spread * np.random.default_rng(seed).standard_normal(5)
    low, high = values.mean() - 1.24 * spread, values.mean() + 1.24 * spread
    return {"mean": float(values.mean()), "ci95": [float(low), float(high)], "per_seed": values.tolist()}


def a_row(ndcg: float, *, coverage: float) -> dict[str, Any]:
    return {
        "ndcg10": {"mean": ndcg, "ci95": [ndcg * 0.95, ndcg * 1.05]},
        "hr10": {"mean": 1.8 * ndcg, "ci95": [1.7 * ndcg, 1.9 * ndcg]},
        "mrr": {"mean": 0.9 * ndcg, "ci95": [0.85 * ndcg, 0.95 * ndcg]},
        "coverage": coverage,
        "novelty": 8.4 + coverage,
    }


def an_estimate(value: float, *, ess: float, half: float) -> dict[str, Any]:
    return {
        "value": value,
        "ci95": [value - half, value + half],
        "ess": ess,
        "max_weight": 41.7,
        "n": 2140,
        "reliability": "with caution",
    }


def a_report() -> dict[str, Any]:
    steps = np.arange(0, 201, 10)
    bins = [[p, p * 0.97 + 0.01, int(4000 * np.exp(-6 * p))] for p in np.linspace(0.03, 0.55, 9).tolist()]
    lineage_row = {"digest": "3f9a" * 16, "seed": 0, "commit": "0123456789abcdef0123"}
    return {
        "dataset": {"name": "demo", "items": 500, "users": 2000},
        "verdict": {
            "level": "better",
            "sentence": "Yes: the new policy earns 21.4 per simulated session, the recommender learnt from the logs "
            "alone 17.9, a gain of 19.6% (95% interval of the difference: 15.6% to 23.5%, 5 seeds).",
            "alternative": "",
            "price": "The price: it guesses the very next item less well (NDCG@10 0.0612 instead of 0.0731); it shows "
            "61% of the catalogue instead of 48%.",
            "logs_say": "The logged slates agree that it beats the policy that wrote the logs (0.412 per slate, 95% "
            "interval 0.380 to 0.450; logged 0.310).",
            "reach": "In simulated sessions it shows 45.2% of the catalogue; as many showings drawn like the log's "
            "would cover 97.1%, more than twice as much.",
        },
        "gate": {},
        "returns": {
            "random": a_return(9.7, spread=0.3),
            "popularity": a_return(12.2, spread=0.4),
            "untrained": a_return(14.9, spread=0.5),
            "pretrained_greedy": a_return(17.9, spread=0.6),
            "bandit": a_return(17.1, spread=0.6) | {"learnt_from": {"sessions": 9984, "user_steps": 86538}},
            "slateq": a_return(18.2, spread=0.6) | {"learnt_from": {"sessions": 9984, "user_steps": 90225}},
            "trained": a_return(21.4, spread=0.6) | {"learnt_from": {"sessions": 30720, "user_steps": 304128}},
            "myopic": a_return(24.0, spread=0.5),
        },
        "composed": {
            "returns": {name: a_return(mean) for name, mean in (("random", 7.7), ("slateq", 15.1), ("trained", 19.3))},
            "reward": {
                "weights": {"response": 1.0, "diversity": 0.5},
                "formulas": {"response": "the world's reward", "diversity": "mean distance of the slate's items"},
                "gamma": 0.95,
                "response": "watch time",
                "learnt": None,
            },
        },
        "shown": {
            "log": {
                "coverage": 0.987,
                "effective_items": 402.0,
                "popularity": 0.533,
                "showings": 60210,
                "source": "slates",
            },
            "policies": {
                name: {
                    "coverage": coverage,
                    "effective_items": 300 * coverage,
                    "popularity": 0.6,
                    "showings": 30000,
                    "log_coverage_of_as_many": 0.971,
                }
                for name, coverage in (("random", 1.0), ("popularity", 0.05), ("slateq", 0.713), ("trained", 0.452))
            },
        },
        "curves": {
            "return": [[int(s), float(14.9 + 6.5 * (1 - np.exp(-s / 60)))] for s in steps],
            "entropy": [[int(s), float(5.9 - 0.004 * s)] for s in steps],
            "user_steps": [[int(s), 2534.0 * int(s)] for s in steps],
            "kl": [[int(s), float(0.002 * s)] for s in steps],
            "coverage": [[0, 0.512], [100, 0.42], [200, 0.391]],
            "effective_items": [[0, 190.0], [100, 150.0], [200, 131.0]],
            "exposure_drift": [[0, 0.0], [100, 0.3], [200, 0.374]],
            "popularity": [[0, 0.71], [100, 0.66], [200, 0.642]],
        },
        "exposure": {
            "start": {"coverage": 0.512, "effective_items": 190.0, "exposure_drift": 0.0, "popularity": 0.71},
            "served": {"coverage": 0.391, "effective_items": 131.0, "exposure_drift": 0.374, "popularity": 0.642},
            "logged": {"coverage": 0.987, "effective_items": 402.0, "popularity": 0.533},
            "source": "slates",
            "iteration": 200,
            "is_narrow": True,
        },
        "ranking": {
            "k": 10,
            "queries": 4210,
            "queries_available": 4210,
            "users": 1310,
            "rows": {
                "popularity": a_row(0.0213, coverage=0.06),
                "item_knn": a_row(0.0490, coverage=0.55),
                "pretrained": a_row(0.0731, coverage=0.48),
                "policy": a_row(0.0612, coverage=0.61),
            },
        },
        "ope": {
            "estimates": {
                "ips": an_estimate(0.395, ess=143.0, half=0.06),
                "snips": an_estimate(0.405, ess=143.0, half=0.04),
                "dm": an_estimate(0.430, ess=2140.0, half=0.01) | {"reliability": "as good as the simulated users"},
                "dr": an_estimate(0.412, ess=143.0, half=0.035),
            },
            "reason": "",
            "n": 2140,
            "split": "test",
            "logged_mean": 0.31,
            "mean_weight": 0.98,
            "impossible": 12,
            "gain": {"mean": 0.102, "ci95": [0.07, 0.14]},
        },
        "calibration": {
            "click_rate": {"logged": 0.312, "simulated": 0.305},
            "position_rate": [{"logged": 0.2, "simulated": 0.19}, {"logged": 0.1, "simulated": 0.11}],
            "ece": 0.012,
            "nll": 1.61,
            "nll_uniform": 1.95,
            "bins": bins,
        },
        "closed_loop": {
            "share": {
                "learnt_from_fitted_users": {
                    "mean": 0.943,
                    "ci95": [0.921, 0.965],
                    "gain": {"mean": 0.813, "ci95": None},
                }
            },
            "policies": {
                "random": {"true": 9.7, "fitted": 11.2},
                "popularity": {"true": 12.2, "fitted": 12.9},
                "pretrained_greedy": {"true": 17.9, "fitted": 20.1},
                "learnt_from_fitted_users": {"true": 19.6, "fitted": 22.4},
                "learnt_from_true_users": {"true": 20.8, "fitted": 21.7},
            },
            "ranking": {"fitted": {"spearman": 0.9, "regret_at_1": 0.058}},
        },
        "transfer": [
            {
                "domain": "books",
                "kept": "full",
                "ndcg10": {"scratch": 0.051, "zero_shot": 0.031, "full": 0.066, "head": 0.058, "lora": 0.062},
            }
        ],
        "examples": [
            {
                "history": ["The Quiet Harbour", "Night Train", "A Map of Rain", "Copper Sky", "Long Division"],
                "policy": [f"Title number {n}" for n in range(10)],
                "pretrained": [f"Other title {n}" for n in range(10)],
                "next": "Small Hours",
            }
            for _ in range(3)
        ],
        "data": {"rows": 81234, "quarantined": 12, "quarantine": {"bad time": 7, "duplicate": 5}},
        "lineage": [
            {"name": name, **lineage_row, "config": {"width": 64}} for name in ("features", "pretrain", "policy")
        ],
        "seed": 0,
        "config": {"k": 10},
        "slate_size": 10,
        "world": "fitted",
    }
