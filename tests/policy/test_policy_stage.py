"""The policy stage on the tiny demo: what its reward leaves behind, its curves in MLflow, and the search."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recolam import pipeline
from recolam.contracts.artifact import open_artifact
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.home import Home
from recolam.errors import ConfigError
from recolam.policy.agent import SlateAgent
from recolam.policy.reward import TERMS, Reward
from recolam.policy.rewarded import RewardedSessions
from recolam.policy.stage import PolicyConfig
from recolam.register.model import log_policy, open_logged_policy
from recolam.sequence.model import load_sequence_model
from recolam.tracking import STEP_KEY, client, experiment_id, track_stage
from recolam.world.environment import SimulatedUsers
from recolam.world.fitted import FittedUsers
from recolam.world.learnt_reward import LearntReward
from recolam.world.saved import SavedWorld
from tests.conftest import FinishedRun, Outcome
from tests.databases import home_with_database

Recolam = Callable[..., Outcome]
SMALL = {
    "evaluation_users": 20, "evaluation_seeds": 2,
    "training": {"iterations": 2, "users": 8, "replicas": 2, "validation_users": 16, "validation_seeds": 2},
}  # fmt: skip


def parents(run: FinishedRun) -> list[str]:
    return [f"--input={name}={run.artifact(name)}" for name in ("pretrain", "world", "features")]


@pytest.fixture
def home(tmp_path: Path, migrated: Path) -> Home:
    return home_with_database(tmp_path / "home", migrated)


@pytest.fixture
def make_policy(
    tiny_run: FinishedRun, home: Home, tmp_path: Path, recolam: Recolam
) -> Callable[[dict[str, Any]], Outcome]:
    """Runs `recolam policy` on the tiny run's artifacts."""

    def run(settings: dict[str, Any]) -> Outcome:
        (tmp_path / "config.json").write_text(json.dumps({**SMALL, **settings}))
        options = ["--preset", "tiny", "--home", home.root, "--config", tmp_path / "config.json"]
        return recolam("policy", *parents(tiny_run), *options)

    return run


@pytest.mark.slow
def test_curves_arrive_in_mlflow_step_by_step(tiny_run: FinishedRun) -> None:
    opened, policy = client(tiny_run.home), open_artifact(tiny_run.artifact("policy"))
    query = f"tags.`{STEP_KEY}` = '{policy.digest}'"
    (run,) = opened.search_runs([experiment_id(tiny_run.home, opened)], filter_string=query)
    curves = policy.json("curves.json")
    validated = {"validation_return", "coverage", "effective_items", "exposure_drift", "popularity"}
    assert set(curves) == validated | {"return", "value_loss", "entropy", "kl", "user_steps"}
    for name, points in curves.items():
        assert [step for step, _ in points] == ([0, 2, 4] if name in validated else [1, 2, 3, 4])
        history = opened.get_metric_history(run.info.run_id, name)
        assert sorted([point.step, point.value] for point in history) == points


@pytest.mark.slow
def test_the_reward_is_kept_with_the_policy_and_both_returns_are_told(
    tiny_run: FinishedRun, tmp_path: Path, make_policy: Callable[[dict[str, Any]], Outcome]
) -> None:
    model = load_sequence_model(tiny_run.artifact("pretrain") / "model")
    learnt = LearntReward(torch.zeros(1 + model.config.width, 1), torch.ones(model.config.tokens, 1), 0.0, True)
    learnt.save(tmp_path / "somewhere" / "irl")
    weights = {"response": 2.0, "learnt": 1.0, "fairness": 0.0, "diversity": 0.0}  # learnt is 0 everywhere
    done = make_policy({"reward": weights, "learnt_reward": str(tmp_path / "somewhere" / "irl")})
    assert done.code == 0, done.err
    artifact = open_artifact(done.out.strip(), stage="policy")
    told = SlateAgent.load(artifact.path).settings["reward"]
    assert told["weights"] == weights
    assert told["formulas"] == {name: TERMS[name].formula for name in weights}
    assert (told["gamma"], told["response"]) == (0.95, "watch time")
    assert told["learnt"] == LearntReward.digest(tmp_path / "somewhere" / "irl")
    assert artifact.metrics["reward"] == told
    assert artifact.manifest["config"]["reward"] == weights
    assert artifact.manifest["config"]["learnt_reward"] == "irl"
    own, composed = artifact.metrics["returns"], artifact.metrics["composed_returns"]
    assert (own, composed) == (artifact.json("returns.json"), artifact.json("composed_returns.json"))
    contestants = {"random", "popularity", "untrained", "pretrained_greedy", "trained", "trained_sampled", "myopic"}
    assert set(own) == contestants | {"bandit", "slateq"}
    curves, horizon = artifact.json("curves.json"), artifact.parent("world").json("world.json")["horizon"]
    learnt = own["trained"]["learnt_from"]
    assert learnt == {"sessions": 2 * 8 * 2, "user_steps": curves["user_steps"][-1][1]}
    assert own["bandit"]["learnt_from"]["sessions"] == own["slateq"]["learnt_from"]["sessions"] == 2 * 8 * 2
    assert all(32 <= own[name]["learnt_from"]["user_steps"] <= 32 * horizon for name in ("bandit", "slateq"))
    shown = artifact.json("exposure.json")
    assert set(shown["policies"]) == set(own)
    assert artifact.metrics["exposure"] == shown
    items = len(TokenisedDataset.load(artifact.parent("features").path).items)
    for figures in shown["policies"].values():
        assert 0 < figures["coverage"] <= min(1, figures["showings"] / items)
        assert 1 <= figures["effective_items"] <= items * figures["coverage"] + 1e-6
        assert figures["log_coverage_of_as_many"] <= shown["log"]["coverage"] + 1e-9
    assert shown["policies"]["popularity"]["coverage"] < shown["policies"]["random"]["coverage"]
    for name, row in own.items():
        assert composed[name]["per_seed"] == pytest.approx([2 * value for value in row["per_seed"]], rel=1e-6)


