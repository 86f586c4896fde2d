"""Which weights of a sequence model train, by the name of a policy."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from recolam.errors import ConfigError
from recolam.sequence.model import Borrowed, SequenceModel

POLICIES = ("none", "embeddings", "all-but-top-N", "all-but-heads", "all-but-items")

_ITEMS = ("item_vectors.", "text_projection.")
_EMBEDDINGS = (*_ITEMS, "start", "gap_vectors.", "query_gap_vectors.")
_HEADS = ("value_head.", "classifiers.")
_TOP = re.compile(r"all-but-top-([1-9]\d*)")


def freeze(model: SequenceModel, policy: str) -> int:
    """Sets `requires_grad` of every parameter as `policy` says, and returns how many numbers are left to train.

    none: leaves everything as it is.
    embeddings: item vectors, text projection, start and gap vectors stand still.
    all-but-top-N: the upper N blocks, the final norm and the heads train.
    all-but-heads: the value head and the classifiers train.
    all-but-items: item vectors, text projection and the classifiers train, and low-rank adapters where there are any
        (whoever adds adapters wants them trained).

    Raises:
        ConfigError: an unknown policy, or more blocks than the model has.
    """
    if policy != "none":
        trains = _trains(model, policy)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trains(name))
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@contextmanager
def frozen(model: SequenceModel, policy: str) -> Iterator[int]:
    """`freeze` for a while: afterwards every parameter trains or stands still as it did before."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield freeze(model, policy)
    finally:
        for parameter, trained in before:
            parameter.requires_grad_(trained)


def check_policy(policy: str) -> None:
    """Raises ConfigError for a name that no model could follow."""
    if policy not in POLICIES[:2] + POLICIES[3:] and not _TOP.fullmatch(policy):
        raise ConfigError(f"freeze {policy!r} is not one of {', '.join(POLICIES)} (N: 1, 2, ...)")


def _trains(model: SequenceModel, policy: str) -> Callable[[str], bool]:
    check_policy(policy)
    if policy == "embeddings":
        return lambda name: not name.startswith(_EMBEDDINGS)
    if policy == "all-but-heads":
        return lambda name: name.startswith(_HEADS)
    if policy == "all-but-items":
        return lambda name: name.startswith((*_ITEMS, "classifiers.")) or "lora_" in name
    upper = (*_HEADS, *_upper_names(model, top=int(_TOP.fullmatch(policy)[1])))  # type: ignore[index]
    return lambda name: name.startswith(upper)


def _upper_names(model: SequenceModel, *, top: int) -> list[str]:
    """Prefixes of the parameters of the upper `top` blocks and of what follows them."""
    backbone = model.backbone.inner if isinstance(model.backbone, Borrowed) else model.backbone
    path = "backbone.inner." if isinstance(model.backbone, Borrowed) else "backbone."
    children = list(backbone.named_children())
    # Of all three backbones, the list of blocks is the one ModuleList; what comes behind it is the final norm.
    place = next(row for row, (_, child) in enumerate(children) if isinstance(child, nn.ModuleList))
    name, blocks = children[place]
    if top > len(blocks):  # type: ignore[arg-type]
        raise ConfigError(f"freeze 'all-but-top-{top}': the model has {len(blocks)} blocks")  # type: ignore[arg-type]
    rows = range(len(blocks) - top, len(blocks))  # type: ignore[arg-type]
    return [f"{path}{name}.{row}." for row in rows] + [f"{path}{later}." for later, _ in children[place + 1 :]]
