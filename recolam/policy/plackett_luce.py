"""The slate distribution (it lives below, since the demo world's logging policy samples from it too)."""

from recolam.sequence.plackett_luce import first_pick_entropy, first_pick_kl, log_prob, sample

__all__ = ["first_pick_entropy", "first_pick_kl", "log_prob", "sample"]
