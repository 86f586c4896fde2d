"""Inverse reinforcement learning: the reward that explains which item of a slate users chose, or that they chose none.

Maximum-causal-entropy IRL (Ziebart, Bagnell & Dey 2010, https://icml.cc/Conferences/2010/papers/28.pdf; the same
likelihood as Rust's 1987 dynamic logit), with slates for menus (`recolam.world.soft_planning`):

    r(s, i)         = [1, x_s] W f_i,    r(s, none) = 0
    P(i | s, slate) = exp Q(s, i) / sum over the slate and none of exp Q(s, .),      Q(s, i) = r + discount E[V(s')]
    W               = argmax of sum log P - ridge / 2 ||W||^2          through the soft Bellman equations

`learn_reward` is exact in finite worlds. `learn_myopic_reward` is for states of any kind, and takes users to look no
further than the slate (discount 0): fitted to far-sighted users, it finds Q - Q(none) and calls it a reward.

What choices cannot tell, whatever their number (Cao, Cohen & Szpruch 2021, https://arxiv.org/abs/2106.03498):

- discount 0, none not allowed: r(s, i) + c(s), a constant for each state.
- discount > 0: r(s, a) + discount E[Phi(s') | s, a] - Phi(s) for any Phi (Ng, Harada & Russell 1999), on all actions,
  none among them. `soft_planning.up_to_shaping` takes this out of both rewards before they are compared; at discount 0
  it is the constant for each state. If none is allowed and truly earns 0 everywhere, no such freedom is left.
- scale: the temperature of choices is 1, so rewards are in its units.
- a reward of the next state: only its expectation given (s, a) acts.
- discount, transitions, and the slates that users foresee: they are given, not learnt; wrong ones bend the reward.
- items that are never shown together, nor by a chain of slates, in states of equal features.

What a reward is worth in states unlike those of the log hangs on the ridge. It bends the steep weights that the truth
has there, which validation rows, all of seen states, hardly notice: on choc and kale with exposures below -1 unseen,
ridges of 0.1 and 1 differ by 0.15 nats over 3,000 rows, their Spearman correlations with the truth by 0.1. So the least
ridge wins that validation cannot tell from the best: whose loss exceeds the best by at most one standard error.

Shape legend: S states, N items, A actions, R rows, K slate, C choices (slate and none), D state features, E = 1 + D,
F item features, X = E F weights.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recolam.errors import DataError
from recolam.world.answers import Answers
from recolam.world.learnt_reward import LearntReward, with_one
from recolam.world.slate_world import SlateChoices, SlateWorld
from recolam.world.soft_planning import SoftPlan, soft_plan, value_gradient

RIDGES = (0.1, 1.0, 10.0)
_ROWS_AT_ONCE = 4096

Scores = Callable[[Tensor, SlateChoices], Tensor]
"""(weight_EF, rows) -> Q of the shown items and, where allowed, none; [R, C]."""


@dataclass(frozen=True)
class FittedReward:
    """A learnt reward and how well it is known.

    Attributes:
        standard_error_EF: of the weights, from the inverse of the Fisher information plus ridge; along directions that
            choices cannot tell they are the prior's.
        validation_loss: {ridge: mean negative log-likelihood of the validation rows}.
        ridge: the least whose loss is within one standard error of the best.
    """

    reward: LearntReward
    standard_error_EF: Tensor
    validation_loss: dict[float, float]
    ridge: float


def learn_reward(
    train: SlateChoices,
    validation: SlateChoices,
    *,
    world: SlateWorld,
    state_SD: Tensor,
    item_NF: Tensor,
    ridges: Sequence[float] = RIDGES,
) -> FittedReward:
    """Exact maximum-entropy IRL in a finite world.

    Args:
        train, validation: logged choices; states are rows of `state_SD`, items rows of `item_NF`. The validation rows
            choose among the ridges.
        state_SD, item_NF: features, best of unit size; a constant column of `item_NF` sets items apart from none.

    Raises:
        DataError: no rows, or rows that name states, items or positions that are not there.
        ValueError: features that do not fit the world, or a ridge that is not positive.
    """
    if len(state_SD) != world.states or len(item_NF) != world.items:
        found = f"features of {len(state_SD)} states and {len(item_NF)} items"
        raise ValueError(f"{found} in a world of {world.states} and {world.items}")
    state_SE, item_NF = with_one(state_SD.double()), item_NF.double()

    def scores(weight_EF: Tensor, rows: SlateChoices) -> Tensor:
        return _shown(plan_of(state_SE @ weight_EF @ item_NF.T, world).q_SA, rows, world.has_none)

    weight_EF, ridge, losses = _fit(scores, train, validation, state_SE, item_NF, world.has_none, ridges)
    gradient_SAX = _q_gradient(weight_EF, state_SE, item_NF, world)
    error_EF = _standard_errors(
        scores, lambda rows: _shown(gradient_SAX, rows, world.has_none), weight_EF, train, ridge
    )
    return FittedReward(LearntReward(weight_EF, item_NF, world.discount, world.has_none), error_EF, losses, ridge)


def learn_myopic_reward(
    train: SlateChoices,
    validation: SlateChoices,
    *,
    state_SD: Tensor,
    item_NF: Tensor,
    has_none: bool,
    ridges: Sequence[float] = RIDGES,
) -> FittedReward:
    """The same at discount 0, a multinomial logit: no dynamics are needed, and states may be all different.

    `choices_of` makes the rows of logged answers. Arguments and errors are those of `learn_reward`.
    """
    state_SE, item_NF = with_one(state_SD.double()), item_NF.double()

    def scores(weight_EF: Tensor, rows: SlateChoices) -> Tensor:
        pull_RF = state_SE[rows.state_R] @ weight_EF
        score_RK = torch.einsum("rf,rkf->rk", pull_RF, item_NF[rows.slate_RK])
        return torch.nn.functional.pad(_corrected(score_RK, rows), (0, int(has_none)))

    def gradients(rows: SlateChoices) -> Tensor:
        feature_RKX = torch.einsum("re,rkf->rkef", state_SE[rows.state_R], item_NF[rows.slate_RK]).flatten(2)
        return torch.nn.functional.pad(feature_RKX, (0, 0, 0, int(has_none)))

    weight_EF, ridge, losses = _fit(scores, train, validation, state_SE, item_NF, has_none, ridges)
    error_EF = _standard_errors(scores, gradients, weight_EF, train, ridge)
    return FittedReward(LearntReward(weight_EF, item_NF, 0.0, has_none), error_EF, losses, ridge)


def choices_of(answers: Answers) -> tuple[SlateChoices, Tensor]:
    """Rows for `learn_myopic_reward` and their `state_SD`: every answer is a state of its own; items are token ids."""
    each_R = torch.arange(len(answers))
    return SlateChoices(each_R, answers.slate_SK, answers.choice_S, answers.log_shown_SK), answers.state_SD


def plan_of(reward_SN: Tensor, world: SlateWorld) -> SoftPlan:
    """What users with this reward do in this world, none earning 0; Q is float [S, A]."""
    return soft_plan(
        world.with_none(reward_SN), transition_SAZ=world.transition_SAZ, menus=world.menus, discount=world.discount
    )


def choice_log_likelihood(q_SA: Tensor, choices: SlateChoices, *, has_none: bool) -> Tensor:
    """Mean log-probability of the choices under these scores."""
    return -_losses(_shown(q_SA, choices, has_none), choices).mean()


def _shown(table_SA: Tensor, rows: SlateChoices, has_none: bool) -> Tensor:
    """What a table [S, A, ...] says of the shown items and none: [R, C, ...]; scores are corrected."""
    shown = table_SA[rows.state_R[:, None], rows.slate_RK]
    if table_SA.ndim == 2:
        shown = _corrected(shown, rows)
    return torch.cat([shown, table_SA[rows.state_R, -1:]], dim=1) if has_none else shown


def _corrected(score_RK: Tensor, rows: SlateChoices) -> Tensor:
    return score_RK if rows.log_shown_RK is None else score_RK - rows.log_shown_RK


def _losses(score_RC: Tensor, rows: SlateChoices) -> Tensor:
    """Negative log-likelihood of each row, [R]."""
    column_R = rows.choice_R.where(rows.choice_R >= 0, score_RC.shape[1] - 1)  # none is the last
    return -torch.log_softmax(score_RC, dim=1).gather(1, column_R[:, None])[:, 0]


def _fit(
    scores: Scores,
    train: SlateChoices,
    validation: SlateChoices,
    state_SE: Tensor,
    item_NF: Tensor,
    has_none: bool,
    ridges: Sequence[float],
) -> tuple[Tensor, float, dict[float, float]]:
    for rows in (train, validation):
        _check(rows, states=len(state_SE), items=len(item_NF), has_none=has_none)
    if not ridges or min(ridges) <= 0:
        raise ValueError(f"ridges are {tuple(ridges)}; expected positive numbers")
    weight_EF = torch.zeros(state_SE.shape[1], item_NF.shape[1], dtype=torch.float64, device=state_SE.device)
    found: dict[float, Tensor] = {}
    losses: dict[float, Tensor] = {}
    for ridge in sorted(ridges, reverse=True):  # from stiff to loose, each from the last's optimum
        weight_EF = _maximise(scores, train, weight_EF, ridge)
        with torch.no_grad():
            found[ridge], losses[ridge] = weight_EF, _losses(scores(weight_EF, validation), validation)
    chosen = _least_within_error(losses)
    return found[chosen], chosen, {ridge: float(loss_R.mean()) for ridge, loss_R in losses.items()}


def _least_within_error(losses: Mapping[float, Tensor]) -> float:
    """The least ridge that beats the best one, or loses to it by at most one standard error of their difference."""
    best_R = min(losses.values(), key=lambda loss_R: float(loss_R.mean()))
    excess = {ridge: loss_R - best_R for ridge, loss_R in losses.items()}
    return min(ridge for ridge, e_R in excess.items() if e_R.mean() <= e_R.std(correction=0) / len(e_R) ** 0.5)


def _maximise(scores: Scores, rows: SlateChoices, start_EF: Tensor, ridge: float) -> Tensor:
    weight_EF = start_EF.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight_EF], max_iter=300, tolerance_grad=1e-7, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = _losses(scores(weight_EF, rows), rows).mean() + ridge / (2 * len(rows)) * weight_EF.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return weight_EF.detach()


def _q_gradient(weight_EF: Tensor, state_SE: Tensor, item_NF: Tensor, world: SlateWorld) -> Tensor:
    """dQ/dW, float [S, A, X]: the item's features and those of all that follows."""
    feature_SNX = torch.einsum("se,nf->snef", state_SE, item_NF).flatten(2)
    feature_SAX = torch.nn.functional.pad(feature_SNX, (0, 0, 0, int(world.has_none)))
    policy_SA = plan_of(state_SE @ weight_EF @ item_NF.T, world).policy_SA
    value_SX = value_gradient(policy_SA, feature_SAX, transition_SAZ=world.transition_SAZ, discount=world.discount)
    return feature_SAX + world.discount * torch.einsum("saz,zx->sax", world.transition_SAZ.double(), value_SX)