@pytest.mark.slow
def test_rivals_can_be_left_out_and_constraints_bind_all(make_policy: Callable[[dict[str, Any]], Outcome]) -> None:
    """One item is fixed in every slate of three: nobody can spread his showings over more than the other two thirds."""
    done = make_policy({"rivals": False})
    assert done.code == 0, done.err
    plain = open_artifact(done.out.strip(), stage="policy")
    assert {"bandit", "slateq"}.isdisjoint(plain.json("returns.json"))
    item = TokenisedDataset.load(plain.parent("features").path).items[0]
    done = make_policy({"constraints": {"fixed": {"1": item}, "at_most_per_group": 1}})
    assert done.code == 0, done.err
    bound = open_artifact(done.out.strip(), stage="policy")
    assert set(bound.json("returns.json")) == {*plain.json("returns.json"), "bandit", "slateq"}
    most_alike = 3 / 2 ** (2 / 3)  # exp of the entropy of (1/3, 2/3) less that of an item among the two thirds
    items = len(TokenisedDataset.load(plain.parent("features").path).items)
    for name, figures in bound.json("exposure.json")["policies"].items():
        assert figures["effective_items"] <= most_alike * (items - 1) ** (2 / 3) + 1e-6, name


def test_rivals_need_steps() -> None:
    with pytest.raises(ConfigError, match="rival_steps is 0"):
        PolicyConfig(rival_steps=0)


@pytest.mark.slow
def test_a_reward_that_this_world_cannot_pay_is_refused(make_policy: Callable[[dict[str, Any]], Outcome]) -> None:
    done = make_policy({"reward": {"response": 1.0, "uncertainty": -1.0}})
    assert (done.code, done.out) == (2, "")
    assert "reward 'uncertainty' needs fitted users that are several models" in done.err


@pytest.mark.slow
def test_fitted_users_pay_for_what_only_they_know(tiny_run: FinishedRun) -> None:
    """Disagreement is charged at the state before the step; who stays, or had left, has no return to be paid for."""
    users = SavedWorld.open(tiny_run.artifact("world")).users(kind="fitted", population="train")
    assert isinstance(users, FittedUsers)
    slate_BK = torch.arange(3, 3 + users.slate_size).expand(50, -1)
    uncertain = RewardedSessions(SimulatedUsers(users, horizon=8), Reward({"uncertainty": -1.0}))
    uncertain.reset(users=50, seed=0)
    expected_B = -users.disagreement(uncertain.state, slate_BK)
    assert float(expected_B.min()) < 0.0
    torch.testing.assert_close(uncertain.step(slate_BK).reward_B, expected_B)
    if users.returning is None:
        with pytest.raises(ConfigError, match="when they came back"):
            RewardedSessions(SimulatedUsers(users, horizon=8), Reward({"return": 1.0}))
        return
    paid = {}
    for name, horizon in (("goes on", 8), ("cut", 1), ("cut again", 1)):
        returning = RewardedSessions(SimulatedUsers(users, horizon=horizon), Reward({"return": 1.0}))
        returning.reset(users=50, seed=0)
        result = returning.step(slate_BK)
        assert torch.equal(result.reward_B > 0, result.terminated_B | result.truncated_B), name
        paid[name] = result.reward_B
    assert 0 < float(paid["cut"].min()) < float(paid["cut"].max()) < 1
    assert torch.equal(paid["cut"], paid["cut again"])


