"""Trains the slate policy in the world and compares it with what else one could show."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.stage import StageContext
from recolam.policy import returns
from recolam.policy.agent import SlateAgent
from recolam.policy.reward import WORLD_ALONE, Reward, Surroundings, check_weights
from recolam.policy.rewarded import under
from recolam.policy.training import PolicyTrainingConfig, train_policy
from recolam.seeding import derive
from recolam.sequence.distributed import current
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.world.learnt_reward import LearntReward
from recolam.world.saved import SavedWorld


@dataclass(frozen=True)
class PolicyConfig:
    """Training, and how many users and seeds the final comparison plays.

    `temperature` divides the item scores. What is served is the most probable slate, what learns is the sampled one: a
    low temperature keeps the two close.

    Attributes:
        reward: what is learnt for and validated by: weights of the names in `recolam.policy.reward`.
        learnt_reward: the folder of the reward "learnt" (`recolam.world.learnt_reward`).
    """

    temperature: float = 0.2
    evaluation_users: int = 1000
    evaluation_seeds: int = 10
    training: PolicyTrainingConfig = field(default_factory=PolicyTrainingConfig)
    reward: dict[str, float] = field(default_factory=lambda: dict(WORLD_ALONE))
    learnt_reward: str | None = None

    def __post_init__(self) -> None:
        check_weights(self.reward)


def fingerprint(config: PolicyConfig) -> str | None:
    """The content of the learnt reward, wherever it lies."""
    return None if config.learnt_reward is None else LearntReward.digest(Path(config.learnt_reward))


def composed(config: PolicyConfig, dataset: TokenisedDataset, pretrained: SequenceModel) -> Reward:
    """The reward that a config names."""
    group_V = dataset.item_group_V
    surroundings = Surroundings(
        model=pretrained.requires_grad_(False),
        group_N=None if group_V is None else torch.from_numpy(group_V).long(),
        learnt=None if config.learnt_reward is None else LearntReward.load(Path(config.learnt_reward)),
    )
    return Reward(config.reward, surroundings)


def run(config: PolicyConfig, context: StageContext) -> dict[str, Any]:
    """Inputs: pretrain (start weights), world, features. Leaves model/, vocabulary.json, policy.json, curves.json,
    returns.json (of the world's own reward) and, where another one was learnt for, composed_returns.json.

    The comparison plays users whom neither the fitting nor the training of the policy has met, on seeds of its own.
    """
    pretrain, world = context.inputs["pretrain"], SavedWorld.open(context.inputs["world"].path)
    dataset = TokenisedDataset.load(context.inputs["features"].path)
    learning, judging = (world.environment(population=name) for name in ("train", "held_out"))
    reward = composed(config, dataset, load_sequence_model(pretrain.path / "model").eval())
    meaning = "watch time" if world.kind == "interest_evolution" else "fitted reward given a click"
    definition = {**reward.definition(gamma=config.training.gamma), "response": meaning, "learnt": fingerprint(config)}
    settings = {
        "slate_size": learning.slate_size,
        "max_len": load_sequence_model(pretrain.path / "model").config.max_len,
        "domain": dataset.info["domain"],
        "world": world.kind,
        "reward": definition,
        "gamma": config.training.gamma,
    }

    def fresh() -> SlateAgent:
        model = load_sequence_model(pretrain.path / "model").eval()
        return SlateAgent(model, config.temperature, dataset.items, settings)

    agent = fresh()
    popularity_N = torch.from_numpy(dataset.item_count_V).float()
    curves = train_policy(
        agent, under(reward, learning), config.training, seed=derive(context.seed, "policy"), scratch=context.scratch,
        popularity_N=popularity_N,
    )  # fmt: skip
    current().say("comparing policies on held-out users")
    k, untrained = judging.slate_size, fresh()
    policies = {
        "random": returns.uniform(tokens=judging.tokens, k=k),
        "popularity": returns.static(popularity_N, k=k),
        "untrained": returns.sampled(untrained, k=k),
        "pretrained_greedy": returns.greedy(untrained, k=k),
        "trained": returns.greedy(agent, k=k),
        "trained_sampled": returns.sampled(agent, k=k),
        "myopic": returns.myopic(judging),
    }
    seeds = returns.comparison_seeds(context.seed, config.evaluation_seeds)
    table = returns.compare(judging, policies, users=config.evaluation_users, seeds=seeds)
    both = {"returns": table}
    if not reward.is_worlds_own:
        judge = under(reward, judging)
        both["composed_returns"] = returns.compare(judge, policies, users=config.evaluation_users, seeds=seeds)
    agent.save(context.out, titles=dataset.titles)
    (context.out / "curves.json").write_text(json.dumps(curves))
    for name, content in both.items():
        (context.out / f"{name}.json").write_text(json.dumps(content))
    return {
        **both,
        "reward": definition,
        "best_validation_return": max(value for _, value in curves["validation_return"]),
        "training": asdict(config.training),
        "evaluation_users": config.evaluation_users,
    }
