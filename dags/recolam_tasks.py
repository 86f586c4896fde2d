"""What the five DAGs share: assets, params, retry rules, and the one way in which a task calls a stage.

Parsed by Airflow many times a day: it imports `airflow.sdk` and the standard library only; tasks import the pipeline.
"""

import os
from collections.abc import Mapping
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import Asset, ExceptionRetryPolicy, Param, RetryAction, RetryRule, get_current_context

# What one DAG finishes and the next one waits for.
FEATURES = Asset(name="recolam_features", group="recolam")
PRETRAINED = Asset(name="recolam_pretrained", group="recolam")
POLICY = Asset(name="recolam_policy", group="recolam")
TRANSFERS = Asset(name="recolam_transfers", group="recolam")
MODEL = Asset(name="recolam_model", group="recolam")

PRESETS = ("quick", "standard", "full", "tiny")
SETTINGS = "settings"  # the key in an asset event's extra

# Wrong data and wrong settings stay wrong: trying again only hides the message for an hour.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception=["recolam.errors.DataError", "recolam.errors.ConfigError", "recolam.errors.PolicyCollapse"],
            action=RetryAction.FAIL,
            reason="the input has to be corrected first",
        )
    ]
)

_DEFAULT_ARGS: Mapping[str, Any] = {
    "owner": "recolam",
    "retries": int(os.environ.get("RECOLAM_RETRIES", "3")),
    "retry_delay": timedelta(seconds=60),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=15),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(hours=1),
}


def dag_settings(*, tags: list[str]) -> dict[str, Any]:
    """The arguments that every DAG of the chain has in common.

    One run of a DAG at a time: the stages of a home read what the stage before them finished last.
    """
    return {
        "start_date": datetime(2025, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "default_args": dict(_DEFAULT_ARGS),
        "params": _params(),
        "tags": ["recolam", *tags],
    }


def _params() -> dict[str, Param]:
    """A run's settings with their JSON schemas; the environment of the deployment gives the defaults."""
    return {
        "data": Param(
            os.environ.get("RECOLAM_DATA", "demo"),
            type="string",
            pattern=r"^[^\x00-\x1f\x7f-][^\x00-\x1f\x7f]{0,4095}$",
            description="`demo` for the built-in world, or the path of a log (a file or folder every worker can read).",
        ),
        "format": Param(
            "auto",
            type="string",
            pattern="^[a-z0-9][a-z0-9_-]{0,63}$",
            description="The log's format; `auto` looks at the files.",
        ),
        "preset": Param(
            os.environ.get("RECOLAM_PRESET", "quick"),
            type="string",
            enum=list(PRESETS),
            description="How much work is done: model size, epochs, rollouts.",
        ),
        "seed": Param(
            int(os.environ.get("RECOLAM_SEED", "0")),
            type="integer",
            minimum=0,
            maximum=2**31 - 1,
            description="The seed of every random stream.",
        ),
        "home": Param(
            os.environ.get("RECOLAM_HOME") or None,
            type=["null", "string"],
            pattern=r"^/[^\x00-\x1f\x7f]{0,4095}$",
            description="Absolute path of the folder for feature_store/, mlruns/ and runs/; empty: the checkout's own.",
        ),
    }


def run_stage(stage: str, *, domain: str | None = None) -> dict[str, Any]:
    """Runs one stage with the settings of this DAG run.

    Returns:
        The artifact's path, digest and small metrics, and whether it was there already.

    Raises:
        DataError, ConfigError: the user's input is wrong; not retried.
        PolicyCollapse: training drove the policy to a few items; not retried, since it would again.
        ArtifactError: a parent is missing or damaged.
    """
    from recolam import pipeline

    return pipeline.run_stage(pipeline.make_plan(**run_settings()), stage, domain=domain)


def run_settings() -> dict[str, Any]:
    """The settings of the run that this one follows, or else this run's own params.

    A DAG started by an asset gets no params of its own: the upstream run left its settings with the asset. Where
    several upstream runs finished before this one began, the newest counts, as it does for the artifacts.

    Raises:
        ParamValidationError: an event made by hand carries a value that the schema refuses.
    """
    context = get_current_context()
    params = deepcopy(context["dag"].params)
    params.update({name: context["params"][name] for name in params})
    events = [event for group in context["triggering_asset_events"].values() for event in group]
    if events:
        handed_over = max(events, key=lambda event: event.timestamp).extra.get(SETTINGS, {})
        params.update({name: value for name, value in handed_over.items() if name in params})
    return params.validate()


def hand_over(asset: Asset) -> None:
    """Leaves this run's settings with the asset, for the DAGs that wait for it. Call it in the task with the outlet."""
    context = get_current_context()
    context["outlet_events"][asset].extra = {SETTINGS: run_settings()}
