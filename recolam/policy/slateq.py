"""SlateQ: the long-term value of a slate, made of item-level values.

    Q(s, A) = sum_{i in A} P(i | s, A) Q(s, i),   Q(s, i) = E[ r + gamma Q(s', A') | s, i chosen ]

where the user picks at most one item of a slate and what follows depends on the slate through that pick alone. s' is
the state AFTER the pick, in the choice probabilities as well as in the values: RecSim's reference agent evaluates the
target in the current state, and so learns another function. A' is the slate that the policy shows next (SARSA: the
values of that policy) or the best one for the values (Q-learning: `best_slate`). "Nothing" is an item like any other:
give it a column of its own where picking nothing has a future.

(Ie et al. 2019, "SlateQ: a tractable decomposition for reinforcement learning with recommendation sets",
https://arxiv.org/abs/1905.12767)

Shape legend: B states, K positions (or K + 1, with nothing), S states, N items.
"""

from torch import Tensor

from recolam.world.assortment import best_logit_slate


def slate_value(choice_BK: Tensor, value_BK: Tensor) -> Tensor:
    """Q(s, A), float [B]: each shown item's value by the probability that it is picked."""
    return (choice_BK * value_BK).sum(dim=1)


def slateq_target(
    reward_B: Tensor, next_choice_BK: Tensor, next_value_BK: Tensor, is_terminated_B: Tensor, *, gamma: float
) -> Tensor:
    """r + gamma Q(s', A'), float [B], without gradient: what the picked item's value is regressed on.

    Args:
        next_choice_BK: P(i | s', A') for the items of the NEXT slate in the NEXT state.
        next_value_BK: their values in s', of the target network where there is one.
        is_terminated_B: True where the user left, and nothing follows; False where only the horizon ended.

    Raises:
        ValueError: gamma outside [0, 1].
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma is {gamma}, outside [0, 1]")
    following_B = slate_value(next_choice_BK, next_value_BK).masked_fill(is_terminated_B, 0.0)
    return (reward_B + gamma * following_B).detach()


def best_slate(affinity_BN: Tensor, value_BN: Tensor, *, k: int, nothing_B: Tensor | None = None) -> Tensor:
    """The slate of largest Q for a multinomial-logit user, int64 [B, k]; affinities are relative to picking nothing.

    Args:
        affinity_BN: log of the choice weight; -inf bars an item.
        nothing_B: value of picking nothing; 0 if absent.
    """
    gain_BN = value_BN if nothing_B is None else value_BN - nothing_B[:, None]
    return best_logit_slate(affinity_BN.exp(), gain_BN, k=k)


def long_term_labels(click_SN: Tensor, value_SN: Tensor, nothing_S: Tensor) -> Tensor:
    """Labels for `pl_rank` over a long horizon, float [S, N]: P(pick | examined) (Q(s, i) - Q(s, nothing)).

    For a user who examines one position, k with probability exposure_k, and picks the item there or nothing,
    Q(s, A) = Q(s, nothing) + sum_k exposure_k label(a_k). So PL-Rank on these labels, averaged over the states that
    the policy visits (discounted), is the gradient of its long-term return, by the policy gradient theorem, if the
    values are those of the policy itself (SARSA targets). Where users pick several items the sum is an approximation:
    the picks' effects on the future are taken to add up.

    Args:
        click_SN: P(pick | examined).
        value_SN: Q(s, i): the reward of the pick, and the discounted rest.
        nothing_S: Q(s, nothing).
    """
    return (click_SN * (value_SN - nothing_S[:, None])).detach()
