"""Soft (maximum-entropy) planning in finite worlds, exact and differentiable with respect to the reward.

An agent is offered a menu m of actions, drawn with weight w(m | s), and takes one of them (Ziebart 2010,
https://www.cs.cmu.edu/~bziebart/publications/thesis-bziebart.pdf, section 6.2; with random menus, Rust 1987,
https://doi.org/10.2307/1911259):

    Q(s, a)     = r(s, a) + discount sum_z P(z | s, a) V(z)
    V(s)        = sum_m w(m | s) log sum_{a in m} exp Q(s, a)
    P(a | s, m) = exp Q(s, a) / sum_{b in m} exp Q(s, b)

Rewards are in units of the temperature. One menu of all actions is the ordinary soft Bellman equation. Rows of P may
sum to less than 1: the rest of the probability leaves, to a value of 0.
Shape legend: S states, A actions, Z next states (the same as S), M menus; leading dimensions "..." are batches.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

_MOST_SWEEPS = 100
_LONGEST_SESSION = 1e9


@dataclass(frozen=True)
class Menus:
    """What may be offered, and how often.

    Attributes:
        is_offered_SMA: True for the actions of a menu, bool [S or 1, M, A].
        weight_SM: probability of the menu in the state, float [S or 1, M]; rows sum to 1.

    Raises:
        ValueError: an empty menu that has weight, or weights that are no probabilities.
    """

    is_offered_SMA: Tensor
    weight_SM: Tensor

    def __post_init__(self) -> None:
        total_S = self.weight_SM.sum(dim=1)
        if bool((self.weight_SM < 0).any()) or not torch.allclose(total_S, torch.ones_like(total_S), atol=1e-5):
            raise ValueError(f"menu weights that are no probabilities: rows sum to {total_S.tolist()}")
        if bool(((self.weight_SM > 0) & ~self.is_offered_SMA.any(dim=2)).any()):
            raise ValueError("an empty menu has weight: there is nothing to choose from it")


def admissible_menu(is_admissible_SA: Tensor) -> Menus:
    """The menu of an ordinary Markov decision process: every admissible action, always. bool [S or 1, A]."""
    one_11 = torch.ones(1, 1, dtype=torch.float64, device=is_admissible_SA.device)
    return Menus(is_admissible_SA[:, None], one_11)


@dataclass(frozen=True)
class SoftPlan:
    """The fixed point: `q_SA` [..., S, A] and `value_S` [..., S] (differentiable), `policy_SA` [..., S, A] (detached):
    the probability of each action before the menu is known."""

    q_SA: Tensor
    value_S: Tensor
    policy_SA: Tensor


def check_transition(transition_SAZ: Tensor) -> None:
    """Raises ValueError where rows are no (sub-)probabilities, or shapes are not [S, A, S]."""
    if transition_SAZ.ndim != 3 or transition_SAZ.shape[0] != transition_SAZ.shape[2]:
        raise ValueError(f"transitions of shape {tuple(transition_SAZ.shape)}; expected [S, A, S]")
    total_SA = transition_SAZ.sum(dim=2)
    if float(transition_SAZ.min()) < 0 or float(total_SA.max()) > 1 + 1e-5:
        raise ValueError(
            f"transitions are no probabilities: least {transition_SAZ.min()}, largest sum {total_SA.max()}"
        )


def soft_plan(reward_SA: Tensor, *, transition_SAZ: Tensor, menus: Menus, discount: float) -> SoftPlan:
    """Solves the equations above by Newton's method, which for them is soft policy iteration.

    The operator is convex and monotone, so Newton's steps rise to the fixed point from the first on. Gradients are the
    implicit function theorem's: the last step is taken with the graph on, and is exact at the fixed point. First-order
    gradients only.

    Args:
        reward_SA: float [..., S, A]; rewards of actions that are never offered do not matter.
        transition_SAZ: P(z | s, a), [S, A, S].
        discount: in [0, 1]; 1 only where every session leaves sooner or later.

    Raises:
        ValueError: shapes, a discount outside [0, 1], rewards that are not finite, or no finite fixed point.
    """
    check_transition(transition_SAZ)
    if not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount is {discount}, outside [0, 1]")
    if reward_SA.shape[-2:] != transition_SAZ.shape[:2]:
        raise ValueError(f"rewards of shape {tuple(reward_SA.shape)} for transitions {tuple(transition_SAZ.shape)}")
    if not bool(torch.isfinite(reward_SA).all()):
        raise ValueError("rewards are not finite")
    forward_SAZ = discount * transition_SAZ.to(reward_SA.dtype)
    with torch.no_grad():
        fixed_S, policy_SA = _fixed_point(reward_SA, forward_SAZ, menus)
    target_S, _ = _surplus(_q(reward_SA, forward_SAZ, fixed_S), menus)
    # equal to `fixed_S` in value; its gradient is that of the fixed point
    value_S = fixed_S + _propagate(policy_SA, forward_SAZ, (target_S - fixed_S)[..., None])[..., 0]
    return SoftPlan(_q(reward_SA, forward_SAZ, value_S), value_S, policy_SA)


def value_gradient(policy_SA: Tensor, gradient_SAX: Tensor, *, transition_SAZ: Tensor, discount: float) -> Tensor:
    """dV/dtheta at a fixed point, from dr/dtheta: the discounted features that the policy will meet; [S, X]."""
    met_SX = torch.einsum("sa,sax->sx", policy_SA, gradient_SAX)
    return _propagate(policy_SA, discount * transition_SAZ.to(policy_SA.dtype), met_SX)


def shaping(potential_S: Tensor, *, transition_SAZ: Tensor, discount: float) -> Tensor:
    """discount E[Phi(z) | s, a] - Phi(s), float [S, A]: added to a reward, it changes no choice (Ng, Harada & Russell
    1999, https://people.eecs.berkeley.edu/~russell/papers/icml99-shaping.pdf, theorem 1)."""
    return discount * transition_SAZ.to(potential_S.dtype) @ potential_S - potential_S[:, None]


def up_to_shaping(
    reward_SA: Tensor, *, transition_SAZ: Tensor, discount: float, is_admissible_SA: Tensor | None = None
) -> Tensor:
    """The reward of least norm among those that differ from this one by potential-based shaping, float64 [S, A].

    Two rewards that differ by shaping come out the same, so this is what to compare (a "minimal canonicalisation",
    Skalse et al. 2024, https://arxiv.org/abs/2309.15257, section 3). A discount of 0 subtracts each state's mean.

    Args:
        is_admissible_SA: which actions count, all by default; the others come out as 0.

    Raises:
        ValueError: the transitions are no probabilities.
    """
    check_transition(transition_SAZ)
    states, actions, _ = transition_SAZ.shape
    if is_admissible_SA is None:
        is_admissible_SA = torch.ones(states, actions, dtype=torch.bool, device=reward_SA.device)
    potentials_ZZ = torch.eye(states, dtype=torch.float64, device=reward_SA.device)
    shaping_SAZ = discount * transition_SAZ.double() - potentials_ZZ[:, None]
    counted_SA = is_admissible_SA.expand(states, actions)
    left_RZ, right_R = shaping_SAZ[counted_SA], reward_SA.double()[counted_SA]
    # "gelsd" takes any rank; CPU only
    phi_Z = torch.linalg.lstsq(left_RZ.cpu(), right_R.cpu()[:, None], driver="gelsd").solution[:, 0].to(left_RZ)
    least_SA = torch.zeros(states, actions, dtype=torch.float64, device=reward_SA.device)
    least_SA[counted_SA] = right_R - left_RZ @ phi_Z
    return least_SA


def _q(reward_SA: Tensor, forward_SAZ: Tensor, value_S: Tensor) -> Tensor:
    return reward_SA + torch.einsum("saz,...z->...sa", forward_SAZ, value_S)


def _surplus(q_SA: Tensor, menus: Menus) -> tuple[Tensor, Tensor]:
    """V(s), and the probability of each action over the menus."""
    is_empty_SM1 = ~menus.is_offered_SMA.any(dim=2, keepdim=True)  # these have no weight
    masked_SMA = q_SA[..., :, None, :].masked_fill(~(menus.is_offered_SMA | is_empty_SM1), -torch.inf)
    weight_SM = menus.weight_SM.to(q_SA.dtype)
    value_S = (weight_SM * torch.logsumexp(masked_SMA, dim=-1)).sum(dim=-1)
    return value_S, (weight_SM[..., None] * torch.softmax(masked_SMA, dim=-1)).sum(dim=-2)


def _fixed_point(reward_SA: Tensor, forward_SAZ: Tensor, menus: Menus) -> tuple[Tensor, Tensor]:
    value_S = torch.zeros_like(reward_SA[..., 0])
    smallest = 256 * torch.finfo(value_S.dtype).eps
    for _ in range(_MOST_SWEEPS):
        target_S, policy_SA = _surplus(_q(reward_SA, forward_SAZ, value_S), menus)
        both_SX = torch.stack([target_S - value_S, torch.ones_like(value_S)], dim=-1)
        step_S, length_S = _propagate(policy_SA, forward_SAZ, both_SX).unbind(dim=-1)
        value_S = value_S + step_S
        if not bool(torch.isfinite(value_S).all() & (length_S > 0).all() & (length_S < _LONGEST_SESSION).all()):
            break
        if bool((step_S.abs() <= smallest * (1 + value_S.abs().amax(dim=-1, keepdim=True))).all()):
            return value_S, _surplus(_q(reward_SA, forward_SAZ, value_S), menus)[1]
    raise ValueError("no finite value: with a discount of 1, every session has to leave sooner or later")


def _propagate(policy_SA: Tensor, forward_SAZ: Tensor, now_SX: Tensor) -> Tensor:
    """(I - discount P_policy)^-1 now: what now and every later step add up to, [..., S, X]."""
    moved_SZ = torch.einsum("...sa,saz->...sz", policy_SA, forward_SAZ)
    identity_SZ = torch.eye(moved_SZ.shape[-1], dtype=moved_SZ.dtype, device=moved_SZ.device)
    return torch.linalg.solve_ex(identity_SZ - moved_SZ, now_SX).result
