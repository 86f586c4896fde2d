"""Expected exposure and inclusion of every item under Plackett-Luce, by quadrature: nothing sampled, any catalogue.

Give every item a clock that rings after an exponential time of rate w_i = exp(s_i): the order in which they ring is a
Plackett-Luce sample. Item i comes at position n + 1 if n of the other clocks rang before its own, so

    P(i at position n + 1) = int_0^inf  w_i exp(-w_i t)  P( n of the others before t )  dt

The count is a sum of independent Bernoulli variables of p_j = 1 - exp(-w_j t). Its probabilities are coefficients of
G(z) = prod_{j != i} (1 + p_j (z - 1)), read off a circle of M = O(K) points (Cauchy's formula), where leaving item i
out is one division. The integral runs over log t in panels of Gauss-Legendre nodes. Time N M per node.

(Hong 2013, https://doi.org/10.1016/j.csda.2012.10.006, reads all Poisson-binomial probabilities off the unit circle;
here the radius is below 1, since the first K are enough and the others would alias onto them.)

Shape legend: N items, K positions, M points of the circle.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

_FIRST_TIME = 1e-8  # with rates that sum to 1: two clocks ring before it with probability 5e-17
_WIDEST = 3.0  # width of a panel in log t


def expected_exposure(score_N: Tensor, exposure_K: Tensor, *, nodes: int = 16) -> tuple[Tensor, float]:
    """sum_k exposure_k P(a_k = i) of every item, float64 [N], and its largest numerical error, stated below.

    (as a measure of fairness: Diaz et al. 2020, https://arxiv.org/abs/2004.13157)

    Args:
        score_N: -inf bars an item.
        exposure_K: what each position is worth; ones give `inclusion`.
        nodes: of a panel.

    Returns:
        exposures, and the largest difference to those from `nodes` - 4 nodes a panel: an estimate of the error of the
        coarser rule, and so a cautious one of this.

    Raises:
        ValueError: fewer than K items of finite score.
    """
    fine_N, coarse_N = (_integrate(score_N, exposure_K, count) for count in (nodes, nodes - 4))
    return fine_N, float((fine_N - coarse_N).abs().max())


def inclusion(score_N: Tensor, k: int) -> tuple[Tensor, float]:
    """P(item in the slate), float64 [N], and the numerical error as in `expected_exposure`; it sums to k."""
    return expected_exposure(score_N, torch.ones(k, dtype=torch.float64, device=score_N.device))


def exact_gradient(score_N: Tensor, label_N: Tensor, exposure_K: Tensor, *, nodes: int = 16) -> Tensor:
    """d/ds of the expected position-based reward sum_k exposure_k E[label(a_k)], float64 [N].

    The reference for estimators where slates cannot be enumerated: as exact as the quadrature. One node's graph is
    held at a time.
    """
    score_N = score_N.detach().double().requires_grad_()
    gradient_N = torch.zeros_like(score_N, requires_grad=False)
    with torch.enable_grad():
        for part_N in _parts(score_N, exposure_K, nodes):
            gradient_N += torch.autograd.grad((part_N * label_N).sum(), score_N)[0]
    return gradient_N


def _integrate(score_N: Tensor, exposure_K: Tensor, nodes: int) -> Tensor:
    total_N = torch.zeros_like(score_N, dtype=torch.float64)
    with torch.no_grad():
        for part_N in _parts(score_N.double(), exposure_K, nodes):
            total_N += part_N
    return total_N


def _parts(score_N: Tensor, exposure_K: Tensor, nodes: int) -> Iterator[Tensor]:
    """Summands of the exposures, one a node."""
    k = len(exposure_K)
    shown = int(torch.isfinite(score_N).sum())
    if shown < k:
        raise ValueError(f"a slate of {k} items cannot be made of {shown} admissible items")
    begin, end = math.log(_FIRST_TIME), math.log(_last_time(score_N, k))
    # the time at which the k-th clock rings spreads by about 1 / sqrt(k) in log t
    panels = math.ceil((end - begin) / min(_WIDEST, 9.0 / math.sqrt(k)))
    half = (end - begin) / panels / 2
    point, weight = np.polynomial.legendre.leggauss(nodes)
    circle_M, reader_M = _circle(exposure_K)
    # every node its own graph: a caller may free it before the next one
    yield float(exposure_K[0]) * -torch.expm1(-torch.softmax(score_N, dim=0) * _FIRST_TIME)
    for panel in range(panels):
        for x, y in zip(point, weight, strict=True):
            log_time = begin + half * (2 * panel + 1 + float(x))
            yield half * float(y) * _integrand(torch.softmax(score_N, dim=0) * math.exp(log_time), circle_M, reader_M)


def _integrand(time_N: Tensor, circle_M: Tensor, reader_M: Tensor) -> Tensor:
    """w t exp(-w t) sum_n exposure_{n+1} P(n others before t), float [N]; `time_N` is w t."""
    factor_MN = 1.0 - torch.expm1(-time_N) * (circle_M[:, None] - 1.0)
    whole_M = factor_MN.prod(dim=1)
    seen_N = 2.0 * ((reader_M * whole_M)[:, None] / factor_MN).sum(dim=0).real
    return time_N * (-time_N).exp() * seen_N


def _circle(exposure_K: Tensor) -> tuple[Tensor, Tensor]:
    """Upper half of the circle, complex [M], and what reads sum_n exposure_{n+1} (coefficient n) off it.

    A radius of 10^(-3/K) costs 3 digits to rounding, and the next 5 K coefficients fade by 16 before they alias. No
    point is real: a factor could be 0 there.
    """
    k = len(exposure_K)
    points = 2 * (3 * k + 4)
    angle_M = torch.arange(points // 2, dtype=torch.float64, device=exposure_K.device) + 0.5
    circle_M = torch.polar(torch.full_like(angle_M, 10 ** (-3 / k)), angle_M * (2 * math.pi / points))
    power_KM = circle_M ** -torch.arange(k, device=exposure_K.device)[:, None]
    return circle_M, (exposure_K.to(circle_M.dtype)[:, None] * power_KM).sum(dim=0) / points


def _last_time(score_N: Tensor, k: int) -> float:
    """After it fewer than k others have rung with a probability below 1e-15: the k + 1 fastest have."""
    rate_N = torch.softmax(score_N.detach(), dim=0)
    rates = rate_N[torch.isfinite(score_N)].sort(descending=True).values
    return (35.0 + math.log(k + 1)) / max(float(rates[min(k, len(rates) - 1)]), 1e-300)
