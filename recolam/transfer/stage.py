"""Tunes the slate policy for a second domain, beside a model trained there from scratch."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from recolam.contracts.artifact import write_json
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.stage import StageContext
from recolam.policy.agent import SlateAgent, named_in
from recolam.policy.rules import elsewhere, named_constraints
from recolam.seeding import derive
from recolam.sequence.config import TrainingConfig
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.ranking import ndcg, rank_targets
from recolam.sequence.training import train_sequence_model
from recolam.sequence.vocabulary import with_vocabulary
from recolam.transfer.tuning import METHODS, tune


@dataclass(frozen=True)
class TransferConfig:
    """Which ways of tuning to try, and how to train them and the model from scratch."""

    methods: tuple[str, ...] = METHODS
    lora_rank: int = 8
    training: TrainingConfig = field(default_factory=TrainingConfig)


def run(config: TransferConfig, context: StageContext) -> dict[str, Any]:
    """Inputs: policy (of the source domain), features (of the target domain). Leaves a policy folder.

    The tuned policy with the best validation NDCG@10 is kept if it is not worse than the model from scratch on the
    same validation queries; test figures are reported and decide nothing. Without a validation query nothing can
    show that tuning helps, and scratch is kept.

    The source policy's constraints hold as far as the target domain knows their items and groups. Its autoregressive
    slates stay such where its model is kept: what items do to each other's scores is a matter of their embeddings.
    """
    dataset = TokenisedDataset.load(context.inputs["features"].path)
    source = SlateAgent.load(context.inputs["policy"].path)
    text_VF = torch.from_numpy(dataset.item_text_VF)[:, : source.model.config.text_features]

    def moved() -> SequenceModel:
        return with_vocabulary(source.model, items=source.items, new_items=dataset.items, new_text_NF=text_VF)

    candidates = {"zero_shot": moved(), "scratch": _scratch(config, context, dataset, source.model.config, text_VF)}
    for method in config.methods:
        candidates[method] = tune(
            method, moved(), dataset, config.training, rank=config.lora_rank, seed=derive(context.seed, "transfer"),
            scratch=context.scratch,
        )  # fmt: skip
    max_len = config.training.max_len
    validation, test = (
        {
            name: ndcg(rank_targets(model.eval(), dataset, events, max_len=max_len).rank_Q, k=10)
            for name, model in candidates.items()
        }
        for events in (dataset.validation_event_Q, dataset.test_event_Q)
    )
    best = max(config.methods, key=lambda method: validation[method], default="scratch")
    kept = best if validation[best] >= validation["scratch"] else "scratch"
    retriever = None if source.retriever is None else candidates[kept]  # nothing is learnt for the policy after this
    interaction = None if kept == "scratch" else source.interaction  # it reads the source's item embeddings
    settings = {
        **source.settings, "domain": dataset.info["domain"], "tuned": kept, **_constraints_here(source, dataset)
    }  # fmt: skip
    tuned = SlateAgent(
        candidates[kept], source.temperature, dataset.items, settings, retriever=retriever, interaction=interaction
    )
    tuned.save(context.out, titles=dataset.titles)
    metrics = {
        "domain": dataset.info["domain"],
        "kept": kept if kept == "scratch" else f"tuned-{kept}",
        "ndcg10": test,
        "validation_ndcg10": validation,
        "test_queries": len(dataset.test_event_Q),
        "items": len(dataset.items),
    }
    write_json(context.out / "transfer.json", metrics)
    return metrics


def _constraints_here(source: SlateAgent, dataset: TokenisedDataset) -> dict[str, Any]:
    named = named_in(source.settings)
    return (
        {} if named is None else {"constraints": named_constraints(elsewhere(named.asked, dataset), dataset).as_json()}
    )


def _scratch(
    config: TransferConfig,
    context: StageContext,
    dataset: TokenisedDataset,
    like: SequenceConfig,
    text_VF: torch.Tensor,
) -> SequenceModel:
    """A model of the source's architecture that has seen nothing but the target domain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(context.seed, "scratch"))
        model = SequenceModel(SequenceConfig(**{**like.to_dict(), "tokens": dataset.tokens}))
    model.item_text.copy_(text_VF)
    training = replace(config.training, freeze="none")  # what is frozen here has learnt nothing before
    train_sequence_model(
        model, dataset, training, seed=derive(context.seed, "scratch"), scratch=context.scratch / "scratch",
        label="transfer, scratch",
    )  # fmt: skip
    return model