@pytest.mark.slow
def test_autoregressive_slates_go_through_the_stages(
    tiny_run: FinishedRun, home: Home, make_policy: Callable[[dict[str, Any]], Outcome]
) -> None:
    done = make_policy({"decoder": "autoregressive"})
    assert done.code == 0, done.err
    policy = open_artifact(done.out.strip(), stage="policy")
    agent, features = SlateAgent.load(policy.path), open_artifact(tiny_run.artifact("features"))
    assert agent.decoder == policy.json("policy.json")["decoder"] == "autoregressive"
    assert set(policy.json("curves.json")) == set(open_artifact(tiny_run.artifact("policy")).json("curves.json"))

    inputs = {name: open_artifact(tiny_run.artifact(name)) for name in ("features", "pretrain", "world")}
    plan = pipeline.make_plan(preset="tiny", home=str(home.root))
    report, _ = pipeline.execute(
        "evaluate", pipeline.stage_config(plan, "evaluate"), {**inputs, "policy": policy, "champion": policy},
        home=home, seed=0, is_tracked=False,
    )  # fmt: skip
    gate = report.json("report.json")["gate"]
    assert gate["candidate"]["slates_valid"]
    assert gate["champion"]["return_mean"] == gate["candidate"]["return_mean"]  # the champion kept its interaction
    for methods, decoder in ((("head",), "autoregressive"), ((), "plackett_luce")):
        config = dataclasses.replace(pipeline.stage_config(plan, "transfer"), methods=methods)
        tuned, _ = pipeline.execute(
            "transfer", config, {"policy": policy, "features": features}, home=home, seed=0, is_tracked=False
        )
        kept = tuned.json("policy.json")["tuned"]
        assert SlateAgent.load(tuned.path).decoder == (decoder if kept != "scratch" else "plackett_luce")
    assert kept == "scratch"  # where no way of tuning is tried
    uri = log_policy(home, policy, run_id=track_stage(home, policy))  # MLflow asks the logged model for slates
    location = client(home).get_logged_model(uri.removeprefix("models:/")).artifact_location
    assert SlateAgent.load(open_logged_policy(location).path).decoder == "autoregressive"


def test_an_unknown_reward_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="'dwell' is not one of clicks, response"):
        PolicyConfig(reward={"dwell": 1.0})


@pytest.mark.slow
def test_items_are_grouped_by_their_first_tag(tiny_run: FinishedRun) -> None:
    dataset = TokenisedDataset.load(tiny_run.artifact("features"))
    assert dataset.item_group_V is not None
    groups = dataset.info["item_groups"]
    assert groups == sorted(set(groups))
    assert len(groups) > 1
    assert dataset.item_group_V[:3].tolist() == [-1, -1, -1]
    assert set(dataset.item_group_V[3:].tolist()) == set(range(len(groups)))


@pytest.mark.slow
def test_tuned_settings_earn_in_the_stage_what_they_earned_in_the_search(
    tiny_run: FinishedRun, home: Home, tmp_path: Path, recolam: Recolam
) -> None:
    space, config = tmp_path / "space.json", tmp_path / "config.json"
    searched = {"decoder": ["plackett_luce", "autoregressive"], "training.learning_rate": {"low": 1e-3, "high": 1e-2}}
    space.write_text(json.dumps(searched))
    config.write_text(json.dumps({"policy": SMALL}))
    search = ["tune", "--stage", "policy", "--preset", "tiny", "--home", home.root, "--seed", 3, *parents(tiny_run)]
    done = recolam(*search, "--space", space, "--config", config, "--trials", 2)
    assert done.code == 0, done.err
    answer = json.loads(done.out)
    assert answer["trials"] == {"complete": 2, "pruned": 0, "failed": 0, "interrupted": 0}
    more = json.loads(recolam(*search, "--space", space, "--config", config, "--trials", 3).out)
    assert more["study"] == answer["study"] == "policy-demo-tiny-3"
    assert more["trials"]["complete"] + more["trials"]["pruned"] == 3
    assert more["best_value"] >= answer["best_value"]
    opened = client(home)
    runs = opened.search_runs([experiment_id(home, opened)])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(children) == 3
    assert all(opened.get_metric_history(run.info.run_id, "validation_return") for run in children)

    best = json.loads(Path(more["best_config"]).read_text())
    assert best["policy"]["training"]["learning_rate"] == more["best_values"]["training.learning_rate"]
    assert best["policy"]["decoder"] == more["best_values"]["decoder"]
    plan = pipeline.make_plan(preset="tiny", home=str(home.root), seed=3, overrides=best)
    inputs = {name: open_artifact(tiny_run.artifact(name)) for name in ("pretrain", "world", "features")}
    settings = pipeline.stage_config(plan, "policy")
    artifact, _ = pipeline.execute("policy", settings, inputs, home=home, seed=3, is_tracked=False)
    assert artifact.metrics["best_validation_return"] == more["best_value"]


@pytest.mark.slow
@pytest.mark.parametrize("key", ["reward.response", "evaluation_users", "training.validation_seeds"])
def test_what_trials_are_judged_by_cannot_be_searched(
    tiny_run: FinishedRun, tmp_path: Path, recolam: Recolam, key: str
) -> None:
    (tmp_path / "space.json").write_text(json.dumps({key: [1, 2]}))
    options = ["--space", tmp_path / "space.json", "--home", tmp_path / "home"]
    done = recolam("tune", "--stage", "policy", *parents(tiny_run), *options)
    assert done.code == 2
    assert f"{key}: 1 is no setting (trials are judged by it" in done.err
    assert not (tmp_path / "home" / "runs" / "tune").exists()


def test_a_search_without_its_artifacts_is_refused(tmp_path: Path, recolam: Recolam) -> None:
    done = recolam("tune", "--stage", "policy", "--home", tmp_path / "home")
    assert done.code == 2
    assert "policy needs --input pretrain=PATH" in done.err
