"""What users will answer, learnt from what they answered: a click at each position, and the worth of a click.

    P(click | user u, item i at position k) = sigmoid(e_k) sigmoid(u~' A i~)          (position-based model)
    E[reward | user u clicks item i]        = exp(u~' C i~)

with u~ = [u, |u|^2 - 1, 1] and i~ = [f, attributes, |f|^2, 1], so that affinities by inner product and by squared
distance are both of this form; u and f are the user's numbers and the item's features, scaled to a mean square length
of 1, so that users of one length differ in u alone. Clicks of one slate are taken to be independent. A starts as the
inner product of u and f where both have the same meaning, C at worth 1.

Shape legend: B users, K slate, N token ids, F numbers of a user, G features, Z attributes, V = G + Z + 2, S answers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from recolam.contracts.dataset import FIRST_ITEM

_START_SCALE, _START_BIAS, _START_SEEN = 1.5, -0.5, 2.0  # log of 4.5; 4.5 times -0.5; logit of 0.88


@dataclass(frozen=True)
class Answers:
    """Slates and their answers: user_SF, slate_SK, is_clicked_SK, reward_S."""

    user_SF: Tensor
    slate_SK: Tensor
    is_clicked_SK: Tensor
    reward_S: Tensor

    def __len__(self) -> int:
        return len(self.reward_S)

    def rows(self, index_R: Tensor) -> "Answers":
        return Answers(
            self.user_SF[index_R], self.slate_SK[index_R], self.is_clicked_SK[index_R], self.reward_S[index_R]
        )

    @staticmethod
    def joined(parts: "list[Answers]") -> "Answers":
        names = ("user_SF", "slate_SK", "is_clicked_SK", "reward_S")
        return Answers(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class ResponseModel(nn.Module):
    """The model above.

    Args:
        feature_NG, attribute_NZ: the items; rows of special tokens are ignored by who reads the answers.
        user_size: F.
    """

    item_NV: Tensor
    user_scale: Tensor
    reward_scale: Tensor

    def __init__(self, feature_NG: Tensor, attribute_NZ: Tensor, *, user_size: int, slate_size: int) -> None:
        super().__init__()
        item_NV = described_items(feature_NG, attribute_NZ)
        self.register_buffer("item_NV", item_NV, persistent=False)
        self.register_buffer("user_scale", torch.tensor(1.0))
        self.register_buffer("reward_scale", torch.tensor(1.0))
        shape = (user_size + 2, item_NV.shape[1])
        affinity = torch.zeros(shape)
        shared = min(user_size, feature_NG.shape[1])
        affinity[range(shared), range(shared)] = 1.0
        affinity[-1, -1] = _START_BIAS
        self.affinity = nn.Parameter(affinity)
        self.log_scale = nn.Parameter(torch.tensor(_START_SCALE))
        self.worth = nn.Parameter(torch.zeros(shape))
        self.seen_K = nn.Parameter(torch.full((slate_size,), _START_SEEN))

    @property
    def examination_K(self) -> Tensor:
        """How likely a position is looked at, float [K]."""
        return torch.sigmoid(self.seen_K).detach()

    @torch.no_grad()
    def expected(self, user_BF: Tensor) -> Tensor:
        """Expected reward of each item where it is looked at, in units of a usual good item's; float [B, N]."""
        worth_BN = ((self._user(user_BF) @ self.worth) @ self.item_NV.T).exp_()
        return worth_BN.mul_(self.click_chance(user_BF)).div_(self.reward_scale)

    @torch.no_grad()
    def click_chance(self, user_BF: Tensor) -> Tensor:
        """Probability of a click on each item where it is looked at, float [B, N]."""
        return self.log_odds(user_BF).sigmoid_()

    @torch.no_grad()
    def log_odds(self, user_BF: Tensor) -> Tensor:
        """Log-odds of a click on each item against none where it is looked at, float [B, N]."""
        return (self.log_scale.exp() * (self._user(user_BF) @ self.affinity)) @ self.item_NV.T

    def measure(self, user_BF: Tensor) -> None:
        """Takes the unit of rewards from what the best items should earn of some users."""
        best_B = self.expected(user_BF)[:, FIRST_ITEM:].amax(dim=1)
        self.reward_scale *= best_B.quantile(0.9).clamp(min=1e-6)

    def chances(self, answers: Answers) -> Tensor:
        """Probability of a click at each position of the slates that were answered, float [S, K]."""
        return torch.sigmoid(self.shown_log_odds(answers)) * torch.sigmoid(self.seen_K)

    def shown_log_odds(self, answers: Answers) -> Tensor:
        """`log_odds` of what was shown, float [S, K]."""
        user_SV, shown_SKV = self._user(answers.user_SF) @ self.affinity, self.item_NV[answers.slate_SK]
        return self.log_scale.exp() * torch.einsum("sv,skv->sk", user_SV, shown_SKV)

    def loss(self, answers: Answers) -> Tensor:
        """Cross entropy of clicks, plus the Poisson deviance of the rewards of slates that were clicked; a scalar.

        Rewards below 0, which composed ones may be, count as 0.
        """
        reward_S = answers.reward_S.clamp(min=0.0)
        worth_S = self._worth_of_clicks(answers)
        is_paid_S = answers.is_clicked_SK.any(dim=1)
        deviance_S = worth_S - reward_S * worth_S.clamp(min=1e-6).log()
        return self.click_loss(answers) + deviance_S[is_paid_S].sum() / (reward_S.sum() + 1.0)

    def click_loss(self, answers: Answers) -> Tensor:
        """Mean cross entropy of the clicks at all positions; a scalar."""
        return binary_cross_entropy(self.chances(answers).clamp(1e-6, 1 - 1e-6), answers.is_clicked_SK.float())

    @torch.no_grad()
    def worth_of_clicks(self, answers: Answers) -> Tensor:
        """Expected reward of each answer given what was clicked, in the world's units; float [S]."""
        return self._worth_of_clicks(answers)

    def _worth_of_clicks(self, answers: Answers) -> Tensor:
        user_SV, shown_SKV = self._user(answers.user_SF) @ self.worth, self.item_NV[answers.slate_SK]
        log_worth_SK = torch.einsum("sv,skv->sk", user_SV, shown_SKV)
        return (log_worth_SK.exp() * answers.is_clicked_SK).sum(dim=1)

    def _user(self, user_BF: Tensor) -> Tensor:
        """u~, float [B, F + 2]."""
        user_BF = user_BF / self.user_scale
        square_B1 = user_BF.square().sum(dim=1, keepdim=True)
        return torch.cat([user_BF, square_B1 - 1.0, torch.ones_like(square_B1)], dim=1)


