"""Small sighted worlds for the tests of decoder policies."""

from recolam.policy.decoder_agent import DecoderAgent
from recolam.world.named import make_environment
from recolam.world.sight import Sighted, sighted


def bored_world(*, items: int = 60, horizon: int = 10, is_full: bool = True) -> Sighted:
    overrides = {"items": items, "horizon": horizon, "dynamics": {"slate_size": 4}}
    return sighted(make_environment("bored", overrides), is_full=is_full)


def choc_world(*, horizon: int) -> Sighted:
    return sighted(make_environment("choc_kale", {"items": 20, "horizon": horizon}), is_full=True)


def new_agent(environment: Sighted, *, seed: int = 0) -> DecoderAgent:
    return DecoderAgent.for_environment(environment, environment.reset(users=1, seed=0), {"world": "test"}, seed=seed)
