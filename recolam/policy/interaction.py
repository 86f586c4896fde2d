"""What the items already in a slate do to the scores of the others: the network of the autoregressive slates.

    score of item i at position k = s_i + q_k . e_i,    q_k = W [tanh(A u + B m_k + c log k), m_k],    q_1 = 0

s_i is the score without company (the model's, over the temperature), u the user's state, e_i = E v_i the item's key, a
projection of its embedding v_i to a few numbers, and m_k the mean key of the k - 1 items before position k = 1, 2, ...
u and v_i are normalised (Ba et al. 2016, https://arxiv.org/abs/1607.06450), so that one initialisation serves models of
any scale. W starts at 0: the policy starts as the Plackett-Luce policy of the same scores. At its first position it
always is that policy, so the entropy and the divergence that training weighs, those of the first position, are exact.

m_k on the way past the hidden layer makes the shift of i the sum of a bilinear form of i with every item before it, as
in models of pairwise interaction; the rest lets it depend on the user, on how many there are, and on their mixture.

Shape legend: B slates, J prefixes of a slate, K positions, M columns of scores, D width of the model, R numbers of a
key, H hidden.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from recolam.errors import ArtifactError

_FILE = "interaction.safetensors"


class Interaction(nn.Module):
    """q_k and e_i of the formula above.

    Args:
        width: of states and item embeddings.
        seed: draws all weights but W, which start at 0.
    """

    def __init__(self, width: int, *, rank: int = 16, hidden: int = 32, seed: int = 0) -> None:
        super().__init__()
        self.key = nn.Linear(width, rank, bias=False)
        self.read_user = nn.Linear(width, hidden)
        self.read_shown = nn.Linear(rank + 1, hidden, bias=False)
        self.push = nn.Linear(hidden + rank, rank)
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.key, self.read_user, self.read_shown):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
        for zero in (self.read_user.bias, self.push.weight, self.push.bias):
            nn.init.zeros_(zero)

    def keys(self, vector_MD: Tensor) -> Tensor:
        """e of items with these embeddings, float [..., R]."""
        key_MR: Tensor = self.key(layer_norm(vector_MD, vector_MD.shape[-1:]))
        return key_MR

    def pushes(self, state_BD: Tensor, total_BJR: Tensor, count_J: Tensor) -> Tensor:
        """q after prefixes of `count_J` items whose keys sum to `total_BJR`, float [B, J, R]; 0 after none."""
        mean_BJR = total_BJR / count_J.clamp(min=1)[:, None]
        log_count_BJ1 = (count_J.to(mean_BJR.dtype) + 1).log()[:, None].expand(*mean_BJR.shape[:2], 1)
        shown_BJH = self.read_shown(torch.cat([mean_BJR, log_count_BJ1], dim=2))
        user_BH = self.read_user(layer_norm(state_BD, state_BD.shape[-1:]))
        push_BJR = self.push(torch.cat([torch.tanh(user_BH[:, None] + shown_BJH), mean_BJR], dim=2))
        return push_BJR * (count_J > 0)[:, None]

    def among(self, state_BD: Tensor, vector_MD: Tensor) -> "Interplay":
        """The interaction for these users, of items with these embeddings: [M, D], or each user's own [B, M, D]."""
        return Interplay(self, state_BD, self.keys(vector_MD))

    def save(self, folder: Path) -> None:
        """Writes interaction.safetensors."""
        save_file({name: value.detach().cpu().clone() for name, value in self.state_dict().items()}, folder / _FILE)

    @classmethod
    def load(cls, folder: Path, *, width: int) -> "Interaction":
        """Raises ArtifactError: no such file, or one that is damaged or for states of another width."""
        try:
            tensors: Mapping[str, Tensor] = load_file(folder / _FILE)
            found = cls(width, rank=len(tensors["key.weight"]), hidden=len(tensors["read_user.bias"]))
            found.load_state_dict(tensors)
        except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ArtifactError(f"{folder / _FILE}: no interaction for states of width {width} ({error})") from error
        return found


@dataclass(frozen=True, eq=False)
class Interplay:
    """An `Interaction` at work on a batch of slates; items are columns of scores.

    Attributes:
        state_BD: the users.
        key_MR: e of every column, float [M, R], or [B, M, R] where users have columns of their own.
    """

    interaction: Interaction
    state_BD: Tensor
    key_MR: Tensor

    def rows(self, chosen: Tensor) -> "Interplay":
        """That of some slates (a mask or indices)."""
        key_MR = self.key_MR[chosen] if self.key_MR.ndim == 3 else self.key_MR
        return replace(self, state_BD=self.state_BD[chosen], key_MR=key_MR)

    def keys_of(self, column_BJ: Tensor) -> Tensor:
        """Float [B, J, R]."""
        if self.key_MR.ndim == 2:
            return self.key_MR[column_BJ]
        return self.key_MR.take_along_dim(column_BJ[..., None], dim=1)

    def pushes(self, column_BK: Tensor) -> Tensor:
        """q at every position of these slates, float [B, K, R]."""
        key_BKR = self.keys_of(column_BK)
        count_K = torch.arange(column_BK.shape[1], device=column_BK.device)
        return self.interaction.pushes(self.state_BD, key_BKR.cumsum(dim=1) - key_BKR, count_K)

    def push_after(self, column_BJ: Tensor) -> Tensor:
        """q at the position behind these items, float [B, R]."""
        total_B1R = self.keys_of(column_BJ).sum(dim=1, keepdim=True)
        count_1 = torch.tensor([column_BJ.shape[1]], device=column_BJ.device)
        return self.interaction.pushes(self.state_BD, total_B1R, count_1)[:, 0]

    def shift(self, push_BR: Tensor) -> Tensor:
        """What is added to every column's score, float [B, M]."""
        if self.key_MR.ndim == 2:
            return push_BR @ self.key_MR.T
        return (self.key_MR @ push_BR[..., None])[..., 0]
