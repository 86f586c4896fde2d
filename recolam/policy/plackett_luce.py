"""The slate distribution (it lives below, since the demo world's logging policy samples from it too)."""

from recolam.sequence.plackett_luce import (
    check_room,
    conditional_log_probs,
    conditional_means,
    conditional_sums,
    first_pick_entropy,
    first_pick_kl,
    log_normalisers,
    log_prob,
    perturbed,
    position_log_probs,
    sample,
)

__all__ = [
    "check_room",
    "conditional_log_probs",
    "conditional_means",
    "conditional_sums",
    "first_pick_entropy",
    "first_pick_kl",
    "log_normalisers",
    "log_prob",
    "perturbed",
    "position_log_probs",
    "sample",
]
