"""The champion on the candidate's ground: the same users, the same seeds, the candidate's catalogue.

Shape legend: N token ids.
"""

from typing import Any

import torch

from recolam.contracts.artifact import Artifact
from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.policy import returns
from recolam.policy.agent import SlateAgent
from recolam.sequence.model import SequenceModel
from recolam.sequence.vocabulary import with_vocabulary
from recolam.world.saved import SavedWorld


def champion_agent(champion: Artifact, dataset: TokenisedDataset) -> SlateAgent | None:
    """The champion over the dataset's token ids; it never shows items that it was not made for.

    Returns None where it cannot be compared: it was made for another catalogue (too few of its items are left to fill
    a slate) or from text features of another width.
    """
    agent = SlateAgent.load(champion.path)
    known = set(agent.items)
    is_barred_N = torch.tensor([False] * FIRST_ITEM + [item not in known for item in dataset.items])
    features = agent.model.config.text_features
    if int((~is_barred_N[FIRST_ITEM:]).sum()) < 2 * int(agent.settings["slate_size"]):
        return None
    if features not in (0, dataset.item_text_VF.shape[1]):
        return None
    text_NF = torch.from_numpy(dataset.item_text_VF)[:, :features]

    def moved(model: SequenceModel) -> SequenceModel:
        return with_vocabulary(model, items=agent.items, new_items=dataset.items, new_text_NF=text_NF).eval()

    retriever = None if agent.retriever is None else moved(agent.retriever)
    return SlateAgent(
        moved(agent.model), agent.temperature, dataset.items, agent.settings, is_barred_N=is_barred_N,
        retriever=retriever, interaction=agent.interaction,
    )  # fmt: skip


def champion_returns(agent: SlateAgent, policy: Artifact, world: Artifact) -> list[float]:
    """Mean session return of the champion's greedy slates on each of the seeds that the candidate was judged on."""
    environment = SavedWorld.open(world.path).environment(population="held_out")
    judged: Any = policy.metrics
    seeds = returns.comparison_seeds(policy.seed, len(judged["returns"]["trained"]["per_seed"]))
    act = returns.greedy(agent, k=environment.slate_size)
    table = returns.compare(environment, {"champion": act}, users=judged["evaluation_users"], seeds=seeds)
    return table["champion"]["per_seed"]
