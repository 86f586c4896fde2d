import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recolam.contracts.dataset import FIRST_ITEM
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


def test_a_drawn_slate_tells_the_probability_it_was_drawn_with() -> None:
    histories, seeds = [["item-1", "item-2"], ["item-3"], []], [7, None, 2**62]
    answers = RECOMMENDER.recommend(histories, k=3, seeds=seeds)
    agent = small_agent()
    token = {item: FIRST_ITEM + row for row, item in enumerate(agent.items)}
    for history, seed, answer in zip(histories, seeds, answers, strict=True):
        row = torch.tensor([[token[item] for item in history] or [0]])
        seen = Observation(row, torch.tensor([len(history)]))
        slate_1K = torch.tensor([[token[item] for item in answer.slate]])
        if seed is None:
            assert answer.log_propensity == 0.0
            assert torch.equal(slate_1K, agent.slates(seen, k=3, generator=None))
        else:
            assert answer.log_propensity == pytest.approx(float(agent.slate_log_prob(seen, slate_1K)), abs=1e-5)


def test_what_is_drawn_depends_on_the_rows_own_seed_alone() -> None:
    together = RECOMMENDER.recommend([["item-1"]] * 3, k=4, seeds=[1, 2, 1])
    (alone,) = RECOMMENDER.recommend([["item-1"]], k=4, seeds=[2])
    assert together[0].slate == together[2].slate
    assert together[0].slate != together[1].slate == alone.slate


def test_slates_are_drawn_as_often_as_they_say() -> None:
    excluded = [item for item in RECOMMENDER.items if item not in RECOMMENDER.items[:4]]
    answers = RECOMMENDER.recommend([[]] * 3000, k=2, exclude=[excluded] * 3000, seeds=range(3000))
    count: dict[tuple[str, ...], int] = {}
    chance: dict[tuple[str, ...], float] = {}
    for answer in answers:
        slate = tuple(answer.slate)
        count[slate], chance[slate] = count.get(slate, 0) + 1, math.exp(answer.log_propensity)
    assert sum(chance.values()) == pytest.approx(1.0, abs=1e-4)  # all 12 were drawn
    statistic = sum((count[slate] - 3000 * p) ** 2 / (3000 * p) for slate, p in chance.items())
    assert statistic < 31.3  # chi-square, 11 degrees of freedom, level .001


def test_bad_requests_are_refused() -> None:
    with pytest.raises(DataError, match="k is 0"):
        RECOMMENDER.recommend([[]], k=0)
    with pytest.raises(DataError, match="2 histories, 1 sizes"):
        RECOMMENDER.recommend([[], []], k=[3])
    with pytest.raises(DataError, match=r"2 histories.*1 seeds"):
        RECOMMENDER.recommend([[], []], seeds=[3])


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
