from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recolam.contracts.protocols import Observation
from recolam.errors import ArtifactError, DataError
from recolam.policy.agent import SlateAgent
from recolam.policy.recommend import Recommender
from tests.policy.small import ITEMS, small_agent

RECOMMENDER = Recommender(small_agent())
IDS = st.lists(st.integers(0, ITEMS + 5).map(lambda index: f"item-{index}"), max_size=25)


@settings(max_examples=60, deadline=None)
@given(history=IDS, exclude=IDS, k=st.integers(1, 30))
def test_slates_have_k_different_items_none_seen_or_excluded(history: list[str], exclude: list[str], k: int) -> None:
    (answer,) = RECOMMENDER.recommend([history], k=k, exclude=[exclude])
    free = set(RECOMMENDER.items) - set(history) - set(exclude)
    assert len(answer.slate) == len(set(answer.slate)) == len(answer.scores) == min(k, len(free))
    assert set(answer.slate) <= free
    assert answer.scores == sorted(answer.scores, reverse=True)
    assert answer.unknown == sum(item not in RECOMMENDER.items for item in history)


def test_a_batch_answers_as_one_by_one() -> None:
    histories = [["item-1", "item-2"], [], ["item-3"] * 15, ["nobody knows"]]
    together = RECOMMENDER.recommend(histories, k=4)
    alone = [RECOMMENDER.recommend([history], k=4)[0] for history in histories]
    assert [answer.slate for answer in together] == [answer.slate for answer in alone]


def test_bad_requests_are_refused() -> None:
    with pytest.raises(DataError, match="k is 0"):
        RECOMMENDER.recommend([[]], k=0)
    with pytest.raises(DataError, match="2 histories, 1 sizes"):
        RECOMMENDER.recommend([[], []], k=[3])


def test_saved_agents_answer_the_same(tmp_path: Path) -> None:
    agent = small_agent()
    agent.save(tmp_path, titles=[""] * ITEMS)
    loaded = SlateAgent.load(tmp_path)
    seen = Observation(torch.tensor([[4, 5, 0]]), torch.tensor([2]))
    assert torch.equal(agent.slates(seen, k=5, generator=None), loaded.slates(seen, k=5, generator=None))
    slate = torch.tensor([[7, 8, 9], [7, 4, 9]])
    both = Observation(seen.history_BT.expand(2, -1), seen.length_B.expand(2))
    log_probability = loaded.slate_log_prob(both, slate)
    assert torch.isfinite(log_probability[0])
    assert torch.isneginf(log_probability[1])  # item 4 was seen


def test_a_folder_that_is_no_policy_is_refused(tmp_path: Path) -> None:
    small_agent().save(tmp_path, titles=[""] * ITEMS)
    (tmp_path / "vocabulary.json").write_text('{"items": ["a"], "titles": [""]}')
    with pytest.raises(ArtifactError, match="23 tokens with 1 items"):
        SlateAgent.load(tmp_path)
    (tmp_path / "policy.json").unlink()
    with pytest.raises(ArtifactError, match="not a policy"):
        SlateAgent.load(tmp_path)
