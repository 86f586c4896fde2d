"""Trains the slate policy in the world and compares it with what else one could show."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recolam.contracts.artifact import Artifact
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.stage import StageContext
from recolam.errors import ConfigError
from recolam.policy import returns
from recolam.policy.agent import AUTOREGRESSIVE, Decoder, SlateAgent
from recolam.policy.closed_loop import ClosedLoopConfig, closed_loop
from recolam.policy.interaction import Interaction
from recolam.policy.retrieval import candidates_for
from recolam.policy.reward import WORLD_ALONE, Reward, Surroundings, check_weights
from recolam.policy.rewarded import under
from recolam.policy.rules import ConstraintsConfig, check_slates, named_constraints
from recolam.policy.training import OnValidation, PolicyTrainingConfig, train_policy
from recolam.seeding import derive
from recolam.sequence.distributed import current
from recolam.sequence.model import load_sequence_model
from recolam.world.environment import SimulatedUsers
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
        constraints: what every slate keeps, in training as when serving.
        candidates: from how many items, found by the pretrained model, a slate is chosen; 0 for the whole catalogue, or
            for as many as are tractable where it has more than `recolam.policy.retrieval.LARGEST_WHOLE` items.
        decoder: "plackett_luce": an item's score is the same at every position. "autoregressive": the items before it
            change it, as training finds (`recolam.policy.interaction`); training starts as with the former.
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
    reward: dict[str, float] = field(default_factory=lambda: dict(WORLD_ALONE))
    learnt_reward: str | None = None
    constraints: ConstraintsConfig = field(default_factory=ConstraintsConfig)
    candidates: int = 0
    decoder: Decoder = "plackett_luce"
    closed_loop: ClosedLoopConfig = field(default_factory=ClosedLoopConfig)

    def __post_init__(self) -> None:
        check_weights(self.reward)
        if self.candidates < 0:
            raise ConfigError(f"candidates is {self.candidates}, below 0")


def fingerprint(config: PolicyConfig) -> str | None:
    """The content of the learnt reward, wherever it lies."""
    return None if config.learnt_reward is None else LearntReward.digest(Path(config.learnt_reward))


@dataclass(frozen=True)
class Prepared:
    """All that training needs, made of a config and the stage's inputs.

    Attributes:
        world, learning: the world's artifact, and its train users under the world's own reward.
        reward: the composed reward; `settings` has its definition and goes into policy.json.
        popularity_N: the behaviour log's events per token id.
    """

    config: PolicyConfig
    pretrained: Path
    world: SavedWorld
    learning: SimulatedUsers
    dataset: TokenisedDataset
    reward: Reward
    settings: dict[str, Any]
    popularity_N: Tensor

    @classmethod
    def of(cls, config: PolicyConfig, inputs: Mapping[str, Artifact]) -> "Prepared":
        """Raises ConfigError or ArtifactError for inputs that cannot be used."""
        pretrained, world = inputs["pretrain"].path / "model", SavedWorld.open(inputs["world"].path)
        dataset, model = TokenisedDataset.load(inputs["features"].path), load_sequence_model(pretrained).eval()
        group_V = dataset.item_group_V
        surroundings = Surroundings(
            model=model.requires_grad_(False),
            group_N=None if group_V is None else torch.from_numpy(group_V).long(),
            learnt=None if config.learnt_reward is None else LearntReward.load(Path(config.learnt_reward)),
        )
        reward = Reward(config.reward, surroundings)
        learning = world.environment(population="train", penalty=config.uncertainty_penalty, bonus=config.entropy_bonus)
        meaning = "watch time" if world.kind == "interest_evolution" else "fitted reward given a click"
        definition = reward.definition(gamma=config.training.gamma)
        settings = {
            "slate_size": learning.slate_size,
            "max_len": model.config.max_len,
            "domain": dataset.info["domain"],
            "world": world.kind,
            "reward": {**definition, "response": meaning, "learnt": fingerprint(config)},
            "gamma": config.training.gamma,
            **_restrictions(config, dataset, slate_size=learning.slate_size),
        }
        popularity_N = torch.from_numpy(dataset.item_count_V).float()
        return cls(config, pretrained, world, learning, dataset, reward, settings, popularity_N)

    def fresh(self) -> SlateAgent:
        """The policy before training."""
        model, retriever = load_sequence_model(self.pretrained).eval(), None
        if self.settings.get("candidates"):
            retriever = load_sequence_model(self.pretrained).eval().requires_grad_(False)
        interaction = Interaction(model.config.width) if self.config.decoder == AUTOREGRESSIVE else None
        return SlateAgent(
            model, self.config.temperature, self.dataset.items, self.settings, retriever=retriever,
            interaction=interaction,
        )  # fmt: skip

    def train(
        self, agent: SlateAgent, *, seed: int, scratch: Path, on_validation: OnValidation | None = None
    ) -> dict[str, list[list[float]]]:
        """Trains the agent with the world's train users, as the stage does with this seed; returns the curves."""
        environment = under(self.reward, self.learning)
        return train_policy(
            agent, environment, self.config.training, seed=derive(seed, "policy"), scratch=scratch,
            popularity_N=self.popularity_N, on_validation=on_validation,
        )  # fmt: skip


