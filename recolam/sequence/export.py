"""The sequence model as one ONNX file, for serving without torch.

Shape legend: B histories, T items, S = T + 1 states, M = B * S states one after the other, D width, N token ids.
"""

import copy
import importlib.util
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recolam import __version__
from recolam.contracts.dataset import FIRST_ITEM, PADDING, UNKNOWN
from recolam.contracts.files import canonical_digest, write_json
from recolam.errors import ArtifactError, ConfigError
from recolam.sequence.model import SequenceModel
from recolam.sequence.ragged import Ragged

OPSET = 18
VOCABULARY_FILE = "vocabulary.json"
_TOLERANCE = 1e-4
_MOST_BYTES = 2**31  # protobuf's limit for one message
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written, and how far onnxruntime's scores lay from torch's.

    Attributes:
        max_difference: largest absolute difference over all compared scores; `scale` is the largest absolute score.
    """

    path: str
    vocabulary: str
    vocabulary_digest: str
    items: int
    max_len: int
    opset: int
    bytes: int
    compared_histories: int
    max_difference: float
    scale: float


def export_onnx(model: SequenceModel, path: Path, *, items: Sequence[str], opset: int = OPSET) -> Exported:
    """Writes `SequenceModel.scores` as ONNX to `path`, and the item ids as `vocabulary.json` beside it.

    Inputs of the graph: `history` int64 [B, T], token ids, oldest first, padded on the right with 0, T from 1 to
    max_len; `length` int64 [B], from 0 (an empty history: T is 1 at least, its cell is not looked at) to T. Output:
    `scores` float32 [B, N]; the special tokens 0, 1 and 2 get -inf, items[i] is column 3 + i. B and T are dynamic.
    The graph's metadata hold `vocabulary_digest` (also in vocabulary.json: the two belong together only if they are
    equal), `max_len`, `first_item` and `recolam_version`.

    The text is folded into the table of item vectors, so the file is as large as a model without text. Before it
    takes its place, the file is run in onnxruntime and compared with `model.scores` on random histories of several
    lengths and batch sizes. `model` is not changed.

    Raises:
        ConfigError: the extra `onnx` is not installed; a model that cannot be exported (it reads times, is too large,
            or torch cannot trace it at this opset); items that do not fit it; a foreign vocabulary.json in the way.
        ArtifactError: the file gives other scores than torch (above 1e-4 of the largest score). Nothing is left then.
    """
    _check(model, path, items=items)
    vocabulary = path.with_name(VOCABULARY_FILE)
    digest = canonical_digest(list(items))
    plain = copy.deepcopy(model).cpu().float().eval()
    proto = _to_proto(plain, opset=opset)
    properties = {
        "vocabulary_digest": digest, "max_len": str(plain.config.max_len), "first_item": str(FIRST_ITEM),
        "recolam_version": __version__,
    }  # fmt: skip
    for key, value in properties.items():
        proto.metadata_props.add(key=key, value=value)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _write(proto, draft)
        compared, difference, scale = compare_scores(plain, draft)
        if not difference <= _TOLERANCE * scale:
            raise ArtifactError(
                f"{path}: onnxruntime's scores lie up to {difference:.3g} from torch's, more than {_TOLERANCE:g} of "
                f"the largest score {scale:.3g}; not written"
            )
        write_json(vocabulary, {"items": list(items), "vocabulary_digest": digest, "model": path.name})
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return Exported(
        path=str(path), vocabulary=str(vocabulary), vocabulary_digest=digest, items=len(items),
        max_len=plain.config.max_len, opset=opset, bytes=path.stat().st_size, compared_histories=compared,
        max_difference=difference, scale=scale,
    )  # fmt: skip


def compare_scores(model: SequenceModel, path: Path) -> tuple[int, float, float]:
    """Scores of random histories, by onnxruntime on a CPU against `model.scores`: lengths from 0 to T, T up to max_len.

    Returns:
        how many histories were compared, the largest absolute difference, the largest absolute score of torch.

    Raises:
        ArtifactError: the graph's inputs are not dynamic, it does not run, or special tokens do not get -inf.
    """
    from onnxruntime import InferenceSession, SessionOptions  # type: ignore[import-untyped]
    from onnxruntime.capi import onnxruntime_pybind11_state as failures  # type: ignore[import-untyped]

    options = SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    broken = tuple(kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, Exception))
    try:
        session = InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except broken as error:
        raise ArtifactError(f"{path}: onnxruntime cannot read it ({error}); not written") from error
    shapes = {value.name: value.shape for value in session.get_inputs()}
    if any(isinstance(size, int) for shape in shapes.values() for size in shape):
        raise ArtifactError(f"{path}: torch fixed a size that should be free: {shapes}; not written")
    generator = torch.Generator().manual_seed(0)
    longest, compared, difference, scale = model.config.max_len, 0, 0.0, 0.0
    for batch, items in ((1, 1), (1, longest), (5, max(1, longest // 2)), (32, longest), (3, 1)):
        history_BT = torch.randint(UNKNOWN, model.config.tokens, (batch, items), generator=generator)
        length_B = torch.randint(0, items + 1, (batch,), generator=generator)
        length_B[0], length_B[-1] = 0, items
        history_BT[torch.arange(items) >= length_B[:, None]] = PADDING
        feeds = {"history": history_BT.numpy(), "length": length_B.numpy()}
        try:
            found_BN = torch.from_numpy(session.run(["scores"], feeds)[0])
        except broken as error:
            raise ArtifactError(
                f"{path}: fails on {batch} histories of {items} items ({error}); not written"
            ) from error
        wanted_BN = model.scores(history_BT, length_B)
        if found_BN.shape != wanted_BN.shape or not torch.isneginf(found_BN[:, :FIRST_ITEM]).all():
            raise ArtifactError(f"{path}: special tokens do not get -inf, or scores are missing; not written")
        off_BV = (found_BN - wanted_BN)[:, FIRST_ITEM:].abs()
        difference = max(difference, float(off_BV.nan_to_num(nan=torch.inf).max()))
        scale = max(scale, float(wanted_BN[:, FIRST_ITEM:].abs().max()))
        compared += batch
    return compared, difference, scale or 1.0


class _Rectangle(Ragged):
    """`Ragged.full` without shapes that depend on data, so that it can be traced for every B and S."""

    def pack(self, value_BS: Tensor) -> Tensor:
        return value_BS.flatten(0, 1)

    def pad(self, value_M: Tensor) -> Tensor:
        return value_M.unflatten(0, (self.length_B.shape[0], self.width))

    @cached_property
    def position_M(self) -> Tensor:
        return torch.arange(self.width, device=self.length_B.device).repeat(self.length_B.shape[0])


class _Scores(nn.Module):
    """`SequenceModel.scores` over padded histories, with the item table computed beforehand."""

    table_ND: Tensor
    special_N: Tensor

    def __init__(self, model: SequenceModel) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("table_ND", model.item_table().detach().clone())
        self.register_buffer("special_N", torch.zeros(model.config.tokens))
        self.special_N[:FIRST_ITEM] = -torch.inf

    def forward(self, history: Tensor, length: Tensor) -> Tensor:
        rectangle = _Rectangle(length + 1, history.shape[1] + 1, is_full=True)
        state_BSD = rectangle.pad(self.model.states(history, rectangle, table_ND=self.table_ND))
        last_BD = state_BSD.gather(1, length[:, None, None].expand(-1, 1, state_BSD.shape[2]))[:, 0]
        return nn.functional.linear(last_BD, self.table_ND, self.special_N)


def _check(model: SequenceModel, path: Path, *, items: Sequence[str]) -> None:
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"export needs {', '.join(missing)}: pip install 'recolam[onnx]'")
    if len(items) != model.config.tokens - FIRST_ITEM:
        raise ConfigError(f"{len(items)} item ids do not fit a model of {model.config.tokens - FIRST_ITEM} items")
    if getattr(model, "reads_time", False):
        raise ConfigError(f"a model with time {model.config.time!r} cannot be exported: the graph's input has no times")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size >= _MOST_BYTES:
        raise ConfigError(f"a model of {size} bytes does not fit one ONNX file, which holds less than {_MOST_BYTES}")
    beside = path.with_name(VOCABULARY_FILE)
    if beside == path or (beside.exists() and _owner(beside) != path.name):
        raise ConfigError(f"{beside}: not of an earlier export of {path.name}; choose another folder")


def _owner(vocabulary: Path) -> str | None:
    """The name of the ONNX file to which a vocabulary.json belongs."""
    try:
        return json.loads(vocabulary.read_text())["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _to_proto(model: SequenceModel, *, opset: int) -> Any:
    """The ONNX model, without the notes on where in the source each node came from."""
    history_BT, length_B = torch.full((2, min(2, model.config.max_len)), FIRST_ITEM), torch.tensor([1, 0])
    batch, items = torch.export.Dim("batch"), torch.export.Dim("items", min=1, max=model.config.max_len)
    try:
        with torch.no_grad(), _quiet():
            program: Any = torch.onnx.export(
                _Scores(model).eval(), (history_BT, length_B), dynamo=True, opset_version=opset, verbose=False,
                input_names=["history", "length"], output_names=["scores"],
                dynamic_shapes={"history": {0: batch, 1: items}, "length": {0: batch}},
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ConfigError(
            f"backbone {model.config.backbone!r} cannot be exported at opset {opset} ({reason})"
        ) from error
    proto = program.model_proto
    for part in (proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
    return proto


def _write(proto: Any, path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(proto.SerializeToString())
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports on packages that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
