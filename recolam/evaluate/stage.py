"""The evaluate stage: judges the trained policy and writes the report.

Inputs: features, pretrain, world, policy; optionally champion and transfer_<domain>. Files: report.json (every number),
report.html, model_card.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from recolam.contracts.artifact import Artifact, write_json
from recolam.contracts.config import to_mapping
from recolam.contracts.dataset import TokenisedDataset
from recolam.contracts.protocols import ItemScorer
from recolam.contracts.stage import StageContext
from recolam.errors import ConfigError
from recolam.evaluate import blocks, contest
from recolam.evaluate.baselines import ItemKNN, Popularity
from recolam.evaluate.champion import champion_agent, champion_returns
from recolam.evaluate.exposure import exposure_block
from recolam.evaluate.gate import Standing, build_gate, check_agent
from recolam.evaluate.off_policy import OffPolicyResult, evaluate_off_policy
from recolam.evaluate.ranking_table import RankingTable, choose_queries, flat_ranking, ranking_block, ranking_table
from recolam.evaluate.report import render_card, render_html
from recolam.evaluate.seen import observe
from recolam.evaluate.verdict import Verdict, reach_verdict, reliability
from recolam.intervals import student_t_interval
from recolam.policy.agent import SlateAgent
from recolam.progress import say
from recolam.seeding import derive, torch_generator
from recolam.sequence.model import SequenceModel, load_sequence_model
from recolam.world.fitted import FittedUsers

REPORT_FILE, PAGE_FILE, CARD_FILE = "report.json", "report.html", "model_card.md"


@dataclass(frozen=True)
class EvaluateConfig:
    """How thoroughly to judge.

    Attributes:
        k: length of the lists that coverage and novelty are computed on; NDCG and the hit rate are always cut at 10.
        bootstrap: resamples of every bootstrap interval.
        max_queries: test queries ranked; a seeded draw where there are more.
        neighbours: items that item-kNN keeps for each item.
        ope_samples: slates drawn from the policy for each logged context.
        ope_slates: logged test slates below which the validation slates join them.
        ope_most: logged slates used at most; a seeded draw where there are more.
        block: histories scored at a time off-policy.
        checked: test queries on which the policy's slates and scores are checked.
        examples: users whose slates are shown with titles.
    """

    k: int = 10
    bootstrap: int = 1000
    max_queries: int = 20_000
    neighbours: int = 100
    ope_samples: int = 4
    ope_slates: int = 200
    ope_most: int = 20_000
    block: int = 256
    checked: int = 256
    examples: int = 3

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ConfigError(f"{name} {value} is below 1")


def run(config: EvaluateConfig, context: StageContext) -> dict[str, Any]:
    """Judges the policy and writes report.json, report.html and model_card.md.

    Returns:
        ranking: ndcg10, hr10, mrr, coverage, novelty of the pretrained model; the same with the prefixes popularity_,
            item_knn_ and policy_; intervals end in _ci95.
        ope: value, ci95 and ess by estimator; empty without logged slates.
        verdict: one sentence. level: better, worse or undecided.

    Raises:
        DataError: nothing to rank, or logged propensities that are no probabilities.
        ArtifactError: an input does not hold what it should.
    """
    inputs, seed = context.inputs, derive(context.seed, "evaluate")
    policy = inputs["policy"]
    dataset = TokenisedDataset.load(inputs["features"].path)
    pretrained = load_sequence_model(inputs["pretrain"].path / "model").eval()
    agent = SlateAgent.load(policy.path)
    event_Q = choose_queries(dataset, limit=config.max_queries, seed=seed)
    table = _rank(config, dataset, pretrained, agent, event_Q, seed=seed)
    ranking = flat_ranking(table, resamples=config.bootstrap, seed=seed)
    off_policy = _off_policy(config, dataset, agent, inputs["world"], seed=seed)
    ope = _ope_block(off_policy)
    returns = policy.metrics["returns"]
    candidate = _standing(
        config, dataset, agent, policy.digest, returns["trained"]["per_seed"], event_Q, ranking, seed=seed
    )
    champion = _champion(config, dataset, inputs, event_Q, seed=seed) if "champion" in inputs else None
    shown = contest.shown_block(policy)
    coverage = contest.coverage_check(shown)
    gate = build_gate(candidate, champion, baseline_return=float(returns["random"]["mean"]), coverage=coverage)
    if champion is not None and champion.returns:
        returns = {**returns, "champion": _row(champion.returns)}
    verdict = reach_verdict(returns=returns, gate=gate, ranking=ranking, ope=ope)
    say(verdict.sentence)
    slate_size = int(agent.settings["slate_size"])
    learnt = policy.json("curves.json") if "curves.json" in policy.manifest["files"] else {}
    report = {
        "dataset": {"name": str(dataset.info["dataset"]), "items": len(dataset.items), "users": len(dataset.users)},
        "verdict": asdict(verdict) | {"reach": contest.reach_sentence(coverage)},
        "gate": gate,
        "returns": dict(returns),
        "composed": contest.composed_block(policy),
        "shown": shown,
        "curves": learnt,
        "exposure": exposure_block(dataset, learnt),
        "ranking": ranking_block(table, ranking, available=len(dataset.test_event_Q), k=config.k),
        "ope": ope,
        "calibration": _calibration(inputs["world"]),
        "closed_loop": blocks.closed_loop(policy, inputs["world"]),
        "transfer": blocks.transfer_rows(inputs),
        "examples": blocks.examples(
            dataset, agent, pretrained, event_Q, users=config.examples, k=slate_size,
            max_len=_shown(pretrained, agent), seed=seed,
        ),
        "data": blocks.data_facts(inputs["features"], dataset),
        "lineage": blocks.lineage(inputs),
        "seed": context.seed,
        "config": to_mapping(config),
        "slate_size": slate_size,
        "world": str(agent.settings.get("world", "fitted")),
    }  # fmt: skip
    _write(context, report)
    return _metrics(ranking, ope, verdict)


def _rank(
    config: EvaluateConfig,
    dataset: TokenisedDataset,
    pretrained: SequenceModel,
    agent: SlateAgent,
    event_Q: np.ndarray,
    *,
    seed: int,
) -> RankingTable:
    """Baselines are shown as much of a history as the pretrained model."""
    shown = pretrained.config.max_len
    scorers: dict[str, tuple[ItemScorer, int]] = {
        "popularity": (Popularity(dataset), shown),
        "item_knn": (ItemKNN(dataset, neighbours=config.neighbours), shown),
        "pretrained": (pretrained, shown),
        "policy": (agent, agent.model.config.max_len),
    }
    return ranking_table(scorers, dataset, event_Q, k=config.k, resamples=config.bootstrap, seed=seed)


def _off_policy(
    config: EvaluateConfig, dataset: TokenisedDataset, agent: SlateAgent, world: Artifact, *, seed: int
) -> OffPolicyResult:
    fitted = FittedUsers.load(world.path)
    return evaluate_off_policy(
        dataset, agent, fitted,
        max_len=_shown(fitted.encoder, agent), samples=config.ope_samples, resamples=config.bootstrap,
        least=config.ope_slates, most=config.ope_most, block=config.block, seed=derive(seed, "ope"),
    )  # fmt: skip


def _ope_block(result: OffPolicyResult) -> dict[str, Any]:
    estimates = {}
    for name, estimate in result.estimates.items():
        row = estimate.as_json()
        trust = "as good as the fitted users" if name == "dm" else reliability(row, mean_weight=result.mean_weight)
        estimates[name] = row | {"reliability": trust}
    return {
        "estimates": estimates,
        "reason": result.reason,
        "n": next((estimate.n for estimate in result.estimates.values()), 0),
        "split": result.split,
        "logged_mean": result.logged_mean,
        "mean_weight": result.mean_weight,
        "impossible": result.impossible,
        "gain": None if result.gain is None else result.gain.as_json(),
    }


def _champion(
    config: EvaluateConfig, dataset: TokenisedDataset, inputs: Mapping[str, Artifact], event_Q: np.ndarray, *, seed: int
) -> Standing:
    """The champion on the candidate's queries, users and seeds; without returns where it cannot be compared."""
    champion = inputs["champion"]
    agent = champion_agent(champion, dataset)
    if agent is None:
        return Standing.incomparable(champion.digest)
    scorers: dict[str, tuple[ItemScorer, int]] = {
        "popularity": (Popularity(dataset), agent.model.config.max_len),
        "policy": (agent, agent.model.config.max_len),
    }
    table = ranking_table(scorers, dataset, event_Q, k=config.k, resamples=config.bootstrap, seed=seed)
    ranking = {
        "policy_ndcg10": table.rows["policy"]["ndcg10"]["mean"],
        "policy_coverage": table.rows["policy"]["coverage"],
        "popularity_ndcg10": table.rows["popularity"]["ndcg10"]["mean"],
    }
    session_returns = champion_returns(agent, inputs["policy"], inputs["world"])
    return _standing(config, dataset, agent, champion.digest, session_returns, event_Q, ranking, seed=seed)


