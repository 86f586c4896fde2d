import math

import pytest
import torch
from torch import Tensor

from recolam.contracts.dataset import FIRST_ITEM
from recolam.policy.choice_model import ChoiceModel, picked_place, picks_several
from recolam.policy.response import Answers, ResponseFit, ResponseModel

ITEMS, USERS, SLATE = 6, 3, 3
ODDS_UI = torch.tensor(
    [[1.5, 0.5, -0.5, 0.0, -2.0, 1.0], [-1.0, 2.0, 0.0, 0.5, 1.0, -0.5], [0.0, -1.5, 1.0, 2.0, 0.5, -1.0]]
)


def one_hot_items() -> Tensor:
    return torch.cat([torch.zeros(FIRST_ITEM, ITEMS), torch.eye(ITEMS)])


def model_of(kind: type[ResponseModel]) -> ResponseModel:
    return kind(one_hot_items(), torch.zeros(FIRST_ITEM + ITEMS, 1), user_size=USERS, slate_size=SLATE)


def planted(count: int) -> Answers:
    """Slates drawn alike, and at most one pick each, by the odds above; each is worth 1."""
    generator = torch.Generator().manual_seed(0)
    user_S = torch.randint(USERS, (count,), generator=generator)
    place_SK = torch.rand(count, ITEMS, generator=generator).topk(SLATE, dim=1).indices
    weight_SK = torch.cat([ODDS_UI[user_S].gather(1, place_SK).exp(), torch.ones(count, 1)], dim=1)
    pick_S = torch.multinomial(weight_SK, 1, generator=generator)[:, 0]
    is_clicked_SK = torch.nn.functional.one_hot(pick_S, SLATE + 1)[:, :SLATE].bool()
    user_SF = torch.nn.functional.one_hot(user_S, USERS).float()
    return Answers(user_SF, place_SK + FIRST_ITEM, is_clicked_SK, is_clicked_SK.any(dim=1).float())


@pytest.mark.parametrize(("kind", "is_right"), [(ChoiceModel, True), (ResponseModel, False)])
def test_planted_odds_are_found_by_the_choice_alone(kind: type[ResponseModel], is_right: bool) -> None:
    """Position by position, what the others of a slate take away counts against an item."""
    model, generator = model_of(kind), torch.Generator().manual_seed(1)
    answers = planted(30_000)
    for rate in (0.03, 0.003):
        ResponseFit(model, learning_rate=rate).steps(answers, 400, generator)
    error_UI = model.log_odds(torch.eye(USERS))[:, FIRST_ITEM:] - ODDS_UI
    assert (float(error_UI.abs().max()) < 0.25) == is_right
    assert is_right or float(error_UI.abs().mean()) > 0.4


def test_chances_and_loss_by_hand() -> None:
    """Weights 2, 4, 1 and 1 for nothing."""
    model = model_of(ChoiceModel)
    with torch.no_grad():
        model.log_scale.zero_()
        model.affinity.zero_()
        model.affinity[0, :3] = torch.tensor([2.0, 4.0, 1.0]).log()
    slate_SK = torch.arange(3).expand(3, -1) + FIRST_ITEM
    is_clicked_SK = torch.tensor([[False, True, False], [False, False, False], [True, False, False]])
    answers = Answers(torch.eye(USERS)[:1].expand(3, -1), slate_SK, is_clicked_SK, is_clicked_SK.any(dim=1).float())
    torch.testing.assert_close(model.chances(answers), torch.tensor([[2 / 8, 4 / 8, 1 / 8]]).expand(3, -1))
    wanted = -(math.log(4 / 8) + math.log(1 / 8) + math.log(2 / 8)) / 3
    assert float(model.click_loss(answers).detach()) == pytest.approx(wanted, rel=1e-5)
    assert model.click_chance(torch.eye(USERS))[0, FIRST_ITEM].item() == pytest.approx(2 / 3)  # shown alone
    assert picked_place(is_clicked_SK).tolist() == [1, 3, 0]


def test_two_clicks_in_a_slate_are_seen() -> None:
    is_clicked_SK = torch.tensor([[True, False, False], [False, False, False], [False, False, True]])
    assert not picks_several(is_clicked_SK)
    is_clicked_SK[2, 0] = True
    assert picks_several(is_clicked_SK)
