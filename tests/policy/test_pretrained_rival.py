import pytest
import torch

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, VALIDATION
from recolam.contracts.protocols import Sight
from recolam.errors import DataError
from recolam.policy.pretrained_rival import clicked_histories, pretrained
from recolam.policy.random_log import Budget, RandomLog, random_log
from recolam.policy.response import Answers
from recolam.world.named import make_environment
from recolam.world.sight import sighted
from tests.policy.sighted import bored_world, choc_world


def log_of(slates: list[list[int]], clicked: list[list[bool]], sessions: list[int]) -> RandomLog:
    is_clicked_SK = torch.tensor(clicked)
    answers = Answers(
        torch.zeros(len(sessions), 1), torch.tensor(slates), is_clicked_SK, is_clicked_SK.sum(dim=1).float()
    )
    return RandomLog(answers, torch.tensor(sessions), 0.0)


def test_histories_are_clicks_by_session_then_time_then_position() -> None:
    """Two sessions side by side for two steps, then one; session 11 clicks nothing."""
    log = log_of(
        [[5, 6], [7, 8], [9, 5], [6, 7], [3, 4]],
        [[True, False], [True, True], [True, True], [False, True], [False, False]],
        [10, 1, 10, 1, 11],
    )
    dataset = clicked_histories(log, tokens=12)
    assert dataset.event_item_E.tolist() == [7, 8, 7, 5, 9, 5]
    assert dataset.user_offset_U1.tolist() == [0, 3, 6]
    assert dataset.users == ("1", "10")
    assert dataset.event_split_E.tolist() == [TRAIN] * 3 + [VALIDATION] * 3  # every tenth session validates
    assert dataset.validation_event_Q.tolist() == [3, 4, 5]
    assert dataset.item_count_V.tolist() == [0] * 7 + [2, 1, 0, 0, 0]
    dataset._check()


def test_the_log_takes_the_budget_and_knows_its_sessions() -> None:
    world = bored_world(horizon=5)
    log = random_log(world, Budget(steps=66, users=6), seed=0)  # two rounds of 30; 6 steps are left
    assert log.session_S.bincount().tolist() == [5] * 12
    assert log.answers.slate_SK.shape == (60, 4)
    again = random_log(world, Budget(steps=66, users=6), seed=0)
    assert torch.equal(log.answers.is_clicked_SK, again.answers.is_clicked_SK)


def planted_log(sessions: int, steps: int) -> RandomLog:
    """Users of two kinds, alike in nothing but what they click: items 3 to 6, or items 7 to 10."""
    generator = torch.Generator().manual_seed(0)
    session_S = torch.arange(sessions).repeat(steps)
    slate_SK = torch.rand(len(session_S), 8, generator=generator).argsort(dim=1)[:, :4] + FIRST_ITEM
    is_clicked_SK = (slate_SK >= FIRST_ITEM + 4) == (session_S % 2 == 1)[:, None]
    answers = Answers(torch.zeros(len(session_S), 1), slate_SK, is_clicked_SK, is_clicked_SK.sum(dim=1).float())
    return RandomLog(answers, session_S, 0.0)


def test_it_shows_what_the_history_tells() -> None:
    world = choc_world(horizon=5)
    world.tokens, world.slate_size = FIRST_ITEM + 8, 4  # type: ignore[misc]
    act = pretrained(world, planted_log(300, 6), seed=0)
    history_BT = torch.tensor([[3, 5, 6, 4], [8, 7, 10, 0]])
    sight = Sight(history_BT, torch.tensor([4, 3]), user_BF=torch.zeros(2, 1), facet_BZX=torch.zeros(2, 1, 1))
    slate_BK = act(sight, torch.Generator())
    assert slate_BK.sort(dim=1).values.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10]]
    torch.testing.assert_close(pretrained(world, planted_log(300, 6), seed=0)(sight, torch.Generator()), slate_BK)


def test_a_log_without_clicks_is_refused() -> None:
    with pytest.raises(DataError, match="no train events"):
        pretrained(choc_world(horizon=5), log_of([[3, 4]], [[False, False]], [1]), seed=0)


@pytest.mark.parametrize("name", ["choc_kale", "interest_evolution", "bored", "sardine"])
@pytest.mark.parametrize("is_full", [True, False])
def test_every_world_s_history_holds_the_clicks_of_the_session(name: str, is_full: bool) -> None:
    """In order of time and position, behind what the world shows before the first slate."""
    world = sighted(make_environment(name), is_full=is_full)
    sight, generator = world.reset(users=6, seed=1), torch.Generator().manual_seed(0)
    wanted = [row[:length].tolist() for row, length in zip(sight.history_BT, sight.length_B.tolist(), strict=True)]
    for _ in range(5):
        items = world.tokens - FIRST_ITEM
        slate_BK = torch.rand(6, items, generator=generator).topk(world.slate_size, dim=1).indices + FIRST_ITEM
        result = world.step(slate_BK)
        for row in range(6):
            wanted[row] += slate_BK[row][result.is_clicked_BK[row]].tolist()
        seen = result.observation
        assert [row[:n].tolist() for row, n in zip(seen.history_BT, seen.length_B.tolist(), strict=True)] == wanted
    assert sum(map(len, wanted)) > 0