@torch.no_grad()
def _standard_errors(
    scores: Scores, gradients: Callable[[SlateChoices], Tensor], weight_EF: Tensor, rows: SlateChoices, ridge: float
) -> Tensor:
    """Square roots of the diagonal of (sum of Cov(dQ/dW under the choice) + ridge I)^-1; `gradients` are [R, C, X]."""
    information_XX = ridge * torch.eye(weight_EF.numel(), dtype=torch.float64, device=weight_EF.device)
    for index_R in torch.arange(len(rows)).split(_ROWS_AT_ONCE):
        part = rows.rows(index_R)
        chance_RC = torch.softmax(scores(weight_EF, part), dim=1)
        gradient_RCX = gradients(part)
        centred_RCX = gradient_RCX - torch.einsum("rc,rcx->rx", chance_RC, gradient_RCX)[:, None]
        information_XX += torch.einsum("rc,rcx,rcy->xy", chance_RC, centred_RCX, centred_RCX)
    return torch.linalg.inv(information_XX).diagonal().sqrt().view_as(weight_EF)


def _check(rows: SlateChoices, *, states: int, items: int, has_none: bool) -> None:
    if len(rows) == 0:
        raise DataError("no choices to learn a reward from")
    for what, index, low, high in (
        ("states", rows.state_R, 0, states),
        ("items", rows.slate_RK, 0, items),
        ("positions", rows.choice_R, -1 if has_none else 0, rows.slate_RK.shape[1]),
    ):
        if int(index.min()) < low or int(index.max()) >= high:
            raise DataError(f"{what} from {int(index.min())} to {int(index.max())}; expected {low} to {high - 1}")
