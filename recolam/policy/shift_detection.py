"""Have the users changed? A test of every answer against what a response model, learnt before, says of it.

The null hypothesis: users click as the model p says, given what is shown, so what is shown may change at will. The
alternative: as a flatter model q says, for which the surprising answers are less of a surprise,

    logit q = flatness * logit p            e = q(answer) / p(answer)            E_p[e] = 1

An observation is a step of all sessions side by side: its evidence e_t is the product over their slates' positions.
What speaks for a change at any time so far is Shiryaev's and Roberts' sum over all times (Roberts 1966,
https://doi.org/10.1080/00401706.1966.10490374; with bounds that need no more than E[e] <= 1: Shin, Ramdas & Rinaldo
2024, "E-detectors", https://arxiv.org/abs/2203.03532)

    R_t = (1 + R_{t-1}) e_t                 alarm at R_t >= A

R_t - t is a martingale under the null hypothesis, so false alarms are A observations apart in the mean, at least, and
P(one within n) <= n / A. Both hold exactly for a model that is right. One that errs drifts towards an alarm where q is
nearer to the truth than it, E[log e] = KL(truth, p) - KL(truth, q) > 0: so does a model that has learnt too little yet
and is too sure of it, whose users did not change, and so would one whose form does not fit them.

Only clicks are judged, not what they are worth, and only answers more surprising than they should be tell of a change:
users who now answer as they should, more reliably than the model says, are not noticed.

Shape legend: S answers of one step, K slate, T observations.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from recolam.errors import ConfigError
from recolam.policy.response import Answers, ResponseModel


@dataclass(frozen=True)
class ShiftDetectionConfig:
    """When to call it a change.

    Attributes:
        apart: A, observations between two false alarms in the mean, at least.
        flatness: of the alternative, as above; in [0, 1).
        settling: user-steps after an alarm before the response model, learnt anew, is taken for what users are like.
    """

    apart: float = 1e6
    flatness: float = 0.5
    settling: int = 20_000

    def __post_init__(self) -> None:
        if self.apart < 1:
            raise ConfigError(f"apart is {self.apart}, below 1")
        if not 0.0 <= self.flatness < 1.0:
            raise ConfigError(f"flatness is {self.flatness}, outside [0, 1)")


def log_evidence(chance_SK: Tensor, is_clicked_SK: Tensor, *, flatness: float) -> Tensor:
    """log e of every answer, float [S, K], from the model's chances of a click."""
    logit_SK = torch.logit(chance_SK.double(), eps=1e-6)
    towards_SK = torch.where(is_clicked_SK, logit_SK, -logit_SK)
    return logsigmoid(flatness * towards_SK) - logsigmoid(towards_SK)


def carried_on(log_sum: float, log_evidence: float) -> float:
    """log R_t from log R_{t-1} and log e_t."""
    above = max(log_sum, 0.0)
    return above + math.log(math.exp(-above) + math.exp(log_sum - above)) + log_evidence


def first_alarm(log_evidence_T: Tensor, *, apart: float) -> int | None:
    """The first observation, from 0, at which R reaches `apart`; None where none does."""
    log_sum = -math.inf
    for index, evidence in enumerate(log_evidence_T.tolist()):
        log_sum = carried_on(log_sum, evidence)
        if log_sum >= math.log(apart):
            return index
    return None


class ShiftDetector:
    """Watches users whom a response model knows.

    Args:
        model: what is known of them; a copy is kept, so it may go on learning.
    """

    def __init__(self, model: ResponseModel, config: ShiftDetectionConfig) -> None:
        self.model, self.config = copy.deepcopy(model).requires_grad_(False), config
        self.log_sum = -math.inf

    def observe(self, answers: Answers) -> bool:
        """Takes in the answers of one step; True for an alarm, after which a new detector is due."""
        chance_SK = self.model.chances(answers)
        found = log_evidence(chance_SK, answers.is_clicked_SK, flatness=self.config.flatness)
        self.log_sum = carried_on(self.log_sum, float(found.sum()))
        return self.log_sum >= math.log(self.config.apart)
