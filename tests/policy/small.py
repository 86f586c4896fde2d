"""A tiny agent and world for the policy's tests."""

import torch

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy.agent import SlateAgent
from recolam.policy.interaction import Interaction
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.world.environment import SimulatedUsers
from tests.world.worlds import small_environment

ITEMS = 20


def small_agent(
    *, max_len: int = 10, seed: int = 0, tokens: int = FIRST_ITEM + ITEMS, is_autoregressive: bool = False
) -> SlateAgent:
    torch.manual_seed(seed)
    config = SequenceConfig(tokens=tokens, max_len=max_len, width=16, blocks=1, heads=2, dropout=0.0)
    items = tuple(f"item-{index}" for index in range(tokens - FIRST_ITEM))
    model, interaction = SequenceModel(config).eval(), Interaction(16) if is_autoregressive else None
    return SlateAgent(model, 1.0, items, {"slate_size": 3, "domain": "main"}, interaction=interaction)


def small_world(**constants: float) -> SimulatedUsers:
    return small_environment(horizon=6, **constants)
