"""What users will answer where they pick at most one item of a slate: a conditional choice, and the worth of a pick.

    P(i | user u, slate A) = v(u, i) / (1 + sum_{j in A} v(u, j)),   v(u, i) = exp(u~' A i~),   v(u, nothing) = 1

(the conditional logit of Ie et al. 2019, section 4.1, https://arxiv.org/abs/1905.12767; McFadden 1974). u~, i~ and the
worth of a pick are those of `response`; v / (1 + v) is the chance of an item that is shown alone. Positions are alike.

Shape legend: K slate, S answers.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from recolam.policy.response import Answers, ResponseModel


class ChoiceModel(ResponseModel):
    """The model above, fitted by the multinomial likelihood of the picks, nothing included."""

    def __init__(self, feature_NG: Tensor, attribute_NZ: Tensor, *, user_size: int, slate_size: int) -> None:
        super().__init__(feature_NG, attribute_NZ, user_size=user_size, slate_size=slate_size)
        self.seen_K.requires_grad_(False)

    @property
    def examination_K(self) -> Tensor:
        """1 for all positions, float [K]."""
        return torch.ones_like(self.seen_K)

    def chances(self, answers: Answers) -> Tensor:
        """Probability that the item at each position is the one picked, float [S, K]; nothing has what is left."""
        return torch.softmax(self._logits(answers), dim=1)[:, :-1]

    def click_loss(self, answers: Answers) -> Tensor:
        """Mean negative log-likelihood of what was picked, or nothing; a scalar."""
        return cross_entropy(self._logits(answers), picked_place(answers.is_clicked_SK))

    def _logits(self, answers: Answers) -> Tensor:
        """Log of the choice weights, float [S, K + 1]; nothing comes last."""
        return pad(self.shown_log_odds(answers), (0, 1))


def picked_place(is_clicked_SK: Tensor) -> Tensor:
    """The position picked, K where nothing was, int64 [S]."""
    is_any_S = is_clicked_SK.any(dim=1)
    return torch.where(is_any_S, is_clicked_SK.int().argmax(dim=1), is_clicked_SK.shape[1])


def picks_several(is_clicked_SK: Tensor) -> bool:
    """Whether any slate has two clicks: the choice above is then not how these users answer."""
    return bool((is_clicked_SK.sum(dim=1) > 1).any())
