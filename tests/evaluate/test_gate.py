"""The gate's numbers and the checks on slates and scores, each with planted faults."""

import numpy as np
import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation
from recolam.errors import DataError
from recolam.evaluate.gate import Standing, are_scores_finite, are_slates_valid, build_gate, check_agent
from recolam.evaluate.seen import items_left
from recolam.policy.agent import SlateAgent
from recolam.register.gate import decide_from_report
from recolam.sequence.model import SequenceConfig, SequenceModel

SEEN = Observation(torch.tensor([[3, 4, 0], [5, 5, 2]]), torch.tensor([2, 3]))
TOKENS = 9  # items 3 to 8


def standing(digest: str, returns: list[float]) -> Standing:
    return Standing(digest, returns, 0.1, 0.5, 0.05, slates_valid=True, finite=True)


def test_gate_without_champion() -> None:
    gate = build_gate(standing("a", [3.0, 4.0, 5.0]), None, baseline_return=1.0)
    assert gate["candidate"]["return_mean"] == pytest.approx(4.0)
    half = 4.30265 / np.sqrt(3)
    assert gate["candidate"]["return_ci95"] == pytest.approx([4 - half, 4 + half], rel=1e-4)
    assert gate["champion"] is None
    assert gate["coverage"] is None
    assert gate["difference"] is None
    assert decide_from_report({"gate": gate}, min_gain=0.0).promote


def test_gate_with_champion_pairs_the_seeds() -> None:
    candidate, champion = standing("a", [3.0, 14.0, 25.0]), standing("b", [2.0, 13.1, 23.9])
    gate = build_gate(candidate, champion, baseline_return=1.0)
    assert gate["difference"]["mean"] == pytest.approx(1.0)
    assert gate["difference"]["ci95"][0] > 0.5
    assert gate["champion"]["policy_digest"] == "b"
    assert decide_from_report({"gate": gate}, min_gain=0.0).promote
    assert not decide_from_report({"gate": gate}, min_gain=2.0).promote
    assert not decide_from_report({"gate": build_gate(champion, candidate, baseline_return=1.0)}, min_gain=0.0).promote


def test_one_seed_has_no_interval_and_unequal_seeds_are_refused() -> None:
    alone = build_gate(standing("a", [3.0]), standing("b", [2.0]), baseline_return=1.0)
    assert alone["candidate"]["return_ci95"] is None
    assert alone["difference"] is None
    with pytest.raises(DataError, match="same seeds"):
        build_gate(standing("a", [3.0, 4.0]), standing("b", [2.0]), baseline_return=1.0)


@pytest.mark.parametrize(
    ("slates", "is_valid"),
    [
        ([[5, 6], [3, 8]], True),
        ([[5, 5], [3, 8]], False),  # repeated
        ([[4, 6], [3, 8]], False),  # seen
        ([[5, 6], [3, 2]], False),  # a special token
        ([[5, 6], [3, 9]], False),  # outside the vocabulary
    ],
)
def test_slates_are_checked(slates: list[list[int]], is_valid: bool) -> None:
    assert are_slates_valid(torch.tensor(slates), SEEN, tokens=TOKENS) is is_valid


def test_scores_are_checked() -> None:
    score_BN = torch.randn(2, TOKENS)
    score_BN[:, :FIRST_ITEM] = -torch.inf
    score_BN[0, 3] = -torch.inf  # seen: may be masked
    assert are_scores_finite(score_BN, SEEN)
    for row, column, bad in ((0, 6, -torch.inf), (1, 8, torch.nan), (0, 3, torch.inf)):
        broken_BN = score_BN.clone()
        broken_BN[row, column] = bad
        assert not are_scores_finite(broken_BN, SEEN)


def test_items_left_counts_different_known_items() -> None:
    assert items_left(SEEN, tokens=TOKENS).tolist() == [4, 5]


class Repeats(SlateAgent):
    """A policy that shows its first item twice when it samples."""

    def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
        slate_BK = super().slates(observation, k=k, generator=generator)
        return slate_BK if generator is None else slate_BK[:, :1].repeat(1, k)


def test_a_real_agent_passes_and_faulty_ones_do_not() -> None:
    torch.manual_seed(0)
    model = SequenceModel(SequenceConfig(tokens=TOKENS, max_len=3, width=8, blocks=1, heads=1)).eval()
    items = tuple("abcdef")

    def check(agent: SlateAgent, *, k: int = 3) -> dict[str, bool]:
        return check_agent(agent, SEEN, k=k, tokens=TOKENS, generator=torch.Generator().manual_seed(1))

    assert check(SlateAgent(model, 1.0, items, {})) == {"slates_valid": True, "finite": True}
    assert check(SlateAgent(model, 1.0, items, {}), k=5)["slates_valid"]  # only the second history leaves five items
    assert not check(Repeats(model, 1.0, items, {}))["slates_valid"]
    with torch.no_grad():
        model.item_vectors.weight[7] = torch.nan
    assert not check(SlateAgent(model, 1.0, items, {}), k=9)["finite"]
