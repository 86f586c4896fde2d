"""A picture of one user's session, in a world by name or in one on disk."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recolam.contracts.artifact import open_artifact
from recolam.contracts.config import from_mapping
from recolam.contracts.dataset import FIRST_ITEM, TokenisedDataset
from recolam.errors import ConfigError
from recolam.policy.agent import SlateAgent
from recolam.seeding import torch_generator
from recolam.world.acting import Act, at_random, by_policy, greedily
from recolam.world.drift import DriftConfig
from recolam.world.environment import World
from recolam.world.named import NAMES, make_environment
from recolam.world.picture import item_number, record_session, session_svg
from recolam.world.store import load_world

POLICIES: dict[str, Act] = {"random": at_random, "greedy": greedily}


@dataclass(frozen=True)
class _OnDisk:
    """What can be set of a world on disk."""

    drift: DriftConfig | None = None


def show_session(
    world: str,
    *,
    policy: str = "random",
    steps: int = 20,
    seed: int = 0,
    out: Path = Path("session.svg"),
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the picture, an SVG, and returns its path.

    Args:
        world: a name of `recolam.world.named`, or the path of a world artifact.
        policy: "random", "greedy" (knowing the true state), or the path of a policy artifact.
        steps: slates at most.
        seed: draws the named world, the user and the slates.
        overrides: settings of a named world, such as {"drift": {"shift_at": 5}}; of one on disk, the drift alone.

    Raises:
        ConfigError: an unknown world, policy or setting; a policy for other items than the world's; no such folder.
        ArtifactError: a damaged artifact, or one of another stage.
    """
    if out.is_dir() or not out.parent.is_dir():
        raise ConfigError(f"{out}: {'is a folder' if out.is_dir() else 'its folder does not exist'}")
    if steps < 1:
        raise ConfigError(f"a session of {steps} steps")
    environment, dataset, name = _world(world, overrides, seed)
    act, by = _act(policy, dataset)
    generator = torch_generator(seed, "show")
    session = record_session(environment, lambda seen: act(environment, seen, generator), seed=seed, steps=steps)
    title = f"One user of {name}, shown {by}, seed {seed}"
    out.write_text(session_svg(session, title=title, label=_label(dataset)))
    return out


def _world(world: str, overrides: Mapping[str, Any] | None, seed: int) -> tuple[World, TokenisedDataset | None, str]:
    """The world, the dataset that it was fitted to (for the items' titles), and what to call it."""
    if world in NAMES:
        return make_environment(world, overrides, seed=seed), None, world
    path = Path(world)
    if not path.exists():
        raise ConfigError(f"world {world!r} is no artifact's path and not one of {', '.join(NAMES)}")
    drift = from_mapping(_OnDisk, overrides or {}, where=f"world {world}").drift
    environment, artifact = load_world(path, drift=drift), open_artifact(path)
    dataset = TokenisedDataset.load(artifact.parent("features").path) if artifact.stage == "world" else None
    kind = artifact.metrics.get("kind", artifact.config.get("kind"))
    return environment, dataset, f"the {kind} world {artifact.digest[:8]}"


def _act(policy: str, dataset: TokenisedDataset | None) -> tuple[Act, str]:
    """Who chooses the slates, and what to call them."""
    if policy in POLICIES:
        return POLICIES[policy], f"{policy} slates"
    if not Path(policy).exists():
        raise ConfigError(f"policy {policy!r} is no artifact's path and not one of {', '.join(POLICIES)}")
    artifact = open_artifact(policy)
    if artifact.stage not in ("policy", "transfer"):
        raise ConfigError(f"{policy}: an artifact of stage {artifact.stage!r}, not 'policy' or 'transfer'")
    agent = SlateAgent.load(artifact.path)
    if dataset is None or agent.items != dataset.items:
        raise ConfigError(f"{policy}: its items are not this world's; show it in a world fitted to the same dataset")
    return by_policy(agent, is_sampled=False), f"slates of policy {artifact.digest[:8]}"


def _label(dataset: TokenisedDataset | None) -> Callable[[int], str]:
    """What to call a token: the item's title, else its id, else its number."""
    if dataset is None:
        return item_number
    return lambda token: dataset.titles[token - FIRST_ITEM] or dataset.items[token - FIRST_ITEM]
