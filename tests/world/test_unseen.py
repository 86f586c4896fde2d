import torch

from recolam.world.demo import _unseen


def test_users_who_had_nearly_everything_see_it_all_again() -> None:
    score_UN = torch.tensor([[-torch.inf, -torch.inf, -torch.inf, 1.0, 2.0, 3.0]]).expand(2, -1)
    history_UT = torch.tensor([[3, 0, 0], [3, 4, 0]])
    unseen_UN = _unseen(score_UN, history_UT, k=2)
    assert torch.isfinite(unseen_UN).tolist() == [[False, False, False, False, True, True], [False] * 3 + [True] * 3]
