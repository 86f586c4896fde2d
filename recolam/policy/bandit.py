"""Thompson sampling of linear rewards: a contextual bandit, which looks no step ahead.

    reward of item i shown to user u = x' theta + noise,  x = u~ (x) i~ (as in `recolam.policy.response`)
    theta | data ~ Normal(A^-1 b, noise A^-1),  A = ridge I + sum x x',  b = sum x y

Each user of a step is served the items of largest reward under a theta of his own (Agrawal & Goyal 2013, "Thompson
sampling for contextual bandits with linear payoffs", https://arxiv.org/abs/1209.3352). The reward of a slate is shared
by what was clicked.

Shape legend: B users, K slate, N token ids, D = (F + 1) V numbers of a pair, S answers.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from recolam.contracts.dataset import FIRST_ITEM
from recolam.contracts.protocols import Observation, sight_of
from recolam.policy.response import Answers, described_items, root_mean_square


class LinearBandit:
    """The bandit. It is given every item's vector i~, and learns by `learn`.

    Args:
        ridge, noise: the prior's precision and the variance of the noise.
    """

    def __init__(self, item_NV: Tensor, *, user_size: int, ridge: float = 1.0, noise: float = 0.05) -> None:
        self.item_NV, self.noise, self._rows = item_NV, noise, user_size + 1
        size = self._rows * item_NV.shape[1]
        self.precision_DD = ridge * torch.eye(size, dtype=torch.float64)
        self.moment_D = torch.zeros(size, dtype=torch.float64)
        self.user_scale: Tensor | None = None
        self._solve()

    @classmethod
    def of(cls, feature_NG: Tensor, attribute_NZ: Tensor, *, user_size: int) -> "LinearBandit":
        return cls(described_items(feature_NG, attribute_NZ), user_size=user_size)

    def learn(self, answers: Answers) -> None:
        """Takes in answers, once each."""
        if self.user_scale is None:
            self.user_scale = root_mean_square(answers.user_SF)
        clicks_S1 = answers.is_clicked_SK.sum(dim=1, keepdim=True)
        reward_SK = answers.is_clicked_SK * (answers.reward_S[:, None] / clicks_S1.clamp(min=1))
        pair_SKD = (self._user(answers.user_SF)[:, None, :, None] * self.item_NV[answers.slate_SK][:, :, None]).flatten(
            2
        )
        pair_RD = pair_SKD.flatten(0, 1)
        self.precision_DD += (pair_RD.T @ pair_RD).double()
        self.moment_D += (pair_RD.T @ reward_SK.reshape(-1)).double()
        self._solve()

    def slates(self, observation: Observation, *, k: int, generator: torch.Generator | None) -> Tensor:
        """Token ids [B, k]: of a drawn theta with a generator, of the mean without."""
        return self.scores(observation, generator)[:, FIRST_ITEM:].topk(k, dim=1).indices + FIRST_ITEM

    def scores(self, observation: Observation, generator: torch.Generator | None) -> Tensor:
        """Linear rewards of all items, float [B, N], as `slates` compares them."""
        user_BR = self._user(sight_of(observation).user_BF)
        theta_BD = self._mean_D.expand(len(user_BR), -1)
        if generator is not None:
            theta_BD = theta_BD + torch.randn(theta_BD.shape, generator=generator) @ self._spread_DD
        weight_BV = torch.einsum("br,brv->bv", user_BR, theta_BD.unflatten(1, (self._rows, -1)))
        return weight_BV @ self.item_NV.T

    def _user(self, user_BF: Tensor) -> Tensor:
        return pad(user_BF if self.user_scale is None else user_BF / self.user_scale, (0, 1), value=1.0)

    def _solve(self) -> None:
        """With A = L L', theta = A^-1 b + sqrt(noise) L'^-1 z has the covariance noise A^-1."""
        lower_DD = torch.linalg.cholesky(self.precision_DD)
        self._mean_D = torch.cholesky_solve(self.moment_D[:, None], lower_DD)[:, 0].float()
        identity_DD = torch.eye(len(lower_DD), dtype=lower_DD.dtype)
        inverse_DD = torch.linalg.solve_triangular(lower_DD, identity_DD, upper=False)
        self._spread_DD = (self.noise**0.5 * inverse_DD).float()
