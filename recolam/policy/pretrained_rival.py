"""The pretrained baseline: a sequence model of what was clicked in logs of random slates, shown greedily.

It is the first half of recolam's own chain, without the second: pretrain on a behaviour log, serve the likeliest next
items. It reads clicks alone, so that it is the same under full and under partial sight.

Shape legend: B users, T history, K slate, N token ids, C clicks, U sessions with a click, E = C events.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from recolam.contracts.dataset import FIRST_ITEM, TRAIN, VALIDATION, TokenisedDataset
from recolam.contracts.protocols import SightedEnvironment
from recolam.policy.random_log import RandomLog
from recolam.policy.returns import Act
from recolam.seeding import derive
from recolam.sequence.config import TrainingConfig
from recolam.sequence.model import SequenceConfig, SequenceModel
from recolam.sequence.training import train_sequence_model

_MAX_LEN = 50
_TRAINING = TrainingConfig(
    epochs=12, batch_size=64, max_len=_MAX_LEN, learning_rate=3e-3, warmup_steps=20, schedule="cosine", patience=3,
    precision="float32", device="cpu", checkpoint_every=10**9,
)  # fmt: skip
_EVERY_SO_MANY_VALIDATES = 10


def pretrained(environment: SightedEnvironment, log: RandomLog, *, seed: int) -> Act:
    """The K items that the model holds likeliest to be clicked next, greedily; items may come again.

    Every tenth session validates: the weights kept are those of the best NDCG@10 there.

    Raises:
        DataError: nothing was clicked in the sessions that train.
    """
    dataset = clicked_histories(log, tokens=environment.tokens)
    config = SequenceConfig(tokens=environment.tokens, max_len=_MAX_LEN, width=32, blocks=2, heads=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SequenceModel(config)
    with tempfile.TemporaryDirectory() as folder:
        train_sequence_model(
            model, dataset, _TRAINING, seed=derive(seed, "pretrain"), scratch=Path(folder), label="pretrained greedy"
        )
    model.eval()
    return lambda observation, _: (
        model.scores(observation.history_BT, observation.length_B).topk(environment.slate_size, dim=1).indices
    )


def clicked_histories(log: RandomLog, *, tokens: int) -> TokenisedDataset:
    """The log's clicks as the events of its sessions; every tenth session's are queries of validation."""
    session_C, item_C = (part.numpy() for part in log.clicks())
    users_U, first_U = np.unique(session_C, return_index=True)
    is_validation_C = session_C % _EVERY_SO_MANY_VALIDATES == 0
    names = tuple(map(str, range(tokens - FIRST_ITEM)))
    return TokenisedDataset(
        event_item_E=item_C.astype(np.int32),
        event_time_E=np.arange(len(item_C), dtype=np.int64),
        event_value_E=np.ones(len(item_C), dtype=np.float32),
        event_split_E=np.where(is_validation_C, VALIDATION, TRAIN).astype(np.int32),
        user_offset_U1=np.append(first_U, len(item_C)).astype(np.int64),
        validation_event_Q=is_validation_C.nonzero()[0],
        test_event_Q=np.empty(0, dtype=np.int64),
        item_count_V=np.bincount(item_C[~is_validation_C], minlength=tokens),
        item_text_VF=np.zeros((tokens, 0), dtype=np.float32),
        items=names,
        titles=names,
        users=tuple(map(str, users_U)),
        info={},
    )
