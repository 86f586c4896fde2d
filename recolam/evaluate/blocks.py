"""The parts of report.json that are gathered, not computed: data, lineage, transfer, examples.

Shape legend: B users, T history, K slate, Q queries.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recolam.contracts.artifact import Artifact
from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.contracts.protocols import ItemScorer
from recolam.evaluate.seen import items_left, observe, select
from recolam.policy.agent import SlateAgent, admissible
from recolam.seeding import numpy_generator

TRANSFER = "transfer_"
_EARLIEST_EXAMPLE = 5  # items a user should have had to make a telling example


def data_facts(features: Artifact, dataset: TokenisedDataset) -> dict[str, Any]:
    """What is known of the data: what ingest read and refused, what features made of it."""
    facts: dict[str, Any] = {}
    ingest = dict(_ancestors({"features": features}).values()).get("ingest")
    if ingest is not None:
        read = ingest.json("quality.json") if "quality.json" in ingest.manifest["files"] else ingest.metrics
        names = {
            "name": "Dataset", "format": "Format", "clock": "Clock", "rows_read": "Rows read", "rows": "Rows kept",
            "quarantined": "Rows in quarantine", "rules": "Refused by rule", "users": "Users", "items": "Items",
        }  # fmt: skip
        facts |= {words: read[key] for key, words in names.items() if read.get(key) is not None}
    info = dataset.info
    facts |= {"Domain judged here": info.get("domain"), "Split": str(info.get("split", "")).replace("_", " ")}
    cuts = info.get("cut_times")
    if cuts and info.get("clock") == "time":
        facts["Validation from"], facts["Test from"] = (
            datetime.fromtimestamp(int(cut), tz=UTC).strftime("%Y-%m-%d %H:%M UTC") for cut in cuts
        )
    facts |= {"Catalogue": len(dataset.items), "Counts": info.get("counts", {}), "Left out": info.get("dropped", {})}
    return facts


def closed_loop(policy: Artifact, world: Artifact) -> dict[str, Any]:
    """What the policy stage found where the true users are known; else {"reason"} in words."""
    if "closed_loop.json" in policy.manifest["files"]:
        found: dict[str, Any] = policy.json("closed_loop.json")
        return found
    is_known = set(world.json("world.json")["kinds"]) != {"fitted"}
    return {"reason": "the check was switched off" if is_known else "nobody knows the true users of this log"}


def lineage(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """One row for every artifact this evaluation rests on, sources first; ancestors that are gone keep their digest."""
    return [
        {
            "name": name,
            "digest": digest,
            "seed": None if artifact is None else artifact.seed,
            "commit": "unknown" if artifact is None else artifact.manifest.get("commit", "unknown"),
            "config": {} if artifact is None else dict(artifact.config),
        }
        for digest, (name, artifact) in _ancestors(inputs).items()
    ]


def _ancestors(inputs: Mapping[str, Artifact]) -> dict[str, tuple[str, Artifact | None]]:
    """Name and artifact by digest of the inputs and all they were made from, parents before children."""
    found: dict[str, tuple[str, Artifact | None]] = {}

    def visit(name: str, artifact: Artifact | None, digest: str) -> None:
        if digest in found:
            return
        for parent, reference in artifact.manifest["parents"].items() if artifact is not None else ():
            is_there = artifact is not None and (artifact.path / reference["path"]).is_dir()
            visit(parent, artifact.parent(parent) if artifact is not None and is_there else None, reference["digest"])
        found[digest] = name, artifact

    for name, artifact in inputs.items():
        visit(name, artifact, artifact.digest)
    return found


def transfer_rows(inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """One row for every `transfer_<domain>` input: domain, kept and ndcg10 by way of tuning."""
    return [
        {
            "domain": artifact.metrics.get("domain", name.removeprefix(TRANSFER)),
            "kept": artifact.metrics.get("kept"),
            "ndcg10": dict(artifact.metrics.get("ndcg10", {})),
        }
        for name, artifact in sorted(inputs.items())
        if name.startswith(TRANSFER)
    ]


@torch.no_grad()
def examples(
    dataset: TokenisedDataset,
    agent: SlateAgent,
    pretrained: ItemScorer,
    event_Q: NDArray[np.int64],
    *,
    users: int,
    k: int,
    max_len: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Titles for a few users drawn by the seed: what they had last, both slates, and what they took next.

    Users who have had almost the whole catalogue, so that it leaves no slate, are no examples.
    """
    had_Q = event_Q - dataset.user_offset_U1[dataset.user_of_event(event_Q)]
    has_room_Q = (items_left(observe(dataset, event_Q, max_len=max_len), tokens=dataset.tokens) >= k).numpy()
    event_Q, had_Q = event_Q[has_room_Q], had_Q[has_room_Q]
    if len(event_Q) == 0:
        return []
    telling_Q = event_Q[had_Q >= min(_EARLIEST_EXAMPLE, int(had_Q.max()))]
    drawn = numpy_generator(seed, "examples").choice(telling_Q, size=min(users, len(telling_Q)), replace=False)
    chosen_Q = np.sort(drawn)
    seen = observe(dataset, chosen_Q, max_len=max_len)
    if agent.is_restricted:
        is_possible_B = agent.distribution(seen).is_possible(k)
        seen, chosen_Q = select(seen, is_possible_B), chosen_Q[is_possible_B.numpy()]
        if len(chosen_Q) == 0:
            return []
    policy_BK = agent.slates(seen, k=k, generator=None)
    score_BN = admissible(pretrained.scores(seen.history_BT, seen.length_B), seen.history_BT)
    pretrained_BK = score_BN.topk(policy_BK.shape[1], dim=1).indices
    rows = []
    for row, event in enumerate(chosen_Q):
        history_T = seen.history_BT[row, : int(seen.length_B[row])]
        rows.append(
            {
                "history": _titles(dataset, history_T[-_EARLIEST_EXAMPLE:].tolist()),
                "policy": _titles(dataset, policy_BK[row].tolist()),
                "pretrained": _titles(dataset, pretrained_BK[row].tolist()),
                "next": _titles(dataset, [int(dataset.event_item_E[event])])[0],
            }
        )
    return rows


def _titles(dataset: TokenisedDataset, tokens: list[int]) -> list[str]:
    def title(token: int) -> str:
        if token < FIRST_ITEM:
            return "an item that training never met"
        return dataset.titles[token - FIRST_ITEM] or dataset.items[token - FIRST_ITEM]

    return [title(token) for token in tokens]
