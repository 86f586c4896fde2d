"""The demo world: interest-evolution users in two domains, who write their own logs with exact propensities.

The logging policy is Plackett-Luce over what a stale, noisy picture of each user's interest and a promotion score
suggest; it is stochastic, so every logged slate has a known probability. Both domains share topics and the words of
their titles, but no items and no users. Shape legend: U users, N token ids, Z topics, K slate.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from recolam.contracts.artifact import write_json
from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.stage import StageContext
from recolam.progress import Progress
from recolam.seeding import derive, numpy_generator, torch_generator
from recolam.sequence import plackett_luce
from recolam.world.documents import draw_corpus
from recolam.world.environment import SimulatedUsers
from recolam.world.interest_evolution import InterestEvolutionConfig, InterestEvolutionUsers, StartStates

DOMAINS = ("video", "music")
_FIRST_DAY = 1_735_689_600  # 2025-01-01 UTC
_WORDS = {
    "gossip": "Scandal Rumour Feud Breakup Paparazzi Diva", "pranks": "Prank Stunt Dare Fail Goof Chaos",
    "casino": "Jackpot Poker Roulette Dice Vegas Bluff", "quarrels": "Debate Rant Clash Outrage Row Duel",
    "gadgets": "Robot Phone Drone Gizmo Screen Chip", "races": "Rally Sprint Derby Lap Turbo Circuit",
    "comedy": "Joke Sketch Farce Parody Banter Jester", "nature": "River Forest Whale Summit Orchard Glacier",
    "history": "Empire Voyage Castle Treaty Dynasty Ruin", "science": "Atom Comet Enzyme Theorem Quasar Fossil",
}  # fmt: skip
_ADJECTIVES = (
    "Silent", "Golden", "Hidden", "Lost", "Electric", "Crooked", "Distant", "Velvet", "Burning", "Paper", "Little",
    "Endless",
)  # fmt: skip


@dataclass(frozen=True)
class DemoConfig:
    """Size of the demo world. `second_share` of users and items belong to the second domain."""

    users: int = 2000
    items: int = 500
    sessions: int = 6
    horizon: int = 20
    second_share: float = 0.3
    feature_noise: float = 0.4
    affinity_weight: float = 1.5
    promotion_scale: float = 0.5
    picture_noise: float = 0.7
    world: InterestEvolutionConfig = field(
        default_factory=lambda: InterestEvolutionConfig(affinity_scale=3.0, offset=9.5)  # tastes that differ visibly
    )


def run(config: DemoConfig, context: StageContext) -> dict[str, Any]:
    """Simulates both domains and writes the native raw log plus the truth (what no recommender may read)."""
    shares = (1.0 - config.second_share, config.second_share)
    tables: dict[str, list[dict[str, Any]]] = {"interactions": [], "items": [], "slates": []}
    truth: dict[str, Tensor] = {}
    names: dict[str, Any] = {"world": asdict(config.world), "domains": {}}
    for domain, share in zip(DOMAINS, shares, strict=True):
        simulated = _simulate(config, domain, users=round(config.users * share), items=round(config.items * share),
                              seed=derive(context.seed, "demo", domain))  # fmt: skip
        for table, rows in simulated.tables.items():
            tables[table] += rows
        truth |= {f"{domain}.{name}": value for name, value in simulated.truth.items()}
        names["domains"][domain] = {"items": simulated.item_ids, "users": simulated.user_ids}
    for table, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), context.out / f"{table}.parquet")
    save_file(truth, context.out / "truth.safetensors")
    write_json(context.out / "truth.json", names)
    return {table: len(rows) for table, rows in tables.items()}


@dataclass
class _Simulated:
    tables: dict[str, list[dict[str, Any]]]
    truth: dict[str, Tensor]
    item_ids: list[str]
    user_ids: list[str]


def _simulate(config: DemoConfig, domain: str, *, users: int, items: int, seed: int) -> _Simulated:
    corpus, topic_N = draw_corpus(items, topics=len(_WORDS), seed=seed, feature_deviation=config.feature_noise)
    generator = torch_generator(seed, "people")
    interest_UZ = torch.randn(users, corpus.feature_NZ.shape[1], generator=generator)
    picture_UZ = interest_UZ + config.picture_noise * torch.randn(interest_UZ.shape, generator=generator)
    promotion_N = config.promotion_scale * torch.randn(len(topic_N), generator=generator)
    score_UN = promotion_N - config.affinity_weight * torch.cdist(picture_UZ, corpus.feature_NZ)
    score_UN[:, :FIRST_ITEM] = -torch.inf
    item_ids = [f"{domain}-{index:04d}" for index in range(items)]
    user_ids = [f"{domain}-user-{index:05d}" for index in range(users)]
    start_US = _session_starts(users, config.sessions, seed)
    log = _Log(domain, item_ids, user_ids, start_US)
    snapshots = [interest_UZ]
    history_UT = torch.zeros(users, config.sessions * config.horizon, dtype=torch.int64)
    length_U = torch.zeros(users, dtype=torch.int64)
    with Progress(f"demo world, {domain}", total=config.sessions, unit="session") as progress:
        for session in range(config.sessions):
            start = StartStates(history_PT=history_UT, length_P=length_U, interest_PZ=snapshots[-1])
            people = InterestEvolutionUsers(config.world, corpus, start, is_sampled=False)
            environment = SimulatedUsers(people, horizon=config.horizon)
            _run_session(environment, score_UN, log, session=session, seed=derive(seed, "session", session))
            state = environment.state
            snapshots.append(state.get("interest"))
            history_UT, length_U = state.get("history"), state.get("length")
            progress.advance()
    truth = {
        "feature_NZ": corpus.feature_NZ[FIRST_ITEM:].contiguous(),
        "quality_N": corpus.quality_N[FIRST_ITEM:].contiguous(),
        "length_N": corpus.length_N[FIRST_ITEM:].contiguous(),
        "interest_SUZ": torch.stack(snapshots),
        "session_start_US": torch.from_numpy(start_US),
    }
    tables = {
        "interactions": log.interactions,
        "slates": log.slates,
        "items": _item_rows(domain, item_ids, topic_N[FIRST_ITEM:], seed),
    }
    return _Simulated(tables, truth, item_ids, user_ids)


def _session_starts(users: int, sessions: int, seed: int) -> np.ndarray:
    """Second at which each session starts, int64 [U, sessions]: distinct days of a quarter, in order."""
    generator = numpy_generator(seed, "calendar")
    day_US = np.sort(np.argsort(generator.random((users, 90)), axis=1)[:, :sessions], axis=1)
    return _FIRST_DAY + day_US * 86_400 + generator.integers(0, 72_000, size=(users, sessions))


def _run_session(environment: SimulatedUsers, score_UN: Tensor, log: "_Log", *, session: int, seed: int) -> None:
    observation = environment.reset(users=len(score_UN), seed=seed)
    generator = torch_generator(seed, "behaviour")
    for step in range(environment.horizon):
        is_active_U = environment.state.get("is_active")
        if not bool(is_active_U.any()):
            break
        admissible_UN = _unseen(score_UN, observation.history_BT, k=environment.slate_size)
        slate_UK = plackett_luce.sample(admissible_UN, environment.slate_size, generator)
        log_propensity_U = plackett_luce.log_prob(admissible_UN, slate_UK)
        result = environment.step(slate_UK)
        log.add(is_active_U, slate_UK, log_propensity_U, result, session=session, step=step)
        observation = result.observation


def _unseen(score_UN: Tensor, history_UT: Tensor, *, k: int) -> Tensor:
    """Scores with -inf for what the user had, except for users who have fewer than k items left: they see all again."""
    unseen_UN = score_UN.scatter(1, history_UT, -torch.inf)
    is_exhausted_U1 = torch.isfinite(unseen_UN).sum(dim=1, keepdim=True) < k
    return torch.where(is_exhausted_U1, score_UN, unseen_UN)


class _Log:
    """Rows of the raw log, in plain Python values."""

    def __init__(self, domain: str, item_ids: list[str], user_ids: list[str], start_US: np.ndarray) -> None:
        self.domain, self.item_ids, self.user_ids, self.start_US = domain, item_ids, user_ids, start_US
        self.interactions: list[dict[str, Any]] = []
        self.slates: list[dict[str, Any]] = []

    def add(
        self, is_active_U: Tensor, slate_UK: Tensor, log_propensity_U: Tensor, result: Any, *, session: int, step: int
    ) -> None:
        for user in is_active_U.nonzero()[:, 0].tolist():
            shown = [self.item_ids[token - FIRST_ITEM] for token in slate_UK[user].tolist()]
            time = int(self.start_US[user, session]) + 120 * step
            choice, reward = int(result.choice_B[user]), float(result.reward_B[user])
            session_id = (DOMAINS.index(self.domain) * 10**6 + user) * self.start_US.shape[1] + session
            self.slates.append({
                "slate_id": f"{self.domain}-{session_id}-{step}", "session_id": session_id, "step": step,
                "user_id": self.user_ids[user], "event_time": time, "items": shown,
                "log_propensity": float(log_propensity_U[user]), "choice": choice, "reward": reward,
                "left": bool(result.terminated_B[user]),
            })  # fmt: skip
            if choice >= 0:
                self.interactions.append({
                    "user_id": self.user_ids[user], "item_id": shown[choice], "event_time": time, "event": "watch",
                    "value": reward,
                })  # fmt: skip


def _item_rows(domain: str, item_ids: list[str], topic_N: Tensor, seed: int) -> list[dict[str, Any]]:
    """Catalogue rows with titles made of the topic's words."""
    generator = numpy_generator(seed, "titles")
    topics = list(_WORDS)
    rows = []
    for item_id, topic in zip(item_ids, topic_N.tolist(), strict=True):
        first, second = generator.choice(_WORDS[topics[topic]].split(), size=2, replace=False)
        title = f"The {generator.choice(_ADJECTIVES)} {first} and the {second}"
        rows.append({"item_id": item_id, "title": title, "tags": [topics[topic]], "domain": domain})
    return rows
