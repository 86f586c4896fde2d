"""Choice models (RecSim NG: `recsim_ng.entities.choice_models.selectors`, with two models that it does not have).

A choice is a position of the slate, int64; the position after the last one, K, stands for no choice.

Shape legend: B sessions, K slate, R choices, F the shape of a document's field.
"""

import torch
from recsim_ng.core.value import Value
from torch import Tensor
from torch.nn.functional import logsigmoid

from recolam.world.blocks.distributions import Bernoulli, Categorical, PlackettLuce
from recolam.world.runtime import TensorSpec


def get_chosen(features: Value, choices: Tensor, *, nochoice_value: float = -1) -> Value:
    """The fields of the chosen documents, [B, *F]; `nochoice_value` everywhere for sessions that chose nothing.

    Args:
        features: fields [B, K, *F].
        choices: int64 [B], 0 to K.
    """

    def chosen(field: Tensor) -> Tensor:
        nothing = torch.full_like(field[:, :1], nochoice_value)
        index = choices.view(-1, *[1] * (field.ndim - 1)).expand(-1, 1, *field.shape[2:])
        return torch.cat([field, nothing], dim=1).gather(1, index)[:, 0]

    return features.map(chosen)


class MultinomialLogitChoiceModel:
    """One choice: P(k) ~ exp(s_k + k * positional_bias), P(none) ~ exp(nochoice) (McFadden 1974).

    Args:
        nochoice_logits: a number or float [B]; -inf where something is always chosen.
        positional_bias: what every place further down adds to a document's logit.
    """

    def __init__(self, *, nochoice_logits: Tensor | float, positional_bias: Tensor | float = 0.0) -> None:
        self._nochoice, self._bias = nochoice_logits, positional_bias

    def choice(self, slate_document_logits: Tensor) -> Value:
        """Field `choice`, int64 [B], from logits s, float [B, K]."""
        return Value(choice=Categorical(_with_nochoice(slate_document_logits, self._nochoice, self._bias)))

    def specs(self) -> Value:
        return Value(choice=TensorSpec(dtype=torch.int64))


class IteratedMultinomialLogitChoiceModel:
    """R choices without replacement, the same logits renormalised after each: the Plackett-Luce distribution.

    "No choice" is one more alternative: it can be drawn once, at any place, and does not end the choosing.

    Args:
        num_choices: R.
        nochoice_logits, positional_bias: as `MultinomialLogitChoiceModel`.
    """

    def __init__(
        self, *, num_choices: int, nochoice_logits: Tensor | float, positional_bias: Tensor | float = 0.0
    ) -> None:
        self._num_choices, self._nochoice, self._bias = num_choices, nochoice_logits, positional_bias

    def choice(self, slate_document_logits: Tensor) -> Value:
        """Field `choice`, int64 [B, R], in the order chosen; raises ValueError for more choices than alternatives."""
        logits_BC = _with_nochoice(slate_document_logits, self._nochoice, self._bias)
        return Value(choice=PlackettLuce(logits_BC, self._num_choices))

    def specs(self) -> Value:
        return Value(choice=TensorSpec(shape=(self._num_choices,), dtype=torch.int64))


class CascadeChoiceModel:
    """At most one choice, by reading from the top until something attracts (Craswell et al. 2008).

    P(k) = a_k prod_{j<k} (1 - a_j), P(none) = prod_j (1 - a_j), a_k = attention_prob * sigmoid(s_k).

    Args:
        attention_prob: probability that the user looks at a document she comes to.

    Raises:
        ValueError: `attention_prob` outside of (0, 1].
    """

    def __init__(self, *, attention_prob: float = 1.0) -> None:
        if not 0 < attention_prob <= 1:
            raise ValueError(f"attention_prob is {attention_prob}, not in (0, 1]")
        self._attention_prob = attention_prob

    def choice(self, slate_document_logits: Tensor) -> Value:
        """Field `choice`, int64 [B], from logits s, float [B, K]."""
        attention = torch.full_like(slate_document_logits, self._attention_prob)
        click_BK, pass_BK = _log_click_and_pass(slate_document_logits, attention)
        passed_BK = pass_BK.cumsum(dim=1)
        before_BK = torch.cat([torch.zeros_like(passed_BK[:, :1]), passed_BK[:, :-1]], dim=1)
        return Value(choice=Categorical(torch.cat([before_BK + click_BK, passed_BK[:, -1:]], dim=1)))

    def specs(self) -> Value:
        return Value(choice=TensorSpec(dtype=torch.int64))


class PositionBiasedChoiceModel:
    """Any number of clicks, independent given the slate: P(click at k) = examination_k * sigmoid(s_k).

    The examination hypothesis (Richardson et al. 2007; the position-based model of Chuklin et al. 2015).

    Args:
        examination: probability that place k is looked at, float [K], in (0, 1]. A usual choice is 1 / (1 + k)^eta.

    Raises:
        ValueError: probabilities outside of (0, 1], or not one per place.
    """

    def __init__(self, *, examination: Tensor) -> None:
        if examination.ndim != 1 or not bool(((examination > 0) & (examination <= 1)).all()):
            raise ValueError(f"examination is {examination.tolist()}, not a list of probabilities in (0, 1]")
        self._examination_K = examination

    def choice(self, slate_document_logits: Tensor) -> Value:
        """Field `clicks`, bool [B, K], from logits s, float [B, K]; raises ValueError for another slate size."""
        if slate_document_logits.shape[1] != len(self._examination_K):
            raise ValueError(f"slates of {slate_document_logits.shape[1]} for {len(self._examination_K)} places")
        click_BK, pass_BK = _log_click_and_pass(slate_document_logits, self._examination_K)
        return Value(clicks=Bernoulli(click_BK - pass_BK))

    def specs(self) -> Value:
        return Value(clicks=TensorSpec(shape=(len(self._examination_K),), dtype=torch.bool))


def _with_nochoice(logits_BK: Tensor, nochoice: Tensor | float, bias: Tensor | float) -> Tensor:
    place_K = torch.arange(logits_BK.shape[1], device=logits_BK.device, dtype=logits_BK.dtype)
    none_B = torch.as_tensor(nochoice, dtype=logits_BK.dtype, device=logits_BK.device).expand(len(logits_BK))
    return torch.cat([logits_BK + bias * place_K, none_B[:, None]], dim=1)


def _log_click_and_pass(logits_BK: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """log(g sigmoid(s)) and log(1 - g sigmoid(s)) for g = `seen`, without a difference of nearly equal numbers.

    1 - g sigmoid(s) = (1 - g) sigmoid(s) + sigmoid(-s)
    """
    click_BK = seen.log() + logsigmoid(logits_BK)
    unseen = (1 - seen).clamp(min=torch.finfo(seen.dtype).tiny).log()  # finite where g = 1, for the gradient's sake
    return click_BK, torch.logaddexp(unseen + logsigmoid(logits_BK), logsigmoid(-logits_BK))
