"""Item values in a world of two states and three items, whose long-term values can be computed exactly.

Shape legend: S states, N items, M picks (items, then nothing), A ordered slates, B sessions, H steps, K positions.
"""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.errors import ConfigError, DataError
from recolam.policy import item_value_learning
from recolam.policy.config import PlRankConfig
from recolam.policy.item_value_learning import ItemValueLearner
from recolam.policy.item_values import ItemValues, td_targets
from recolam.policy.lesson import Lesson, Replayed
from recolam.policy.rollout import Rollout
from recolam.policy.slateq import slateq_target
from recolam.sequence.distributed import Processes

GAMMA, ITEMS = 0.8, 3
SLATE_AK = torch.tensor(list(itertools.permutations(range(ITEMS), 2)))  # all are shown alike
EXPOSURE_K = torch.tensor([0.6, 0.4])  # the user examines one position
CLICK_SN = torch.tensor([[0.9, 0.5, 0.7], [0.4, 0.8, 0.6]])
REWARD_SM = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.0, 2.0, 0.3, 0.0]])
# P(next state is 1 | state, pick), and P(the user leaves | state, pick)
ONE_SM = torch.tensor([[0.1, 0.9, 0.5, 0.3], [0.2, 0.6, 0.9, 0.1]])
LEAVE_SM = torch.tensor([[0.1, 0.1, 0.3, 0.2], [0.4, 0.05, 0.1, 0.2]])
TABLE_ND = torch.cat([torch.zeros(FIRST_ITEM, ITEMS), torch.eye(ITEMS)])
STATE_SD = torch.eye(2, ITEMS)


def exact_values() -> Tensor:
    """Q(s, pick), [S, M]."""
    chance_AK = EXPOSURE_K * CLICK_SN[:, SLATE_AK]  # [S, A, K]
    pick_SM = torch.zeros(2, ITEMS + 1)
    for item in range(ITEMS):
        pick_SM[:, item] = (chance_AK * (item == SLATE_AK)).sum(dim=(1, 2)) / len(SLATE_AK)
    pick_SM[:, ITEMS] = 1 - pick_SM.sum(dim=1)
    move_SMS = (1 - LEAVE_SM)[..., None] * torch.stack([1 - ONE_SM, ONE_SM], dim=2)
    value_S = torch.linalg.solve(
        torch.eye(2) - GAMMA * (pick_SM[..., None] * move_SMS).sum(dim=1), (pick_SM * REWARD_SM).sum(dim=1)
    )
    return REWARD_SM + GAMMA * move_SMS @ value_S


def exact_labels() -> Tensor:
    """P(click at k) (Q(s, i) - Q(s, nothing)), [S, K, N]."""
    value_SM = exact_values()
    return EXPOSURE_K[:, None] * (CLICK_SN * (value_SM[:, :ITEMS] - value_SM[:, ITEMS:]))[:, None]


def played(sessions: int, *, steps: int = 20, seed: int = 0) -> Lesson:
    generator = torch.Generator().manual_seed(seed)

    def happens(chance_B: Tensor) -> Tensor:
        return torch.rand(sessions, generator=generator) < chance_B

    state_B, active_B = happens(torch.full((sessions,), 0.5)).long(), torch.ones(sessions, dtype=torch.bool)
    states, slates, clicks, rewards, actives = [], [], [], [], []
    for _ in range(steps):
        slate_BK = SLATE_AK[torch.randint(len(SLATE_AK), (sessions,), generator=generator)]
        place_B = happens(EXPOSURE_K[1].expand(sessions)).long()
        item_B = slate_BK.gather(1, place_B[:, None])[:, 0]
        is_click_B = happens(CLICK_SN[state_B, item_B]) & active_B
        pick_B = torch.where(is_click_B, item_B, ITEMS)
        states.append(STATE_SD[state_B])
        slates.append(FIRST_ITEM + slate_BK)
        clicks.append(is_click_B[:, None] & (torch.arange(2) == place_B[:, None]))
        rewards.append(REWARD_SM[state_B, pick_B] * active_B)
        actives.append(active_B)
        active_B = active_B & ~happens(LEAVE_SM[state_B, pick_B])
        state_B = happens(ONE_SM[state_B, pick_B]).long()
    active_BH, reward_BH = torch.stack(actives, dim=1), torch.stack(rewards, dim=1)
    nothing_B = torch.zeros(sessions)
    rollout = Rollout(
        history_BT=torch.zeros(sessions, 1, dtype=torch.int64), length_BH=active_BH.long(),
        slate_BHK=torch.stack(slates, dim=1), is_clicked_BHK=torch.stack(clicks, dim=1), reward_BH=reward_BH,
        log_prob_BH=torch.zeros_like(reward_BH), is_active_BH=active_BH, end_length_B=nothing_B.long(),
        is_truncated_B=active_B,
    )  # fmt: skip
    state_SD = torch.stack(states, dim=1)[active_BH]
    empty = torch.zeros(0)
    return Lesson(rollout, reward_BH, nothing_B, empty, Replayed(state_SD, empty, TABLE_ND, empty, empty))


