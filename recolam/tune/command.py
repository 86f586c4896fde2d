"""One search, for the stage that was named."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from recolam.contracts.artifact import Artifact
from recolam.tune import policy, pretrain
from recolam.tune.study import SearchConfig


def tune(
    stage: str,
    settings: Mapping[str, Any],
    limits: Mapping[str, Any],
    inputs: Mapping[str, Artifact],
    *,
    home: str | None = None,
) -> dict[str, Any]:
    """Searches, or goes on searching.

    Args:
        stage: "pretrain" or "policy".
        settings: fields of `pretrain.TuneConfig` or `policy.PolicyTuneConfig`; None stands for the default, and what
            the stage's search has no use for is left out.
        limits: fields of `SearchConfig`.
        inputs: the policy stage's inputs.

    Returns:
        What `recolam.tune.study.summary` says.
    """
    search = SearchConfig(**limits)
    given = {name: value for name, value in settings.items() if value is not None}
    if stage == "policy":
        known = {field.name for field in fields(policy.PolicyTuneConfig)}
        config = policy.PolicyTuneConfig(**{name: value for name, value in given.items() if name in known})
        return policy.tune_policy(config, inputs, search, home=home)
    return pretrain.tune(pretrain.TuneConfig(**given), search, home=home)
