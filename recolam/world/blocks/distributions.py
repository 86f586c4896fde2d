"""Distributions of fields, each drawn with a generator that is passed in.

Every distribution is over a tensor [B, *S, *E]: `log_prob` sums over the dimensions S that are drawn independently, so
that its shape is [B]. Draws of Normal, MultivariateNormal and Mixture are differentiable in the means and scales
(reparameterised); the others are not differentiable.

Shape legend: B sessions, S independent draws per session, E one draw, C classes, M components, N items, K positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributions as td

from recolam.sequence import plackett_luce
from recolam.world.random_fields import Distribution


@dataclass(frozen=True)
class Normal(Distribution):
    """Independent normal variables: x = loc + scale * noise.

    Args:
        loc: means, float [B, ...].
        scale: standard deviations above 0, a number or broadcastable to `loc`.
    """

    loc: Tensor
    scale: Tensor | float

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.loc + self.scale * _noise_like(self.loc, generator)

    def log_prob(self, value: Tensor) -> Tensor:
        return _per_session(td.Normal(self.loc, self.scale, validate_args=False).log_prob(value))


@dataclass(frozen=True)
class MultivariateNormal(Distribution):
    """Normal vectors with covariance L L': x = loc + L noise.

    Args:
        loc: means, float [B, ..., D].
        scale_tril: L, lower triangular with a positive diagonal, float [..., D, D], broadcastable to `loc`.
    """

    loc: Tensor
    scale_tril: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.loc + (self.scale_tril @ _noise_like(self.loc, generator)[..., None])[..., 0]

    def log_prob(self, value: Tensor) -> Tensor:
        normal = td.MultivariateNormal(self.loc, scale_tril=self.scale_tril, validate_args=False)
        return _per_session(normal.log_prob(value))


@dataclass(frozen=True)
class Categorical(Distribution):
    """Classes drawn by inverse CDF, with one uniform number for each draw: P(c) = exp(l_c) / sum_j exp(l_j).

    The smallest probability that float32 uniforms can resolve is about 6e-8. Classes of probability 0 are never drawn.

    Args:
        logits: float [B, ..., C], -inf for impossible classes. Values are int64 [B, ...] below C.
    """

    logits: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Raises ValueError where a draw has no possible class."""
        probability = torch.softmax(self.logits.detach(), dim=-1)
        if not bool((probability >= 0).all()):
            raise ValueError("logits without a possible class (all -inf, or NaN)")
        uniform = torch.rand(
            self.logits.shape[:-1], generator=generator, device=self.logits.device, dtype=self.logits.dtype
        )
        return invert_cdf(probability, uniform)

    def log_prob(self, value: Tensor) -> Tensor:
        return _per_session(torch.log_softmax(self.logits, dim=-1).gather(-1, value[..., None])[..., 0])


@dataclass(frozen=True)
class Bernoulli(Distribution):
    """Independent events: P(True) = 1 / (1 + exp(-l)).

    Args:
        logits: float [B, ...]. Values are bool [B, ...].
    """

    logits: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(self.logits.shape, generator=generator, device=self.logits.device, dtype=self.logits.dtype)
        return uniform < torch.sigmoid(self.logits.detach())

    def log_prob(self, value: Tensor) -> Tensor:
        bernoulli = td.Bernoulli(logits=self.logits, validate_args=False)
        return _per_session(bernoulli.log_prob(value.to(self.logits.dtype)))


@dataclass(frozen=True)
class PlackettLuce(Distribution):
    """Ordered slates of K distinct items (`recolam.sequence.plackett_luce`).

    Args:
        scores: float [B, N], -inf for items that are never shown. Values are int64 [B, K] below N.
        k: slate size, 1 to N.
    """

    scores: Tensor
    k: int

    def __post_init__(self) -> None:
        if self.scores.ndim != 2:
            raise ValueError(f"scores of shape {tuple(self.scores.shape)} are not [sessions, items]")
        if not 1 <= self.k <= self.scores.shape[1]:
            raise ValueError(f"slates of {self.k} out of {self.scores.shape[1]} items")

    def sample(self, generator: torch.Generator) -> Tensor:
        return plackett_luce.sample(self.scores.detach(), self.k, generator)

    def log_prob(self, value: Tensor) -> Tensor:
        return plackett_luce.log_prob(self.scores, value)


