"""A policy with constraints and candidates through the stages: trained, saved, judged, served; and tuned elsewhere."""

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from recolam.contracts.artifact import Artifact
from recolam.contracts.dataset import TRAIN, TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.policy import stage as policy
from recolam.policy.agent import SlateAgent, named_in
from recolam.policy.closed_loop import ClosedLoopConfig
from recolam.policy.recommend import Recommender
from recolam.policy.rules import ConstraintsConfig
from recolam.policy.training import PolicyTrainingConfig
from recolam.register.model import signature
from recolam.register.serving import SlateModel
from recolam.sequence.config import TrainingConfig
from recolam.transfer import stage as transfer
from tests.evaluate.support import evaluate_house, run_stage

STEPS = PolicyTrainingConfig(
    iterations=2, users=8, replicas=2, validate_every=2, validation_users=16, validation_seeds=1
)


def _days_of_new_items(dataset: TokenisedDataset) -> float:
    """So many that about a third of the items are new."""
    is_train_E = dataset.event_split_E == TRAIN
    second_E, item_E = dataset.event_time_E[is_train_E], dataset.event_item_E[is_train_E]
    first = sorted(int(second_E[item_E == item].min()) for item in set(item_E.tolist()))
    return float(second_E.max() - first[2 * len(first) // 3]) / 86_400


def configured(dataset: TokenisedDataset, **more: Any) -> policy.PolicyConfig:
    asked = ConstraintsConfig(
        blocked=dataset.items[:2],
        at_most_per_group=1,
        at_least_new=1,
        new_days=_days_of_new_items(dataset),
        fixed={"1": dataset.items[5]},
    )
    return policy.PolicyConfig(
        evaluation_users=16, evaluation_seeds=3, training=STEPS, closed_loop=ClosedLoopConfig(iterations=0),
        **{"constraints": asked, "candidates": 30, **more},
    )  # fmt: skip


@pytest.fixture(scope="module")
def dataset(house: dict[str, Artifact]) -> TokenisedDataset:
    return TokenisedDataset.load(house["features"].path)


@pytest.fixture(scope="module")
def restricted(
    house: dict[str, Artifact], dataset: TokenisedDataset, tmp_path_factory: pytest.TempPathFactory
) -> Artifact:
    inputs = {name: house[name] for name in ("pretrain", "world", "features")}
    home = Home(tmp_path_factory.mktemp("restricted"))
    return run_stage(home, "policy", policy.run, configured(dataset), inputs, seed=5)


def keeps(slate: list[str], artifact: Artifact) -> bool:
    named = named_in(artifact.json("policy.json"))
    assert named is not None
    groups = [sum(item in members for item in slate) for members in named.groups.values()]
    return (
        not set(slate) & set(named.asked.blocked)
        and max(groups) <= 1
        and any(item in named.new for item in slate)
        and slate[1] == named.asked.fixed["1"]
    )


def test_what_was_asked_for_is_kept_with_the_policy_and_served(restricted: Artifact, dataset: TokenisedDataset) -> None:
    named = named_in(restricted.json("policy.json"))
    assert named is not None
    assert named.asked == configured(dataset).constraints
    assert restricted.json("policy.json")["candidates"] == 30
    assert 0 < len(named.new) < len(dataset.items)
    server = Recommender.load(restricted.path)
    histories = [list(dataset.items[start : start + 6]) for start in range(0, 60, 3)]
    answers = server.recommend(histories, k=server.slate_size)
    assert all(keeps(answer.slate, restricted) for answer in answers if not answer.problem)
    assert sum(not answer.problem for answer in answers) > 15
    for answer, history in zip(answers, histories, strict=True):
        assert not set(answer.slate) & set(history) - {dataset.items[5]}


def test_it_is_judged_as_any_other(
    house: dict[str, Artifact], restricted: Artifact, dataset: TokenisedDataset, tmp_path: Any
) -> None:
    report = evaluate_house(house, tmp_path, policy=restricted).json("report.json")
    assert report["gate"]["candidate"]["slates_valid"]
    assert report["gate"]["candidate"]["finite"]
    title_of = dict(zip(dataset.items, dataset.titles, strict=True))
    for example in report["examples"]:
        assert example["policy"][1] == title_of[dataset.items[5]]


def test_the_served_model_says_which_rows_it_cannot_answer(restricted: Artifact, dataset: TokenisedDataset) -> None:
    served = SlateModel()
    served.load_context(SimpleNamespace(artifacts={"policy": str(restricted.path)}))  # type: ignore[arg-type]
    rows = pd.DataFrame({"history": [[], []], "exclude": [[], [dataset.items[5]]]})
    answer = served.predict(SimpleNamespace(), rows)  # type: ignore[arg-type]
    assert list(answer.columns) == ["slate", "scores", "log_propensity", "problem"]
    assert answer["problem"].tolist() == ["", "the item fixed at position 1 is blocked or barred"]
    assert keeps(answer["slate"][0], restricted)
    assert (answer["slate"][1], answer["scores"][1]) == ([], [])
    assert [column.name for column in signature(is_constrained=True).outputs] == [
        "slate",
        "scores",
        "log_propensity",
        "problem",
    ]
    assert [column.name for column in signature().outputs] == ["slate", "scores", "log_propensity"]


def test_a_tuned_policy_keeps_the_constraints(
    house: dict[str, Artifact], restricted: Artifact, dataset: TokenisedDataset, tmp_path: Any
) -> None:
    config = transfer.TransferConfig(methods=("head",), training=TrainingConfig(epochs=1, max_len=30))
    inputs = {"policy": restricted, "features": house["features"]}
    tuned = run_stage(Home(tmp_path), "transfer", transfer.run, config, inputs, seed=1)
    agent = SlateAgent.load(tuned.path)
    assert agent.retriever is not None
    assert named_in(agent.settings) == named_in(restricted.json("policy.json"))


def test_what_the_log_has_not_is_refused_before_anything_is_played(
    house: dict[str, Artifact], dataset: TokenisedDataset
) -> None:
    inputs = {name: house[name] for name in ("pretrain", "world", "features")}
    for more, message in (
        ({"constraints": ConstraintsConfig(blocked=("no such item",))}, "'no such item'"),
        ({"constraints": ConstraintsConfig(blocked_groups=("no such group",))}, "'no such group'"),
        ({"candidates": 3}, "too few"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy.Prepared.of(configured(dataset, **more), inputs)
    with pytest.raises(ConfigError, match="below 0"):
        policy.PolicyConfig(candidates=-1)
