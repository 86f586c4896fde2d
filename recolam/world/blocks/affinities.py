"""How much users like documents (RecSim NG: `recsim_ng.entities.choice_models.affinities`).

Shape legend: B sessions, K slate, Z topics.
"""

import torch
from recsim_ng.core.value import Value
from torch import Tensor

from recolam.world.runtime import TensorSpec

SIMILARITY_TYPES = ("inverse_euclidean", "dot", "cosine", "negative_cosine", "negative_euclidean", "single_peaked")


class TargetPointSimilarity:
    """Similarity of documents v to a target u:

        inverse_euclidean    1 / max(||u - v||, 1e-6)
        negative_euclidean   -||u - v||
        dot                  u'v
        cosine               u'v / (||u|| ||v||)
        negative_cosine      the same: RecSim NG's name for it, which negates a loss that is negative
        single_peaked        sum_i (p_i - |u_i v_i - p_i|), p the peaks

    Args:
        slate_size: K, for the spec.
        similarity_type: one of the above.

    Raises:
        ValueError: an unknown similarity type.
    """

    def __init__(self, *, slate_size: int, similarity_type: str = "negative_euclidean") -> None:
        if similarity_type not in SIMILARITY_TYPES:
            raise ValueError(f"similarity_type is '{similarity_type}', not one of {', '.join(SIMILARITY_TYPES)}")
        self._slate_size, self._type = slate_size, similarity_type

    def affinities(
        self,
        target_embeddings: Tensor,
        slate_item_embeddings: Tensor,
        *,
        broadcast: bool = True,
        affinity_peaks: Tensor | None = None,
    ) -> Value:
        """Field `affinities`, float [B, K].

        Args:
            target_embeddings: u, float [B, Z].
            slate_item_embeddings: v, float [B, K, Z], or [1, K, Z] for one slate for all.
            broadcast: False for one document per session: v is [B, Z], the result [B].
            affinity_peaks: p, float [B, Z]; for `single_peaked`.

        Raises:
            ValueError: widths that differ, or `single_peaked` without peaks.
        """
        if target_embeddings.shape[-1] != slate_item_embeddings.shape[-1]:
            raise ValueError(
                f"targets of width {target_embeddings.shape[-1]}, documents of width {slate_item_embeddings.shape[-1]}"
            )
        target = target_embeddings[..., None, :] if broadcast else target_embeddings
        peaks = None
        if affinity_peaks is not None:
            peaks = affinity_peaks[..., None, :] if broadcast else affinity_peaks
        return Value(affinities=_similarity(self._type, target, slate_item_embeddings, peaks))

    def specs(self) -> Value:
        return Value(affinities=TensorSpec(shape=(self._slate_size,)))


def _similarity(kind: str, target: Tensor, documents: Tensor, peaks: Tensor | None) -> Tensor:
    if kind == "dot":
        return (target * documents).sum(dim=-1)
    if kind in ("cosine", "negative_cosine"):
        return torch.cosine_similarity(target, documents, dim=-1, eps=1e-12)
    if kind == "single_peaked":
        if peaks is None:
            raise ValueError("single_peaked needs affinity_peaks")
        return (peaks - (target * documents - peaks).abs()).sum(dim=-1)
    distance = torch.linalg.vector_norm(target - documents, dim=-1)
    return -distance if kind == "negative_euclidean" else 1.0 / distance.clamp(min=1e-6)