def described_items(feature_NG: Tensor, attribute_NZ: Tensor) -> Tensor:
    """i~ of every item, float [N, V]."""
    feature_NG = feature_NG / root_mean_square(feature_NG[FIRST_ITEM:])
    square_N1 = feature_NG.square().sum(dim=1, keepdim=True)
    return torch.cat([feature_NG, attribute_NZ, square_N1, torch.ones_like(square_N1)], dim=1)


def root_mean_square(row_SD: Tensor) -> Tensor:
    """Root of the mean square length of rows; 1 where all are 0."""
    length = row_SD.square().sum(dim=1).mean().sqrt()
    return length if float(length) > 0 else torch.ones_like(length)


class ResponseFit:
    """Fits a `ResponseModel` to a growing list of answers, by Adam on minibatches drawn from all of them."""

    def __init__(self, model: ResponseModel, *, learning_rate: float = 0.03, batch: int = 512) -> None:
        self.model, self.batch = model, batch
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)

    def steps(self, answers: Answers, count: int, generator: torch.Generator) -> float:
        """Takes `count` steps and measures anew what a good item earns; the mean loss."""
        total = 0.0
        for _ in range(count):
            index_R = torch.randint(len(answers), (self.batch,), generator=generator)
            loss = self.model.loss(answers.rows(index_R))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach())
        self.model.measure(answers.user_SF[torch.randint(len(answers), (self.batch,), generator=generator)])
        return total / count