def _standing(
    config: EvaluateConfig,
    dataset: TokenisedDataset,
    agent: SlateAgent,
    digest: str,
    session_returns: Sequence[float],
    event_Q: np.ndarray,
    ranking: Mapping[str, Any],
    *,
    seed: int,
) -> Standing:
    seen = observe(dataset, event_Q[: config.checked], max_len=agent.model.config.max_len)
    checks = check_agent(
        agent, seen, k=int(agent.settings["slate_size"]), tokens=dataset.tokens,
        generator=torch_generator(seed, "slate check"),
    )  # fmt: skip
    return Standing(
        policy_digest=digest,
        returns=session_returns,
        ndcg10=ranking["policy_ndcg10"],
        coverage=ranking["policy_coverage"],
        popularity_ndcg10=ranking["popularity_ndcg10"],
        **checks,
    )


def _row(per_seed: Sequence[float]) -> dict[str, Any]:
    return {"per_seed": list(per_seed), **student_t_interval(np.array(per_seed)).as_json()}


def _shown(first: SequenceModel, agent: SlateAgent) -> int:
    return min(first.config.max_len, agent.model.config.max_len)


def _calibration(world: Artifact) -> dict[str, Any]:
    return world.json("calibration.json") if "calibration.json" in world.manifest["files"] else {}


def _write(context: StageContext, report: dict[str, Any]) -> None:
    report = finite(report)
    write_json(context.out / REPORT_FILE, report)
    (context.out / PAGE_FILE).write_text(render_html(report), encoding="utf-8")
    (context.out / CARD_FILE).write_text(render_card(report), encoding="utf-8")


def finite(value: Any) -> Any:
    """JSON without NaN and infinities: they become None, an interval with such an end becomes None as a whole."""
    if isinstance(value, Mapping):
        parts = {key: finite(part) for key, part in value.items()}
        if isinstance(parts.get("ci95"), list) and None in parts["ci95"]:
            parts["ci95"] = None
        return parts
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _metrics(ranking: Mapping[str, Any], ope: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
    return {
        "ranking": dict(ranking),
        "ope": {name: {key: row[key] for key in ("value", "ci95", "ess")} for name, row in ope["estimates"].items()},
        "verdict": verdict.sentence,
        "level": verdict.level,
    }
