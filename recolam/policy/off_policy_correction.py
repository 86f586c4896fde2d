"""Learning a slate policy from logs of single shown items: the top-K off-policy correction.

    grad = E_logs[ min(pi / beta, cap)  lambda_K  r(a)  grad log pi(a) ],   lambda_K = K (1 - pi(a))^(K - 1)

lambda_K is d alpha / d pi for alpha = 1 - (1 - pi)^K, the probability that an item is among K draws with replacement.
So without the cap the estimate is unbiased for the gradient of sum_a alpha(a) r(a), in one step of a session; what it
is biased for is the slate that is truly shown: items drawn without replacement are included with another
probability (`inclusion.inclusion`), and no position counts more than another. The cap trades variance for bias: actions
that logs show much more rarely than the policy would are learnt from at a lower weight. Ratios of the earlier actions
of a session are left out, a first-order approximation. (Chen et al. 2019, "Top-K off-policy correction for a REINFORCE
recommender system", https://arxiv.org/abs/1812.02353)

Shape legend: S logged items.
"""

import math

from torch import Tensor

from recolam.errors import ConfigError


def top_k_multiplier(log_prob_S: Tensor, *, k: int) -> Tensor:
    """lambda_K, float [S]: K for an item the policy hardly shows, 0 for one it always shows; k = 1 gives 1."""
    return k * (1.0 - log_prob_S.exp()).clamp(min=0.0) ** (k - 1)


def top_k_weights(
    log_prob_S: Tensor, behaviour_log_prob_S: Tensor, reward_S: Tensor, *, k: int, cap: float = math.inf
) -> Tensor:
    """What `policy_gradient_loss(log_prob_S, .)` weights each logged item's log-probability by, float [S].

    Args:
        log_prob_S: of the logged item under the policy's softmax.
        behaviour_log_prob_S: under the policy that logged it; estimated, where it was not written down.
        reward_S: what the item earned, discounted return included.
        cap: largest importance weight.

    Raises:
        ConfigError: k below 1 or a cap that is not positive.
    """
    if k < 1 or not cap > 0:
        raise ConfigError(f"k is {k} and cap {cap}: k is at least 1 and cap above 0")
    ratio_S = (log_prob_S - behaviour_log_prob_S).exp().clamp(max=cap)
    return (ratio_S * top_k_multiplier(log_prob_S, k=k) * reward_S).detach()