def _restrictions(config: PolicyConfig, dataset: TokenisedDataset, *, slate_size: int) -> dict[str, Any]:
    """What narrows slates, for policy.json; nothing where nothing does."""
    found: dict[str, Any] = {}
    if not config.constraints.is_empty:
        named = named_constraints(config.constraints, dataset)
        check_slates(named.on(dataset.items), items=len(dataset.items), slate_size=slate_size)
        found["constraints"] = named.as_json()
    if count := candidates_for(config.candidates, items=len(dataset.items), slate_size=slate_size):
        found["candidates"] = count
    return found


def run(config: PolicyConfig, context: StageContext) -> dict[str, Any]:
    """Inputs: pretrain (start weights), world, features. Leaves model/, vocabulary.json, policy.json, curves.json,
    returns.json (of the world's own reward) and, where another one was learnt for, composed_returns.json; where
    the true users are known, closed_loop.json.

    The comparison plays users whom neither the fitting nor the training of the policy has met, on seeds of its own.
    """
    prepared = Prepared.of(config, context.inputs)
    judging, agent = prepared.world.environment(population="held_out"), prepared.fresh()
    curves = prepared.train(agent, seed=context.seed, scratch=context.scratch)
    current().say("comparing policies on held-out users")
    k, untrained = judging.slate_size, prepared.fresh()
    policies = {
        "random": returns.uniform(tokens=judging.tokens, k=k),
        "popularity": returns.static(prepared.popularity_N, k=k),
        "untrained": returns.sampled(untrained, k=k),
        "pretrained_greedy": returns.greedy(untrained, k=k),
        "trained": returns.greedy(agent, k=k),
        "trained_sampled": returns.sampled(agent, k=k),
        "myopic": returns.myopic(judging),
    }
    seeds = returns.comparison_seeds(context.seed, config.evaluation_seeds)
    table = returns.compare(judging, policies, users=config.evaluation_users, seeds=seeds)
    both = {"returns": table}
    if not prepared.reward.is_worlds_own:
        judge = under(prepared.reward, judging)
        both["composed_returns"] = returns.compare(judge, policies, users=config.evaluation_users, seeds=seeds)
    agent.save(context.out, titles=prepared.dataset.titles)
    (context.out / "curves.json").write_text(json.dumps(curves))
    for name, content in both.items():
        (context.out / f"{name}.json").write_text(json.dumps(content))
    world = prepared.world
    if config.closed_loop.iterations and world.truth is not None:
        found = closed_loop(
            world, prepared.fresh, prepared.popularity_N, config.closed_loop, config.training,
            seed=context.seed, scratch=context.scratch / "closed-loop",
        )  # fmt: skip
        (context.out / "closed_loop.json").write_text(json.dumps(found))
    return {
        **both,
        "reward": prepared.settings["reward"],
        "best_validation_return": max(value for _, value in curves["validation_return"]),
        "training": asdict(config.training),
        "evaluation_users": config.evaluation_users,
    }
