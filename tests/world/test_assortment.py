import itertools

import torch

from recolam.world.assortment import best_logit_slate


def test_weights_of_many_powers_of_ten_do_not_end_the_search_early() -> None:
    """The heavier an item, the less it is worth: the search has to pass them one by one."""
    item_N = torch.arange(20, dtype=torch.float64)
    weight_1N, reward_1N = torch.exp(2.0 * item_N)[None], (20.0 - item_N)[None]
    best = max(
        itertools.combinations(range(20), 2),
        key=lambda s: float((weight_1N[0, s] * reward_1N[0, s]).sum() / (1 + weight_1N[0, s].sum())),
    )
    slate_1K = best_logit_slate(weight_1N, reward_1N, k=2)
    assert sorted(slate_1K[0].tolist()) == sorted(best)
    assert 19 not in best  # which the first round shows


def test_where_every_pick_is_worse_than_none_the_lightest_are_shown() -> None:
    weight_1N, reward_1N = torch.tensor([[3.0, 0.5, 2.0, 0.1]]), torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
    assert sorted(best_logit_slate(weight_1N, reward_1N, k=2)[0].tolist()) == [1, 3]