@dataclass(frozen=True)
class Mixture(Distribution):
    """One component of M, normal around its mean or, without a scale, exactly there: p(x) = sum_m w_m p_m(x).

    Args:
        logits: float [B, *S, M], the log-weights up to a constant.
        loc: means, float [B, *S, M, *E]; 1 stands for any B and S. Values are float [B, *S, *E].
        scale: standard deviations above 0, broadcastable to `loc`; None for point masses.
    """

    logits: Tensor
    loc: Tensor
    scale: Tensor | float | None = None

    def __post_init__(self) -> None:
        place = self.logits.ndim - 1
        if self.loc.ndim < self.logits.ndim or self.loc.shape[place] != self.logits.shape[-1]:
            raise ValueError(
                f"means of shape {tuple(self.loc.shape)} do not fit mixture logits {tuple(self.logits.shape)}"
            )

    def sample(self, generator: torch.Generator) -> Tensor:
        component = Categorical(self.logits).sample(generator)
        mean = pick(self.loc, component)
        if self.scale is None:
            return mean
        scale = torch.as_tensor(self.scale, dtype=mean.dtype, device=mean.device).expand_as(self.loc)
        return mean + pick(scale, component) * _noise_like(mean, generator)

    def log_prob(self, value: Tensor) -> Tensor:
        place = self.logits.ndim - 1
        candidate = value.unsqueeze(place)
        if self.scale is None:
            each = torch.where(_is_close(candidate, self.loc), 0.0, -torch.inf).to(self.logits.dtype)
        else:
            each = td.Normal(self.loc, self.scale, validate_args=False).log_prob(candidate)
        log_density = each.flatten(start_dim=place + 1).sum(dim=-1) if each.ndim > place + 1 else each
        return _per_session(torch.logsumexp(torch.log_softmax(self.logits, dim=-1) + log_density, dim=-1))


@dataclass(frozen=True)
class Switch(Distribution):
    """The first alternative where a known condition holds, the second elsewhere; a tensor is a point mass.

    An observed value off a point mass has log-probability -inf.

    Args:
        condition: bool [B].
        first, second: tensors [B, ...] or distributions over them.
    """

    condition: Tensor
    first: Tensor | Distribution
    second: Tensor | Distribution

    def sample(self, generator: torch.Generator) -> Tensor:
        first, second = (
            content.sample(generator) if isinstance(content, Distribution) else content
            for content in (self.first, self.second)
        )
        return where_session(self.condition, first, second)

    def log_prob(self, value: Tensor) -> Tensor:
        first_B, second_B = (
            content.log_prob(value) if isinstance(content, Distribution) else _point_mass(content, value)
            for content in (self.first, self.second)
        )
        return torch.where(self.condition, first_B, second_B)


def invert_cdf(probability: Tensor, uniform: Tensor) -> Tensor:
    """The first class whose cumulative probability is above `uniform`, which is in [0, 1).

    Args:
        probability: float [..., C], of any positive sum; classes of probability 0 are never the answer.
        uniform: float [...].
    """
    # A parallel sum may still grow a little behind the last possible class; zeros there keep it from being drawn.
    cumulative = probability.cumsum(dim=-1).masked_fill(probability == 0, 0.0)
    cumulative = cumulative / cumulative.amax(dim=-1, keepdim=True)
    return (cumulative > uniform[..., None]).to(torch.int8).argmax(dim=-1)


def where_session(condition_B: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Rows of `first` where the condition holds, of `second` elsewhere; [B, ...]."""
    return torch.where(condition_B.view(-1, *[1] * (first.ndim - 1)), first, second)


def pick(table: Tensor, index: Tensor) -> Tensor:
    """table [*S, M, *E] at index [*S] -> [*S, *E]; dimensions of size 1 in the table's S stand for any."""
    place = index.ndim
    table = table.expand(*index.shape, *table.shape[place:])
    where = index.view(*index.shape, *[1] * (table.ndim - place))
    return table.gather(place, where.expand(*index.shape, 1, *table.shape[place + 1 :])).squeeze(place)


def _noise_like(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _per_session(log_prob: Tensor) -> Tensor:
    return log_prob.flatten(start_dim=1).sum(dim=1) if log_prob.ndim > 1 else log_prob


def _is_close(value: Tensor, other: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value == other
    return torch.isclose(value, other, rtol=1e-5, atol=1e-6)


def _point_mass(place: Tensor, value: Tensor) -> Tensor:
    is_there = _is_close(value, place)
    is_there_B = is_there.flatten(start_dim=1).all(dim=1) if is_there.ndim > 1 else is_there
    dtype = place.dtype if place.is_floating_point() else torch.get_default_dtype()
    return torch.where(is_there_B, 0.0, -torch.inf).to(dtype)
