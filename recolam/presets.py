"""How big each stage is: what `--preset` names. Values that are not named here are the stages' defaults.

tiny is for tests, quick for two cores and minutes, standard for an evening or a small GPU, full for a GPU.
"""

from typing import Any

from recolam.errors import ConfigError

Values = dict[str, dict[str, Any]]

# Over thousands of items a slate says little about each: small steps, close to the pretrained policy.
_SLOW = {"learning_rate": 3e-4, "item_rate": 0.03, "kl_weight": 0.02}
_TRAINING = {"max_len": 32, "batch_size": 64}

_DEMO: dict[str, Values] = {
    "tiny": {
        "demo": {"users": 240, "items": 80, "sessions": 3},
        "pretrain": {"width": 16, "blocks": 1, "training": {**_TRAINING, "epochs": 2, "max_len": 24}},
        "world": {"epochs": 3, "horizon": 8},
        "policy": {
            "evaluation_users": 60, "evaluation_seeds": 3,
            "training": {
                "iterations": 4, "users": 16, "validate_every": 2, "validation_users": 32, "checkpoint_every": 2,
            },
            "closed_loop": {"iterations": 2, "users": 40, "seeds": 2},
        },
        "transfer": {"training": {**_TRAINING, "epochs": 1, "max_len": 24}},
        "evaluate": {"bootstrap": 200},
    },
    "quick": {
        "pretrain": {"width": 32, "training": {**_TRAINING, "epochs": 30, "patience": 5}},
        "policy": {"training": {"iterations": 120}, "closed_loop": {"iterations": 20, "seeds": 2}},
        "transfer": {"training": {**_TRAINING, "epochs": 15}},
    },
    "standard": {
        "pretrain": {"width": 64, "training": {**_TRAINING, "epochs": 60, "patience": 8}},
        "world": {"epochs": 40},
        "policy": {
            "evaluation_seeds": 20, "training": {"iterations": 400},
            "closed_loop": {"iterations": 120, "users": 1000, "is_cautious": True},
        },
        "transfer": {"training": {**_TRAINING, "epochs": 40, "patience": 8}},
    },
    "full": {
        "demo": {"users": 20_000, "items": 2000},
        "pretrain": {"width": 128, "blocks": 3, "training": {**_TRAINING, "epochs": 100, "patience": 10}},
        "world": {"epochs": 60},
        "policy": {"evaluation_users": 2000, "evaluation_seeds": 20, "training": {"iterations": 1500, "users": 256}},
        "transfer": {"training": {**_TRAINING, "epochs": 60, "patience": 10}},
    },
}  # fmt: skip

_LOGS: dict[str, Values] = {
    "tiny": {
        "pretrain": {"width": 16, "blocks": 1, "training": {"epochs": 1, "max_len": 24}},
        "world": {"epochs": 2, "horizon": 6, "fit_limit": 3000},
        "policy": _DEMO["tiny"]["policy"],
        "transfer": {"training": {"epochs": 1, "max_len": 24}},
        "evaluate": {"bootstrap": 200},
    },
    "quick": {
        "pretrain": {"width": 64, "training": {"epochs": 8, "max_len": 50}},
        "world": {"fit_limit": 40_000, "horizon": 10, "epochs": 8},
        "policy": {
            "temperature": 0.3, "evaluation_users": 500, "evaluation_seeds": 5,
            "training": {**_SLOW, "iterations": 40},
        },
        "transfer": {"training": {"epochs": 5, "max_len": 50}},
    },
    "standard": {
        "pretrain": {"width": 128, "training": {"epochs": 60, "max_len": 100, "patience": 5}},
        "world": {"fit_limit": 200_000, "horizon": 20},
        "policy": {"temperature": 0.3, "training": {**_SLOW, "iterations": 300}},
        "transfer": {"training": {"epochs": 30, "max_len": 100}},
    },
    "full": {
        "pretrain": {
            "width": 256, "blocks": 3, "dropout": 0.3,
            "training": {"epochs": 200, "max_len": 200, "patience": 10, "validation_queries": 10_000},
        },
        "world": {"fit_limit": 1_000_000, "horizon": 20, "epochs": 30},
        "policy": {
            "temperature": 0.3, "evaluation_users": 2000, "evaluation_seeds": 20,
            "training": {**_SLOW, "iterations": 1500, "users": 256},
        },
        "transfer": {"training": {"epochs": 100, "max_len": 200, "patience": 10}},
    },
}  # fmt: skip

# Sequence models alone (`recolam bench quality`, `recolam tune`): chosen on validation, figures in BENCHMARKS.md.
_RANKER = {
    "schedule": "cosine", "average": 0.998, "shuffle_ties": True, "exclude_seen": True, "validate_every": 2,
    "patience": 5,
}  # fmt: skip
SEQUENCE: dict[str, dict[str, Any]] = {
    "two-cores": {
        "width": 128, "blocks": 2, "heads": 2, "dropout": 0.2, "use_text": False,
        "training": {**_RANKER, "epochs": 16, "batch_size": 32, "max_len": 200, "validation_queries": 10_000},
    },
    "sparse": {
        "width": 256, "blocks": 2, "heads": 2, "dropout": 0.5,
        "training": {
            **_RANKER, "epochs": 12, "batch_size": 128, "max_len": 50, "weight_decay": 0.1,
            "validation_queries": 30_000,
        },
    },
}  # fmt: skip

NAMES = tuple(_DEMO)


def values(preset: str, *, is_demo: bool) -> Values:
    """Stage name -> config values of a preset.

    Raises:
        ConfigError: no such preset.
    """
    if preset not in NAMES:
        raise ConfigError(f"preset {preset!r} is not one of {', '.join(NAMES)}")
    return (_DEMO if is_demo else _LOGS)[preset]
