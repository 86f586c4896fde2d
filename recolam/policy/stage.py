"""Trains the slate policy in the world and compares it with what else one could show."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.stage import StageContext
from recolam.policy import returns
from recolam.policy.agent import SlateAgent
from recolam.policy.closed_loop import ClosedLoopConfig, closed_loop
from recolam.policy.training import PolicyTrainingConfig, train_policy
from recolam.progress import say
from recolam.seeding import derive
from recolam.sequence.model import load_sequence_model
from recolam.world.saved import SavedWorld


@dataclass(frozen=True)
class PolicyConfig:
    """Training, and how many users and seeds the final comparison plays.

    `temperature` divides the item scores. What is served is the most probable slate, what learns is the sampled one: a
    low temperature keeps the two close.

    Attributes:
        uncertainty_penalty, entropy_bonus: what learning in fitted users is charged with (`recolam.world.cautious`);
            the comparison never is.
        closed_loop: the check of the fitted world where the true users are known.
    """

    temperature: float = 0.2
    evaluation_users: int = 1000
    evaluation_seeds: int = 10
    uncertainty_penalty: float = 0.0
    entropy_bonus: float = 0.0
    training: PolicyTrainingConfig = field(default_factory=PolicyTrainingConfig)
    closed_loop: ClosedLoopConfig = field(default_factory=ClosedLoopConfig)


def run(config: PolicyConfig, context: StageContext) -> dict[str, Any]:
    """Inputs: pretrain (start weights), world, features. Leaves model/, vocabulary.json, policy.json, curves.json,
    returns.json and, where the true users are known, closed_loop.json.

    The comparison plays users whom neither the fitting nor the training of the policy has met, on seeds of its own.
    """
    pretrain, world = context.inputs["pretrain"], SavedWorld.open(context.inputs["world"].path)
    dataset = TokenisedDataset.load(context.inputs["features"].path)
    learning = world.environment(population="train", penalty=config.uncertainty_penalty, bonus=config.entropy_bonus)
    judging = world.environment(population="held_out")
    settings = {
        "slate_size": learning.slate_size,
        "max_len": load_sequence_model(pretrain.path / "model").config.max_len,
        "domain": dataset.info["domain"],
        "world": world.kind,
        "reward": "watch time" if world.kind == "interest_evolution" else "fitted reward given a click",
        "gamma": config.training.gamma,
    }

    def fresh() -> SlateAgent:
        model = load_sequence_model(pretrain.path / "model").eval()
        return SlateAgent(model, config.temperature, dataset.items, settings)

    agent = fresh()
    popularity_N = torch.from_numpy(dataset.item_count_V).float()
    curves = train_policy(
        agent, learning, config.training, seed=derive(context.seed, "policy"), scratch=context.scratch,
        popularity_N=popularity_N,
    )  # fmt: skip
    say("comparing policies on held-out users")
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
    agent.save(context.out, titles=dataset.titles)
    (context.out / "curves.json").write_text(json.dumps(curves))
    (context.out / "returns.json").write_text(json.dumps(table))
    if config.closed_loop.iterations and world.truth is not None:
        found = closed_loop(
            world, fresh, popularity_N, config.closed_loop, config.training,
            seed=context.seed, scratch=context.scratch / "closed-loop",
        )  # fmt: skip
        (context.out / "closed_loop.json").write_text(json.dumps(found))
    return {
        "returns": table,
        "best_validation_return": max(value for _, value in curves["validation_return"]),
        "training": asdict(config.training),
        "evaluation_users": config.evaluation_users,
    }