def learnt_labels(config: PlRankConfig) -> Tensor:
    """P(click at k) (Q(s, i) - Q(s, nothing)) as learnt from 3,000 sessions in two shards, [S, K, N]."""
    learner = ItemValueLearner(TABLE_ND, config, slate_size=2, gamma=GAMMA, shards=2, processes=Processes())
    lessons = [played(1500, seed=1), played(1500, seed=2)]
    figures = learner.learn(lessons)
    assert set(figures) == {"item_value_loss", "click_loss"}
    label_SN = learner.values.labels(STATE_SD)[:, FIRST_ITEM:]
    return learner.values.examination_K.detach()[:, None] * label_SN[:, None]


CONFIG = PlRankConfig(steps=200, learning_rate=0.05, target_rate=0.1)


@pytest.mark.parametrize("trace", [0.0, 0.7])
def test_temporal_differences_find_the_exact_long_term_labels(trace: float) -> None:
    found_SKN = learnt_labels(replace(CONFIG, trace=trace))
    torch.testing.assert_close(found_SKN, exact_labels(), rtol=0, atol=0.04)


def test_the_current_state_in_the_target_learns_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(reward_BH: Tensor, slate_value_BH: Tensor, is_active_BH: Tensor, **rest: Tensor) -> Tensor:
        is_followed_BH = torch.cat([is_active_BH[:, 1:], torch.zeros_like(is_active_BH[:, :1])], dim=1)
        return reward_BH + GAMMA * slate_value_BH * is_followed_BH

    monkeypatch.setattr(item_value_learning, "td_targets", planted)
    assert (learnt_labels(CONFIG) - exact_labels()).abs().max() > 0.08


def test_targets_by_hand() -> None:
    reward_BH = torch.tensor([[1.0, 2.0, 4.0], [1.0, 3.0, 0.0]])
    value_BH = torch.tensor([[10.0, 20.0, 30.0], [10.0, 20.0, 99.0]])
    active_BH = torch.tensor([[True, True, True], [True, True, False]])

    def targets(trace: float) -> Tensor:
        return td_targets(
            reward_BH, value_BH, active_BH, gamma=0.5, trace=trace, after_B=torch.tensor([8.0, 8.0]),
            is_truncated_B=torch.tensor([True, False]),
        )  # fmt: skip

    assert targets(0.0).tolist() == [[11.0, 17.0, 8.0], [11.0, 3.0, 0.0]]  # r + the NEXT value / 2
    assert targets(1.0).tolist() == [[4.0, 6.0, 8.0], [2.5, 3.0, 0.0]]  # returns
    assert targets(0.5).tolist() == [[8.875, 11.5, 8.0], [6.75, 3.0, 0.0]]
    choice_B1, leaving_B = torch.ones(2, 1), torch.tensor([False, False])
    expected_B = slateq_target(reward_BH[:, 0], choice_B1, value_BH[:, 1:2], leaving_B, gamma=0.5)
    assert torch.equal(targets(0.0)[:, 0], expected_B)


def test_slate_values_add_up_what_labels_say() -> None:
    torch.manual_seed(0)
    values = ItemValues(torch.randn(FIRST_ITEM + 5, 4), slate_size=2)
    for parameter in values.parameters():
        torch.nn.init.normal_(parameter)
    values.measure(2.0, 0.0, 3.0)
    state_SD, slate_SK = torch.randn(6, 4), FIRST_ITEM + torch.tensor([[0, 1], [4, 2], [3, 0]] * 2)
    label_SN, exposure_K = values.labels(state_SD), values.examination_K
    nothing_S, _ = values.parts(state_SD, slate_SK)
    total_S = 3.0 * nothing_S + (exposure_K * label_SN.gather(1, slate_SK)).sum(dim=1)
    torch.testing.assert_close(3.0 * values.slate_values(state_SD, slate_SK), total_S)
    candidate_SC = torch.stack([torch.randperm(5)[:3] + FIRST_ITEM for _ in range(6)])
    torch.testing.assert_close(values.labels(state_SD, candidate_SC), label_SN.gather(1, candidate_SC))


def test_settings_and_losses_that_make_no_sense_are_refused() -> None:
    for settings, message in (
        ({"steps": 0}, "steps 0"), ({"learning_rate": 0.0}, "learning_rate 0.0"), ({"trace": 1.5}, "trace is 1.5"),
        ({"correction": -0.1}, "correction is -0.1"), ({"target_rate": 0.0}, "target_rate is 0.0"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            PlRankConfig(**settings)  # type: ignore[arg-type]
    learner = ItemValueLearner(
        TABLE_ND, PlRankConfig(), slate_size=2, gamma=GAMMA, shards=1, processes=Processes()
    )  # fmt: skip
    lesson = played(50)
    lesson.rollout.reward_BH[0, 0] = torch.inf
    with pytest.raises(DataError, match="not finite"):
        learner.learn([lesson])
