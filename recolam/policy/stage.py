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
from recolam.policy.comparison import PolicyBudget, contestants, learnt_rivals, what_was_shown
from recolam.policy.exposure import Exposure
from recolam.policy.interaction import Interaction
from recolam.policy.retrieval import LARGEST_WHOLE, candidates_for
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

Curves = dict[str, list[list[float]]]


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
        rivals: whether a bandit and SlateQ learn, too, from as many sessions of the same users, for the comparison; not
            in catalogues of more than `recolam.policy.retrieval.LARGEST_WHOLE` items.
        rival_steps: about how many user-steps each of them plays at most.
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
    rivals: bool = True
    rival_steps: int = 80_000
    closed_loop: ClosedLoopConfig = field(default_factory=ClosedLoopConfig)

    def __post_init__(self) -> None:
        check_weights(self.reward)
        if self.candidates < 0:
            raise ConfigError(f"candidates is {self.candidates}, below 0")
        if self.rival_steps < 1:
            raise ConfigError(f"rival_steps is {self.rival_steps}, below 1; rivals: false leaves them out")
        self._check_labels()

    def _check_labels(self) -> None:
        """Item values see what picks earn and lead to; what a slate earns by being shown would be learnt by nobody."""
        by_showing = [f"reward {name!r}" for name in ("fairness", "uncertainty") if self.reward.get(name)]
        by_showing += [name for name in ("uncertainty_penalty", "entropy_bonus") if getattr(self, name)]
        if self.training.estimator == "pl_rank" and not self.training.pl_rank.correction and by_showing:
            raise ConfigError(
                f"{by_showing[0]} is earned by what is shown, and estimator 'pl_rank' learns what picks are worth: set "
                "training.pl_rank.correction above 0, or take another estimator"
            )


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
    ) -> Curves:
        """Trains the agent with the world's train users, as the stage does with this seed; returns the curves."""
        environment = under(self.reward, self.learning)
        return train_policy(
            agent, environment, self.config.training, seed=derive(seed, "policy"), scratch=scratch,
            popularity_N=self.popularity_N, on_validation=on_validation,
        )  # fmt: skip


def _compared(
    prepared: Prepared, agent: SlateAgent, curves: Curves, judging: SimulatedUsers, *, seed: int
) -> dict[str, Any]:
    """returns, composed_returns where the reward is a composed one, and exposure."""
    config, popularity_N, untrained = prepared.config, prepared.popularity_N, prepared.fresh()
    training = config.training
    policies = contestants(agent, untrained, judging, popularity_N)
    budget = PolicyBudget(
        sessions=len(curves.get("return", [])) * training.users * training.replicas,
        user_steps=int(curves["user_steps"][-1][1]) if "user_steps" in curves else 0,
        most=config.rival_steps,
    )
    learnt_from = {"trained": {"sessions": budget.sessions, "user_steps": budget.user_steps}}
    learnt_from["trained_sampled"] = learnt_from["trained"]
    if config.rivals and budget.sessions and judging.tokens <= LARGEST_WHOLE:
        learning = under(prepared.reward, prepared.learning)
        learnt, steps = learnt_rivals(
            learning, untrained, popularity_N, budget, gamma=training.gamma, seed=derive(seed, "policy")
        )
        policies, learnt_from = {**policies, **learnt}, {**learnt_from, **steps}
    exposures = {name: Exposure(tokens=judging.tokens) for name in policies}
    users, seeds = config.evaluation_users, returns.comparison_seeds(seed, config.evaluation_seeds)
    found = {"returns": returns.compare(judging, policies, users=users, seeds=seeds, exposures=exposures)}
    if not prepared.reward.is_worlds_own:
        found["composed_returns"] = returns.compare(under(prepared.reward, judging), policies, users=users, seeds=seeds)
    for table in found.values():
        for name, row in learnt_from.items():
            table[name]["learnt_from"] = row
    return {**found, "exposure": what_was_shown(exposures, prepared.dataset, popularity_N)}


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
    returns.json (of the world's own reward) and, where another one was learnt for, composed_returns.json; exposure.json
    (what each policy showed, beside the log); where the true users are known, closed_loop.json.

    The comparison plays users whom neither the fitting nor the training of the policy has met, on seeds of its own.
    """
    prepared = Prepared.of(config, context.inputs)
    judging, agent = prepared.world.environment(population="held_out"), prepared.fresh()
    curves = prepared.train(agent, seed=context.seed, scratch=context.scratch)
    current().say("comparing policies on held-out users")
    tables = _compared(prepared, agent, curves, judging, seed=context.seed)
    agent.save(context.out, titles=prepared.dataset.titles)
    (context.out / "curves.json").write_text(json.dumps(curves))
    for name, content in tables.items():
        (context.out / f"{name}.json").write_text(json.dumps(content))
    world = prepared.world
    if config.closed_loop.iterations and world.truth is not None:
        found = closed_loop(
            world, prepared.fresh, prepared.popularity_N, config.closed_loop, config.training,
            seed=context.seed, scratch=context.scratch / "closed-loop",
        )  # fmt: skip
        (context.out / "closed_loop.json").write_text(json.dumps(found))
    return {
        **tables,
        "reward": prepared.settings["reward"],
        "best_validation_return": max(value for _, value in curves["validation_return"]),
        "training": asdict(config.training),
        "evaluation_users": config.evaluation_users,
    }
